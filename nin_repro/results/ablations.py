"""What a single choice does: runs that differ from an experiment in a few keys, beside its own."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from nin_repro.results.changes import FP32, SCHEDULE, changes, precision
from nin_repro.results.luck import chance_of_means, luck_of_means
from nin_repro.results.paper import FIRST
from nin_repro.results.records import Record
from nin_repro.results.render import clean, difference, error, grid, how, plain, spread
from nin_repro.results.tables import FEWEST_RUNS, Stats, spanned, statistics

QUICKSTART = (
    "`quickstart` is no network of the paper: a small NiN on scikit-learn's 8x8 digits, whose 359 test images count "
    "0.28 points each; what is seen there holds for these."
)
MOST = 3  # keys that may differ; more is another experiment, not an ablation
COMPARED = ("regularizer.dropout", "regularizer.head", "regularizer.head_dropout")  # what the paper itself compares


class Alike(NamedTuple):
    """What runs of one group share: they differ in their seeds only, or in what their parents were."""

    experiment: str
    budget: str
    work: str  # the budget's own settings
    precision: str
    changes: tuple[str, ...]  # such as "optimizer.clip_norm=null"; empty for the experiment's own recipe

    @property
    def conditions(self) -> str:
        """The budget, and the precision unless it is the usual one: such as "short, bf16"."""
        return self.budget if self.precision == FP32 else f"{self.budget}, {self.precision}"

    @property
    def changed(self) -> str:
        return " ".join(self.changes)

    @property
    def near(self) -> bool:
        """Whether it is the experiment but for a few keys, on the same data set."""
        keys = {one.partition("=")[0] for one in self.changes}
        apart = {SCHEDULE if key.startswith(f"{SCHEDULE}.") else key for key in keys}  # a schedule is one choice
        return len(apart) <= MOST and "dataset.name" not in keys


@dataclass(frozen=True)
class Choice:
    """The runs of one choice at one budget and precision, and what they say beside others."""

    about: Alike
    # With what they are compared: the experiment's own runs; those themselves, in another precision, with those in
    # fp32; None: with nothing.
    beside: Alike | None
    epochs: str
    stats: Stats
    starts: int
    effect: float | None  # our mean less theirs, in points
    limit: float | None  # an effect of this size or less may be luck (`luck.luck_of_means`); None: too few runs
    # The limit is over twice what it would be if these runs lay as close together as those beside.
    scattered: bool = False
    chance: float | None = None  # that luck alone makes an effect of this size or more (`luck.chance_of_means`)

    @property
    def changed(self) -> str:
        return self.about.changed

    @property
    def name(self) -> str:
        """What is changed, or that nothing is."""
        return self.changed or "as the experiment" + (f", beside {self.beside.precision}" if self.beside else "")

    @property
    def unclaimed(self) -> bool:
        """Whether it is about more than what the paper compares itself, which `results.claims` judges."""
        return any(one.partition("=")[0] not in COMPARED for one in self.about.changes)

    @property
    def sign(self) -> int | None:
        """1: the error is higher, -1: lower than what it is compared with; 0: no effect seen; None: not judged."""
        if self.effect is None or self.limit is None:
            return None
        return 0 if abs(self.effect) <= self.limit else 1 if self.effect > 0 else -1

    @property
    def share(self) -> str:
        """The effect and its limit in percent of the error it is compared with: such as "+9 ± 44"; an effect in
        points shrinks with the error, as runs get longer.
        """
        if self.effect is None or self.limit is None or not (theirs := (self.stats.mean or 0.0) - self.effect):
            return ""
        return f"{100 * self.effect / theirs:+.0f} ± {100 * self.limit / theirs:.0f}"

    @property
    def seen(self) -> str:
        """What the runs say of the effect, in words; empty where there is nothing to compare with."""
        if self.beside is None:
            return ""
        if self.sign is None:
            if self.stats.unlearned:
                return f"none has learned in {self.epochs} epochs"
            if not self.stats.n:
                return "no run lives"
            return "too few runs" if self.stats.n < FEWEST_RUNS else "too few runs beside these"
        if self.sign == 0 and self.scattered:
            return "too scattered to judge"
        return {0: "none seen", 1: "raises the error", -1: "lowers the error"}[self.sign]


def alike(records: Iterable[Record], bases: Mapping[str, Mapping[str, Any]]) -> dict[Alike, list[Record]]:
    """The runs of experiments that exist, by what they share, fp32 first. `bases` as in `choices`."""
    groups: dict[Alike, list[Record]] = defaultdict(list)
    known: dict[tuple[str, str], tuple[str, ...]] = {}  # what all seeds of a recipe changed
    for record in records:
        name, recipe = record.experiment or "", record.recipe
        if name in bases:
            work = json.dumps(recipe.get("budget"), sort_keys=True)
            if (name, record.family) not in known:
                known[name, record.family] = tuple(changes(recipe, bases[name]))
            groups[Alike(name, record.budget, work, precision(recipe), known[name, record.family])].append(record)
    return dict(sorted(groups.items(), key=lambda item: (item[0][:3], item[0].precision != FP32, item[0])))


def choices(records: Iterable[Record], bases: Mapping[str, Mapping[str, Any]]) -> list[Choice]:
    """The ablations that records hold. `bases`: the recipe of each experiment as its file has it now.

    A group of runs is listed if there are others at the same budget to compare with. Runs of another reading of a row
    of the paper are a choice beside its first reading, too.
    """
    tested = [record for record in records if record.protocol == "final"]
    tested += [replace(one, experiment=FIRST[one.experiment]) for one in tested if one.experiment in FIRST]
    groups = {one: runs for one, runs in alike(tested, bases).items() if one.near}
    # A choice is compared in its own precision: otherwise the two could not be told apart.
    beside = {one: one._replace(changes=()) if one.changes else one._replace(precision=FP32) for one in groups}
    beside = {one: other for one, other in beside.items() if other in groups and other != one}
    found = []
    for one, runs in groups.items():
        if one not in beside and one not in beside.values():
            continue
        epochs, starts = spanned([run.epochs for run in runs]), sum(len(run.attempts) for run in runs)
        choice = Choice(one, beside.get(one), epochs, statistics(runs), starts, None, None)
        found.append(_compared(choice, statistics(groups[beside[one]])) if one in beside else choice)
    return found


def _compared(choice: Choice, theirs: Stats) -> Choice:
    """With the difference of two means, and what luck may do where there are enough runs to say so."""
    ours = choice.stats
    if ours.mean is None or theirs.mean is None:
        return choice
    effect, counts = ours.mean - theirs.mean, (ours.n, theirs.n)
    if ours.std is None or theirs.std is None or min(counts) < FEWEST_RUNS:
        return replace(choice, effect=effect)
    limit, usual = (luck_of_means((std, theirs.std), counts) for std in (ours.std, theirs.std))
    chance = chance_of_means(effect, (ours.std, theirs.std), counts)
    return replace(choice, effect=effect, limit=limit, scattered=limit > 2 * usual, chance=chance)


def text(found: list[Choice]) -> str:
    """The ablations for a terminal; empty if there are none."""
    if not found:
        return ""
    lines = ["Ablations: runs that differ from an experiment in a few keys, at one budget and precision (error in %)"]
    lines.append(f"{'':64}{'ours':>14}{'effect':>8}{'n':>4}{'dead':>6}{'starts died':>13}")
    lines.append("─" * 109)
    for one in found:
        if not one.changed:
            lines.append(f"{clean(one.about.experiment)}, {clean(one.about.conditions)}, {one.epochs} epochs")
        name, died = f"  {clean(one.name)}", f"{one.stats.died.total()} of {one.starts}"
        numbers = f"{spread(one.stats):>14}{difference(one.effect):>8}{one.stats.n:>4}{one.stats.dead:>6}{died:>13}"
        lines.append(f"{name:64}{numbers}")
    return "\n".join(lines) + "\n"


def markdown(found: list[Choice]) -> str:
    """The ablations as a Markdown page."""
    lines = [
        "# What single choices do",
        "",
        "Runs that differ from an experiment in a few keys, beside that experiment's own runs at the same budget and "
        "in the same precision, fp32 where none is named; the own runs in another precision stand beside those in "
        "fp32. Written by `python -m nin_repro.tables`.",
        "",
        "- *Error*: test error in percent, mean ± standard deviation over n seeds, without those that died or learned "
        "nothing (the dead runs).",
        "- *Effect*: the difference of the means in points. It counts as one if it is larger than its 95 % limit "
        f"(Welch's), given {FEWEST_RUNS} living runs on each side. Where it is not, and the limit is over twice what "
        "it would be if the changed runs lay as close together as the others, they are too scattered to judge.",
        "- *In %*: effect and limit in percent of the error they are compared with, to set lengths beside each other: "
        "as a run goes on, its error falls, and with it what a choice can do in points.",
        "- *p*: how likely luck alone makes such an effect or a larger one (Welch's test, two-sided, of this "
        "comparison by itself; degrees of freedom not rounded, for the limit rounded down).",
        "- Runs with the same seed start from the same weights and draw the same batches, wherever the choice leaves "
        "these as they are; limit and p take no account of it and are, if anything, too large.",
        "- Runs that are compared may be of different machines and versions, which their records name and which round "
        "otherwise.",
        "- Where a row of the paper can be read in more than one way, runs of another reading, which is an experiment "
        "of its own, are a choice beside the first, too.",
        f"- The budget `paper` is an experiment's full length. {QUICKSTART}",
        "",
    ]
    if not found:
        lines.append("No records of such runs yet.")
    names = "Experiment|Budget|Epochs|Choice|Error|Effect|Limit|In %|p|Seen|n|Dead runs|Starts that died|How"
    rows = [
        [
            *(plain(one.about.experiment), plain(one.about.conditions), one.epochs, plain(one.name)),
            *(spread(one.stats), difference(one.effect), error(one.limit), one.share, _chance(one), one.seen),
            *(str(one.stats.n), str(one.stats.dead), f"{one.stats.died.total()} of {one.starts}", how(one.stats.died)),
        ]
        for one in found
    ]
    return "\n".join([*lines, *(grid(names, "llrlrrrrrlrrrl", rows) if rows else [])]) + "\n"


def _chance(one: Choice) -> str:
    """Such as "0.03", or "2e-05" where two places would not show it."""
    if one.chance is None:
        return ""
    return f"{one.chance:.2f}" if one.chance >= 0.01 else f"{one.chance:.0e}"
