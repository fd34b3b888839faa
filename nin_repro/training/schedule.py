"""When the learning rate drops and when a run ends."""

from dataclasses import dataclass
from typing import Any

from nin_repro.schema import Budget, Schedule

RELEASED = (200 / 260, 230 / 260)  # where the released README drops the rate, as fractions of the run


def plan(schedule: Schedule, budget: Budget) -> tuple[int, list[int] | None]:
    """(epochs, drops) of a run; drops is None where the training error decides ("plateau").

    A reduced budget has fixed drops, at the fractions of the run where its schedule has them; a plateau schedule has
    none, and takes those of the released README. A drop is never in the first epoch and there is one epoch at each rate
    if there are enough epochs for that.
    """
    if budget.epochs is None or budget.epochs == schedule.epochs:
        return schedule.epochs, schedule.drops if schedule.kind == "drops" else None
    fractions = [drop / schedule.epochs for drop in schedule.drops] if schedule.kind == "drops" else list(RELEASED)
    epochs = budget.epochs
    drops: list[int] = []
    for left, fraction in zip(range(len(fractions), 0, -1), fractions, strict=True):
        drop = min(round(fraction * epochs), epochs - left)
        if drop > max(drops, default=0):
            drops.append(drop)
    return epochs, drops


@dataclass
class Rate:
    """The state of the schedule. `end_epoch` is told each epoch's running training error.

    Plateau is the paper's "until the accuracy on the training set stops improving" (section 4): an epoch improves if
    its error is lower than every earlier one; after `patience` epochs in a row that do not, the rate drops, and after
    `plateau_drops` drops the run ends.
    """

    schedule: Schedule
    epochs: int
    drops: list[int] | None
    epoch: int = 0
    dropped: int = 0
    best: float = float("inf")
    waited: int = 0

    @property
    def scale(self) -> float:
        """What the initial rate is multiplied with now."""
        return self.schedule.factor**self.dropped

    @property
    def finished(self) -> bool:
        return self.epoch >= self.epochs or (self.drops is None and self.dropped > self.schedule.plateau_drops)

    def end_epoch(self, train_error: float) -> None:
        self.epoch += 1
        if self.drops is not None:
            self.dropped = sum(drop <= self.epoch for drop in self.drops)
            return
        self.waited = 0 if train_error < self.best else self.waited + 1
        self.best = min(self.best, train_error)
        if self.waited >= self.schedule.patience:
            self.dropped, self.waited = self.dropped + 1, 0

    def state(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "dropped": self.dropped, "best": self.best, "waited": self.waited}

    def load(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
