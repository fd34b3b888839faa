"""Figures 3 and 4 as pictures.

Only drawing: no torch, no data set. The same input gives the same bytes with the same version of matplotlib.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from nin_repro.files import atomic
from nin_repro.results import figure3 as paper
from nin_repro.results.curves import Comparison, band
from nin_repro.results.render import clean
from nin_repro.results.tables import PAPER_BUDGET
from nin_repro.words import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

# matplotlib's own defaults, whatever the user's matplotlibrc says, and fonts that come with it.
STYLE: dict[str, Any] = {
    "font.family": "STIXGeneral",
    "font.size": 9,
    "axes.linewidth": 0.6,
    "axes.titlesize": 9,
    "xtick.direction": "in",
    "ytick.direction": "in",
    "xtick.top": True,
    "ytick.right": True,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "savefig.dpi": 300,
    "text.parse_math": False,  # texts are shown as they are: names from records may hold a $
    "svg.hashsalt": "nin_repro",  # names inside an SVG file are random without it
}
as_in_print = style.context(["default", STYLE], after_reset=True)


@as_in_print
def save(figure: Figure, stem: Path) -> list[Path]:
    """Write `<stem>.png` and `<stem>.svg`, each atomically; returns both. Neither tells when or by what it was made."""
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "svg")]
    for path, metadata in zip(paths, ({"Software": None}, {"Date": None, "Creator": None}), strict=True):
        with atomic(path, "wb") as file:
            figure.savefig(file, format=path.suffix[1:], metadata=metadata)
    return paths


# --- Figure 3 -------------------------------------------------------------------------------------------------------

LAST_EPOCH = paper.EPOCHS[-1]  # where the paper's figure ends; the first drop of the learning rate comes then
COLOURS = {False: "#d55e00", True: "#0072b2"}  # without, with dropout; told apart by the colour-blind
LINES = {False: (0, (4, 1.2)), True: "solid"}  # the same for those who print in black and white
WEIGHTS = {"train_error_running": 0.9, "test_error": 1.6}
MARKERS = {"train_error_running": "o", "test_error": "s"}


@as_in_print
def draw_figure3(comparison: Comparison) -> Figure:
    """The paper's four curves as markers, ours as lines with a band from the lowest to the highest seed.

    Markers tell training (circles) from testing (squares), lines by their width; with dropout they are filled or solid,
    without it hollow or dashed.
    """
    reduced = comparison.budget != PAPER_BUDGET
    figure = Figure(figsize=(8.4 if reduced else 6.3, 4.2), layout="constrained")
    axes = figure.add_subplot()
    bands = {curve.name: band(comparison.runs[curve.dropout].alive, curve.measure) for curve in paper.CURVES}
    end = LAST_EPOCH
    if reduced:
        end = max((found.epochs[-1] for found in bands.values() if found), default=LAST_EPOCH)
    theirs: list[Line2D] = []
    ours: list[Line2D | Patch] = []
    for curve in paper.CURVES:
        colour, found = COLOURS[curve.dropout], bands[curve.name]
        theirs.append(_printed(axes, curve, colour, end))
        if found:
            look: dict[str, Any] = {"color": colour, "linestyle": LINES[curve.dropout]}
            look["linewidth"] = WEIGHTS[curve.measure]
            axes.fill_between(found.epochs, found.low, found.high, color=colour, alpha=0.25, linewidth=0)
            ours += axes.plot(found.epochs, found.mean, label=f"{curve.name}, {counted(found.runs, 'seed')}", **look)
    axes.set(xlim=(0, end), ylim=(0, 0.9), xlabel="Number of epochs", ylabel="Error rate", title=_title(comparison))
    axes.set_yticks([tenth / 10 for tenth in range(10)])
    if end == LAST_EPOCH:
        axes.set_xticks(range(0, LAST_EPOCH + 1, 20))
    if any(found and found.runs > 1 for found in bands.values()):
        ours.append(Patch(color="0.8", label="band: lowest to highest seed"))
    _legends(axes, theirs, ours, beside=reduced)
    if notes := _notes(comparison):
        figure.supxlabel(notes, x=0.01, ha="left", fontsize=8, linespacing=1.4)
    return figure


def _printed(axes: "Axes", curve: paper.Curve, colour: str, end: int) -> Line2D:
    """One of the paper's curves: its markers, and a hair line that leads the eye from one to the next."""
    known = ((epoch, rate) for epoch, rate in zip(paper.EPOCHS, curve.rates, strict=True) if rate is not None)
    points = [(epoch, rate) for epoch, rate in known if epoch <= end]
    (line,) = axes.plot(
        *zip(*points, strict=True),
        color=colour,
        linestyle="dotted",
        linewidth=0.7,
        marker=MARKERS[curve.measure],
        markersize=3.6,
        markeredgewidth=0.7,
        markerfacecolor=colour if curve.dropout else "white",
        label=curve.name,
        clip_on=False,  # the first and the last marker sit on the frame
    )
    return line


