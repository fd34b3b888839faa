"""The claim about what training a NIN takes, and what it is judged by."""

import statistics as numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nin_repro.results import claim_texts as texts
from nin_repro.results.arms import NOT_ENOUGH, Judged, decide
from nin_repro.results.claim_texts import Claim
from nin_repro.results.render import plain
from nin_repro.results.tables import FEWEST_RUNS


@dataclass(frozen=True)
class Cost:
    """What an experiment's network takes. `times`: images a second of each run, by machine and precision on it."""

    experiments: tuple[str, ...]
    dataset: str
    kind: str  # of the architecture
    head: str
    parameters: int
    multiply_adds: int  # per image, forward
    augmented: bool
    epochs: int
    at_most: bool  # the schedule may end earlier
    flops: float  # of the whole training
    epoch_images: int
    times: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def epoch_seconds(self, machine: str) -> float:
        return self.epoch_images / numbers.median(self.times[machine])


def judge_cost(costs: Sequence[Cost]) -> Claim:
    """Whether NIN has fewer parameters than the others and takes longer to train."""
    judged, rows, compared = [], [], []
    for one in costs:
        machines = sorted(one.times) or [""]
        counts = [f"{one.parameters:,}", f"{one.multiply_adds / 1e6:,.1f} M"]
        counts += [f"{'at most ' * one.at_most}{one.epochs}", f"{one.flops / 1e15:.2f}"]
        for machine in machines:
            times = ["", "", ""]
            if machine:
                seconds = one.epoch_seconds(machine)
                times = [str(len(one.times[machine])), f"{seconds:,.1f}", f"{seconds * one.epochs / 3600:,.1f}"]
            network = plain(f"{one.kind}, {one.head}")
            rows.append([one.dataset, network, plain(", ".join(one.experiments)), *counts, plain(machine), *times])
    for nin in (one for one in costs if one.kind == "nin"):
        for other in (one for one in costs if one.kind != "nin"):
            if nin.head != "gap" or (nin.dataset, nin.augmented) != (other.dataset, other.augmented):
                continue
            fewer = nin.parameters < other.parameters
            work = nin.flops / other.flops
            supports, why = _longer(nin, other, fewer)
            name = f"{nin.dataset}, {nin.experiments[0]} and {other.experiments[0]}"
            judged.append(Judged(name, supports, True, why))
            share = f"{nin.parameters / other.parameters:.2f}"
            pair = [plain(nin.experiments[0]), plain(other.experiments[0])]
            compared.append([nin.dataset, *pair, share, f"{work:.2f}", why])
    names = "Data set|Network|Experiments|Parameters|Multiply-adds forward|Epochs|PFLOP|Machine|Runs|Seconds an epoch|"
    return Claim(
        texts.COST,
        decide(judged),
        (
            (names + "Hours in all", "lllrrrrlrrr", rows),
            (
                "Data set|NIN|Other|Parameters, NIN / other|Work of training, NIN / other|Measured",
                "lllrrl",
                compared,
            ),
        ),
    )


def _longer(nin: Cost, other: Cost, fewer: bool) -> tuple[bool | None, str]:
    """Whether NIN has fewer parameters and takes longer on every machine that timed both, and in words."""
    both = [
        machine
        for machine in sorted({*nin.times} & {*other.times})
        if min(len(nin.times[machine]), len(other.times[machine])) >= FEWEST_RUNS
    ]
    if not both:
        return None, NOT_ENOUGH
    ratios = [
        nin.epoch_seconds(machine) * nin.epochs / (other.epoch_seconds(machine) * other.epochs) for machine in both
    ]
    words = ", ".join(
        f"{ratio:.2f} times as long on {plain(machine)}" for ratio, machine in zip(ratios, both, strict=True)
    )
    return fewer and min(ratios) > 1, f"{'fewer' if fewer else 'more'} parameters, {words}"
