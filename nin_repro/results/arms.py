"""Which runs a claim is judged by: arms of one recipe, pairs that differ in one thing, and the rule of a verdict."""

import math
import statistics as numbers
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nin_repro.results.changes import FP32, changes, leaves, precision
from nin_repro.results.luck import luck_of_means
from nin_repro.results.measurements import Measurement
from nin_repro.results.records import Record
from nin_repro.results.render import clean
from nin_repro.results.tables import FEWEST_RUNS, PAPER_BUDGET, Verdict, spanned
from nin_repro.schema import idle_in_regularizer
from nin_repro.words import counted

SUPPORTED, UNDECIDED, NOT_SUPPORTED, NOT_ENOUGH = "supported", "undecided", "not supported", "not enough runs"
REDUCED = " at a reduced budget"  # after one of the first three: of networks that were trained briefly
SIGNED = {1: SUPPORTED, 0: UNDECIDED, -1: NOT_SUPPORTED}
PAPER_DATASETS = ("cifar10", "cifar100", "mnist", "svhn")


@dataclass(frozen=True)
class Sample:
    """One run as a claim sees it. `values` is None if it is dead; else the first value is what is judged."""

    key: str
    seed: int
    path: Path
    values: tuple[float, ...] | None


@dataclass(frozen=True)
class Arm:
    """All runs of one recipe, measured in the same way."""

    family: str
    experiment: str
    budget: str
    epochs: str  # such as "2" or "53-70"
    recipe: Mapping[str, Any]
    images: int  # that were measured on; 0: all, by the run itself
    samples: tuple[Sample, ...]
    measured_in: str = ""  # the precisions that they were measured in afterwards, such as "fp32"

    @cached_property  # each arm is compared with each other one
    def leaves(self) -> dict[str, Any]:
        return leaves(self.recipe)

    @property
    def living(self) -> list[tuple[float, ...]]:
        return [one.values for one in self.samples if one.values is not None]

    @property
    def n(self) -> int:
        return len(self.living)

    @property
    def dead(self) -> int:
        return len(self.samples) - self.n

    @property
    def full(self) -> bool:
        return self.budget == PAPER_BUDGET and self.dataset in PAPER_DATASETS

    @property
    def dataset(self) -> str:
        return str(self.recipe["dataset"]["name"])

    def mean(self, which: int = 0) -> float | None:
        return math.fsum(one[which] for one in self.living) / self.n if self.n else None

    def std(self, which: int = 0) -> float | None:
        return numbers.stdev(one[which] for one in self.living) if self.n > 1 else None

    def shown(self, which: int = 0) -> str:
        """Mean and standard deviation, two digits."""
        mean, std = self.mean(which), self.std(which)
        return "" if mean is None else f"{mean:.2f}" + ("" if std is None else f" ± {std:.2f}")


@dataclass(frozen=True)
class Comparison:
    """Two arms; d = weight * (mean of `first`) - (mean of `second`), so that the claim says d > 0."""

    first: Arm
    second: Arm
    weight: float = 1.0
    which: int = 0

    @property
    def enough(self) -> bool:
        return min(self.first.n, self.second.n) >= FEWEST_RUNS

    @property
    def difference(self) -> float | None:
        first, second = self.first.mean(self.which), self.second.mean(self.which)
        return None if first is None or second is None else self.weight * first - second

    @property
    def limit(self) -> float | None:
        if not self.enough:
            return None
        first, second = self.first.std(self.which), self.second.std(self.which)
        assert first is not None and second is not None
        return luck_of_means((self.weight * first, second), (self.first.n, self.second.n))

    @property
    def sign(self) -> int:
        """1: the claim is supported; -1: contradicted; 0: no difference seen, or not judged."""
        d, limit = self.difference, self.limit
        return 0 if d is None or limit is None or abs(d) <= limit else 1 if d > 0 else -1

    @property
    def full(self) -> bool:
        return self.first.full and self.second.full


@dataclass(frozen=True)
class Judged:
    """One comparison, or one arm, and what it says about its claim."""

    label: str
    sign: int | None  # 1: supports it; 0: leaves it open; -1: speaks against it; None: too few runs
    full: bool  # at the paper's budget on one of its data sets
    why: str
    dataset: str
    seen: str = ""  # what it says in a few words


def decide(
    found: Sequence[Judged],
    said_of: Sequence[str] = PAPER_DATASETS,
    takes: str = f"the {FEWEST_RUNS} living runs that it takes",
    beside: Sequence[Judged] = (),
) -> Verdict:
    """One verdict from several comparisons, by RULE.

    Args:
        said_of: the data sets that the paper claims it of.
        takes: what one must have to be judged, in words.
        beside: comparisons that do not decide: those of networks and lengths that it rests on are told after it.
    """
    judged = [one for one in found if one.sign is not None]
    full = [one for one in judged if one.full]
    best = [one for one in full if one.dataset in said_of] or full or judged
    if not best:
        what = "no runs of it yet"
        if found:
            what = f"none of the {len(found)} to be judged has {takes}"
        return Verdict(NOT_ENOUGH, what)
    signs = [one.sign for one in best if one.sign is not None]
    word = SIGNED[min(signs)]
    others = sorted({one.dataset for one in best} - {*said_of})
    scale = REDUCED if not full else f" on {', '.join(others)}" if others else ""
    agree = signs.count(1)
    count = "" if len(best) == 1 else f"{agree} of {len(best)} support it: "
    told = [f"{one.label}: {one.why}" for one in best]
    aside = [one for one in beside if one.sign is not None and any(alike_in(one, other) for other in best)]
    told += [f"beside it, {one.label}: {one.why}" for one in aside]
    short = [one.seen for one in best] * (bool(aside) or word == UNDECIDED)
    short += [f"{one.seen} (does not decide)" for one in aside]
    return Verdict(word + scale, count + "; ".join(told), short="; ".join(dict.fromkeys(filter(None, short))))


