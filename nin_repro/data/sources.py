"""The data sets: what there is to know of each before it is read. Importing this module imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field

from nin_repro.files import UsageError
from nin_repro.schema import Protocol

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
