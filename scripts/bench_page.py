"""What scripts/bench.py makes of its measurements: quartiles, the comparison with earlier ones, a page, a chart."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nin_repro.files import atomic

Entry = dict[str, Any]  # median, q1, q3, n, unit
LEAST, LEAST_QUICK = 0.05, 0.2  # a change of the median below this share is never named
LOWER_IS_BETTER = ("s", "MB")
RULE = (
    f"An entry is named as slower if its median is worse by more than {LEAST:.0%} ({LEAST_QUICK:.0%} if a side is a "
    "quick measurement) and by more than the noise, which is the sum of the two interquartile ranges. Seconds and "
    "rates are first corrected by how much faster or slower the device's own ceiling is now. Entries of fewer than 3 "
    "samples are not compared."
)
WORDS = {
    "usual": "usual loop",
    "good": "good loop",
    "ours": "ours",
    "ours_bf16": "ours in bf16",
    "ours_eager": "ours without CUDA graphs",
    "ours_plain": "ours with torch's own layers",
    "ours_tf32": "ours in TF32",
    "ours_fp32": "ours in fp32",
    "ours_5": "ours, 5 seeds at once",
    "mnist_1": "ours, the network for MNIST",
    "mnist_8": "the same, 8 seeds at once",
}
# What is compared: the speed of the first over that of the second.
PAIRS = [("ours", "usual"), ("ours", "good"), ("ours_bf16", "ours"), ("ours", "ours_eager"), ("ours_5", "ours")]
PAIRS += [("ours", "ours_plain"), ("mnist_8", "mnist_1")]


@dataclass(frozen=True)
class Bar:
    """What this project asks of itself on a kind of machine."""

    what: str
    place: str  # of what was measured, such as `epoch.seconds`; two of them, parted by " / ": their ratio
    unit: str
    must: float
    aim: float | None = None
    floor: float | None = None  # what was thought possible at best when the goals were set
    kind: str = "cpu"

    @property
    def lower(self) -> bool:
        """Whether less is better."""
        return self.aim is None or self.aim < self.must


WHITENED = 60_000  # images that the bars about whitening are of, with the test images
_PEAKS = "arms.ours.peak_memory_mb.process / arms.usual.peak_memory_mb.process"
BARS = (
    Bar("speed over the usual loop's", "ours_over_usual", "x", 1.8, 2, 3),
    Bar("memory over the usual loop's", _PEAKS, "x", 1, 0.5),
    Bar("help", "commands.help", "s", 0.4, 0.2, 0.05),
    Bar("a refused override", "commands.refused override", "s", 0.4, 0.2, 0.05),
    Bar("tables", "commands.tables", "s", 2, 0.5),
    Bar("already done", "commands.already done", "s", 2, 0.5),
    Bar("a smoke run from shell to result", "commands.smoke run", "s", 6, 4, 2.1),
    Bar("whitening of the 50,000 training images", "preprocessing.the training images", "s", 12, 9, 7),
    Bar(
        "its memory over the raw images", "preprocessing.the training images, peak over the raw images", "MB", 600, 400
    ),
    Bar("the same from cache", "preprocessing.from cache", "s", 0.5),
    Bar("an epoch of CIFAR-10, without evaluation", "epoch.seconds", "s", 0.23, 0.16, 0.083, "cuda"),
    Bar("speed over the usual loop's", "ours_over_usual", "x", 20, 30, kind="cuda"),
    Bar("speed over the good loop's", "ours_over_good", "x", 4, 6, kind="cuda"),
    Bar("5 seeds at once over one, images a second", "ours_5_over_ours", "x", 1.15, 1.3, 1.46, "cuda"),
    Bar("the network for MNIST, 8 seeds at once over one", "mnist_8_over_mnist_1", "x", 2.5, 4, kind="cuda"),
    Bar("260 epochs with evaluation, by these rates, without start-up", "by_rates.run", "s", 75, 48, 22, "cuda"),
    Bar("100 such runs, five at a time, by these rates", "by_rates.hundred", "minutes", 90, 60, 32, "cuda"),
)


def quartiles(values: list[float], unit: str) -> Entry:
    """Median and quartiles, to five digits."""
    q1, median, q3 = (float(f"{value:.5g}") for value in np.percentile(values, (25, 50, 75)))
    return {"median": median, "q1": q1, "q3": q3, "n": len(values), "unit": unit}


def slug(name: str) -> str:
    """Lower case, and a hyphen for all that is neither letter nor digit; processors without clock and trademarks."""
    name = re.sub(r"\((R|TM)\)|@[^(]*|\bCPU\b|\d+-Core Processor", " ", name)
    return "-".join(re.findall(r"[a-z0-9]+", name.lower())) or "unknown"


# --- comparison -----------------------------------------------------------------------------------------------------


def entries(found: Any, path: str = "") -> Iterator[tuple[str, Entry]]:
    """All entries in a result by their place in it, such as `arms.ours.step`."""
    if isinstance(found, dict) and "median" in found:
        yield path, found
    elif isinstance(found, dict):
        for name, value in found.items():
            yield from entries(value, f"{path}.{name}" if path else name)


def compare(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Lines that name what got slower by `RULE`."""
    lines = [f"compared with {before['date']}, commit {before['commit'][:10]}:"]
    pace = now["ceiling"][now["ceiling_is"]]["median"] / before["ceiling"][before["ceiling_is"]]["median"]
    least = LEAST if before["setting"] == now["setting"] == "full" else LEAST_QUICK
    if abs(pace - 1) > LEAST:
        lines.append(f"  the device itself computes at {pace:.2f} times its speed of then; corrected for below")
    known, slower, compared = dict(entries(before)), 0, 0
    for path, new in entries(now):
        old = known.get(path)
        if old is None or path.startswith("ceiling.") or min(old["n"], new["n"]) < 3:
            continue
        if path.startswith("preprocessing.") and before["preprocessing"]["images"] != now["preprocessing"]["images"]:
            continue
        compared += 1
        worse = _worse(old, new, pace, least)
        if worse is not None:
            slower += 1
            lines.append(f"  slower: {path}: {_words(old)} -> {_words(new)}, {worse:.0%} worse")
    lines.append(f"  {slower or 'none'} of {compared} entries got slower. {RULE}")
    return lines


