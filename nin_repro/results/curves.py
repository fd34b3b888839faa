"""Learning curves over seeds, as Figure 3 shows them, and beside the paper's."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from nin_repro.results.records import Record
from nin_repro.results.tables import PAPER_BUDGET


@dataclass(frozen=True)
class Band:
    """One measure over the epochs that all `runs` have measured it in; error rates, 0 to 1."""

    epochs: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    runs: int


@dataclass(frozen=True)
class Runs:
    """Our runs of one half of the figure. `dead` ones, and those with a dead class, are counted but not drawn.

    At a reduced budget a class may only have not begun to learn: such runs are drawn, and counted as `silent`.
    """

    experiment: str
    alive: tuple[Record, ...] = ()
    dead: int = 0
    silent: int = 0
    note: str = ""  # in what they differ from the experiment, for readers


@dataclass(frozen=True)
class Comparison:
    """Figure 3 with our runs in it: without (False) and with (True) dropout, all of one budget."""

    runs: Mapping[bool, Runs]
    budget: str = PAPER_BUDGET
    commands: Mapping[bool, str] = field(default_factory=dict)  # to be shown where there are no runs

    @property
    def alive(self) -> list[Record]:
        return [run for runs in self.runs.values() for run in runs.alive]

    @property
    def opening(self) -> bool:
        """Whether all runs are the beginning of whole ones, so that their curves are comparable as far as they go."""
        return bool(self.alive) and all(undistorted(run) for run in self.alive)


def undistorted(record: Record) -> bool:
    """Whether a run followed the whole schedule on all images, to its end or until it was stopped."""
    budget = record.recipe.get("budget") or {}
    return budget.get("epochs") is None and budget.get("train_images") is None


def choose(records: Iterable[Record], experiment: str, family: str, budget: str, note: str = "") -> Runs:
    """The runs of one recipe at one budget on the test images; nothing else is ever drawn with them."""
    runs = [one for one in records if (one.family, one.budget, one.protocol) == (family, budget, "final")]
    runs.sort(key=lambda record: (record.seed, record.key))
    reduced = budget != PAPER_BUDGET
    alive = tuple(run for run in runs if run.alive or (reduced and run.status == "done"))
    return Runs(experiment, alive, len(runs) - len(alive), sum(not run.alive for run in alive), note)


def last_attempt(record: Record, measure: str) -> dict[int, float]:
    """{epoch: percent} of a measure in the attempt that a run ended with; starts that died before are not part of it.

    Epochs in which it was not measured are left out.
    """
    epochs, values = record.curve.get("epoch", []), record.curve.get(measure, [])
    attempts = record.curve.get("attempt", [0] * len(epochs))
    last = max((attempt for attempt in attempts if attempt is not None), default=0)
    rows = zip(attempts, epochs, values, strict=False)
    return {int(epoch): value for attempt, epoch, value in rows if attempt == last and None not in (epoch, value)}


def band(runs: Sequence[Record], measure: str) -> Band | None:
    """Mean, lowest and highest error rate of a measure over `runs`; None if no epoch of it is known of any.

    A run that never measured it (`eval_every=0`) is left out. Of the others only the epochs count that all of them
    measured: a mean over now these and now those seeds would jump.
    """
    curves = [curve for curve in (last_attempt(run, measure) for run in runs) if curve]
    epochs = sorted(set.intersection(*map(set, curves))) if curves else []
    if not epochs:
        return None
    rates = [[curve[epoch] / 100 for curve in curves] for epoch in epochs]
    mean = tuple(math.fsum(rate) / len(rate) for rate in rates)
    return Band(tuple(epochs), mean, tuple(map(min, rates)), tuple(map(max, rates)), len(curves))
