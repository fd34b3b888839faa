"""Preprocessing against float64 references written from the formulas, and the cache under every kind of damage."""

import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_lcn import reference as local_reference

from nin_repro.data import preprocess as module
from nin_repro.data.archive import load
from nin_repro.data.batches import on_device
from nin_repro.data.preprocess import CHUNK, Bytes, preprocess
from nin_repro.data.splits import Rows
from nin_repro.schema import Preprocessing

DATA = Path(__file__).parents[1] / "data"
WHITEN = Preprocessing(divide=1, gcn=5.0, zca=0.1, mean="none")


def images(count: int, shape: tuple[int, int, int] = (4, 3, 2), seed: int = 0) -> np.ndarray:
    """Random images whose neighbouring values go together, as in real ones."""
    noise = np.random.default_rng(seed).normal(size=(count, *shape)).cumsum(axis=1).cumsum(axis=2)
    return np.clip(128 + 30 * noise, 0, 255).astype(np.uint8)


def gcn(raw: np.ndarray, norm: float) -> np.ndarray:
    x = raw.reshape(len(raw), -1).astype(np.float64)
    x = x - x.mean(axis=1)[:, None]
    return norm * x / np.maximum(np.sqrt((x**2).sum(axis=1)), 1e-8)[:, None]


def gcn_std(raw: np.ndarray, bias: float) -> np.ndarray:
    x = raw.reshape(len(raw), -1).astype(np.float64)
    x = x - x.mean(axis=1)[:, None]
    return x / np.sqrt((x**2).mean(axis=1) + bias)[:, None]


def whitened(fit: np.ndarray, x: np.ndarray, zca: float) -> np.ndarray:
    """float64 [N, D], by the singular values of the training images instead of their covariance's eigenvalues."""
    mean = fit.mean(axis=0)
    _, s, vt = np.linalg.svd(fit - mean, full_matrices=False)
    gain = 1 / np.sqrt(s**2 / len(fit) + zca) - 1 / np.sqrt(zca)  # beyond what the null space gets
    return (x - mean) / np.sqrt(zca) + (x - mean) @ vt.T * gain @ vt


def arrays(*arguments: Any) -> Any:
    """What `preprocess` gives back where that is arrays."""
    return preprocess(*arguments)


def floats(found: Any) -> np.ndarray:
    """What the network sees of it."""
    return on_device(found, torch.device("cpu")).float().numpy()


def run(tmp_path: Path, params: Preprocessing = WHITEN, digest: str = "d") -> Any:
    return preprocess(images(50), [images(50), images(9, seed=1)], params, tmp_path / "cache", digest)


# --- the mathematics ------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), norm=st.floats(0.1, 100), divide=st.sampled_from([1, 2, 255]))
def test_contrast_normalisation(
    seed: int, norm: float, divide: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    raw = images(6, seed=seed)
    raw[2] = 37  # flat: there is no contrast to normalise
    params = Preprocessing(divide=divide, gcn=norm, zca=None, mean="none")
    (found,) = arrays(raw, [raw], params, tmp_path_factory.mktemp("cache"), "d")
    assert found.dtype == np.float32 and found.shape == raw.shape
    np.testing.assert_allclose(found.reshape(6, -1), gcn(raw / divide, norm), rtol=1e-4, atol=1e-5 * norm)
    assert not found[2].any()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), bias=st.floats(0.01, 1000), divide=st.sampled_from([1, 2, 255]))
