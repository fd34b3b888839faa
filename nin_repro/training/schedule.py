"""What the learning rate and the momentum are, and when a run ends."""

from dataclasses import dataclass
from typing import Any

from nin_repro.schema import Budget, Schedule

NOTHING = 1e-30  # times the initial rate; momentum, which is kept in proportion to the rate, could not come from 0
RELEASED = (200 / 260, 230 / 260)  # where the released README drops the rate, as fractions of the run


def plan(schedule: Schedule, budget: Budget) -> tuple[int, list[int] | None]:
    """(epochs, drops) of a run; drops is None where the training error decides ("plateau"), empty where none are.

    A reduced budget has fixed drops, at the fractions of the run where its schedule has them; a plateau schedule has
    none, and takes those of the released README. A drop is never in the first epoch and there is one epoch at each rate
    if there are enough epochs for that.
    """
    if budget.epochs is None or budget.epochs == schedule.epochs:
        return schedule.epochs, None if schedule.kind == "plateau" else _drops(schedule)
    fractions = list(RELEASED) if schedule.kind == "plateau" else [drop / schedule.epochs for drop in _drops(schedule)]
    epochs = budget.epochs
    drops: list[int] = []
    for left, fraction in zip(range(len(fractions), 0, -1), fractions, strict=True):
        drop = min(round(fraction * epochs), epochs - left)
        if drop > max(drops, default=0):
            drops.append(drop)
    return epochs, drops


def speed(schedule: Schedule, epochs: int) -> float:
    """How much faster than the unreduced recipe a run of so many epochs goes through what falls or rises steadily."""
    if schedule.stop != "never":  # the epochs are only a bound
        return 1.0
    return schedule.epochs / epochs


def _drops(schedule: Schedule) -> list[int]:
    return schedule.drops if schedule.kind == "drops" else []


@dataclass(frozen=True)
class Reached:
    """Where a run stood in the epoch that its final weights are of: what a run that starts from it may ask for."""

    train_loss: float  # mean cross-entropy on its training images without dropout, nats
    rate: float  # times the initial rate
    momentum: float


@dataclass
class Rate:
    """The state of the schedule. `end_step` is called after each update, `end_epoch` with the epoch's training error.

    Plateau is the paper's "until the accuracy on the training set stops improving" (section 4): an epoch improves if
    its error is lower than every earlier one; after `patience` epochs in a row that do not, the rate drops, and after
    `plateau_drops` drops the run ends.

    Linear and exponential decay and the ramp of momentum are pylearn2's LinearDecayOverEpoch, ExponentialDecay and
    MomentumAdjustor, each with start 1. A run with a reduced number of epochs starts where they start and goes
    through them faster by what it has fewer epochs; having fewer images does not change the speed.

    `stop` ends a run before its last epoch, as pylearn2's MonitorBased and ChannelTarget do.
    """

    schedule: Schedule
    epochs: int
    drops: list[int] | None
    parent: Reached | None = None
    epoch: int = 0
    step: int = 0
    dropped: int = 0
    best: float = float("inf")
    waited: int = 0
    chosen: int = 0  # the epoch with the lowest validation error so far, where that decides
    stopped: bool = False

    @property
    def scale(self) -> float:
        """What the initial rate is multiplied with now."""
        schedule = self.schedule
        if self.parent is not None and schedule.kind == "parent":
            return self.parent.rate
        if schedule.kind == "linear":  # the first epoch is one step down already
            return 1 - (1 - schedule.factor) * min(1.0, self._recipe_epoch / schedule.decay_epochs)
        if schedule.kind == "exponential":
            return max(schedule.factor ** (self.step * self._speed), schedule.floor, NOTHING)
        return schedule.factor**self.dropped

    def momentum(self, initial: float) -> float:
        """The momentum of this epoch."""
        if self.parent is not None and self.schedule.kind == "parent":
            return self.parent.momentum
        last = self.schedule.momentum_epochs
        if not last:
            return initial
        done = 1.0 if self._recipe_epoch >= last else (self._recipe_epoch - 1) / (last - 1)
        return (1 - done) * initial + done * self.schedule.momentum_final

    @property
    def _speed(self) -> float:
        return speed(self.schedule, self.epochs)

    @property
    def _recipe_epoch(self) -> float:
        """The epoch of the unreduced recipe, from 1, whose rate and momentum this epoch has."""
        return 1 + self.epoch * self._speed

    @property
    def finished(self) -> bool:
        plateaued = self.drops is None and self.dropped > self.schedule.plateau_drops
        return self.stopped or plateaued or self.epoch >= self.epochs

    def end_step(self) -> None:
        self.step += 1

    def end_epoch(self, train_error: float) -> None:
        """Move on. `train_error` is the running one; a plateau schedule decides by it."""
        self.epoch += 1
        if self.drops is not None:
            self.dropped = sum(drop <= self.epoch for drop in self.drops)
            return
        self.waited = 0 if train_error < self.best else self.waited + 1
        self.best = min(self.best, train_error)
        if self.waited >= self.schedule.patience:
            self.dropped, self.waited = self.dropped + 1, 0

    def watch(self, value: float) -> bool:
        """Decide by what was measured after an epoch whether the run stops; whether its weights are the best so far.

        `value` is the validation error, or the loss on the validation images, as `stop` has it.
        """
        if self.schedule.stop == "likelihood":
            self.stopped = self.parent is not None and value <= self.parent.train_loss
            return False
        better = value < self.best
        if better:
            self.best, self.chosen = value, self.epoch
        self.stopped = self.epoch - self.chosen >= self.schedule.stop_patience
        return better

    def state(self) -> dict[str, Any]:
        names = ("epoch", "step", "dropped", "best", "waited", "chosen", "stopped")
        return {name: getattr(self, name) for name in names}

    def load(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
