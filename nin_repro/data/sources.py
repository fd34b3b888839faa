"""The data sets: what they are, where they come from, and the paper's splits of them.

`open_split` is what training calls; `load` reads the parts of a data set; what is not on disk is downloaded first.
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from nin_repro.data.download import download, official_files, say
from nin_repro.files import UsageError, atomic, locked, told
from nin_repro.schema import JUDGED_ON, Protocol

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Images: TypeAlias = "Array | Rows"

OFFICIAL, SKLEARN = "official files", "scikit-learn"
HERE = "nin_repro/data/sources.py"  # for those who are told to look here

SVHN_EACH = {"train": 400, "extra": 200}  # images of each of ten classes that validate: section 4.4
SVHN_VALIDATION = 10 * sum(SVHN_EACH.values())


@dataclass(frozen=True)
class Facts:
    """What there is to know about a data set before it is read."""

    classes: int
    shape: tuple[int, int, int]  # height, width, channels
    sizes: dict[str, int]  # images in each part
    validation: int | None  # so many of the last training images are for it; None: SVHN's rule, see `_split_svhn`
    # The torchvision class that knows the official files, or SKLEARN; None: images of your own, which nobody else has
    origin: str | None = None
    known: dict[str, str] = field(default_factory=dict)  # SHA-256 of the arrays of a copy that is known to be good
    known_as: str = OFFICIAL  # how true that copy is to the original; if official, no other is accepted

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or not {"train", "test"} <= {*self.sizes}:
            raise UsageError(
                f"{HERE}: Facts({self.classes}, {self.shape}, {self.sizes}, ...) wants height, width and channels, and "
                "how many images train and test"
            )
        if (self.validation is None) != ("extra" in self.sizes) or (self.validation is None and self.classes != 10):
            raise UsageError(
                f"{HERE}: Facts({self.classes}, ...) wants how many of the last training images validate, and no part "
                "but train and test; only SVHN has another rule"
            )

    def for_training(self, protocol: Protocol) -> int:
        """How many images are trained on."""
        images = sum(count for part, count in self.sizes.items() if part != "test")
        if self.validation is None:
            return images - SVHN_VALIDATION
        return images - self.validation * (protocol == "validate")

    @property
    def provenance(self) -> str:
        """Of the files that `obtain` writes."""
        return "digits that come with scikit-learn" if self.origin == SKLEARN else OFFICIAL

    def members(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """The arrays that an .npz of it holds, and the type and shape of each."""
        found: dict[str, tuple[str, tuple[int, ...]]] = {}
        for part, count in self.sizes.items():
            found |= {f"{part}_images": ("uint8", (count, *self.shape)), f"{part}_labels": ("int64", (count,))}
        return found


# SHA-256 of the arrays of copies that are known to be good.
KNOWN = {
    "cifar10": {
        "train_images": "5aab6180863b273b0e92d8f02260b22b9b3aac410282619bc506a059d72f4b06",
        "train_labels": "f5cfe00b0f00968c0cc5ff3b1d2de51b10e33efa277c2986f4e0fa63e58c9f4f",
        "test_images": "4674ac8c77f372061aaf9216c8857c99599d5df0bb9f6b16a3de613ef8eb348a",
        "test_labels": "cbb7365de8ed11f05cc4c3a1e7f78144127c5e851efd83762fb18202461230bb",
    },
    "cifar100": {
        "train_images": "4e1498c4dd9ee77620367cebb6445c9d47786e76ad5b73e4967b1423b57fca42",
        "train_labels": "b275c44a41ee3669b36fdc7f7423f3895629c27b75c16a972767c04d45b48228",
        "test_images": "b2445a8709be7ee241bae33184ec6b35cb6802407211e05e89bdf5d9e2f1c168",
        "test_labels": "77ad7c9444ecf13c22f4459b1d105f1a5faa3c0debd7b1ea50794363ae7a77ff",
    },
    "mnist": {
        "train_images": "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
        "train_labels": "e474323ac02fc156161b0bbb1f8c9cfeb327a74bcd9f9680a8385269a24f566c",
        "test_images": "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
        "test_labels": "2fd8de6bdb8d11780b4b96dc57847bcfe6953f7c32aa48bfcd8237c3b7847243",
    },
    "fashion_mnist": {
        "train_images": "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
        "train_labels": "e3245b63f7c40d1c8b652835f19744d970c1613b40ddac6bcfc87b9c46e16a0b",
        "test_images": "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
        "test_labels": "d51d859896c55775b9e9e219b77ff03bcec1b6ac322f313544dc3f9e7bc94fae",
    },
}

CIFAR, MNIST = {"train": 50_000, "test": 10_000}, {"train": 60_000, "test": 10_000}
CIFAR10_COPY = "lossless copy but for 82 training and 23 test images re-encoded from JPEG"
CIFAR100_COPY = "complete copy; order within each split differs from the official one"

DATASETS = {  # 10,000 images for validation: section 4.2
    "cifar10": Facts(10, (32, 32, 3), CIFAR, 10_000, "CIFAR10", KNOWN["cifar10"], CIFAR10_COPY),
    "cifar100": Facts(100, (32, 32, 3), CIFAR, 10_000, "CIFAR100", KNOWN["cifar100"], CIFAR100_COPY),
    "mnist": Facts(10, (28, 28, 1), MNIST, 10_000, "MNIST", KNOWN["mnist"]),
    "fashion_mnist": Facts(10, (28, 28, 1), MNIST, 10_000, "FashionMNIST", KNOWN["fashion_mnist"]),
    "svhn": Facts(10, (32, 32, 3), {"train": 73_257, "test": 26_032, "extra": 531_131}, None, "SVHN"),
    # 8x8 images of 17 grey levels; every fifth in the order of the file is for testing: a split of ours
    "digits": Facts(10, (8, 8, 1), {"train": 1_438, "test": 359}, 288, SKLEARN),
}


# --- splits ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Split:
    """What a run trains and is judged on. Images are uint8 [N, H, W, C], labels int64 [N]."""

    train_images: Images
    train_labels: Array
    eval_images: Images
    eval_labels: Array
    fit_images: Images  # what the statistics of the preprocessing are taken of
    classes: int
    digest: str  # identifies the bytes of everything that was read
    provenance: str  # one line, to be shown beside results
    eval_name: str  # "test" or "validation"

    def wanted(self, count: int | None) -> list[Images]:
        """What a run has preprocessed: its first `count` training images (None: all), and those it is judged on."""
        return [self.train_images[:count], self.eval_images]


class Rows:
    """Images chosen from several arrays, gathered when they are needed: all of SVHN's would take 1.9 GB.

    A slice of it is of its kind; `numpy.asarray` makes it an array.
    """

    def __init__(self, arrays: Sequence[Array], chosen: Array) -> None:
        """`chosen` counts through the arrays, int64 [N]: what follows the last image of one is the next one's first."""
        self.arrays, self.chosen = arrays, chosen
        self.shape = (len(chosen), *arrays[0].shape[1:])

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, part: slice) -> Rows:
        return Rows(self.arrays, self.chosen[part])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        import numpy as np

        result, first = np.empty(self.shape, dtype or self.arrays[0].dtype), 0
        for array in self.arrays:
            here = (self.chosen >= first) & (self.chosen < first + len(array))
            result[here] = array[self.chosen[here] - first]
            first += len(array)
        return result


