"""`python -m nin_repro.runs` lists the runs in a directory: state, age, how far, and why what failed did."""

import contextlib
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from nin_repro.command import Parser, as_command, given_place
from nin_repro.files import UsageError
from nin_repro.outcome import ENDED, verdict
from nin_repro.progress import Row
from nin_repro.training.rundir import TIME, RunDirectory, why
from nin_repro.words import counted, duration

STATES = ("running", "lost", "interrupted", "failed", "not begun", "dead", "done", "unknown")


@dataclass(frozen=True)
class Found:
    """A run directory, and what it tells."""

    run: RunDirectory
    state: str  # one of STATES
    told: dict[str, Any]  # its status.json
    record: dict[str, Any] | None

    @property
    def age(self) -> float | None:
        """Seconds since it told something; None if that is not known. Never negative: clocks jump."""
        with contextlib.suppress(KeyError, TypeError, ValueError):
            return max(0.0, time.time() - datetime.strptime(self.told["time"], TIME).timestamp())
        return None

    @property
    def command(self) -> str | None:
        """The command that goes on with it: the first line of its config.yaml."""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            with open(self.run.path / "config.yaml", encoding="utf-8") as file:
                line = file.readline()
            return line.removeprefix("# ").strip() if line.startswith("# ") and line.endswith("\n") else None
        return None

    def words(self) -> str:
        """How it ended, or how far it is, and where."""
        try:
            if self.record is not None:
                return verdict(self.record)
            if self.state == "running":
                row = " ".join(cell for cell in Row.of("", "", self.told).cells() if cell)
                return f"{row or 'starting'} ({self.told.get('host')}, process {self.told.get('pid')})"
            return why(self.state, self.told)
        except (KeyError, TypeError, ValueError) as error:
            return f"what its files say is not whole ({type(error).__name__}: {error})"


def look(path: Path) -> Found:
    """What there is to say of a run directory."""
    run = RunDirectory(path)
    try:
        return Found(run, *run.look())
    except UsageError as error:
        return Found(run, "unknown", {"why": str(error)}, None)


def find(runs: Path) -> list[Found]:
    """All runs below a directory, the oldest news first.

    Raises:
        UsageError: the directory is not there, or not one of runs.
    """
    if not runs.is_dir():
        raise UsageError(f"--runs {runs} is no directory: no run has begun there; runs are where runs_dir= says (runs)")
    names = ("status.json", "result.json", "checkpoint.pt")
    if any((runs / name).is_file() for name in names):
        raise UsageError(f"--runs {runs} is a run itself: name the directory that it lies in, {runs.absolute().parent}")
    paths = sorted({path.parent for path in runs.glob("*/*") if path.name in names})
    return sorted(map(look, paths), key=lambda found: -(found.age or 0))


def show(found: list[Found], runs: Path, commands: bool = False) -> None:
    """The table, the commands of what is not finished, and the number of runs in each state.

    Args:
        commands: show that of each run beneath it.
    """
    width = max((len(one.run.path.name) for one in found), default=0)
    for one in found:
        age = f"{_age(one.age)} ago" if one.age is not None else ""
        print(f"{one.run.path.name:{width}}  {one.state:11}  {age:>13}  {one.words()}")
        if commands:
            print(f"    {one.command or 'its command is not known'}")
    again = [one for one in found if one.state in ("lost", "interrupted", "failed", "not begun")]
    if again and not commands:
        print("\nthe command of each of these goes on with it:")
        for one in again:
            print(f"  {one.command or f'unknown: {one.run.path}/config.yaml cannot be read'}")
    counts = {state: sum(one.state == state for one in found) for state in STATES}
    total = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    print(f"\n{counted(len(found), 'run')} in {runs}" + (f": {total}" if total else ""))


def _age(seconds: float) -> str:
    days = int(seconds // 86_400)
    return duration(seconds) if not days else counted(days, "day")


def remove_checkpoints(found: list[Found]) -> None:
    """Delete the final weights of finished runs; records, curves and logs stay."""
    freed = count = 0
    for one in found:
        if one.state in ENDED:
            with contextlib.suppress(FileNotFoundError):
                freed += one.run.checkpoint.stat().st_size
                one.run.checkpoint.unlink()
                count += 1
    print(f"{counted(count, 'checkpoint')} of finished runs removed, {freed / 1e6:.1f} MB; all else is kept")


def main() -> None:
    parser = Parser(
        prog="python -m nin_repro.runs",
        description="Lists runs: state, age, how far, and why what failed did.",
    )
    parser.add_argument("--runs", type=given_place, default=Path("runs"), help="where they are (default %(default)s)")
    parser.add_argument("--state", choices=STATES, nargs="+", default=STATES, help="only runs in these states")
    parser.add_argument("--commands", action="store_true", help="with the command of each, which tells them apart")
    parser.add_argument(
        "--remove-checkpoints",
        action="store_true",
        help="delete the weights of the finished runs that are listed; figures of networks and runs that start from "
        "them need these",
    )
    options = parser.parse_args()
    found = [one for one in find(options.runs) if one.state in options.state]
    show(found, options.runs, options.commands)
    if options.remove_checkpoints:
        remove_checkpoints(found)


if __name__ == "__main__":
    sys.exit(as_command(main))
