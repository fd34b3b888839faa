"""`python -m nin_repro.figures` draws Figure 3 from the records, and Figure 4 of a trained run: `--run runs/<dir>`.

Figure 3 needs no torch, data or network. Figure 4 needs the run's directory and its data set.
"""

import dataclasses
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nin_repro.command import Parser, as_command, given_place, require_there
from nin_repro.config.compose import load, stand_ins
from nin_repro.config.recipe import budget_name, directory, family
from nin_repro.cost import in_words
from nin_repro.data.sources import DATASETS
from nin_repro.files import UsageError, require_place
from nin_repro.finished import final_weights, open_finished, rebuilt
from nin_repro.results import records
from nin_repro.results.curves import Comparison, Runs, choose
from nin_repro.results.figure3 import EXPERIMENTS
from nin_repro.results.records import Record, judged
from nin_repro.results.render import clean
from nin_repro.results.tables import PAPER_BUDGET, filled_by
from nin_repro.schema import Config, Nin
from nin_repro.words import counted

if TYPE_CHECKING:
    from torch import Tensor

    from nin_repro.results.figures import Exemplar

CLASSES = {
    "cifar10": ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"],
    "fashion_mnist": [
        *("T-shirt", "trouser", "pullover", "dress", "coat"),
        *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
    ],
}
PRINTED = {"cifar10": "CIFAR-10", "mnist": "MNIST", "fashion_mnist": "Fashion-MNIST", "svhn": "SVHN"}
OUT = Path("results/figures")
MOST_CLASSES = 10  # a row and a column each


def compare(found: Sequence[Record], words: Sequence[str] = ()) -> tuple[Comparison, list[str]]:
    """Figure 3 at the budget that `words` make, and lines that say what is in it and what fills the rest.

    Raises:
        UsageError: there is no such budget, or they say something else.
    """
    for word in words:
        if re.split(r"[.=]", word)[0] != "budget":
            raise UsageError(f"{word}: Figure 3 compares two experiments at one budget: give budget=short and the like")
    runs: dict[bool, Runs] = {}
    commands, lines = {}, []
    for dropout, name in EXPERIMENTS.items():
        asked = [f"experiment={name}", *words]
        config = load(asked)
        budget = budget_name(config)
        reduced = "" if budget == PAPER_BUDGET else f" {' '.join(words)} record=always"
        commands[dropout] = f"python -m nin_repro.train -m experiment={name} seed=0,1,2,3,4{reduced}"
        offered = [choose(found, name, family(config), budget)]
        for other in stand_ins(config, asked):
            offered.append(choose(found, name, family(other), budget, f"computed in {other.precision}"))
        runs[dropout] = offered[filled_by([len(one.alive) for one in offered])]
        alive, dead = len(runs[dropout].alive), runs[dropout].dead
        how = f", {runs[dropout].note}" * bool(alive and runs[dropout].note)
        lines.append(f"Figure 3, {name}: {counted(alive, 'run')} at the budget {budget}{how}")
        if dead:
            lines.append(f"  {dead} more ended with the network or a class dead, and are not drawn")
        if not alive:
            lines.append(f"  $ {commands[dropout]}   # {in_words(config)}")
    return Comparison(runs, budget, commands), lines


Opened = tuple[Config, dict[str, Any], dict[str, "Tensor"]]  # configuration, record and final weights


def open_run(path: Path) -> Opened:
    """Configuration, record and final weights of a finished run, all of which must be of one run.

    Raises:
        UsageError: it is not a finished run of a network whose maps are the classes, or it was altered.
    """
    config, record = open_finished(path, "--run")
    if not isinstance(config.architecture, Nin) or config.regularizer.head != "gap":
        raise UsageError(
            f"--run {path}: Figure 4 needs a map for each class: architecture=nin and regularizer.head=gap"
        )
    if DATASETS[config.dataset.name].classes > MOST_CLASSES:
        raise UsageError(f"--run {path}: Figure 4 has room for {MOST_CLASSES} classes, not for {config.dataset.name}'s")
    return config, record, final_weights(path, record)


