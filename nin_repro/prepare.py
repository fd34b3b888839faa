"""`python -m nin_repro.prepare dataset=...` downloads, verifies, converts and preprocesses a data set, and no more.

For machines that train without a network: prepare where there is one and carry the data directory.
"""

import sys
from pathlib import Path

from nin_repro.config.compose import load
from nin_repro.files import UsageError
from nin_repro.run import fail

USAGE = """python -m nin_repro.prepare dataset=cifar10 [data_dir=data] [experiment=...]

Makes sure that the data set of a run is there and sound, and its preprocessed images are in the cache.
Takes the same words as python -m nin_repro.train.
"""


def main() -> int:
    words = sys.argv[1:]
    if any(word in ("-h", "--help") for word in words):
        print(USAGE, end="")
        return 0
    try:
        config = load(words)
        from nin_repro.data.preprocess import preprocess
        from nin_repro.data.sources import open_split

        folder = Path(config.data_dir)
        split = open_split(config.dataset.name, folder, config.protocol)
        preprocess(
            split.fit_images,
            [split.train_images, split.eval_images],
            config.dataset.preprocessing,
            folder / "cache",
            split.digest,
        )
    except UsageError as error:
        return fail(error)
    print(f"{config.dataset.name} is ready in {folder}: {split.provenance}")
    print(f"{len(split.train_labels):,} training and {len(split.eval_labels):,} {split.eval_name} images")
    return 0


if __name__ == "__main__":
    sys.exit(main())
