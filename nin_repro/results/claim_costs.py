"""The claim about what training a NIN takes, and what it is judged by."""

import statistics as numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from nin_repro.results import claim_texts as texts
from nin_repro.results.arms import NOT_ENOUGH, Judged, decide
from nin_repro.results.claim_texts import Claim
from nin_repro.results.render import plain
from nin_repro.results.tables import FEWEST_RUNS
from nin_repro.words import counted


@dataclass(frozen=True)
class Cost:
    """What an experiment's training takes, with that of the parent that it goes on from.

    `times`: images a second of each run of its network, `wholes`: seconds of each run of its recipe at the paper's
    budget; both by machine and precision on it.
    """

    experiments: tuple[str, ...]
    dataset: str
    kind: str  # of the architecture
    head: str
    parameters: int
    multiply_adds: int  # per image, forward
    augmented: bool
    epochs: int
    at_most: bool  # the schedule may end earlier
    flops: float  # of all its epochs
    epoch_images: int
    times: Mapping[str, Sequence[float]] = field(default_factory=dict)
    wholes: Mapping[str, Sequence[float]] = field(default_factory=dict)
    parent: "Cost | None" = None

    @property
    def work(self) -> float:
        """FLOP of the whole training."""
        return self.flops + (self.parent.work if self.parent else 0.0)

    @property
    def length(self) -> str:
        """Its epochs, such as "at most 219" or "9 after 142"."""
        return f"{'at most ' * self.at_most}{self.epochs}{f' after {self.parent.length}' if self.parent else ''}"

    def epoch_seconds(self, machine: str) -> float:
        return self.epoch_images / numbers.median(self.times[machine])

    def seconds(self, machine: str) -> float | None:
        """Of the whole training: of runs to the end if its length is open. None: too few runs were timed."""
        found = (self.wholes if self.at_most else self.times).get(machine, ())
        before = self.parent.seconds(machine) if self.parent else 0.0
        if len(found) < FEWEST_RUNS or before is None:
            return None
        return before + (numbers.median(found) if self.at_most else self.epochs * self.epoch_seconds(machine))


def judge_cost(costs: Sequence[Cost]) -> Claim:
    """Whether NIN has fewer parameters than the others and takes longer to train."""
    judged, rows, compared, larger = [], [], [], set()
    kinds: dict[str, set[str]] = {"more": set(), "fewer": set()}  # of networks than which NIN has so many parameters
    timed: set[int] = set()  # whether it takes longer to train than those than which it has fewer
    for one in costs:
        machines = sorted(one.times) or [""]
        counts = [f"{one.parameters:,}", f"{one.multiply_adds / 1e6:,.1f} M"]
        counts += [one.length, f"{one.work / 1e15:.2f}"]
        for machine in machines:
            times = ["", "", ""]
            if machine:
                whole = one.seconds(machine)
                times = [str(len(one.times[machine])), f"{one.epoch_seconds(machine):,.1f}"]
                times.append("" if whole is None else f"{whole / 3600:,.1f}")
            network = plain(f"{one.kind}, {one.head}")
            rows.append([one.dataset, network, plain(", ".join(one.experiments)), *counts, plain(machine), *times])
    for nin in (one for one in costs if one.kind == "nin"):
        for other in (one for one in costs if one.kind != "nin"):
            if nin.head != "gap" or (nin.dataset, nin.augmented) != (other.dataset, other.augmented):
                continue
            work = nin.work / other.work
            sign, why = _longer(nin, other)
            name = f"{nin.dataset}, {nin.experiments[0]} and {other.experiments[0]}"
            sizes = nin.dataset, nin.parameters, other.parameters
            if nin.parameters < other.parameters or sizes not in larger:  # whose sizes decide is judged once
                judged.append(Judged(name, sign, True, why, nin.dataset))
                word = "fewer" if nin.parameters < other.parameters else "more"
                kinds[word].add("the CNN" if other.kind == "cnn" else other.kind)
                if word == "fewer" and sign is not None:
                    timed.add(sign)
            larger.add(sizes)
            share = f"{nin.parameters / other.parameters:.2f}"
            pair = [plain(nin.experiments[0]), plain(other.experiments[0])]
            compared.append([nin.dataset, *pair, share, f"{work:.2f}", why])
    verdict = decide(judged, takes=f"{FEWEST_RUNS} timed runs of both on one machine")
    untimed = sum(one.sign is None for one in judged)
    time = " and less time to train" if timed == {-1} else " and more time to train" if timed == {1} else ""
    what = {"more": "more parameters", "fewer": f"fewer parameters{time}"}
    known = ", ".join(f"{what[word]} than {' and '.join(sorted(some))}" for word, some in kinds.items() if some)
    if untimed and verdict.word != NOT_ENOUGH:
        verdict = replace(verdict, short=f"{known}; {counted(untimed, 'pair')} not timed yet")
    names = "Data set|Network|Experiments|Parameters|Multiply-adds forward|Epochs|PFLOP|Machine|Runs|Seconds an epoch|"
    return Claim(
        texts.COST,
        verdict,
        (
            (names + "Hours in all", "lllrrrrlrrr", rows),
            (
                "Data set|NIN|Other|Parameters, NIN / other|Work of training, NIN / other|Measured",
                "lllrrl",
                compared,
            ),
        ),
    )


def _longer(nin: Cost, other: Cost) -> tuple[int | None, str]:
    """Whether NIN has fewer parameters and takes longer on every machine that timed both, as a sign and in words."""
    if nin.parameters >= other.parameters:
        return -1, f"{nin.parameters / other.parameters:.2f} times as many parameters"
    ratios = {}
    for machine in sorted({*nin.times} & {*other.times}):
        ours, theirs = nin.seconds(machine), other.seconds(machine)
        if ours is not None and theirs is not None:
            ratios[machine] = ours / theirs
    if not ratios:
        return None, NOT_ENOUGH
    words = ", ".join(f"{ratio:.2f} times as long on {plain(machine)}" for machine, ratio in ratios.items())
    sign = -1 if max(ratios.values()) <= 1 else 1 if min(ratios.values()) > 1 else 0
    return sign, f"fewer parameters, {words}"
