"""`python -m nin_repro.prepare dataset=...` downloads, verifies, converts and preprocesses a data set, and no more.

For machines that train without a network: prepare where there is one and carry the data directory.
"""

import sys
from pathlib import Path

from nin_repro.command import as_command
from nin_repro.config.arguments import SWEEP, expand, in_order, require_run
from nin_repro.config.compose import load
from nin_repro.files import UsageError
from nin_repro.training.stop import held, listen

USAGE = """python -m nin_repro.prepare dataset=cifar10 [data_dir=data] [experiment=...]

Makes sure that the data set of a run is there and sound, and its preprocessed images are in the cache.
Takes the words of python -m nin_repro.train for one run.
"""


def main() -> None:
    listen()  # asked to stop, it leaves nothing half-written
    words = expand(in_order(sys.argv[1:]))
    if words[0] in SWEEP:
        raise UsageError(f"{words[0]}: one run's data are prepared, not a sweep's; leave it out")
    require_run(words)
    config = load(words)
    with held():
        from nin_repro.data.preprocess import entries, preprocess  # not before the words are known to be right
        from nin_repro.data.splits import open_split

    folder = Path(config.data_dir)
    split = open_split(config.dataset.name, folder, config.protocol)
    wanted = split.wanted(config.budget.train_images)
    asked = split.fit_images, wanted, config.dataset.preprocessing, folder / "cache", split.digest
    preprocess(*asked)
    if missing := [entry for entry in entries(*asked) if not entry.exists()]:
        raise UsageError(
            f"{missing[0]} could not be written, as told above: free the place, or choose another data_dir"
        )
    print(f"{config.dataset.name} is ready in {folder}: {split.provenance}")
    print(f"{len(wanted[0]):,} training and {len(split.eval_labels):,} {split.eval_name} images")


if __name__ == "__main__":
    sys.exit(as_command(main, USAGE))
