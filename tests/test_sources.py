"""The data sets: official files from a server on loopback, every kind of damage, and the splits."""

import dataclasses
import errno
import gzip
import hashlib
import io
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from official_files import FORMATS, NOWHERE, Server, md5

from nin_repro.data import archive, download, sources
from nin_repro.data.archive import Loaded, load, obtain
from nin_repro.data.sources import DATASETS
from nin_repro.data.splits import Rows, open_split, parts_for
from nin_repro.files import UsageError

ROOT = Path(__file__).parents[1]
DATA = ROOT / "data"
Arrays = dict[str, np.ndarray]


def sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def small(name: str, monkeypatch: pytest.MonkeyPatch, seed: int = 0, **changes: Any) -> Arrays:
    """Shrink a data set to a few random images; returns its arrays. What is known of the real ones is forgotten."""
    sizes = {part: 20 + 5 * i for i, part in enumerate(DATASETS[name].sizes)}
    facts = dataclasses.replace(DATASETS[name], **{"sizes": sizes, "known": {}} | changes)
    rng, arrays = np.random.default_rng(seed), {}
    for part, count in facts.sizes.items():
        arrays[f"{part}_images"] = rng.integers(0, 256, (count, *facts.shape), dtype=np.uint8)
        arrays[f"{part}_labels"] = rng.permutation(np.arange(count) % facts.classes)
    if facts.known_as == sources.OFFICIAL and "mnist" in name:
        facts = dataclasses.replace(facts, known={member: sha256(array) for member, array in arrays.items()})
    monkeypatch.setitem(DATASETS, name, facts)
    return arrays


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "BACKOFF", 0.0)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def official(server: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Arrays]:
    """Call it to have a small data set served in its official format; returns its arrays."""

    def serve(name: str) -> Arrays:
        import torchvision.datasets

        arrays = small(name, monkeypatch)
        server.files, attributes = FORMATS[name](name, arrays)
        for key, value in attributes(server.url).items():
            monkeypatch.setattr(getattr(torchvision.datasets, str(DATASETS[name].origin)), key, value)
        return arrays

    return serve


def same(found: Loaded, arrays: Arrays) -> bool:
    return all(
        np.array_equal(found.images[part], arrays[f"{part}_images"])
        and np.array_equal(found.labels[part], arrays[f"{part}_labels"])
        for part in found.images
    )


# --- obtaining ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_official_files(name: str, official: Callable, server: Server, tmp_path: Path) -> None:
    arrays, parts = official(name), list(DATASETS[name].sizes)
    first = load(name, tmp_path, parts)
    assert same(first, arrays) and first.provenance == "official files"
    assert first.images["test"].dtype == np.uint8 and first.labels["test"].dtype == np.int64
    assert sorted(file for file, _ in server.log) == sorted(server.files)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {f"{name}.npz", f".{name}.lock"}
    server.files.clear()
    again = load(name, tmp_path, parts)
    assert same(again, arrays) and again.digest == first.digest


def test_a_download_goes_on_where_it_was_cut(official: Callable, server: Server, tmp_path: Path) -> None:
    arrays = official("cifar10")
    server.faults = [503, "cut", 500, "cut"]
    with pytest.raises(UsageError, match="cut after"):
        load("cifar10", tmp_path, ["train"])
    assert same(load("cifar10", tmp_path, ["train"]), arrays)  # the next process goes on too
    size = len(server.files["cifar-10-python.tar.gz"])
    half, more = size // 2, (size // 2 + size) // 2
    assert [wanted for _, wanted in server.log] == [None, None, f"bytes={half}-", f"bytes={half}-", f"bytes={more}-"]


