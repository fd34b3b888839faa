"""The processes in which scripts/bench.py measures. No torch here."""

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench_setting import Setting


class Failed(Exception):
    """What was measured failed. The message is one line."""


class Worker:
    """A process that holds one of `bench_device.KINDS`, and calls to its methods: `worker("run", 5)`."""

    def __init__(self, kind: str, setting: Setting) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([*setting.imported])
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, kind, setting))
        self.process.start()
        theirs.close()

    def started(self) -> None:
        """Wait until it is built.

        Raises:
            Failed: it could not be.
        """
        self._answer()

    def __call__(self, method: str, *arguments: Any) -> Any:
        """What the method returns.

        Raises:
            Failed: the method raised, or the process is gone.
        """
        try:
            self.pipe.send((method, arguments))
        except OSError:
            raise Failed("the process is gone") from None
        return self._answer()

    def _answer(self) -> Any:
        try:
            result, error = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(10)
            raise Failed(f"the process ended with exit code {self.process.exitcode}") from None
        if error is not None:
            raise Failed(error)
        return result

    def close(self) -> None:
        self.pipe.close()
        self.process.join(20)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def _serve(pipe: Any, kind: str, setting: Setting) -> None:
    """Build the subject, say so, and answer calls until the other end is closed."""
    from bench_device import KINDS  # imports torch, which the process that only asks does without

    subject: Any = None
    with pipe:
        while True:
            result: Any = None
            answer: tuple[Any, str | None]
            try:
                if subject is None:
                    subject = KINDS[kind](setting)
                else:
                    method, arguments = pipe.recv()
                    result = getattr(subject, method)(*arguments)
                answer = result, None
            except EOFError:
                return
            except Exception as error:
                answer = None, " ".join(f"{type(error).__name__}: {error}".split())[:300]
            try:
                pipe.send(answer)
            except OSError:
                return
            if subject is None:
                return


@contextmanager
def workers(kinds: list[str], setting: Setting, failures: dict[str, str]) -> Iterator[dict[str, Worker]]:
    """Processes of these kinds; what cannot start becomes a line in `failures`."""
    begun = {kind: Worker(kind, setting) for kind in kinds}
    found: dict[str, Worker] = {}
    try:
        for kind, worker in begun.items():
            try:
                worker.started()
                found[kind] = worker
            except Failed as failure:
                failures[kind] = str(failure)
        yield found
    finally:
        for worker in begun.values():
            worker.close()
