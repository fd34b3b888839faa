"""From bytes to what the network sees: scaling, contrast normalisation, and whitening or mean subtraction.

Whitening CIFAR takes a quarter of a minute on two cores and is done once: the results are kept on disk under a hash of
all they depend on, checked when they are read, and memory-mapped. SVHN's 7.7 GB of them are never in memory at once.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nin_repro.cpu import cores
from nin_repro.data.download import say
from nin_repro.data.lcn import local_contrast_normalised
from nin_repro.files import locked, read_json, write_json
from nin_repro.schema import Preprocessing, given

if TYPE_CHECKING:
    from nin_repro.data.splits import Images

VERSION = 1  # goes up when the same parameters come to mean something else: old cache entries are then not found
MANIFEST = "manifest.json"
CHUNK = 4_000  # images at a time; bounds the memory, 50 MB of CIFAR in fp32
BLOCK = 200  # images that a thread works on: handing out fewer costs more than they stay in cache
ROWS = 768  # of the covariance at a time
Checksum = list[int]  # size in bytes and CRC-32 of a file, as the manifest has them


@dataclass(frozen=True)
class Bytes:
    """Images as bytes, and what is done with them when they are needed."""

    values: NDArray[np.uint8]  # [N, H, W, C]
    divide: float
    mean: NDArray[np.float32]  # [H, W, C], subtracted after the division


def preprocess(
    fit: Images, arrays: Sequence[Images], params: Preprocessing, cache_dir: Path, digest: str
) -> Sequence[NDArray[np.float32] | Bytes]:
    """Divide, then normalise the contrast, globally and locally, then whiten or subtract the mean.

    Args:
        fit: uint8 [N, H, W, C], the training images that the statistics are taken of.
        arrays: uint8 [M, H, W, C] each, what is to be transformed, with the statistics of `fit`. Of all images, a
            chunk at a time is read.
        params: what to do; whitening subtracts its own mean, so it goes with `mean="none"` only, and there is one
            global contrast normalisation (`config.recipe.require_sense` sees to both).
        cache_dir: where contrast-normalised and whitened images are kept. All else is quicker done than read.
        digest: identifies the data set that the images are from.

    Returns:
        float32 arrays of the shapes of `arrays`. Those from the cache are private memory maps of its files. Where
        there is nothing but a division and a mean, `Bytes`: of arrays without a copy.
    """
    if not _steps(params):
        mean = fit_transform(fit, params).mean.reshape(fit.shape[1:])
        return [Bytes(_bytes(array), params.divide, mean) for array in arrays]
    of_fit, of_arrays = _identities(fit, arrays, params, digest)
    try:
        fitted = _cached(cache_dir, of_fit, lambda folder: _write_transform(folder, fit, params))
        transform = Transform(fitted[0], fitted[1] if params.zca is not None else None)
        return _cached(cache_dir, of_arrays, lambda folder: _write_arrays(folder, arrays, params, transform))
    except OSError as error:
        say(f"cannot keep preprocessed images in {cache_dir} ({error}): doing without")
        return _in_memory(fit, arrays, params)


def entries(fit: Images, arrays: Sequence[Images], params: Preprocessing, cache_dir: Path, digest: str) -> list[Path]:
    """The folders of the cache that `preprocess` makes or reads for these arguments, whether they are there or not."""
    if not _steps(params):
        return []
    return [_entry(cache_dir, identity) for identity in _identities(fit, arrays, params, digest)]


def _identities(
    fit: Images, arrays: Sequence[Images], params: Preprocessing, digest: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What names the cache entries of the statistics and of the transformed arrays: all that each depends on."""
    of_fit = {"version": VERSION, "data": digest, "params": _named(params), "fit": _which(fit)}
    return of_fit, of_fit | {"arrays": [_which(array) for array in arrays]}


def _steps(params: Preprocessing) -> list[str]:
    """What takes its time, in words."""
    return (
        ["contrast normalisation"] * (params.gcn is not None or params.gcn_std_bias is not None)
        + ["local contrast normalisation"] * params.lcn
        + ["whitening"] * (params.zca is not None)
    )


def _named(params: Preprocessing) -> dict[str, Any]:
    """The parameters as part of a cache entry's name. Those at their defaults are left out: see `schema`."""
    # 55 and 55.0 are one parameter, so one entry
    return {name: float(value) if type(value) is int else value for name, value in given(params).items()}


def _bytes(images: Images) -> NDArray[np.uint8]:
    """uint8 [N, H, W, C]: an array itself, anything else gathered chunk by chunk."""
    if isinstance(images, np.ndarray):
        return np.ascontiguousarray(images)
    result = np.empty(images.shape, dtype=np.uint8)
    for start in range(0, len(images), CHUNK):
        result[start : start + CHUNK] = images[start : start + CHUNK]
    return result


def _in_memory(fit: Images, arrays: Sequence[Images], params: Preprocessing) -> list[NDArray[np.float32]]:
    transform = fit_transform(fit, params)
    results = []
    for array in arrays:
        result = np.empty(array.shape, dtype=np.float32)
        start = 0
        for chunk in transformed(array, params, transform):
            result[start : start + len(chunk)] = chunk
            start += len(chunk)
        results.append(result)
    return results


