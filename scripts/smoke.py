"""`python scripts/smoke.py [EXPERIMENT ...]`: the first updates of every experiment, at full size, on its real data.

For each experiment the mean loss of the first and of the last five updates, the largest gradient norm, and images/s. A
loss that does not fall within 20 updates is no fault here: from the released initial weights the networks stay at the
loss of guessing for hundreds of updates. What must not happen is an error, or a loss that is not finite. No run and no
record is written; data and preprocessed images are. A parent's weights are those of its own first updates.
"""

import dataclasses
import os
import sys
import time
from pathlib import Path

from nin_repro import build
from nin_repro.command import Parser, as_command
from nin_repro.config.compose import experiments, load
from nin_repro.data.sources import DATASETS
from nin_repro.data.splits import open_split
from nin_repro.files import UsageError
from nin_repro.training.console import Console
from nin_repro.training.schedule import Reached
from nin_repro.training.stop import NotFinite

IMAGES = 2560  # of the training set, and tenth of it for evaluation: the size of the data is not what is tried


def first_updates(name: str, steps: int, words: list[str], ancestors: dict[str, build.Ancestor]) -> str:
    """Make the first updates of an experiment; a line about them. Its weights go to `ancestors`."""
    words_of_all = [f"experiment={name}", f"budget.max_steps={steps}", *words]
    config = load(words_of_all)
    if DATASETS[config.dataset.name].for_training(config.protocol) > IMAGES:
        config = load([*words_of_all, f"budget.train_images={IMAGES}"])
    if config.parent is not None and config.parent.experiment not in ancestors:
        first_updates(config.parent.experiment, steps, words, ancestors)
    parent = None if config.parent is None else ancestors[config.parent.experiment]
    split = open_split(config.dataset.name, Path(config.data_dir), config.protocol)
    few = slice(IMAGES // 10)
    split = dataclasses.replace(split, eval_images=split.eval_images[few], eval_labels=split.eval_labels[few])
    machine = build.machine(config)
    with Console(Path(os.devnull)) as console:
        work = build.trainer(config, split, machine, console, Path(os.devnull), lambda row: None, parent)
    losses: list[float] = []
    norms: list[float] = []
    started = time.monotonic()
    for i in range(steps):
        if i % len(work.batches) == 0:
            work.rate.epoch = i // len(work.batches)
            work.begin_epoch()
        work.step(i % len(work.batches))
        work._check_fault()
        losses.append(work.window[0].item() - sum(losses))
        norms.append(work.sgd.norm.item())
    seconds = time.monotonic() - started
    weights = {key: values.clone() for key, values in work.network.state_dict().items()}
    ancestors[name] = build.Ancestor(weights, Reached(0.0, 1.0, config.optimizer.momentum))
    first, last = (sum(part) / len(part) for part in (losses[:5], losses[-5:]))
    rate = work.progress.trained / seconds
    return f"{name:26} loss {first:8.4f} -> {last:8.4f}   gradient norm up to {max(norms):8.3g}   {rate:7,.0f} images/s"


def main() -> None:
    parser = Parser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("experiment", nargs="*", help="names (default: all but the searches)")
    parser.add_argument("--steps", type=int, default=20, help="updates of each (default %(default)s)")
    parser.add_argument("--set", nargs="*", default=[], help="further key=value words, such as data_dir=... threads=1")
    options = parser.parse_args()
    names = options.experiment or [name for name in experiments() if not name.startswith("search/")]
    ancestors: dict[str, build.Ancestor] = {}
    missing = []
    for name in names:
        try:
            print(first_updates(name, options.steps, options.set, ancestors), flush=True)
        except (UsageError, NotFinite) as error:
            missing.append(name)
            print(f"{name:26} {error}", flush=True)
    if missing:
        raise UsageError(f"{len(missing)} of {len(names)} failed or could not be tried: {', '.join(missing)}")


if __name__ == "__main__":
    sys.exit(as_command(main))
