"""How a process that trains is told to stop."""

import contextlib
import signal
import threading
from collections.abc import Iterator


class Stop:
    """The signal that asked this process to stop, if one did. Several runs in one process share it."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def ask(self, number: int, _: object = None) -> None:
        """Handle the signal: runs stop after the update they are in. Asked twice, nobody waits for that."""
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Inside, SIGINT and SIGTERM ask to stop. Only Python's main thread can listen; others share what it hears."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self.signal = None
        handlers = {number: signal.signal(number, self.ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)


STOP = Stop()
