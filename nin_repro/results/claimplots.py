"""The pictures of the claims page: error against translation, and what single layers can fit."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from nin_repro.results.arms import Arm, Bases, head_name, head_pairs, label
from nin_repro.results.figures import as_in_print
from nin_repro.results.measurements import SHIFTS
from nin_repro.words import counted

# Told apart by line and marker, not by colour alone.
LOOKS: Mapping[str, dict[str, Any]] = {
    "GAP": {"color": "#0072b2", "linestyle": "solid", "marker": "o"},
    "FC": {"color": "#d55e00", "linestyle": (0, (4, 1.2)), "marker": "s"},
    "FC + dropout": {"color": "#333333", "linestyle": "dotted", "marker": "^", "markerfacecolor": "white"},
}
HATCHES = {"GAP": "", "FC": "////", "FC + dropout": "...."}


def panels(arms: Sequence[Arm]) -> list[list[Arm]]:
    """The arms that are compared with each other: one list for each network with GAP that has a counterpart."""
    found: dict[tuple[str, int], list[Arm]] = {}
    for other, pooled, _ in head_pairs(arms):
        found.setdefault((pooled.family, pooled.images), [pooled]).append(other)
    return [panel for panel in found.values() if panel[0].n]


@as_in_print
def draw_translation(arms: Sequence[Arm], bases: Bases) -> Figure:
    """Error against shift for each head: mean over seeds, and a band from the lowest to the highest.

    Arms' values: the mean increase, then the error at each shift.
    """
    found = panels(arms)
    across, down = min(2, max(1, len(found))), max(1, -(-len(found) // 2))
    figure = Figure(figsize=(4.2 * across, 3.4 * down), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False).flatten()
    for axes in grid[len(found) :]:
        axes.set_visible(False)
    for axes, panel in zip(grid, found, strict=False):
        for arm in panel:
            if not arm.n:
                continue
            name = head_name(arm)
            curves = [[values[1 + i] for values in arm.living] for i in range(len(SHIFTS))]
            low, high = [min(some) for some in curves], [max(some) for some in curves]
            look = LOOKS[name]
            band = {"facecolor": "none" if HATCHES[name] else look["color"], "edgecolor": look["color"]}
            axes.fill_between(SHIFTS, low, high, alpha=0.3, linewidth=0, hatch=HATCHES[name] or None, **band)
            mean = [sum(some) / len(some) for some in curves]
            axes.plot(SHIFTS, mean, label=f"{name}, {counted(arm.n, 'seed')}", markersize=4, **look)
        title = textwrap.fill(label(panel[0], bases), 60)  # columns that a panel has room for
        axes.set(xlabel="Shift in pixels", ylabel="Test error, %", title=title, xticks=SHIFTS)
        axes.set_ylim(bottom=0)
        axes.legend(loc="upper left")
    return figure


@as_in_print
def draw_fits(fits: Mapping[str, Any]) -> Figure:
    """A row for each function: itself, the best maxout unit and the best perceptron, grey values with contours."""
    columns = ("target", "maxout", "perceptron")
    figure = Figure(figsize=(4.2, 1.5 * len(fits) + 0.3), layout="constrained")
    grid = figure.subplots(len(fits), len(columns), squeeze=False)
    for row, (name, target) in zip(grid, fits.items(), strict=True):
        for axes, column in zip(row, columns, strict=True):
            values = target[column] if column == "target" else target[column]["best"]
            axes.imshow(values, cmap="gray", vmin=0, vmax=1, extent=(-1, 1, -1, 1), origin="lower")
            if max(map(max, values)) - min(map(min, values)) > 0.05:
                levels = [i / 10 for i in range(1, 10)]
                axes.contour(values, levels, colors="#d55e00", linewidths=0.7, extent=(-1, 1, -1, 1))
            title = name if column == "target" else f"{column}, best: {min(target[column]['errors']):.2f}"
            axes.set_title(title)
            axes.set(xticks=[], yticks=[])
    seeds = counted(min(len(one["maxout"]["errors"]) for one in fits.values()), "seed")
    told = f"Over x and y from -1 to 1: 0 is black, 1 white, a line each tenth.\nThe best of {seeds}, with its error."
    figure.supxlabel(told, fontsize=8, linespacing=1.4)
    return figure