def _legends(axes: "Axes", theirs: Sequence[Line2D], ours: Sequence[Line2D | Patch], beside: bool) -> None:
    """The paper's curves and ours: where the plot of a whole run is empty, or else beside it."""
    first, second = ((1.04, 0.97), (1.04, 0.62)) if beside else ((0.30, 0.97), (0.63, 0.97))
    place: dict[str, Any] = {"loc": "upper left", "alignment": "left", "borderaxespad": 0, "handlelength": 3}
    axes.add_artist(axes.legend(handles=theirs, title="Paper", bbox_to_anchor=first, **place))
    if ours:
        axes.legend(handles=ours, title="This reproduction, mean", bbox_to_anchor=second, **place)


def _title(comparison: Comparison) -> str:
    title = "Figure 3. Training and testing error of NIN on CIFAR-10"
    if comparison.budget == PAPER_BUDGET:
        return title
    lengths = sorted({run.epochs for run in comparison.alive})
    epochs = f"{' or '.join(map(str, lengths))} epochs" if lengths else ""
    if comparison.opening:
        return f"{title}\nThe first {epochs} of the paper's schedule"
    counts = {run.recipe.get("budget", {}).get("train_images") for run in comparison.alive}
    if len(counts) == 1 and (count := counts.pop()):
        epochs += f" of {count:,} images"
    words = ", ".join(word for word in (f"Reduced budget “{clean(comparison.budget)}”", epochs) if word)
    return f"{title}\n{words}: our curves are not comparable with the paper's"


def _notes(comparison: Comparison) -> str:
    """What the figure lacks and how to get it, and what was left out of it."""
    lines = []
    if any(run.epochs > paper.EPOCHS[-1] for run in comparison.alive):
        lines.append("The paper's curves end where the rate first drops; ours go on from there, and are not drawn.")
    for dropout, runs in comparison.runs.items():
        which = f"{'with' if dropout else 'without'} dropout"
        if not runs.alive:
            lines.append(f"No runs of ours {which} yet. The command for them:")
            lines.append(f"    {comparison.commands.get(dropout, '')}")
        if runs.note:
            lines.append(f"Ours {which}: {runs.note}.")
        if runs.dead:
            lines.append(
                f"Not drawn {which}: {counted(runs.dead, 'seed')} that ended with the network or a class dead."
            )
        if runs.silent:
            lines.append(f"Drawn {which}: {counted(runs.silent, 'seed')} in which a class had not begun to learn.")
    return "\n".join(lines)


# --- Figure 4 -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Exemplar:
    """One row: an image uint8 [H, W, C], the maps of all classes float [K, H, W], its class and what the network says.

    Maps and classes are in the order of the class names. Instead of the image its number among all, where it is not
    to be shown.
    """

    image: "NDArray[Any] | int"
    maps: "NDArray[Any]"
    label: int
    said: int


@as_in_print
def draw_figure4(exemplars: Sequence[Exemplar], names: Sequence[str], title: str, caption: str) -> Figure:
    """A row for each exemplar: the image, then its maps on one scale from 0 (black) to the row's maximum (white).

    The map of the true class stands in a thick red frame. Where the network is wrong, the row says so.
    """
    rows, columns = len(exemplars), len(names) + 1
    size = 0.56  # of a map, inches
    figure = Figure(figsize=(size * columns + 1.0, size * rows + 1.1))
    width, height = figure.get_size_inches()
    grid = figure.subplots(
        rows,
        columns,
        squeeze=False,
        gridspec_kw={"wspace": 0.09, "hspace": 0.09, "width_ratios": [1.12] + [1] * len(names)}
        | {"left": 0.9 / width, "right": 1 - 0.06 / width, "bottom": 0.5 / height, "top": 1 - 0.6 / height},
    )
    images = [one.image for one in exemplars if not isinstance(one.image, int)]
    brightest = max((image.max() for image in images), default=255)  # not 255 in every data set
    for axes, one in zip(grid, exemplars, strict=True):
        if isinstance(one.image, int):
            axes[0].text(0.5, 0.5, str(one.image), ha="center", va="center", transform=axes[0].transAxes)
            axes[0].set_box_aspect(1)
        else:
            axes[0].imshow(one.image.squeeze(), cmap="gray", vmin=0, vmax=brightest)
        axes[0].set_anchor("W")
        wrong = f"\n(says {names[one.said]})" if one.said != one.label else ""
        axes[0].set_ylabel(names[one.label] + wrong, rotation=0, ha="right", va="center", labelpad=4)
        for axis, activation in zip(axes[1:], one.maps, strict=True):
            axis.imshow(activation, cmap="gray", vmin=0, vmax=one.maps.max() or 1)
        for number, axis in enumerate(axes, start=-1):
            axis.set(xticks=[], yticks=[])
            true = number == one.label
            axis.spines[:].set(edgecolor="red" if true else "0.45", linewidth=2.4 if true else 0.4, zorder=3)
    for axis, name in zip(grid[0, 1:], names, strict=True):
        axis.set_title(name, fontsize=8, pad=3)
    grid[0, 0].set_title("image" if images else "image no.", fontsize=8, pad=3)
    figure.text(0.5, 1 - 0.1 / height, title, ha="center", va="top", fontsize=9)
    figure.text(0.5, 0.08 / height, caption, ha="center", va="bottom", fontsize=8)
    return figure