def exemplars(config: Config, weights: dict[str, "Tensor"], maps_only: bool = False) -> tuple[list["Exemplar"], str]:
    """The first image of each class that the run was judged on, with its maps; and what those images are called.

    `maps_only`: the number of each instead of the image.

    Raises:
        UsageError: the data set is not there, or the weights do not fit.
    """
    import numpy as np
    import torch

    from nin_repro.models.nin import NetworkInNetwork
    from nin_repro.probes.maps import class_maps
    from nin_repro.results.figures import Exemplar

    network, inputs, _, split = rebuilt(config, weights)
    absent = sorted({*range(split.classes)} - {*split.eval_labels.tolist()})
    if absent:
        raise UsageError(
            f"Figure 4 shows an image of each class: among the {split.eval_name} images is none of {absent}"
        )
    first = np.array([int((split.eval_labels == label).argmax()) for label in range(split.classes)])
    assert isinstance(network, NetworkInNetwork)
    maps, said = class_maps(network, inputs[torch.from_numpy(first)])
    images = first.tolist() if maps_only else [np.asarray(split.eval_images[i : i + 1])[0] for i in first]
    rows = zip(images, maps.numpy(), split.eval_labels[first].tolist(), said.tolist(), strict=True)
    return [Exemplar(*row) for row in rows], split.eval_name


def figure4(run: Opened, data_dir: Path | None, out: Path, maps_only: bool = False) -> list[Path]:
    """Draw Figure 4 of a run; the files. Raises UsageError as `exemplars` does."""
    from nin_repro.results.figures import draw_figure4, save

    config, record, weights = run
    config = dataclasses.replace(config, device="cpu", data_dir=str(data_dir or config.data_dir))
    found, name = exemplars(config, weights, maps_only)
    dataset, budget = config.dataset.name, budget_name(config)
    title = f"Figure 4. Maps of the last mlpconv layer: {PRINTED.get(dataset, dataset)}, seed {config.seed}, "
    title += f"{record['epochs']} epochs{'' if budget == PAPER_BUDGET else f' (reduced budget “{budget}”)'}, "
    title += f"{name} error {judged(record)[1]:.2f} %"
    caption = f"The first {name} image of each class. Of the values of all its maps the largest 10 % are shown, on one "
    caption += "scale per row.\nThe map of the true class is framed in red."
    names = CLASSES.get(dataset, [str(label) for label in range(len(found))])
    prefix = "figure4-maps" if maps_only else "figure4"
    return save(draw_figure4(found, names, title, caption), out / f"{prefix}-{directory(config).name}")


def main() -> None:
    parser = Parser(
        prog="python -m nin_repro.figures",
        description="Figures 3 and 4 of the paper, with our runs in them.",
    )
    parser.add_argument("--records", type=given_place, default=records.STORE, help="records (default %(default)s)")
    parser.add_argument("--out", type=given_place, default=OUT, help="where files go (default %(default)s)")
    parser.add_argument(
        "budget",
        nargs="*",
        help="Figure 3 of runs with this budget: budget=short budget.epochs=4 (default: those at full length)",
    )
    parser.add_argument("--run", type=given_place, help="directory of a trained run: draws Figure 4 of it too")
    parser.add_argument(
        "--maps-only", action="store_true", help="Figure 4 with numbers for images, which are not everyone's to publish"
    )
    parser.add_argument("--data-dir", type=given_place, help="where the run's data set is, if it has moved")
    options = parser.parse_args()
    if options.run is None and (options.maps_only or options.data_dir is not None):
        raise UsageError("--maps-only and --data-dir are for Figure 4: name a trained run with --run")
    require_there(options.data_dir)
    run = None if options.run is None else open_run(options.run)  # refused before anything is drawn
    from nin_repro.results.figures import draw_figure3, save  # not before the options are known to be right

    found, problems = records.read_given(options.records)
    records.require_own_place(options.records, options.out, OUT)
    require_place(options.out)
    comparison, lines = compare(found, options.budget)
    print("\n".join([*map(clean, problems), *lines]))
    name = "-".join(
        ["figure3", *(word.removeprefix("budget").lstrip(".=").replace("=", "") for word in options.budget)]
    )
    written = []
    if run is not None:
        written = figure4(run, options.data_dir, options.out, options.maps_only)
    for path in [*save(draw_figure3(comparison), options.out / name), *written]:
        print(path)


if __name__ == "__main__":
    sys.exit(as_command(main))