# --- the mathematics ------------------------------------------------------------------------------------------------


class Transform(NamedTuple):
    """What is learned from the training images. D = H W C values of an image, in the order of its memory.

    pylearn2 has the channels first. Whitening does not care: reordering the values reorders its result the same way.
    """

    mean: NDArray[np.float32]  # [D]
    matrix: NDArray[np.float32] | None  # [D, D], whitening


def fit_transform(fit: Images, params: Preprocessing) -> Transform:
    """The statistics of uint8 [N, H, W, C], summed in float64."""
    return Transform(_mean(fit, params), None) if params.zca is None else _whitening(fit, params, params.zca)


def _mean(fit: Images, params: Preprocessing) -> NDArray[np.float32]:
    """float32 [D]: zeros, the mean image, or the mean of each channel at all its places."""
    count, channels = len(fit), fit.shape[-1]
    size = math.prod(fit.shape[1:])
    mean = np.zeros(size)
    if params.mean != "none":
        for chunk in _normalised(fit, params):
            mean += chunk.sum(axis=0, dtype=np.float64) / count
    if params.mean == "channel":
        mean = np.tile(mean.reshape(-1, channels).mean(axis=0), size // channels)
    return mean.astype(np.float32)


def _whitening(fit: Images, params: Preprocessing, zca: float) -> Transform:
    """ZCA as in pylearn2: C = X^T X / N + zca I of the centred X, P = V diag(1 / sqrt(eigenvalues)) V^T.

    The images are normalised once, for mean and covariance together. The mean of the first chunk stands in for that
    of all until it is known: what then remains to be subtracted is small against the variances, so the products, of
    fp32 chunks, lose nothing by it.
    """
    count, size = len(fit), math.prod(fit.shape[1:])
    around = next(_normalised(fit[:CHUNK], params)).mean(axis=0)
    rest, covariance = np.zeros(size), np.zeros((size, size))
    for chunk in _normalised(fit, params, around):
        rest += np.ones(len(chunk), np.float32) @ chunk / count  # small numbers: exact enough, and on all cores
        _add_lower(covariance, chunk)
    covariance /= count
    covariance -= np.outer(rest, rest)
    covariance.flat[:: size + 1] += zca
    values, vectors = np.linalg.eigh(covariance, UPLO="L")
    del covariance
    half = (vectors * values**-0.25).astype(np.float32)  # P = half half^T; 4e-7 of its norm away from float64's
    return Transform((around + rest).astype(np.float32), half @ half.T)


def _add_lower(total: NDArray[np.float64], x: NDArray[np.float32]) -> None:
    """Add the lower triangle of x^T x to a square matrix; what comes above it does not matter.

    numpy computes half of a product of an array with itself (torch does not), but in these blocks faster than at once.
    """
    for start in range(0, len(total), ROWS):
        rows, before = slice(start, start + ROWS), slice(0, start)
        total[rows, rows] += x[:, rows].T @ x[:, rows]
        total[rows, before] += x[:, rows].T @ x[:, before]


def transformed(images: Images, params: Preprocessing, transform: Transform) -> Iterator[NDArray[np.float32]]:
    """Chunks of float32 [n, H, W, C], in order, of uint8 [N, H, W, C]."""
    for chunk in _normalised(images, params, transform.mean):
        result = chunk if transform.matrix is None else chunk @ transform.matrix
        yield result.reshape(-1, *images.shape[1:])


def _normalised(
    images: Images, params: Preprocessing, mean: NDArray[np.float32] | float = 0
) -> Iterator[NDArray[np.float32]]:
    """Chunks of float32 [n, D]: images divided, contrast-normalised as `params` asks for, and `mean` subtracted.

    Global contrast normalisation subtracts an image's mean over all its values. Then `gcn` gives it this L2 norm, as
    pylearn2 does for CIFAR: no bias under the root, and nothing is divided by a norm under 1e-8. `gcn_std_bias`
    divides it by the root of its variance plus this bias, as pylearn2 did for SVHN in 2013; since January 2014 the
    same call there divides by the L2 norm without bias.
    """
    with _threads() as pool:
        for start in range(0, len(images), CHUNK):
            raw = np.asarray(images[start : start + CHUNK])
            chunk = np.empty((len(raw), math.prod(raw.shape[1:])), dtype=np.float32)

            def normalise(rows: slice, raw: NDArray[Any] = raw, chunk: NDArray[np.float32] = chunk) -> None:
                _normalise(raw[rows], chunk[rows], params)
                chunk[rows] -= mean

            _by_block(pool, normalise, len(raw))
            del raw
            yield chunk


def _normalise(raw: NDArray[Any], x: NDArray[np.float32], params: Preprocessing) -> None:
    """What `_normalised` says, of uint8 [n, H, W, C] to [n, D]. Each image by itself: the result is that of any n."""
    x[:] = raw.reshape(x.shape)
    if params.gcn is None:
        x /= params.divide
    else:  # the division would cancel; without it sums of bytes are exact, and a flat image stays exactly flat
        x -= x.mean(axis=1, keepdims=True)
        x *= params.gcn / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-8)
    if params.gcn_std_bias is not None:
        x -= x.mean(axis=1, keepdims=True)
        x /= np.sqrt(np.square(x).mean(axis=1, keepdims=True) + np.float32(params.gcn_std_bias))
    if params.lcn:
        x[:] = local_contrast_normalised(x.reshape(raw.shape)).reshape(x.shape)


