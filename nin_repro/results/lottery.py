"""The seed lottery: how many starts of each recipe died and how, with what can be said from so few."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nin_repro.results.ablations import Alike, alike
from nin_repro.results.luck import Z975
from nin_repro.results.paper import FIRST
from nin_repro.results.records import Record
from nin_repro.results.tables import PAPER_BUDGET, statistics

NONE_SEEN = "no difference seen"


@dataclass(frozen=True)
class Share:
    """So many of so many, and how far that says what share of all there would be."""

    count: int
    of: int

    @property
    def value(self) -> float:
        return self.count / self.of

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's score interval at 95 % (Wilson 1927), which also holds for few, and for none and all."""
        n, p, z2 = self.of, self.value, Z975**2
        middle, half = p + z2 / (2 * n), Z975 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
        low, high = (middle - half) / (1 + z2 / n), (middle + half) / (1 + z2 / n)
        return (0.0 if self.count == 0 else low, 1.0 if self.count == n else high)  # not -1e-17

    def above(self, other: "Share") -> tuple[float, float]:
        """By how much it is larger than another share, at 95 %: Newcombe's interval (1998, method 10) from Wilson's."""
        (low, high), (other_low, other_high) = self.interval, other.interval
        p, q = self.value, other.value
        return p - q - math.hypot(p - low, other_high - q), p - q + math.hypot(high - p, q - other_low)


@dataclass(frozen=True)
class Lottery:
    """The starts of runs that differ in their seeds only. A run is lost if it ended dead, or with a dead class."""

    about: Alike
    epochs: int  # of the longest run
    runs: int
    lost: int
    died: Mapping[str, int]  # starts by how they died
    share: Share  # of starts that died
    certain: Share  # the same without some classes at a reduced budget, which may yet begin to learn


def lottery(records: Iterable[Record], bases: Mapping[str, Mapping[str, Any]]) -> list[Lottery]:
    """All recipes that were tested, with how many of their starts died; those with the most deaths first."""
    found = []
    for about, runs in alike((one for one in records if one.protocol == "final"), bases).items():
        starts, stats = sum(len(run.attempts) for run in runs), statistics(runs)
        dead, epochs = stats.died.total(), max(run.epochs for run in runs)
        certain = dead if about.budget == PAPER_BUDGET else dead - stats.died["classes"]
        shares = Share(dead, starts), Share(certain, starts)
        lost = sum(not run.answers for run in runs)
        found.append(Lottery(about, epochs, len(runs), lost, stats.died, *shares))
    return sorted(found, key=lambda one: (-one.share.value, -one.share.of, one.about))


def versus(one: Lottery, others: Iterable[Lottery]) -> str:
    """Whether more starts of it died than of its experiment as it is, at the same budget and precision, in words.

    An experiment that is another reading of a row of the paper is compared with the first. Empty where there is no
    comparison.
    """
    about = one.about
    first = about.experiment if about.changes else FIRST.get(about.experiment, about.experiment)
    own = next((other for other in others if other.about == about._replace(experiment=first, changes=())), one)
    if own is one:
        return ""
    low, high = one.share.above(own.share)
    if low <= 0 <= high:
        return NONE_SEEN
    word, least, most = ("more", low, high) if low > 0 else ("fewer", -high, -low)
    told = f"{word}, by {100 * least:.0f} to {100 * most:.0f} points"
    low, high = one.certain.above(own.certain)
    same = low > 0 if word == "more" else high < 0
    return told if same else f"{told}, if silent classes count"


def percent(share: Share) -> str:
    """Such as "33 % (15 to 58)"."""
    low, high = share.interval
    return f"{100 * share.value:.0f} % ({100 * low:.0f} to {100 * high:.0f})"
