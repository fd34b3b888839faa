"""A table of runs that are under way, written over in place on a terminal and by changed lines elsewhere."""

import shutil
import sys
import time
from dataclasses import dataclass
from typing import Any

from nin_repro.training.console import UNWATCHED, WATCHED
from nin_repro.words import duration

# What a small screen shows first; all states that a member can be in.
ORDER = ("running", "failed", "refused", "busy", "lost", "interrupted", "not begun", "waiting", "dead", "done")


@dataclass(frozen=True)
class Row:
    name: str
    state: str
    epoch: int | None = None
    epochs: int | None = None
    error: float | None = None  # training error of the epoch so far, %
    left: float | None = None  # seconds
    words: str = ""  # how it ended

    @classmethod
    def of(cls, name: str, state: str, told: dict[str, Any]) -> "Row":
        """The row of a run whose status.json tells this."""
        return cls(name, state, told.get("epoch"), told.get("epochs"), told.get("error"), told.get("left"))

    def cells(self) -> tuple[str, ...]:
        """As text: name, state, epoch, error, time left or how it ended."""
        if self.epoch is None:
            return self.name, self.state, "", "", self.words
        left = f"{duration(self.left)} left" if self.left is not None else ""
        return self.name, self.state, f"{self.epoch}/{self.epochs}", f"{self.error:.2f} %", left


class Table:
    """Shows rows again and again: at most so often, and no longer than the terminal is high."""

    def __init__(self, names: list[str]) -> None:
        self.width = max(map(len, names), default=0)
        self.terminal = sys.stdout.isatty()
        self.shown = 0.0
        self.height = 0  # lines of the table that are on the screen

    def line(self, text: str) -> None:
        """A line that stays, above the table."""
        self._wipe()
        print(text, flush=True)

    def show(self, rows: list[Row], last: bool = False) -> None:
        """The table, if it is time for it. `last`: only what stays: nothing on a terminal, where the end is told."""
        if last:
            return self._wipe()
        if time.monotonic() - self.shown < (WATCHED if self.terminal else UNWATCHED):
            return
        self.shown = time.monotonic()
        counts = {state: sum(row.state == state for row in rows) for state in ORDER}
        total = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        if not self.terminal:
            under_way = [" ".join(cell for cell in row.cells() if cell) for row in rows if row.state == "running"]
            print(": ".join(filter(None, (total, "; ".join(under_way)))), flush=True)
            return
        columns, height = shutil.get_terminal_size()
        first = sorted(rows, key=lambda row: ORDER.index(row.state))[: max(1, height - 2)]
        shown = [row for row in rows if row in first]
        self._wipe()
        lines = [self._text(row)[: columns - 1] for row in shown] + [total[: columns - 1]]
        print("\n".join(lines), flush=True)
        self.height = len(lines)

    def _text(self, row: Row) -> str:
        name, state, epoch, error, rest = row.cells()
        return f"  {name:{self.width}}  {state:11}  {epoch:>9}  {error:>8}  {rest}"

    def _wipe(self) -> None:
        """Take the table off the screen."""
        if self.height:
            print(f"\x1b[{self.height}A\x1b[J", end="", flush=True)
            self.height = 0