def _worse(old: Entry, new: Entry, pace: float, least: float) -> float | None:
    """By which share an entry got worse; None if that is within the noise."""
    factor = {"s": pace, "images/s": 1 / pace}.get(new["unit"], 1.0)
    median, q1, q3 = (new[name] * factor for name in ("median", "q1", "q3"))
    lower = new["unit"] in LOWER_IS_BETTER
    lost = median - old["median"] if lower else old["median"] - median
    worse = lost / max(old["median"] if lower else median, 1e-12)
    return worse if worse > least and lost > (old["q3"] - old["q1"]) + (q3 - q1) else None


# --- the page -------------------------------------------------------------------------------------------------------


def _words(entry: Entry) -> str:
    """`0.93 s (0.92 to 0.95, n = 15)`."""
    unit, factor = entry["unit"], 1.0
    if unit == "share":
        unit, factor = "%", 100.0
    elif unit == "s" and entry["median"] < 1:
        unit, factor = "ms", 1e3
    middle, low, high = (_digits(factor * entry[name]) for name in ("median", "q1", "q3"))
    return f"{middle} {unit} ({low} to {high}, n = {entry['n']})"


def _digits(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    cells = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return ["| " + " | ".join(row) + " |" for row in cells] + [""]


def page(found: dict[str, Any], name: str) -> str:
    """A result as Markdown. `name` is that of the files beside it."""
    dirty = ", with changes that are not committed" if found["dirty"] else ""
    lines = [
        f"# Speed on {found['device']}",
        "",
        f"`python scripts/bench.py{' --quick' * (found['setting'] == 'quick')}` on {found['date']}, commit "
        f"{found['commit'][:10]}{dirty}; torch {found['versions']['torch']}, {found['threads']} threads, load of the "
        f"machine before {found['load_before']:g}; {found['images_from']}. Median (quartiles, number of samples).",
        "",
        f"![images a second of the loops]({name}.svg)",
        "",
        *_bars(found),
        *_arms(found),
        *_ceiling(found),
        *_layers(found),
    ]
    if "stages" in found:
        lines += [
            "## One step of ours",
            "",
            "Each stage by itself; on a GPU captured, so that no launch of single kernels is in it.",
            "",
        ]
        lines += _table(["stage", "time"], [[stage, _words(entry)] for stage, entry in found["stages"].items()])
        lines += [f"Evaluation: {_words(found['evaluation'])}.", ""]
    if "commands" in found:
        lines += ["## Commands, shell to exit", ""]
        lines += _table(["command", "time"], [[command, _words(entry)] for command, entry in found["commands"].items()])
    if "preprocessing" in found:
        lines += [f"## Contrast normalisation and whitening of {found['preprocessing']['images']:,} images", ""]
        lines += _table(["", "measured"], [[what, _words(entry)] for what, entry in entries(found["preprocessing"])])
    if found["failures"]:
        lines += ["## Not measured", "", *(f"- {what}: {why}" for what, why in found["failures"].items()), ""]
    return "\n".join([*lines, "## Comparing", "", RULE, ""])


def _bars(found: dict[str, Any]) -> list[str]:
    """What is asked for beside what was measured: bars of this kind of machine, whichever of the kind it is."""
    kind, rows = "cpu" if re.match(r"\d+ x ", found["device"]) else "cuda", []
    found = found | {"by_rates": _by_rates(found)}
    for bar in BARS:
        value = _measured(found, bar.place)
        if bar.kind != kind or value is None:
            continue
        if bar.place.startswith("preprocessing.") and found["preprocessing"]["images"] != WHITENED:
            continue
        reached = [value <= goal if bar.lower else value >= goal for goal in (bar.must, bar.aim) if goal is not None]
        goals = ["" if goal is None else f"{goal:g}" for goal in (bar.must, bar.aim, bar.floor)]
        verdict = "the aim" if reached == [True, True] else "yes" if reached[0] else "**no**"
        rows.append([bar.what, f"{_digits(value)} {bar.unit}", *goals, verdict])
    head = ["what", "measured", "must", "aim", "at best", "met"]
    machine = {"cpu": "two cores of a CPU", "cuda": "an H200"}[kind]
    told = f"Goals that this project set itself for {machine}; *at best* is what was thought possible then. Met, yes: "
    told += "the must; the aim: that too."
    return ["## What is asked for", "", told, "", *_table(head, rows)] if rows else []


def _by_rates(found: dict[str, Any]) -> dict[str, float]:
    """Seconds of the paper's run on CIFAR-10 and minutes of a hundred of them, where several at once were measured."""
    one, five, tested = (_measured(found, place) for place in ("arms.ours.step", "arms.ours_5.step", "evaluation"))
    if one is None or five is None or tested is None:
        return {}
    updates, evaluations = 260 * math.ceil(50_000 / found["batch"]), 260 * 10_000 / tested
    return {"run": updates * one + evaluations, "hundred": 100 * (updates * five + evaluations) / 60}


def _measured(found: dict[str, Any], place: str) -> float | None:
    """The number or the median at a place in a result; None if there is none."""
    if " / " in place:
        above, below = (_measured(found, part) for part in place.split(" / "))
        return above / below if above is not None and below else None
    value: Any = found
    for name in place.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value["median"] if isinstance(value, dict) else value


def _arms(found: dict[str, Any]) -> list[str]:
    """The loops and how ours stands to them."""
    rows = []
    for name, arm in found["arms"].items():
        peak = ", ".join(
            f"{mb:,} MB {'' if kind == 'process' else 'GPU'}".strip() for kind, mb in arm["peak_memory_mb"].items()
        )
        speed, step, used = (_words(arm[key]) for key in ("images_per_second", "step", "cpu_seconds_of_a_step"))
        rows.append([WORDS.get(name, name), speed, step, used, peak])
    lines = ["## Three loops", ""]
    lines += _table(["loop", "images a second", "a step", "CPU time of a step", "peak memory of the process"], rows)
    for one, other in PAIRS:
        if f"{one}_over_{other}" in found:
            lines.append(f"- {WORDS[one]} over {WORDS[other]}, in pairs: {_words(found[f'{one}_over_{other}'])}")
    return [
        *lines,
        "",
        f"The paper's network for CIFAR-10, batches of {found['batch']}, the same initial weights; each step pads by "
        "4, crops and flips at random, updates, and adds up loss and error. Usual: DataLoader over PIL images with "
        "torchvision's transforms, fp32 NCHW, `torch.optim.SGD`, `.item()` each step, torch's defaults. Good: images "
        "on the device, channels-last, fused SGD, nothing waits; bf16 autocast and cuDNN's search on a GPU. Ours: "
        "`Trainer.step` and what a run does between steps; on a CPU fp32, on a GPU bf16, CUDA graphs and its own "
        "kernels unless it says otherwise. The loops take turns, each in a process of its own. Seeds at "
        "once: images of all of them.",
        "",
    ]


def _ceiling(found: dict[str, Any]) -> list[str]:
    epoch, ceiling = found["epoch"], found["ceiling"]
    rows = [[name, _words(entry)] for name, entry in ceiling.items()]
    return [
        "## The ceiling of this device, measured in the same turns",
        "",
        *_table(["", "measured"], rows),
        "Large matrix products; copy counts bytes read and written; layers are torch's convolutions forward, in what "
        f"our fast mode computes in. Ours reaches {_words(found['share_of_ceiling'])} of the best, "
        f"{found['ceiling_is']}; in fp32 on a CPU that can be more than all of it, as our convolutions multiply at "
        "frequencies, which takes fewer products.",
        "",
        f"An epoch of {epoch['images']:,} images is {epoch['tflop']:g} TFLOP: at that rate "
        f"{epoch['floor_seconds']:g} s, with ours {epoch['seconds']:g} s, without evaluation.",
        "",
    ]


def _layers(found: dict[str, Any]) -> list[str]:
    """Each layer alone against the roofline."""
    rows = []
    for name, row in found.get("layers", {}).items():
        for way, cell in row.items():
            seconds = cell["seconds"]
            spread = f"{1e3 * seconds['q1']:.3g} to {1e3 * seconds['q3']:.3g}"
            numbers = [1e3 * seconds["median"], cell["gflop"], cell["mb"], 1e3 * cell["roofline_seconds"]]
            shown = [f"{number:.3g}" for number in numbers]
            rows.append([f"{name} {way}", shown[0], spread, *shown[1:], f"{100 * cell['share']:.0f} %"])
    if not rows:
        return []
    head = ["layer alone", "ms", "quartiles", "GFLOP", "MB", "roofline ms", "share"]
    return [
        "## Layers against the roofline",
        "",
        *_table(head, rows),
        "Roofline: the larger of FLOP over the best GFLOP/s and bytes over the copy's GB/s. Bytes are the least there "
        "can be, everything fused: forward reads input and weights and writes the output; backward reads the output's "
        "gradient, input and weights, and writes two gradients. Convolutions with their bias and ReLU; a small layer "
        "that fits into the caches may pass 100 %. Layers are torch's own: ours has other kernels for most on a GPU, "
        "and on a CPU it computes convolutions with large kernels at frequencies, which takes fewer products.",
        "",
    ]


def chart(found: dict[str, Any], path: Path) -> None:
    """Images a second of the loops as bars, quartiles as whiskers."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    arms = {WORDS.get(name, name): arm["images_per_second"] for name, arm in found["arms"].items()}
    figure = Figure(figsize=(6.4, 0.6 + 0.5 * len(arms)), layout="constrained")
    axes = figure.subplots()
    medians = [entry["median"] for entry in arms.values()]
    whiskers = [[e["median"] - e["q1"] for e in arms.values()], [e["q3"] - e["median"] for e in arms.values()]]
    colours = ["#999999" if name in ("usual", "good") else "#0072b2" for name in found["arms"]]
    axes.barh(list(arms), medians, xerr=whiskers, color=colours, height=0.6, capsize=3)
    for i, entry in enumerate(arms.values()):
        axes.annotate(_digits(entry["median"]), (entry["q3"], i), (6, 0), textcoords="offset points", va="center")
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel(f"training images a second on {found['device']}")
    axes.spines[["top", "right"]].set_visible(False)
    with matplotlib.rc_context({"svg.hashsalt": "nin_repro"}), atomic(path, "wb") as file:
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
