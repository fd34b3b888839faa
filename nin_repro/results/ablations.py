"""What a single choice does: runs that differ from an experiment in a few keys, beside its own."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from nin_repro.results.records import Record
from nin_repro.results.render import clean, difference, error, grid, plain, spread
from nin_repro.results.tables import FEWEST_RUNS, Stats, luck_of_means, statistics

MOST = 3  # keys that may differ; more is another experiment, not an ablation
APART = ("seed", "budget")  # compared at the same budget, over all seeds
STATED = ("regularizer.dropout", "regularizer.head", "regularizer.head_dropout")  # what the paper itself compares
PARENT = "parent.key"  # so are the runs that they start from


@dataclass(frozen=True)
class Choice:
    """The runs of one choice at one budget. `effect`: our mean less that of the experiment's own recipe, in points."""

    experiment: str
    budget: str
    epochs: str
    changes: tuple[str, ...]  # such as "optimizer.clip_norm=null"; empty for the experiment's own recipe
    stats: Stats
    starts: int
    effect: float | None
    limit: float | None  # an effect of this size or less may be luck (`tables.luck_of_means`); None: too few runs

    @property
    def changed(self) -> str:
        return " ".join(self.changes)

    @property
    def unstated(self) -> bool:
        """Whether it is about what the paper left open. What it compares itself, `results.claims` judges."""
        return any(one.partition("=")[0] not in STATED for one in self.changes)

    @property
    def seen(self) -> str:
        """What the runs say of the effect, in words; empty for the experiment's own recipe."""
        if not self.changes:
            return ""
        if self.effect is None:
            return "no run lives" if self.stats.dead else "no runs"
        if self.limit is None:
            return "too few runs"
        if abs(self.effect) <= self.limit:
            return "none seen"
        return "raises the error" if self.effect > 0 else "lowers the error"


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """A recipe as {"optimizer.lr": 0.1, "architecture.blocks.0.pool": "max", ...}; lists of plain values stay whole."""
    if isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return {path: value}
    found: dict[str, Any] = {}
    for name, item in value.items():
        found |= leaves(item, f"{path}.{name}" if path else str(name))
    return found


def changes(recipe: Mapping[str, Any], base: Mapping[str, Any]) -> list[str]:
    """`key=value` for each leaf in which a recipe differs from a base, but for seed and budget; sorted."""
    ours, theirs = (
        {k: v for k, v in leaves(one).items() if k.split(".")[0] not in APART and k != PARENT} for one in (recipe, base)
    )
    names = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
    return [f"{name}={json.dumps(ours.get(name)).replace(chr(34), '')}" for name in names]


class Alike(NamedTuple):
    """What runs of one group share: they differ in their seeds only, or in what their parents were."""

    experiment: str
    budget: str
    work: str  # the budget's own settings
    changes: tuple[str, ...]  # as in `Choice`


def alike(records: Iterable[Record], bases: Mapping[str, Mapping[str, Any]]) -> dict[Alike, list[Record]]:
    """The tested runs of experiments that exist, by what they share. `bases` as in `choices`."""
    groups: dict[Alike, list[Record]] = defaultdict(list)
    for record in records:
        base = bases.get(record.experiment or "")
        if base is not None and record.protocol == "final":
            work = json.dumps(record.recipe.get("budget"), sort_keys=True)
            changed = tuple(changes(record.recipe, base))
            groups[Alike(record.experiment or "", record.budget, work, changed)].append(record)
    return dict(sorted(groups.items()))


def choices(records: Iterable[Record], bases: Mapping[str, Mapping[str, Any]]) -> list[Choice]:
    """The ablations that records hold. `bases`: the recipe of each experiment as its file has it now.

    A group of runs is listed if its own experiment has runs at the same budget to compare with.
    """
    groups = {one: runs for one, runs in alike(records, bases).items() if len(one.changes) <= MOST}
    found = []
    for one, runs in groups.items():
        own = groups.get(one._replace(changes=()))
        siblings = [key for key in groups if key[:3] == one[:3]]
        if not own or len(siblings) < 2:
            continue
        stats, reference = statistics(runs), statistics(own)
        effect = (
            None if not one.changes or stats.mean is None or reference.mean is None else stats.mean - reference.mean
        )
        limit = None
        stds = [each.std for each in (stats, reference) if each.std is not None and each.n >= FEWEST_RUNS]
        if effect is not None and len(stds) == 2:
            limit = luck_of_means(stds, (stats.n, reference.n))
        epochs = sorted({run.epochs for run in runs})
        span = str(epochs[0]) if len(epochs) == 1 else f"{epochs[0]}-{epochs[-1]}"
        starts = sum(len(run.attempts) for run in runs)
        found.append(Choice(one.experiment, one.budget, span, one.changes, stats, starts, effect, limit))
    return found


def text(found: list[Choice]) -> str:
    """The ablations for a terminal; empty if there are none."""
    if not found:
        return ""
    lines = ["Ablations: runs that differ from an experiment in a few keys, at the same budget (error in %)"]
    lines.append(f"{'':64}{'ours':>14}{'effect':>8}{'n':>4}{'dead':>6}{'starts died':>13}")
    lines.append("─" * 109)
    for one in found:
        if not one.changes:
            lines.append(f"{clean(one.experiment)}, {clean(one.budget)}, {one.epochs} epochs")
        name = "  " + (clean(one.changed) or "as the experiment")
        lines.append(f"{name:64}{spread(one.stats):>14}{difference(one.effect):>8}{_counts(one)}")
    return "\n".join(lines) + "\n"


def _counts(one: Choice) -> str:
    died = one.stats.starts_network + one.stats.starts_classes
    return f"{one.stats.n:>4}{one.stats.dead:>6}{f'{died} of {one.starts}':>13}"


def markdown(found: list[Choice]) -> str:
    """The ablations as a Markdown page."""
    lines = [
        "# What single choices do",
        "",
        "Runs that differ from an experiment in a few keys, beside that experiment's own runs at the same budget. Test "
        "errors in percent, mean ± standard deviation over n seeds without the dead; *effect* is the difference of the "
        f"means in points, and counts as one if it is larger than its 95 % limit, given {FEWEST_RUNS} living runs on "
        "each side. Written by `python -m nin_repro.tables`.",
        "",
    ]
    if not found:
        lines.append("No records of such runs yet.")
    names = "Experiment|Budget|Epochs|Choice|Error|Effect|Limit|Seen|n|Dead runs|Starts died: network|classes|of"
    rows = [
        [
            plain(one.experiment),
            plain(one.budget),
            one.epochs,
            plain(one.changed) or "as the experiment",
            spread(one.stats),
            difference(one.effect),
            error(one.limit),
            one.seen,
            *map(str, (one.stats.n, one.stats.dead, one.stats.starts_network, one.stats.starts_classes, one.starts)),
        ]
        for one in found
    ]
    return "\n".join([*lines, *(grid(names, "llrlrrrlrrrrr", rows) if rows else [])]) + "\n"