def test_a_full_disk_is_no_fault_of_the_network(
    official: Callable, server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither another try nor another mirror helps."""
    official("cifar10")

    def full(url: str, part: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(part))

    monkeypatch.setattr(download, "_fetch", full)
    monkeypatch.setattr(download, "say", None)
    with pytest.raises(UsageError, match=r"No space left on device.*: free space there or choose another data_dir"):
        load("cifar10", tmp_path, ["train"])


def test_data_are_not_ready_where_their_cache_cannot_be_written(command: Callable, data: str, tmp_path: Path) -> None:
    (tmp_path / "digits.npz").symlink_to(Path(data.partition("=")[2]) / "digits.npz")
    (tmp_path / "cache").touch()
    done = command("prepare", "experiment=quickstart", "dataset.preprocessing.gcn=5", f"data_dir={tmp_path}")
    assert done.returncode == 2 and "is ready" not in done.stdout and "could not be written" in done.stderr


def test_what_an_earlier_try_left(official: Callable, server: Server, tmp_path: Path) -> None:
    arrays, folder = official("svhn"), tmp_path / "downloads" / "svhn"
    folder.mkdir(parents=True)
    (folder / "train_32x32.mat.part").write_bytes(server.files["train_32x32.mat"])  # complete
    (folder / "test_32x32.mat.part").write_bytes(b"x" * len(server.files["test_32x32.mat"]))  # wrong
    (folder / "extra_32x32.mat").write_bytes(b"not it")
    server.faults = [None, None, "cut", "whole"]  # the server stops to know ranges: from the start again
    assert same(load("svhn", tmp_path, ["train", "test", "extra"]), arrays)
    assert [file.partition("_")[0] for file, _ in server.log] == ["train", "test", "test", "test", "extra"]


@pytest.mark.parametrize("name", FORMATS)
def test_a_wrong_checksum_is_never_accepted(name: str, official: Callable, server: Server, tmp_path: Path) -> None:
    official(name)
    last = list(server.files)[-1]
    server.files[last] = server.files[last][:-1] + b"?"
    with pytest.raises(UsageError, match="wrong MD5"):
        load(name, tmp_path, ["train"])
    assert not (tmp_path / f"{name}.npz").exists() and not list(tmp_path.rglob(last))


def test_offline(official: Callable, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what to put where, and doing that is enough, whatever a killed extraction left there."""
    arrays = official("mnist")
    monkeypatch.setattr("torchvision.datasets.MNIST.mirrors", [NOWHERE])
    with pytest.raises(UsageError) as caught:
        load("mnist", tmp_path, ["train"])
    folder = tmp_path / "downloads" / "mnist" / "MNIST" / "raw"
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
    assert all(NOWHERE + file in str(caught.value) for file in server.files)
    for file, content in server.files.items():
        (folder / file).write_bytes(content)
        (folder / file.removesuffix(".gz")).write_bytes(gzip.decompress(content)[:-3])
    assert same(load("mnist", tmp_path, ["train", "test"]), arrays)


CHILD = """
import dataclasses, sys
import numpy as np
from pathlib import Path
from nin_repro.data import archive, download, sources

folder, url, md5 = sys.argv[1:]
def official(name, downloads, facts):  # without torchvision, which takes long to import
    download.download([download.Remote([url], downloads / "arrays.npz", md5)])
    return dict(np.load(downloads / "arrays.npz"))
archive._official = official
facts = dataclasses.replace(sources.DATASETS["cifar10"], sizes={"train": 20, "test": 25}, known={})
sources.DATASETS["cifar10"] = facts
print(archive.load("cifar10", Path(folder), ["train", "test"]).digest)
"""


def test_two_processes_download_once(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    arrays, served = small("cifar10", monkeypatch), io.BytesIO()
    np.savez(served, allow_pickle=False, **arrays)
    server.files, server.faults = {"arrays.npz": served.getvalue()}, ["hold"]
    command = [sys.executable, "-c", CHILD, str(tmp_path), server.url + "arrays.npz", md5(served.getvalue())]

    def start() -> subprocess.Popen:
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    with start() as first:
        while not server.asked.wait(0.05):
            assert first.poll() is None, first.stderr
        # The first one is in the middle of its download.
        with start() as second:
            assert second.stderr is not None and "waiting" in second.stderr.readline()
            server.release.set()
            outputs = [child.communicate(timeout=60)[0] for child in (first, second)]
    assert (first.returncode, second.returncode, len(server.log)) == (0, 0, 1)
    assert outputs[0] == outputs[1] != ""
    assert same(load("cifar10", tmp_path, ["train", "test"]), arrays)


def test_a_file_of_somebody_else_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    obtain("digits", tmp_path)

    def closed(path: Path, *_: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(archive, "open", closed, raising=False)  # root may read all
    with pytest.raises(UsageError, match="Permission denied: have it made readable"):
        load("digits", tmp_path, ["test"])


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="data_dir"):
        load("digits", tmp_path / "file", ["train"])


# --- checking -------------------------------------------------------------------------------------------------------


def save(path: Path, arrays: Arrays, digests_of: Arrays | None = None) -> Path:
    """Write a data file as `obtain` does, with the digests of other arrays if asked for."""
    digests = {member: sha256(array) for member, array in (digests_of or arrays).items()}
    np.savez(path, allow_pickle=False, sha256=np.array(json.dumps(digests)), **arrays)
    return path


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Arrays]:
    arrays = small("cifar10", monkeypatch, shape=(2, 2, 3))
    return save(tmp_path / "cifar10.npz", arrays), arrays


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_no_flipped_bit_gets_through(place: float, bit: int, stored: tuple[Path, Arrays]) -> None:
    path, arrays = stored
    intact = path.read_bytes()
    damaged = bytearray(intact)
    damaged[int(place * len(damaged))] ^= 1 << bit
    path.write_bytes(damaged)
    try:  # a bit that does not matter, in a time stamp say, may be anything
        assert same(load("cifar10", path.parent, ["train", "test"]), arrays)
    except UsageError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    finally:
        path.write_bytes(intact)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(left=st.floats(0, 1, exclude_max=True))
def test_no_truncated_file_gets_through(left: float, stored: tuple[Path, Arrays]) -> None:
    path, _ = stored
    intact = path.read_bytes()
    path.write_bytes(intact[: int(left * len(intact))])
    with pytest.raises(UsageError, match=r"cifar10\.npz.*delete the file and run python -m nin_repro\.prepare"):
        load("cifar10", path.parent, ["train"])
    path.write_bytes(intact)


NEW, OLD, NO = "of what is there", "of what was there", "none"  # the digests in the file


@pytest.mark.parametrize(
    ("member", "change", "digests", "reason"),
    [
        ("train_images", lambda x: x ^ (np.arange(20) == 7)[:, None, None, None].astype(np.uint8), OLD, "SHA-256"),
        ("train_images", lambda x: x[::-1], OLD, "SHA-256"),
        ("train_images", lambda x: x[:-1], NEW, r"uint8 \[19, 2, 2, 3\], not uint8 \[20, 2, 2, 3\]"),
        ("train_images", lambda x: x.transpose(0, 3, 1, 2), NEW, r"uint8 \[20, 3, 2, 2\]"),
        ("train_images", lambda x: x.astype(np.float32), NEW, "float32"),
        ("train_images", lambda x: x, NO, "none that is known"),  # nobody vouches for the file
        ("train_labels", lambda x: (x + (np.arange(20) == 7)) % 10, OLD, "SHA-256"),
        ("train_labels", lambda x: x.astype(np.int32), NEW, "int32"),
        ("train_labels", lambda x: x + 1, NEW, "from 0 to 9"),
        ("train_labels", lambda x: x - 1, NEW, "from 0 to 9"),
    ],
)
def test_what_is_not_the_data_set_is_refused_by_name(
    member: str, change: Callable, digests: str, reason: str, stored: tuple[Path, Arrays]
) -> None:
    path, arrays = stored
    changed = arrays | {member: np.ascontiguousarray(change(arrays[member]))}
    if digests == NO:
        np.savez(path, allow_pickle=False, **changed)
    else:
        save(path, changed, digests_of=changed if digests == NEW else arrays)
    with pytest.raises(UsageError, match=rf"cifar10\.npz: {member} is damaged .*{reason}"):
        load("cifar10", path.parent, ["train"])


def test_images_are_mapped_and_not_copied(stored: tuple[Path, Arrays]) -> None:
    path, arrays = stored
    before = path.read_bytes()
    images = load("cifar10", path.parent, ["train"]).images["train"]
    assert isinstance(images, np.memmap) and np.array_equal(images, arrays["train_images"])
    images[:] = 0
    del images
    assert path.read_bytes() == before


@pytest.mark.parametrize(("write", "order"), [(np.savez_compressed, "C"), (np.savez, "F")])
def test_what_cannot_be_mapped_is_read(write: Callable, order: Any, stored: tuple[Path, Arrays]) -> None:
    path, arrays = stored
    digests = np.array(json.dumps({member: sha256(array) for member, array in arrays.items()}))
    write(path, sha256=digests, **{member: np.asarray(array, order=order) for member, array in arrays.items()})
    assert same(load("cifar10", path.parent, ["train", "test"]), arrays)


def test_of_mnist_only_the_official_arrays_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = small("mnist", monkeypatch)
    path = save(tmp_path / "mnist.npz", arrays)
    assert same(load("mnist", tmp_path, ["train", "test"]), arrays)
    save(path, arrays | {"train_labels": arrays["train_labels"][::-1]})  # vouches for itself: not enough
    with pytest.raises(UsageError, match="train_labels"):
        load("mnist", tmp_path, ["train"])


def test_a_known_copy_says_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = small("cifar10", monkeypatch)
    facts = DATASETS["cifar10"]
    known = {member: sha256(array) for member, array in arrays.items()}
    monkeypatch.setitem(DATASETS, "cifar10", dataclasses.replace(facts, known=known))
    np.savez(tmp_path / "cifar10.npz", allow_pickle=False, **arrays)
    copy = load("cifar10", tmp_path, ["train", "test"])
    assert same(copy, arrays) and "82 training and 23 test images" in copy.provenance
    other = small("cifar10", monkeypatch, seed=1, known=known)
    save(tmp_path / "cifar10.npz", other)
    converted = load("cifar10", tmp_path, ["train", "test"])
    assert same(converted, other) and converted.provenance == "official files"
    assert converted.digest != copy.digest


def test_the_digest_names_what_was_read(stored: tuple[Path, Arrays]) -> None:
    path, arrays = stored
    digests = {load("cifar10", path.parent, parts).digest for parts in (["train"], ["test"], ["train", "test"])}
    save(path, arrays | {"train_labels": arrays["train_labels"][::-1]})
    assert len(digests | {load("cifar10", path.parent, ["train"]).digest}) == 4


# --- splits ---------------------------------------------------------------------------------------------------------


def test_validation_never_reads_the_test_images(stored: tuple[Path, Arrays], monkeypatch: pytest.MonkeyPatch) -> None:
    path, arrays = stored
    monkeypatch.setitem(DATASETS, "cifar10", dataclasses.replace(DATASETS["cifar10"], validation=6))
    content = path.read_bytes().replace(arrays["test_images"].tobytes(), bytes(arrays["test_images"].size))
    path.write_bytes(content.replace(arrays["test_labels"].tobytes(), bytes(arrays["test_labels"].nbytes)))
    split = open_split("cifar10", path.parent, "validate")
    assert np.array_equal(split.eval_images, arrays["train_images"][-6:])
    with pytest.raises(UsageError, match="test_images"):
        open_split("cifar10", path.parent, "final")
    assert all("test" not in parts_for(name, "validate") and "test" in parts_for(name, "final") for name in DATASETS)


def test_the_last_training_images_validate(stored: tuple[Path, Arrays], monkeypatch: pytest.MonkeyPatch) -> None:
    path, arrays = stored
    monkeypatch.setitem(DATASETS, "cifar10", dataclasses.replace(DATASETS["cifar10"], validation=6))
    final, validate = (open_split("cifar10", path.parent, protocol) for protocol in ("final", "validate"))
    assert (final.eval_name, validate.eval_name, final.classes) == ("test", "validation", 10)
    for kind in ("images", "labels"):
        train = arrays[f"train_{kind}"]
        assert np.array_equal(getattr(final, f"train_{kind}"), train)
        assert np.array_equal(getattr(final, f"eval_{kind}"), arrays[f"test_{kind}"])
        assert np.array_equal(getattr(validate, f"train_{kind}"), train[:14])
        assert np.array_equal(getattr(validate, f"eval_{kind}"), train[14:])
    for split in (final, validate):  # the statistics are those of all training images, and nothing is copied
        assert np.array_equal(split.fit_images, arrays["train_images"])
        assert np.shares_memory(split.fit_images, split.train_images)


def test_the_validation_images_of_svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"train": 5_000, "test": 50, "extra": 4_000}
    arrays = small("svhn", monkeypatch, sizes=sizes, shape=(1, 2, 1))
    for offset, part in ((0, "train"), (10_000, "test"), (20_000, "extra")):
        numbers = np.arange(sizes[part])
        arrays[f"{part}_images"] = (offset + numbers).astype("<u2").view(np.uint8).reshape(-1, 1, 2, 1)
        arrays[f"{part}_labels"] = numbers // 3 % 10
    save(tmp_path / "svhn.npz", arrays)

    def numbers_of(images: np.ndarray | Rows) -> np.ndarray:
        return np.ascontiguousarray(images).reshape(-1, 2).view("<u2").ravel()

    final, validate = (open_split("svhn", tmp_path, protocol) for protocol in ("final", "validate"))
    chosen, train = numbers_of(validate.eval_images), numbers_of(validate.train_images)
    labels = dict(zip(range(5_000), arrays["train_labels"], strict=True))
    labels |= dict(zip(range(20_000, 24_000), arrays["extra_labels"], strict=True))
    assert sorted([*chosen, *train]) == sorted(labels)  # every image once
    assert [DATASETS["svhn"].for_training(protocol) for protocol in ("final", "validate")] == [len(train)] * 2
    assert np.bincount(validate.eval_labels[chosen < 10_000]).tolist() == [400] * 10
    assert np.bincount(validate.eval_labels[chosen >= 20_000]).tolist() == [200] * 10
    assert [labels[number] for number in chosen] == validate.eval_labels.tolist()
    assert [labels[number] for number in train] == validate.train_labels.tolist()
    assert np.array_equal(final.train_images, validate.train_images)  # section 4.4: never trained on
    assert np.array_equal(final.fit_images, final.train_images)
    assert np.array_equal(final.eval_images, arrays["test_images"])
    # The draw is part of the results: it may never change.
    assert int(chosen.astype(np.int64) @ np.arange(6_000)) == 247_875_390_273


