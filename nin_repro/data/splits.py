"""What a run trains and is judged on: the paper's splits. Importing this module imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from nin_repro.data.archive import Loaded, load
from nin_repro.data.sources import DATASETS, HERE, SVHN_EACH
from nin_repro.files import UsageError
from nin_repro.schema import JUDGED_ON, Protocol

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Images: TypeAlias = "Array | Rows"


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