def _threads() -> ThreadPoolExecutor:
    """One thread for each core: numpy works outside of the interpreter's lock."""
    return ThreadPoolExecutor(cores())


def _by_block(pool: ThreadPoolExecutor, call: Callable[[slice], None], count: int) -> None:
    """Call with slices that make up `count`."""
    for _ in pool.map(call, [slice(start, start + BLOCK) for start in range(0, count, BLOCK)]):
        pass


# --- the cache ------------------------------------------------------------------------------------------------------


def _which(images: Images) -> list[Any]:
    """Tells apart the arrays of one data set: shape and CRC-32."""
    crc = 0
    for start in range(0, len(images), CHUNK):
        crc = zlib.crc32(np.ascontiguousarray(images[start : start + CHUNK]).data, crc)
    return [*images.shape, crc]


def _write_transform(folder: Path, fit: Images, params: Preprocessing) -> list[Checksum]:
    wanted = " and ".join(_steps(params))
    say(f"{wanted}, fitted on {len(fit):,} images: once, then kept in {folder.parent}")
    mean, matrix = fit_transform(fit, params)
    parts = [mean] if matrix is None else [mean, matrix]
    return [_write(folder / f"{i}.npy", part.shape, [part]) for i, part in enumerate(parts)]


def _write_arrays(
    folder: Path, arrays: Sequence[Images], params: Preprocessing, transform: Transform
) -> list[Checksum]:
    return [
        _write(folder / f"{i}.npy", array.shape, transformed(array, params, transform))
        for i, array in enumerate(arrays)
    ]


def _write(path: Path, shape: tuple[int, ...], chunks: Iterable[NDArray[np.float32]]) -> Checksum:
    """Write a float32 array of `shape` as .npy, chunk by chunk. The checksum is of what was to be written.

    By plain writes: on a full disk they raise an OSError, where a memory map would kill the process.
    """
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    size, crc = 0, 0
    with open(path, "wb") as file, ThreadPoolExecutor(1) as pool:

        def append(content: memoryview) -> None:
            nonlocal size, crc
            file.write(content)
            size, crc = size + content.nbytes, zlib.crc32(content, crc)

        append(header.getbuffer())
        written = None
        for chunk in chunks:  # the next one is made while this one is written
            if written is not None:
                written.result()
            written = pool.submit(append, np.ascontiguousarray(chunk, dtype="<f4").data)
        if written is not None:
            written.result()
    return [size, crc]


def _cached(
    cache_dir: Path, identity: dict[str, Any], write: Callable[[Path], list[Checksum]]
) -> list[NDArray[np.float32]]:
    """The arrays of the cache entry of `identity`; `write` puts them into a folder as 0.npy, 1.npy, ... if need be.

    An entry is a folder that appears complete or not at all; its manifest says what it is, and the size and CRC-32
    of its files. Of processes that want the same entry one makes it. Raises OSError if it cannot be made.
    """
    entry = _entry(cache_dir, identity)
    found = _read(entry)
    if found is not None:
        return found
    with locked(cache_dir / f".{entry.name}.lock"):
        found = _read(entry)  # another process may have made it while we waited
        if found is not None:
            return found
        if entry.exists():
            say(f"{entry} is damaged or incomplete: making it again")
            shutil.rmtree(entry)
        part = cache_dir / f".{entry.name}.part"
        shutil.rmtree(part, ignore_errors=True)  # a killed process may have left it
        part.mkdir()
        try:
            files = {f"{i}.npy": checksum for i, checksum in enumerate(write(part))}
            write_json(part / MANIFEST, identity | {"files": files})
            part.rename(entry)
        finally:
            shutil.rmtree(part, ignore_errors=True)  # gives a full disk its space back
    found = _read(entry)
    if found is None:
        raise OSError(f"{entry} does not read as it was written")
    return found


def _entry(cache_dir: Path, identity: dict[str, Any]) -> Path:
    return cache_dir / hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def _read(entry: Path) -> list[NDArray[np.float32]] | None:
    """The arrays of an entry, or None if it is not there, not complete or not as it was written."""
    try:
        files = read_json(entry / MANIFEST)["files"]
        with ThreadPoolExecutor() as pool:
            if list(pool.map(_size_and_crc32, [entry / name for name in files])) != list(files.values()):
                return None
        # Copy on write: a caller may write to what it gets without touching the file.
        return [np.load(entry / name, mmap_mode="c") for name in files]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # no entry, or a damaged manifest
        return None


def _size_and_crc32(path: Path) -> Checksum:
    crc = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            crc = zlib.crc32(block, crc)
        return [file.tell(), crc]
