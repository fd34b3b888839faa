"""How often the gradient was shortened, by epoch: clipping is what the experiments add to the paper's recipe."""

from collections.abc import Iterable, Mapping
from typing import Any

from nin_repro.results.changes import changes, precision
from nin_repro.results.curves import band, undistorted
from nin_repro.results.records import Record
from nin_repro.results.render import code, error, grid


def lines(records: Iterable[Record], bases: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A section of the analysis; empty where no run has measured it."""
    groups: dict[tuple[str, str, str, int], list[Record]] = {}  # by experiment, choice, precision and length
    for run in records:
        name = run.experiment or ""
        if name in bases and run.alive and undistorted(run):
            changed = " ".join(changes(run.recipe, bases[name]))
            groups.setdefault((name, changed, precision(run.recipe), run.epochs), []).append(run)
    rows = []
    for (name, changed, kind, _), runs in sorted(groups.items()):
        share, norm = band(runs, "clipped"), band(runs, "gradient_norm")
        if share is None or norm is None:
            continue
        what = [code(name), code(changed), f"{kind}, {share.runs}"]
        mean = dict(zip(norm.epochs, norm.mean, strict=True))
        rows += [
            [*what, str(epoch), f"{100 * part:.0f} %", error(100 * mean[epoch])]
            for epoch, part in zip(share.epochs, share.mean, strict=True)
            if epoch == share.epochs[-1] or epoch & (epoch - 1) == 0
        ]
    if not rows:
        return []
    return [
        "## How often clipping acts",
        "",
        "Of an epoch's updates, how many had a gradient longer than `optimizer.clip_norm`, which was shortened to it, "
        "and its mean length before: epochs 1, 2, 4 and so on, and the last. Of living runs that followed an "
        "experiment's schedule, since this is measured.",
        "",
        *grid("Experiment|Choice|Precision, runs|Epoch|Shortened|Mean norm", "lllrrr", rows),
        "",
    ]
