"""What a run shows: lines that stay, and one line that is written over while a person watches."""

import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from nin_repro.words import duration

WATCHED, UNWATCHED = 0.5, 30.0  # seconds between status lines on a terminal, and elsewhere
REPORT = 2.0  # seconds between reports for other processes to read
Report = Callable[[dict[str, float | int | None]], None]


def silent_classes(count: int) -> str:
    """Such as "  2 silent classes"; empty if there are none."""
    return f"  {count} silent class{'es' if count > 1 else ''}" if count else ""


def epoch_line(row: dict[str, Any], epochs: int, eval_name: str) -> str:
    """What is said of an epoch, from its row of metrics. `eval_name`: what its evaluation images are called in it."""
    tested = ""
    if f"{eval_name}_error" in row:
        tested = f"  {eval_name} error {row[f'{eval_name}_error']:6.2f} %"
    return (
        f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}  rate x{row['rate']:<5g} "
        f"loss {row['train_loss']:.4f}  train error {row['train_error_running']:6.2f} %{tested}"
        f"{silent_classes(row['silent_classes'])}  {duration(row['seconds'])}"
    )


class Console:
    """Standard output and `train.log`. Status lines come often on a terminal, rarely and as plain lines elsewhere.

    Lines that nobody takes, because a disk is full or a terminal has gone, are lost: a training does not end for them.
    `report` is called with the figures of a status line every few seconds.
    """

    def __init__(self, log: Path, report: Report | None = None) -> None:
        self.terminal = sys.stdout.isatty()
        self.log = open(log, "ab", buffering=0)  # noqa: SIM115 - closed with the run
        self.report = report
        self.shown = self.reported = 0.0
        self.open_line = False

    def __enter__(self) -> "Console":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self.open_line:
            self._show("\n")
        self.log.close()

    def line(self, text: str) -> None:
        """A line that stays."""
        self._show(("\r\x1b[K" if self.open_line else "") + text + "\n")
        self.open_line = False
        self._log(text)

    def due(self) -> bool:
        """Whether it is time for another status line or report; so that nobody works one out that is not shown."""
        return self._line_due() or (self.report is not None and time.monotonic() - self.reported >= REPORT)

    def _line_due(self) -> bool:
        return time.monotonic() - self.shown >= (WATCHED if self.terminal else UNWATCHED)

    def status(self, text: str, figures: dict[str, float | int | None]) -> None:
        """A line that the next one replaces on a terminal."""
        now = time.monotonic()
        if self.report is not None and now - self.reported >= REPORT:
            self.reported = now
            self.report(figures)
        if not self._line_due():
            return
        self.shown = now
        if self.terminal:
            self._show("\r\x1b[K" + text)
            self.open_line = True
        else:
            self._show(text + "\n")
            self._log(text)

    def _show(self, text: str) -> None:
        with contextlib.suppress(OSError):
            print(text, end="", flush=True)

    def _log(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self.log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text}\n".encode())
