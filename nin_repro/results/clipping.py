"""How often the gradient was shortened, by epoch: clipping is what the experiments add to the paper's recipe."""

from collections.abc import Iterable, Mapping
from typing import Any

from nin_repro.results.ablations import alike
from nin_repro.results.curves import band, undistorted
from nin_repro.results.records import Record
from nin_repro.results.render import code, error, grid


def lines(records: Iterable[Record], bases: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A section of the analysis; empty where no run has measured it."""
    rows = []
    for about, runs in alike(records, bases).items():
        living = [run for run in runs if run.alive and undistorted(run)]
        share, norm = band(living, "clipped"), band(living, "gradient_norm")
        if share is None or norm is None:
            continue
        what = [code(about.experiment), code(about.changed), f"{about.precision}, {share.runs}"]
        mean = dict(zip(norm.epochs, norm.mean, strict=True))
        rows += [
            [*what, str(epoch), f"{100 * part:.0f} %", error(100 * mean[epoch])]
            for epoch, part in zip(share.epochs, share.mean, strict=True)
            if epoch in mean and (epoch == share.epochs[-1] or epoch & (epoch - 1) == 0)
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
