"""`python -m nin_repro.prepare dataset=...` downloads, verifies, converts and preprocesses a data set, and no more.

For machines that train without a network: prepare where there is one and carry the data directory.
"""

import sys
from pathlib import Path

from nin_repro.command import as_command
from nin_repro.config.compose import in_order, load
from nin_repro.training.stop import held, listen

USAGE = """python -m nin_repro.prepare dataset=cifar10 [data_dir=data] [experiment=...]

Makes sure that the data set of a run is there and sound, and its preprocessed images are in the cache.
Takes the same words as python -m nin_repro.train.
"""


def main() -> None:
    listen()  # asked to stop, it leaves nothing half-written
    config = load(in_order(sys.argv[1:]) if sys.argv[1:] else [])
    with held():
        from nin_repro.data.preprocess import preprocess  # not before the words are known to be right
        from nin_repro.data.sources import open_split

    folder = Path(config.data_dir)
    split = open_split(config.dataset.name, folder, config.protocol)
    wanted = [split.train_images, split.eval_images]
    preprocess(split.fit_images, wanted, config.dataset.preprocessing, folder / "cache", split.digest)
    print(f"{config.dataset.name} is ready in {folder}: {split.provenance}")
    print(f"{len(split.train_labels):,} training and {len(split.eval_labels):,} {split.eval_name} images")


if __name__ == "__main__":
    sys.exit(as_command(main, USAGE))
