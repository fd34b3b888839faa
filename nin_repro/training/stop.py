"""How a process that trains is told to stop."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

# What a batch system sends before a job's time is up. Whoever has a handler for it, as submitit has, wants to do
# something about it, such as to queue the job again. Without one they are none of ours.
WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)


class Interrupted(Exception):
    """The run was asked to stop by a signal, and has saved its state."""

    def __init__(self, number: int, where: str) -> None:
        super().__init__(where)
        self.signal = number


class NotFinite(Exception):
    """The loss or the gradient was not finite; the update was not made."""


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP, so that it ends a run the way Ctrl-C does."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.signal = number


def signal_of(stop: KeyboardInterrupt) -> int:
    return stop.signal if isinstance(stop, Terminated) else signal.SIGINT


def listen() -> None:
    """Let SIGTERM, and SIGHUP if nohup has not had it ignored, raise Terminated while nothing is trained."""

    def terminate(number: int, _: object) -> None:
        raise Terminated(number)

    STOP.signal = None
    for number in _heard():
        if number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, terminate)


class Stop:
    """The signal that asked this process to stop, if one did. Several runs in one process share it."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}  # the handlers that `ask` stood in for

    def ask(self, number: int, _: object = None) -> None:
        """Handle the signal: runs stop after the update they are in. After a second Ctrl-C nobody waits for that.

        Batch systems may send the same twice, to a job and to its steps, and mean it once.
        """
        if self.signal is None:
            self.signal = number
        elif number == signal.SIGINT:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Inside, signals ask to stop. Only Python's main thread can listen; others share what it hears."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self.signal = None
        with _handled_by(self.ask) as self._before:
            yield

    def pass_on(self) -> None:
        """Call the handler that would have got the signal that stopped the runs, if it is one of WARNINGS.

        Raises:
            SystemExit: this job has been queued again.
            Exception: it will not be; says why.
        """
        if self.signal in WARNINGS:
            self._before[self.signal](self.signal, None)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Import torch or numpy in this: a signal waits until they are there.

    What they are made of in C takes an exception on the way for a package that is missing, or for the end of all.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    try:
        with _handled_by(lambda number, _: came.append(number)):
            yield
    finally:
        if came:
            signal.raise_signal(came[0])


def interruption(error: BaseException | None) -> KeyboardInterrupt | None:
    """The signal that an exception began with: code that it came upon may have made another one of it."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return error
        error = error.__cause__ or error.__context__
    return None


def ignore_warnings() -> None:
    """Let WARNINGS pass unheard from now on: all is done, and there is nothing to save or to queue again.

    As Python ends it gives signals that had a handler back their own effect, which is to end a process as failed.
    """
    for number in WARNINGS:
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def _handled_by(handler: Callable[[int, Any], None]) -> Iterator[dict[int, Any]]:
    """Inside, what is heard goes to this handler. Yields those that it stands in for."""
    before = {number: signal.signal(number, handler) for number in _heard()}
    try:
        yield before
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _heard() -> list[int]:
    """SIGINT and SIGTERM; SIGHUP, unless nohup has it ignored; warnings that somebody handles."""
    heard = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        heard.append(signal.SIGHUP)
    return [*heard, *(number for number in WARNINGS if callable(signal.getsignal(number)))]


STOP = Stop()