def parts_for(name: str, protocol: Protocol) -> tuple[str, ...]:
    """The parts of a data set that a protocol reads. "validate" never reads the test images."""
    return tuple(part for part in DATASETS[name].sizes if part != "test" or protocol == "final")


def open_split(name: str, data_dir: Path, protocol: Protocol) -> Split:
    """Read a data set and split it as the paper does (sections 4.2 to 4.5).

    "final" trains on all training images and is judged on the test images; "validate" keeps the validation images
    out of training and is judged on those. SVHN's validation images are in neither protocol trained on.

    Raises:
        UsageError: the data cannot be had, or are damaged.
    """
    loaded = load(name, data_dir, parts_for(name, protocol))
    images, labels = loaded.images, loaded.labels
    last, count = DATASETS[name].validation, len(labels["train"])
    if protocol == "validate" and last is not None and not 0 < last < count:
        told = f"protocol=validate: {name} keeps {last or 'no'} of {count} images for validation (DATASETS in {HERE})"
        raise UsageError(f"{told}: choose final, or give it 1 to {count - 1}")
    if last is None:
        train, evaluation = _split_svhn(loaded)
        fit_images = train[0]  # nothing is learned from it: the paper's preprocessing of SVHN is of single images
    else:
        fit_images = images["train"]  # validation images too, as the maxout authors' scripts that the paper follows
        train = images["train"][:-last], labels["train"][:-last]
        evaluation = images["train"][-last:], labels["train"][-last:]
        if protocol == "final":
            train = images["train"], labels["train"]
    if protocol == "final":
        evaluation = images["test"], labels["test"]
    classes = DATASETS[name].classes
    return Split(*train, *evaluation, fit_images, classes, loaded.digest, loaded.provenance, JUDGED_ON[protocol])


def _split_svhn(loaded: Loaded) -> tuple[tuple[Images, Array], tuple[Images, Array]]:
    """Training and validation images of SVHN: 400 of each class of "train" and 200 of "extra" validate (section 4.4).

    The paper's own draw is not published. Ours is fixed: numpy promises that RandomState never changes.
    """
    import numpy as np

    draw, parts, validates = np.random.RandomState(0), tuple(SVHN_EACH), []
    for part, each in SVHN_EACH.items():
        labels = loaded.labels[part]
        validates.append(np.zeros(len(labels), dtype=bool))
        for digit in range(10):
            validates[-1][draw.permutation(np.flatnonzero(labels == digit))[:each]] = True
    images, labels = [loaded.images[part] for part in parts], np.concatenate([loaded.labels[part] for part in parts])
    validation = np.concatenate(validates)
    kept, held = np.flatnonzero(~validation), np.flatnonzero(validation)
    return (Rows(images, kept), labels[kept]), (Rows(images, held), labels[held])


# --- reading and checking -------------------------------------------------------------------------------------------


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


# --- obtaining ------------------------------------------------------------------------------------------------------


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
