"""How much scripts/bench.py measures. No torch here."""

from dataclasses import dataclass

# The recipe, but for the whitening: no augmentation of single pictures could come before it.
WORDS = (
    "experiment=table1/nin_aug",
    *(f"dataset.preprocessing.{word}" for word in ("gcn=null", "zca=null", "divide=255", "mean=channel")),
    "checkpoint_seconds=1e6",
)


@dataclass(frozen=True)
class Setting:
    """How much is measured. `words` make the configuration of all arms."""

    words: tuple[str, ...] = WORDS
    data_dir: str | None = None  # where cifar10.npz is; None: random images instead
    images: int = 49_920  # training images: whole batches
    evaluated: int = 2_000
    rounds: int = 15
    seconds: float = 3.0  # that an arm works in a round
    matmul: int = 2_048  # side of the matrices; 8,192 on a GPU
    copied: int = 256  # MB; 2,048 on a GPU
    commands: tuple[str, ...] = ("help", "refused override", "tables", "smoke run", "already done")
    repeats: int = 5  # of each command
    whitened: int = 60_000  # images, of which 10,000 are the test set's
    side: int = 32  # pixels of these
    threads: int | None = None  # of the loops that are not ours; None: one for each core
    imported: tuple[str, ...] = ("torch",)  # once for all processes
    name: str = "full"


NOT_HERE = "this is not for this machine"  # what an arm that has nothing to measure on it fails with
