"""Members of a sweep that one process trains at the same time, each in a thread of its own.

On a GPU a small network leaves most of the device idle: another seed's kernels fill it. Threads share what is there
once in a process (libraries, the CUDA context, the images on the device), and nothing that a result depends on.
"""

import contextlib
import io
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TextIO

from nin_repro.outcome import Outcome, Request
from nin_repro.run import attempt, kept_from
from nin_repro.training.stop import STOP


class Labelled(io.TextIOBase):
    """Standard output for several threads: whole lines, each behind the name of the thread that printed it."""

    def __init__(self, out: TextIO) -> None:
        self.out, self.line, self.lock = out, threading.local(), threading.Lock()

    def write(self, text: str) -> int:
        *whole, rest = (getattr(self.line, "begun", "") + text).split("\n")
        self.line.begun = rest
        name = threading.current_thread().name
        with self.lock:
            self.out.write("".join(f"[{name}] {line}\n" if line else "\n" for line in whole))
            self.out.flush()
        return len(text)


def train(requests: dict[str, Request], at_once: int) -> list[Outcome]:
    """Bring the runs to their ends, so many at a time; their outcomes in order. A signal stops them all.

    Runs with another precision or device wait for those before them: these are settings of the whole process.
    """
    groups: dict[Any, dict[str, Request]] = {}
    for name, request in requests.items():
        groups.setdefault((request.config.precision, request.config.device), {})[name] = request
    found: dict[str, Outcome] = {}
    with STOP.listening(), contextlib.redirect_stdout(Labelled(sys.stdout)):
        for group in groups.values():
            with ThreadPoolExecutor(at_once) as pool:
                ends = {name: pool.submit(_train, name, request) for name, request in group.items()}
                found |= {name: end.result() for name, end in ends.items()}
    return [found[name] for name in requests]


def _train(name: str, request: Request) -> Outcome:
    threading.current_thread().name = name
    if STOP.signal is not None:
        return kept_from(request.config, STOP.signal)
    return attempt(request)