def test_the_digits_of_scikit_learn(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    final = open_split("digits", tmp_path, "final")
    assert final.provenance == "digits that come with scikit-learn"
    images, labels = load_digits().images, load_digits().target
    assert isinstance(final.eval_images, np.ndarray) and isinstance(final.train_images, np.ndarray)
    assert np.array_equal(final.eval_images[..., 0], images[4::5]) and np.array_equal(final.eval_labels, labels[4::5])
    assert np.array_equal(final.train_images[:9, ..., 0], images[[0, 1, 2, 3, 5, 6, 7, 8, 10]])
    assert len(final.train_labels) == 1_438
    validate = open_split("digits", tmp_path, "validate")
    assert np.array_equal(validate.eval_images, final.train_images[-288:])
    assert len(validate.train_images) == 1_438 - 288


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist", "fashion_mnist"])
def test_real_data(name: str) -> None:
    if not (DATA / f"{name}.npz").exists():
        pytest.skip(f"data/{name}.npz is not here")
    validate = open_split(name, DATA, "validate")
    assert len(validate.eval_images) == 10_000 and len(validate.fit_images) == len(validate.train_images) + 10_000


def test_importing_is_cheap() -> None:
    code = "import nin_repro.data.splits, sys; print([m for m in ('numpy', 'torch', 'sklearn') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
