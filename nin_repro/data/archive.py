"""`<data_dir>/<name>.npz`, as which every data set lies on disk: reading it, and making it first where there is none.

Every array is checked against its SHA-256 before anyone sees it, but for those of your own images, of which there is no
other copy to compare with: their SHA-256 is noted with the results. Importing this module imports nothing heavy.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shlex
import shutil
import struct
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nin_repro.data.download import download, official_files, say
from nin_repro.data.sources import DATASETS, HERE, OFFICIAL, SKLEARN, Facts
from nin_repro.files import UsageError, atomic, locked, told

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


@dataclass(frozen=True)
class Loaded:
    """Parts of a data set as they were read, and which bytes these are: see `Split`."""

    images: dict[str, Array]  # by part: uint8 [N, H, W, C], memory-mapped if the file can be
    labels: dict[str, Array]  # by part: int64 [N]
    digest: str
    provenance: str


def load(name: str, data_dir: Path, parts: Sequence[str]) -> Loaded:
    """Read parts ("train", "test", "extra") of a data set, which is obtained first if it is not on disk.

    Members of `<data_dir>/<name>.npz` that are not asked for are not read.

    Raises:
        UsageError: the data cannot be had, or what is on disk is not what it should be.
    """
    import numpy as np

    facts, path = DATASETS[name], data_dir / f"{name}.npz"
    if not path.exists():
        obtain(name, data_dir)
    if not path.is_file():
        raise UsageError(f"{path} is no file: move it away, or choose another data_dir")
    member, arrays, digests = "the archive", {}, {}
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            expected, provenance = facts.known, facts.known_as
            if "sha256" in archive.files and facts.origin and not (facts.known and facts.known_as == OFFICIAL):
                member = "sha256"
                expected, provenance = json.loads(str(archive["sha256"])), facts.provenance
            for part in parts:
                for member in (f"{part}_images", f"{part}_labels"):
                    mapped = facts.origin and member.endswith("images")  # your own: read, so that zip checks the CRC
                    arrays[member] = _mapped(path, archive, member) if mapped else archive[member]
                    digests[member] = _check(arrays[member], member, facts, expected)
    except MemoryError:
        raise
    except PermissionError as error:
        raise UsageError(f"{told(error)}: have it made readable for you, or choose another data_dir") from error
    # Whatever a parser meets in a damaged file: zip, header and number formats each raise their own errors.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if "allow_pickle" in reason or isinstance(error, TypeError):  # numpy's advice would run it; or one array alone
            reason = "it is no file of arrays"
        place = str(path.parent) if re.fullmatch(r"[\w./-]+", str(path.parent), re.ASCII) else f'"{path.parent}"'
        again = f"delete the file and run python -m nin_repro.prepare dataset={name} {shlex.quote(f'data_dir={place}')}"
        if facts.origin is None:
            again = f"DATASETS in {HERE} says what it holds, {_wanted(facts)}"
        raise UsageError(f"{path}: {member} is damaged or not the data set {name} ({reason}): {again}") from error
    digest = hashlib.sha256("".join(f"{member} {digests[member]}\n" for member in arrays).encode()).hexdigest()
    if facts.origin is None:
        provenance = f"your own, SHA-256 {digest[:16]}..."
    images, labels = ({part: arrays[f"{part}_{kind}"] for part in parts} for kind in ("images", "labels"))
    return Loaded(images, labels, digest, provenance)


def _mapped(path: Path, archive: Any, member: str) -> Array:
    """A member of an .npz as a private memory map of the file, or read if it is not plain uint8 as `np.savez` writes.

    Nothing checks what is mapped: a digest must.
    """
    import numpy as np

    info = archive.zip.getinfo(f"{member}.npy")
    with archive.zip.open(info) as file:
        version = np.lib.format.read_magic(file)
        if info.compress_type != zipfile.ZIP_STORED or version != (1, 0):
            return archive[member]
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        header = file.tell()
    if fortran or dtype != np.uint8:
        return archive[member]
    with open(path, "rb") as file:  # the local header of a zip member: 30 bytes, then a name and extra fields
        file.seek(info.header_offset + 26)
        name, extra = struct.unpack("<HH", file.read(4))
    return np.memmap(path, dtype, "c", info.header_offset + 30 + name + extra + header, shape)


def _wanted(facts: Facts) -> str:
    """What an .npz of a data set holds, in words."""
    arrays = ", ".join(f"{member} {dtype} {list(shape)}" for member, (dtype, shape) in facts.members().items())
    return f"{arrays}, labels from 0 to {facts.classes - 1}"


def _check(array: Array, member: str, facts: Facts, expected: dict[str, str]) -> str:
    """The SHA-256 of a member. Raises ValueError unless it has its shape, type and range, and the digest if known."""
    dtype, shape = facts.members()[member]
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(f"it is {array.dtype} {list(array.shape)}, not {dtype} {list(shape)}")
    if member.endswith("labels") and not (array.min() >= 0 and array.max() < facts.classes):
        raise ValueError(f"its labels are not all from 0 to {facts.classes - 1}")
    digest = _sha256(array)
    if (facts.origin or facts.known) and digest != expected.get(member):
        raise ValueError("its SHA-256 is none that is known for it")
    return digest


def _sha256(array: Array) -> str:
    """Of the values in their C order, which need not be how they lie in memory."""
    import numpy as np

    found = hashlib.sha256()
    for start in range(0, len(array), 10_000):
        found.update(np.ascontiguousarray(array[start : start + 10_000]).data.cast("B"))
    return found.hexdigest()


def obtain(name: str, data_dir: Path) -> None:
    """Write `<data_dir>/<name>.npz` from the official files, which are downloaded; a file that is there is left alone.

    Of processes that start together one does the work, and the others wait for it.

    Raises:
        UsageError: no network, `data_dir` cannot be written, or there are no official files.
    """
    import numpy as np

    facts, path = DATASETS[name], data_dir / f"{name}.npz"
    downloads = data_dir / "downloads" / name
    if facts.origin is None:
        raise UsageError(f"there is no {path}: make it with numpy.savez from your own images, {_wanted(facts)}")
    try:
        with contextlib.ExitStack() as stack:
            lock = data_dir / f".{name}.lock"
            if not stack.enter_context(locked(lock, wait=False)):
                say(f"another process is getting {name}: waiting for it")
                stack.enter_context(locked(lock))
            if path.exists():
                return
            arrays = _digits() if facts.origin == SKLEARN else _official(facts.origin, downloads, facts)
            digests = {member: _sha256(array) for member, array in arrays.items()}
            members: dict[str, Any] = {"sha256": np.array(json.dumps(digests))} | arrays
            with atomic(path, "wb") as file:
                np.savez(file, **members)
            shutil.rmtree(downloads, ignore_errors=True)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {told(error)}: free space there or choose another data_dir") from error


def _digits() -> dict[str, Array]:
    """The handwritten digits that come with scikit-learn, in the order of its file: every fifth is for testing."""
    import numpy as np
    from sklearn.datasets import load_digits

    found = load_digits()
    images, labels = found.images[..., None].astype(np.uint8), found.target.astype(np.int64)
    test = np.arange(len(labels)) % 5 == 4
    return {
        "train_images": images[~test],
        "train_labels": labels[~test],
        "test_images": images[test],
        "test_labels": labels[test],
    }


def _official(class_name: str, folder: Path, facts: Facts) -> dict[str, Array]:
    """Download the official files into `folder` and let torchvision read them."""
    import numpy as np
    import torchvision.datasets

    kind, arrays = getattr(torchvision.datasets, class_name), {}
    files = official_files(kind, folder)
    download(files)
    for path in folder.rglob("*"):  # what a killed extraction left would be taken for the data
        if path.is_file() and path not in [file.path for file in files]:
            path.unlink()
    for part in facts.sizes:
        which = {"split": part} if class_name == "SVHN" else {"train": part == "train"}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy 2.4.0 to 2.4.4 warn of pickles as old as CIFAR's
            found = kind(folder, download=True, **which)  # finds the verified files: nothing is downloaded here
        images = np.asarray(found.data)
        # SVHN's is a view of what MATLAB wrote, columns first. It stays one: a copy of `extra` takes 1.6 GB.
        images = images.transpose(0, 2, 3, 1) if class_name == "SVHN" else images.reshape(-1, *facts.shape)
        labels = found.labels if class_name == "SVHN" else found.targets
        arrays[f"{part}_images"] = images
        arrays[f"{part}_labels"] = np.asarray(labels, dtype=np.int64)
    return arrays
