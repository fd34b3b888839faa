"""A sweep that is disturbed on a real engine, beside the same sweep undisturbed, and a page that tells of it.

Six members on real data, of two lengths; an epoch takes about 0.7 s on an idle core.
"""

import itertools
import json
import os
import platform
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

from nin_repro.config.compose import load
from nin_repro.config.recipe import directory
from nin_repro.data.archive import obtain
from nin_repro.training.environment import source_commit
from nin_repro.training.rundir import RunDirectory

ROOT = Path(__file__).parents[1]
WORDS = [
    "experiment=quickstart",
    "architecture.last_relu=false",  # so that no seed dies
    "optimizer.schedule.epochs=120",
    "optimizer.schedule.drops=[80,104]",
    "checkpoint_seconds=5",
    "threads=1",
    "wandb.mode=disabled",
]
COUNT = 6


class Sweep:
    """A sweep command in a directory of its own, and what happens to it, with seconds since its start."""

    def __init__(self, folder: Path, lengths: tuple[int, int], *launcher: str) -> None:
        self.folder, self.launcher = folder, launcher
        self.swept = ["seed=0,1,2", f"budget.epochs={lengths[0]},{lengths[1]}"]
        self.names = [f"seed={seed} budget.epochs={length}" for seed in (0, 1, 2) for length in lengths]  # in order
        folder.mkdir(exist_ok=True)
        obtain("digits", folder / "data")
        self.begun = time.monotonic()
        self.happened: list[tuple[float, str]] = []
        self.lines: list[str] = []

    def run_directory(self, number: int) -> Path:
        return self.folder / directory(load([*WORDS, *self.names[number].split()]))

    def epochs(self, number: int) -> int:
        """How many epochs a member has trained."""
        path = self.run_directory(number) / "metrics.jsonl"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def status(self, number: int) -> dict[str, Any]:
        return RunDirectory(self.run_directory(number)).status()

    def result(self, number: int) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.run_directory(number) / "result.json").read_text())
        return found

    @property
    def command(self) -> str:
        return shlex.join(["python", "-m", "nin_repro.train", "-m", *self.launcher, *WORDS, *self.swept])

    def note(self, what: str) -> None:
        self.happened.append((time.monotonic() - self.begun, what))
        print(f"{self.happened[-1][0]:6.0f} s  {what}", flush=True)

    def start(self) -> subprocess.Popen[str]:
        """Give the command; `lines` takes what it prints."""
        process = subprocess.Popen(
            [sys.executable, *shlex.split(self.command)[1:]],
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines = []
        assert process.stdout is not None
        process.reader = threading.Thread(target=self._read, args=(process.stdout,))  # type: ignore[attr-defined]
        process.reader.start()  # type: ignore[attr-defined]
        return process

    def _read(self, out: TextIO) -> None:
        with out:
            self.lines.extend(line.rstrip("\n") for line in out)

    def end(self, process: subprocess.Popen[str], timeout: float = 900) -> int:
        """Wait for the end of the command; its exit code."""
        code = process.wait(timeout)
        process.reader.join()  # type: ignore[attr-defined]
        return code

    def table(self) -> list[str]:
        """The table of members that the command printed in the end."""
        start = next(i for i, line in enumerate(self.lines) if line.endswith("runs in this sweep:"))
        return [" ".join(line.split()) for line in self.lines[start + 1 : start + 1 + COUNT]]


def wait_until(condition: Callable[[], Any], process: subprocess.Popen[str], timeout: float = 600) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, "in vain"
        time.sleep(0.2)


def undisturbed(folder: Path, lengths: tuple[int, int]) -> Sweep:
    """The same sweep, member after member in one process."""
    sweep = Sweep(folder, lengths)
    assert sweep.end(sweep.start()) == 0, "\n".join(sweep.lines)
    return sweep


def require_equal(sweep: Sweep, expected: Sweep) -> None:
    """Weights, errors and learning curves."""
    for number in range(COUNT):
        one, other = sweep.result(number), expected.result(number)
        assert one["status"] == other["status"] == "done"
        for name in ("weights_sha256", "test_error", "train_error", "train_loss", "steps"):
            assert one[name] == other[name], (number, name)
        for name in ("train_loss", "test_error"):
            assert one["curve"][name] == other["curve"][name], (number, name)


def page(sweep: Sweep, expected: Sweep, title: str, opening: str, done_to: dict[int, str], versions: list[str]) -> str:
    """What happened to the sweep, as Markdown."""
    packages = [*versions, *(f"{name} {metadata.version(name)}" for name in ("hydra-core", "torch", "numpy"))]
    packages.append(f"Python {platform.python_version()}")
    commit, dirty = source_commit()
    made = f"{time.strftime('%Y-%m-%d')}, commit {commit[:10]}{' and changes' * dirty}; {', '.join(packages)}."
    lines = [f"# {title}", "", opening, "", made, "", f"    {sweep.command}", ""]
    lines += ["| s | what happened |", "|---:|---|"]
    for second, at_once in itertools.groupby(sweep.happened, key=lambda one: round(one[0])):
        lines.append(f"| {second} | {'; '.join(what for _, what in at_once)} |")
    lines += ["", "| member | what was done to it | weights, SHA-256 | undisturbed |", "|---|---|---|---|"]
    for number in range(COUNT):
        here, there = (one.result(number)["weights_sha256"][:16] for one in (sweep, expected))
        same = "the same" if here == there else there
        lines.append(f"| {sweep.names[number]} | {done_to.get(number, 'nothing')} | `{here}` | {same} |")
    lines += ["", "Test errors, training errors and learning curves are equal, too."]
    return "\n".join(lines) + "\n"