def alike_in(one: Judged, other: Judged) -> bool:
    """Whether two comparisons are of one data set, and both at the paper's budget or both not."""
    return (one.dataset, one.full) == (other.dataset, other.full)


# --- arms and pairs --------------------------------------------------------------------------------------------------

Values = Callable[[Any], "tuple[float, ...] | None"]


def arms_of(runs: Iterable[Record | Measurement], values: Values, others: Iterable[Record] = ()) -> list[Arm]:
    """The runs by recipe. `values` of a living run; None leaves it out. `others`: dead runs of them are counted too."""
    groups: dict[tuple[str, int], list[Record | Measurement]] = defaultdict(list)
    for run in runs:
        groups[run.family, getattr(run, "images", 0)].append(run)
    dead = [record for record in others if record.protocol == "final" and not record.alive]
    found = []
    for (family, images), group in sorted(groups.items()):
        first = group[0]
        samples = {one.key: Sample(one.key, one.seed, one.path, None) for one in dead if one.family == family}
        for one in group:
            if one.key in samples:  # its record does not live
                continue
            value = values(one) if one.alive else None
            if value is not None or not one.alive:
                samples[one.key] = Sample(one.key, one.seed, one.path, value)
        ordered = tuple(sorted(samples.values(), key=lambda sample: (sample.seed, sample.key)))
        epochs = spanned([one.epochs for one in group])
        measured = ", ".join(sorted({one.measured_in for one in group if isinstance(one, Measurement)}))
        found.append(Arm(family, first.experiment or "", first.budget, epochs, first.recipe, images, ordered, measured))
    return [arm for arm in found if arm.samples]


def effective(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves of a recipe but for the seed; what cannot have an effect in it is left out."""
    idle = _idle(recipe)
    return {name: value for name, value in leaves(recipe).items() if name not in idle}


def _idle(recipe: Mapping[str, Any]) -> set[str]:
    regularizer = recipe["regularizer"]
    names = idle_in_regularizer(*(regularizer.get(name) for name in ("dropout", "head", "head_dropout")))
    return {"seed", *(f"regularizer.{name}" for name in names)}


def alike(first: Arm, second: Arm, but: Sequence[str]) -> bool:
    """Whether two arms differ in no key that has an effect in both, other than those named."""
    without = {*but, *_idle(first.recipe), *_idle(second.recipe)}
    one, other = ({k: v for k, v in arm.leaves.items() if k not in without} for arm in (first, second))
    return (one, first.images) == (other, second.images)


def has(arm: Arm, **settings: Any) -> bool:
    """Whether an arm's regularizer has these settings."""
    return all(arm.recipe["regularizer"].get(name) == value for name, value in settings.items())


HEAD = ("regularizer.head", "regularizer.head_dropout")


def head_pairs(arms: Sequence[Arm], *but: str) -> list[tuple[Arm, Arm, bool]]:
    """(fully connected, global average pooling, whether the former has dropout before it), those without first.

    All else is equal, other than the keys `but`.
    """
    full = [(arm, bool(arm.recipe["regularizer"]["head_dropout"])) for arm in arms if has(arm, head="fc")]
    pooled = [arm for arm in arms if has(arm, head="gap")]
    pairs = [(one, other, dropped) for other in pooled for one, dropped in full if alike(one, other, (*HEAD, *but))]
    return sorted(pairs, key=lambda pair: pair[2])


def head_name(arm: Arm) -> str:
    if has(arm, head="gap"):
        return "GAP"
    return "FC + dropout" if arm.recipe["regularizer"]["head_dropout"] else "FC"


Bases = Mapping[str, Mapping[str, Any]]  # the recipe of each experiment as its file has it now


def setting(arm: Arm, bases: Bases) -> str:
    """In what an arm differs from its experiment's file, but for the regularizer that the claims are about."""
    base = bases.get(arm.experiment)
    changed = changes(arm.recipe, base) if base is not None else []
    changed += [f"precision={precision(arm.recipe)}"] * (precision(arm.recipe) != FP32)
    return " ".join(one for one in changed if not one.startswith("regularizer."))


def kind(arm: Arm, bases: Bases) -> str:
    """Data set, architecture, dropout between the blocks, and how it is scaled and computed where not as usual."""
    regularizer, usual = arm.recipe["regularizer"], bases.get(arm.experiment, {}).get("regularizer", {})
    words = [f"{arm.dataset} {arm.recipe['architecture']['kind']}"]
    words.append(f"{'with' if regularizer.get('dropout') else 'no'} dropout between blocks")
    convention = regularizer.get("convention")
    if "regularizer.convention" in effective(arm.recipe) and convention != usual.get("convention"):
        words[-1] += f" ({convention})"
    return clean(", ".join(words + [precision(arm.recipe)] * (precision(arm.recipe) != FP32)))


def label(arm: Arm, bases: Bases) -> str:
    """Its kind and its length."""
    return f"{kind(arm, bases)}, {counted(arm.epochs, 'epoch')}"