def test_contrast_normalisation_with_a_bias(
    seed: int, bias: float, divide: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    raw = images(6, seed=seed)
    raw[2] = 37
    params = Preprocessing(divide=divide, gcn=None, zca=None, mean="none", gcn_std_bias=bias)
    (found,) = arrays(raw, [raw], params, tmp_path_factory.mktemp("cache"), "d")
    assert found.dtype == np.float32 and found.shape == raw.shape
    np.testing.assert_allclose(found.reshape(6, -1), gcn_std(raw / divide, bias), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("divide", [1, 255])
@pytest.mark.parametrize("norm", ["gcn", "gcn_std_bias", None])
@pytest.mark.parametrize("then", ["none", "pixel", "zca"])
def test_the_order_of_the_steps(divide: float, norm: str | None, then: Any, tmp_path: Path) -> None:
    """Divide, global, local, then what needs the statistics of the training images."""
    x = images(40, (8, 7, 3))
    steps: dict[str, Any] = {"gcn": None, "zca": 0.1 if then == "zca" else None, "lcn": True}
    steps |= {"mean": "none" if then == "zca" else then} | ({norm: 10.0} if norm else {})
    (found,) = arrays(x, [x[:9]], Preprocessing(divide=divide, **steps), tmp_path, "d")
    globally = {"gcn": gcn(x, 10), "gcn_std_bias": gcn_std(x / divide, 10), None: x / divide}[norm]
    flat = local_reference(globally.reshape(x.shape)).reshape(40, -1)
    expected = {"none": flat, "pixel": flat - flat.mean(axis=0), "zca": whitened(flat, flat, 0.1)}[then]
    np.testing.assert_allclose(found.reshape(9, -1), expected[:9], atol=1e-4)


def test_whitening_with_the_statistics_of_the_training_images(tmp_path: Path) -> None:
    train, test = run(tmp_path)
    fit = gcn(images(50), 5)
    np.testing.assert_allclose(train.reshape(50, -1), whitened(fit, fit, 0.1), atol=1e-4)
    np.testing.assert_allclose(test.reshape(9, -1), whitened(fit, gcn(images(9, seed=1), 5), 0.1), atol=1e-4)


def test_whitening_of_plain_bytes(tmp_path: Path) -> None:
    raw = images(40)
    params = Preprocessing(divide=255, gcn=None, zca=1e-3, mean="none")
    (found,) = arrays(raw, [raw], params, tmp_path, "d")
    x = raw.reshape(40, -1) / 255
    np.testing.assert_allclose(found.reshape(40, -1), whitened(x, x, 1e-3), atol=1e-3)


def test_whitened_training_images_are_uncorrelated_and_keep_their_place(tmp_path: Path) -> None:
    raw = images(4_000)
    (found,) = arrays(raw, [raw], Preprocessing(255, None, 1e-6, "none"), tmp_path, "d")
    x = found.reshape(4_000, -1).astype(np.float64)
    np.testing.assert_allclose(x.T @ x / len(x), np.eye(x.shape[1]), atol=5e-3)
    raw_x = raw.reshape(4_000, -1) / 255.0
    crossed = (raw_x - raw_x.mean(axis=0)).T @ x  # ZCA, and not PCA: symmetric, each value closest to itself
    np.testing.assert_allclose(crossed, crossed.T, atol=1e-2 * np.abs(crossed).max())


def test_the_order_of_the_values_does_not_matter(tmp_path: Path) -> None:
    """pylearn2 has the channels first."""
    raw = images(30)
    channels_first = np.ascontiguousarray(raw.transpose(0, 3, 1, 2))
    (ours,) = arrays(raw, [raw], WHITEN, tmp_path, "d")
    (theirs,) = arrays(channels_first, [channels_first], WHITEN, tmp_path, "d")
    np.testing.assert_allclose(ours.transpose(0, 3, 1, 2), theirs, atol=1e-4)


def test_more_images_than_fit_in_a_chunk_and_more_values_than_in_a_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = [run(tmp_path / "whole", params) for params in (WHITEN, Preprocessing(1, None, None, "pixel"))]
    monkeypatch.setattr("nin_repro.data.preprocess.CHUNK", 7)
    monkeypatch.setattr("nin_repro.data.preprocess.ROWS", 10)
    parts = [run(tmp_path / "parts", params) for params in (WHITEN, Preprocessing(1, None, None, "pixel"))]
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_allclose(floats(a[0]), floats(b[0]), atol=1e-5)
        np.testing.assert_allclose(floats(a[1]), floats(b[1]), atol=1e-5)


@pytest.mark.parametrize(("mean", "axes"), [("none", ()), ("pixel", (0,)), ("channel", (0, 1, 2))])
@pytest.mark.parametrize("norm", [None, 5.0])
def test_mean_subtraction(mean: Any, axes: tuple[int, ...], norm: float | None, tmp_path: Path) -> None:
    fit, test = images(50), images(9, seed=1)
    found = run(tmp_path, Preprocessing(divide=255, gcn=norm, zca=None, mean=mean))
    x, y = ((gcn(a, norm).reshape(a.shape) if norm else a / 255) for a in (fit, test))
    expected = x.mean(axis=axes, keepdims=True) if axes else 0
    np.testing.assert_allclose(floats(found[0]), x - expected, atol=1e-5)
    np.testing.assert_allclose(floats(found[1]), y - expected, atol=1e-5)
    assert (tmp_path / "cache").exists() == (norm is not None)  # what is quick to do again is not kept


@pytest.mark.skipif(not (DATA / "cifar10.npz").exists(), reason="data/cifar10.npz is not here")
def test_real_images(tmp_path: Path) -> None:
    """The middle of CIFAR-10 images, with the paper's parameters; there are more values than images."""
    raw = load("cifar10", DATA, ["train"]).images["train"][:600, 8:24, 8:24]
    params = Preprocessing(divide=1, gcn=55, zca=0.1, mean="none")
    train, test = arrays(raw[:500], [raw[:500], raw[500:]], params, tmp_path, "d")
    fit = gcn(raw[:500], 55)
    np.testing.assert_allclose(train.reshape(500, -1), whitened(fit, fit, 0.1), atol=1e-4)
    np.testing.assert_allclose(test.reshape(100, -1), whitened(fit, gcn(raw[500:], 55), 0.1), atol=1e-4)


# --- images that are gathered when they are needed -------------------------------------------------------------------


class Watched(Rows):
    """Refuses to be in memory all at once."""

    def __getitem__(self, part: slice) -> Rows:
        return Watched(self.arrays, self.chosen[part])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        assert len(self) <= CHUNK
        return super().__array__(dtype, copy)


@pytest.mark.parametrize(
    "params",
    [Preprocessing(1, None, None, "none", gcn_std_bias=10, lcn=True), Preprocessing(1, None, None, "pixel"), WHITEN],
)
def test_they_are_as_good_as_arrays_and_read_by_the_chunk(params: Preprocessing, tmp_path: Path) -> None:
    parts, chosen = [images(5_000), images(200, seed=1)], np.flatnonzero(np.arange(5_200) % 7)
    rows = Watched(parts, chosen)
    found = preprocess(rows, [rows, rows[4:8]], params, tmp_path / "rows", "d")
    whole = np.concatenate(parts)[chosen]
    expected = preprocess(whole, [whole, whole[4:8]], params, tmp_path / "arrays", "d")
    for a, b in zip(found, expected, strict=True):
        assert np.array_equal(floats(a), floats(b))
    if (tmp_path / "rows").exists():  # the same entries
        names = [{entry.name for entry in folder.iterdir()} for folder in (tmp_path / "rows", tmp_path / "arrays")]
        assert names[0] == names[1]


@pytest.mark.parametrize("mean", ["none", "channel"])
def test_what_is_quick_to_do_again_stays_bytes(mean: Any, tmp_path: Path) -> None:
    parts = [images(5_000), images(200, seed=1)]
    rows = Watched(parts, np.arange(5_200))
    plain, gathered = preprocess(parts[0], [parts[0], rows], Preprocessing(255, None, None, mean), tmp_path, "d")
    assert isinstance(plain, Bytes) and np.shares_memory(plain.values, parts[0])
    assert isinstance(gathered, Bytes) and np.array_equal(gathered.values, np.concatenate(parts))
    expected = parts[0] / 255
    expected -= expected.mean(axis=(0, 1, 2)) if mean == "channel" else 0
    np.testing.assert_allclose(floats(plain), expected, atol=1e-6)
    assert floats(plain).dtype == np.float32 and not list(tmp_path.iterdir())


# --- the cache ------------------------------------------------------------------------------------------------------


def entries(tmp_path: Path) -> list[Path]:
    """Cache entries: the one that holds the transformed images last."""
    found = [path for path in (tmp_path / "cache").iterdir() if not path.name.startswith(".")]
    return sorted(found, key=lambda path: "arrays" in json.loads((path / "manifest.json").read_text()))


def test_a_second_call_computes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(tmp_path)
    monkeypatch.setattr("nin_repro.data.preprocess.fit_transform", None)
    monkeypatch.setattr("nin_repro.data.preprocess.transformed", None)
    for a, b in zip(first, run(tmp_path), strict=True):
        assert isinstance(b, np.memmap) and np.array_equal(a, b)
    run(tmp_path, Preprocessing(divide=1.0, gcn=5, zca=0.1, mean="none"))  # 5 and 5.0 are one parameter


def test_other_images_share_the_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, _ = run(tmp_path)
    monkeypatch.setattr("nin_repro.data.preprocess.fit_transform", None)
    (few,) = arrays(images(50), [images(50)[:8]], WHITEN, tmp_path / "cache", "d")
    np.testing.assert_allclose(few, train[:8], atol=1e-5)


@pytest.mark.parametrize(
    ("params", "digest"),
    [
        (Preprocessing(1, 6.0, 0.1, "none"), "d"),
        (Preprocessing(1, 5.0, 0.2, "none"), "d"),
        (Preprocessing(1, 5.0, None, "pixel"), "d"),
        (Preprocessing(1, 5.0, 0.1, "none", lcn=True), "d"),
        (Preprocessing(1, None, 0.1, "none", gcn_std_bias=5.0), "d"),
        (WHITEN, "other data"),
    ],
)
def test_anything_changed_is_another_entry(params: Preprocessing, digest: str, tmp_path: Path) -> None:
    before = run(tmp_path)
    kept = set(entries(tmp_path))
    after = run(tmp_path, params, digest)
    assert len(set(entries(tmp_path)) - kept) == 2 and kept < set(entries(tmp_path))
    assert np.array_equal(before[0], after[0]) == (params == WHITEN)


def test_entries_of_earlier_versions_of_this_code_are_still_found(tmp_path: Path) -> None:
    """What hashes to these names was there before `gcn_std_bias` and `lcn`. Whitening CIFAR again takes a minute."""
    raw = np.arange(50 * 24).astype(np.uint8).reshape(50, 4, 3, 2)
    preprocess(raw, [raw[:9]], WHITEN, tmp_path / "cache", "d")
    assert sorted(entry.name for entry in entries(tmp_path)) == ["246b891adecb90b2", "2da94325eaa8f02a"]


def test_another_version_of_the_code_is_another_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path)
    monkeypatch.setattr("nin_repro.data.preprocess.VERSION", 10**6)
    run(tmp_path)
    assert len(entries(tmp_path)) == 4


def flip(path: Path, place: float = 0.6) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "flipped byte of the images": lambda entry: flip(entry / "0.npy"),
    "flipped byte of the header": lambda entry: flip(entry / "1.npy", 0.0),
    "truncated": lambda entry: (entry / "1.npy").write_bytes((entry / "1.npy").read_bytes()[:-5]),
    "lost file": lambda entry: (entry / "1.npy").unlink(),
    "lost manifest": lambda entry: (entry / "manifest.json").unlink(),
    "half a manifest": lambda entry: (entry / "manifest.json").write_text('{"files": {"0.npy": [3'),
    "another manifest": lambda entry: (entry / "manifest.json").write_text("[]"),
    "an empty folder": lambda entry: [path.unlink() for path in entry.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("which", [0, 1], ids=["fit", "images"])
def test_a_damaged_entry_is_made_again(damage: Any, which: int, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    expected = [np.array(array) for array in run(tmp_path)]
    for entry in entries(tmp_path)[which:]:  # the fit is read only where the images are not there
        damage(entry)
    capfd.readouterr()
    for a, b in zip(expected, run(tmp_path), strict=True):
        assert np.array_equal(a, b)
    assert capfd.readouterr().err.count("damaged or incomplete") == 2 - which
    run(tmp_path)
    assert capfd.readouterr().err == ""


def test_what_a_killed_process_left_is_cleared(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    run(tmp_path)
    expected, (fit, found) = [np.array(a) for a in run(tmp_path)], entries(tmp_path)
    found.rename(part := found.with_name(f".{found.name}.part"))
    (part / "manifest.json").unlink()
    (part / "7.npy").write_bytes(b"half of it")
    for a, b in zip(expected, run(tmp_path), strict=True):
        assert np.array_equal(a, b)
    assert entries(tmp_path) == [fit, found] and not part.exists()
    assert sorted(path.name for path in found.iterdir()) == ["0.npy", "1.npy", "manifest.json"]


def test_writing_to_the_result_leaves_the_cache_alone(tmp_path: Path) -> None:
    first = run(tmp_path)[0]
    before = (entries(tmp_path)[-1] / "0.npy").read_bytes()
    first[:] = 0
    del first
    assert (entries(tmp_path)[-1] / "0.npy").read_bytes() == before


CHILD = """
import sys, time
from pathlib import Path
import numpy as np
import nin_repro.data.preprocess as module
from nin_repro.schema import Preprocessing

folder = Path(sys.argv[1])
for name in ("_write_transform", "_write_arrays"):
    def slowly(*arguments, write=getattr(module, name), name=name):
        with open(folder / "log", "a") as log:
            print(name, file=log)
        time.sleep(0.3)
        return write(*arguments)
    setattr(module, name, slowly)
raw = np.random.default_rng(0).integers(0, 256, (50, 4, 3, 2), dtype=np.uint8)
(found,) = module.preprocess(raw, [raw], Preprocessing(1, 5.0, 0.1, "none"), folder / "cache", "d")
print(found[:5].tolist())
"""


def test_two_processes_do_the_work_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    root = Path(__file__).parents[1]
    children = [subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [child.communicate()[0] for child in children]
    assert [child.returncode for child in children] == [0, 0]
    assert outputs[0] == outputs[1] != ""
    assert sorted((tmp_path / "log").read_text().split()) == ["_write_arrays", "_write_transform"]


def test_what_the_disk_did_not_keep_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    write = module._write

    def lossy(path: Path, *arguments: Any) -> list[int]:
        checksum = write(path, *arguments)
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        return checksum

    monkeypatch.setattr(module, "_write", lossy)
    train, _ = run(tmp_path)
    fit = gcn(images(50), 5)
    np.testing.assert_allclose(train.reshape(50, -1), whitened(fit, fit, 0.1), atol=1e-4)
    assert "does not read as it was written" in capfd.readouterr().err


@pytest.fixture
def small_files() -> Iterator[None]:
    """A stand-in for a full disk: no file of this process may grow beyond 4 kB, which the fit does not need."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, old[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, old)


def test_a_full_disk_is_done_without(tmp_path: Path, small_files: None, capfd: pytest.CaptureFixture) -> None:
    train, _ = run(tmp_path)
    fit = gcn(images(50), 5)
    np.testing.assert_allclose(train.reshape(50, -1), whitened(fit, fit, 0.1), atol=1e-4)
    assert "doing without" in capfd.readouterr().err
    assert not list((tmp_path / "cache").glob("*.part"))  # what was begun is cleared away


def test_a_place_that_cannot_be_written_is_done_without(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    train, test = run(tmp_path)
    assert capfd.readouterr().err.count("doing without") == 1
    expected = run(tmp_path / "elsewhere")
    assert np.array_equal(train, expected[0]) and np.array_equal(test, expected[1])


def test_a_cache_that_cannot_be_written_is_still_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = run(tmp_path)
    monkeypatch.setattr("nin_repro.data.preprocess.locked", None)  # a lock is a write
    assert np.array_equal(run(tmp_path)[0], expected[0])


@pytest.mark.parametrize("norm", [None, 5.0])
def test_the_mean_is_that_of_the_images_to_learn_from_and_of_no_others(norm: float | None, tmp_path: Path) -> None:
    fit, others = images(50), images(9, seed=1)
    (found,) = preprocess(fit, [others], Preprocessing(1, norm, None, "pixel"), tmp_path, "d")
    before = [one.reshape(len(one), -1).astype(np.float64) if norm is None else gcn(one, norm) for one in (fit, others)]
    wanted = before[1] - before[0].mean(axis=0)
    np.testing.assert_allclose(floats(found).reshape(9, -1), wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


def test_faint_images_get_the_same_contrast(tmp_path: Path) -> None:
    faint = np.full((3, 4, 3, 2), 7, dtype=np.uint8)
    faint[1, 2, 1, 0] = 8
    (found,) = arrays(faint, [faint], Preprocessing(1, 5.0, None, "none"), tmp_path, "d")
    norms = np.linalg.norm(found.reshape(3, -1), axis=1)
    assert norms == pytest.approx([0.0, 5.0, 0.0], rel=1e-5)
