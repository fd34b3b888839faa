"""`python scripts/chaos.py [--faults 200]`: a sweep under fire ends as one that nobody disturbed.

Twelve small networks on MNIST, three processes at a time, on a disk of their own. Meanwhile, from a seed: members are
killed, asked to stop and frozen, their checkpoints and logs are cut, zeroed and altered by a bit, the disk is filled,
and the command that runs the sweep is killed too; whenever it is not running it is given again. When all members are
done the sweep begins anew, until there were as many faults as asked for. Each record, weight, curve and file name is
compared with those of an undisturbed sweep. The report goes to results/chaos.md.
"""

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import kills

from nin_repro.command import Parser, as_command, given_place, require_positive
from nin_repro.files import require_file
from nin_repro.outcome import ENDED
from nin_repro.runs import find
from nin_repro.training.environment import source_commit

WORDS = [
    "-m",
    "experiment=quickstart",
    "dataset=mnist_unit",
    "regularizer=gap_dropout,gap",
    "architecture.last_relu=false",
    "seed=0,1,2,3,4,5",
    "budget=short",
    "budget.epochs=6",
    "budget.train_images=1000",
    "restarts=0",
    "eval_every=0",
    "checkpoint_seconds=0.2",
    "record=always",
    "wandb.mode=disabled",
]
DISK = 48  # MB of the disk that everything is on
PAUSE = 0.1, 1.0  # seconds between faults
SOME_TIME = 1.0  # seconds that a frozen process and a full disk stay so

# How often each fault is drawn.
FAULTS = {
    "member killed (SIGKILL)": 25,
    "member asked to stop (SIGTERM)": 8,
    "member's terminal closed (SIGHUP)": 4,
    "member frozen (SIGSTOP, SIGCONT)": 8,
    "checkpoint cut, member killed": 6,
    "checkpoint zeroed, member killed": 5,
    "a bit of the checkpoint altered, member killed": 6,
    "metrics.jsonl cut, member killed": 4,
    "status.json zeroed, member killed": 4,
    "disk full": 8,
    "sweep killed (SIGKILL)": 3,
    "sweep asked to stop (SIGTERM)": 2,
    "sweep interrupted (SIGINT)": 2,
    "a second command beside the first": 1,
}


@dataclass
class Report:
    faults: Counter[str] = field(default_factory=Counter)
    commands: int = 0  # how often the sweep was started
    sweeps: int = 0  # that came to their ends
    printed: Counter[str] = field(default_factory=Counter)  # lines of the programs that tell of recoveries
    differences: list[str] = field(default_factory=list)
    alone: float = 0.0  # seconds of the undisturbed sweep, three processes at a time
    seconds: float = 0.0  # of all others


TELLS = {
    "members that were started again by their sweep": r"starts again from its checkpoint",
    "starts that went on from a checkpoint": r"going on after epoch",
    "starts that found a damaged checkpoint and began anew": r"starts from the beginning",
    "members that ended for want of disk space": r"^failed: .*No space left",
    "members that stopped as asked": r"^stopped by SIG",
}


class Sweep:
    """The command, given again and again in one place."""

    def __init__(self, place: Path, data: Path, words: list[str], report: Report) -> None:
        self.place, self.report = place, report
        self.runs = place / "runs"
        self.command = [sys.executable, "-m", "nin_repro.train", *words, f"runs_dir={self.runs}"]
        self.command += [f"records_dir={place}/records", f"data_dir={data}"]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> subprocess.Popen[bytes]:
        self.report.commands += 1
        with open(self.place / "printed.log", "ab") as log:
            return subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=os.environ | {"PYTHONPATH": str(kills.ROOT), "OMP_NUM_THREADS": "1"},
            )

    def members(self) -> list[tuple[Path, int]]:
        """Runs that a living process is training, and its number."""
        found = []
        for one in find(self.runs) if self.runs.is_dir() else []:
            pid = one.told.get("pid")
            if one.state == "running" and isinstance(pid, int) and Path(f"/proc/{pid}").exists():
                found.append((one.run.path, pid))
        return found

    def done(self) -> int:
        return sum(one.state in ENDED for one in find(self.runs)) if self.runs.is_dir() else 0


def strike(kind: str, sweep: Sweep, draw: random.Random) -> bool:
    """Cause a fault; whether there was anything to cause it to."""
    assert sweep.process is not None
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        if kind.startswith("sweep"):
            if sweep.process.poll() is not None:
                return False
            sweep.process.send_signal(getattr(signal, kind[kind.index("(") + 1 : -1]))
        elif kind == "disk full":
            _fill(sweep.place)
        elif kind.startswith("a second"):
            rival = sweep.start()
            time.sleep(4 * SOME_TIME)
            rival.send_signal(signal.SIGTERM)
            rival.wait(60)
        else:
            members = sweep.members()
            if not members:
                return False
            run, pid = draw.choice(members)
            _strike_member(kind, run, pid, draw)
        return True
    return False


def _strike_member(kind: str, run: Path, pid: int, draw: random.Random) -> None:
    if "(SIGSTOP" in kind:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(SOME_TIME)
        os.kill(pid, signal.SIGCONT)
    elif "(" in kind:
        os.kill(pid, getattr(signal, kind[kind.index("(") + 1 : -1]))
    else:
        os.kill(pid, signal.SIGSTOP)  # so that it does not write a sound one in between
        name = next(name for name in ("checkpoint", "metrics.jsonl", "status.json") if name in kind)
        with contextlib.suppress(FileNotFoundError):
            _damage(run / ("checkpoint.pt" if name == "checkpoint" else name), kind, draw)
        os.kill(pid, signal.SIGKILL)


def _damage(path: Path, kind: str, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    if not content:
        return
    if "cut" in kind:
        content = content[: draw.randrange(len(content))]
    elif "zeroed" in kind:
        content = bytearray(len(content))
    else:
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def _fill(place: Path) -> None:
    """Take all the room that is left on the disk, for some time."""
    filler = place / "filler"
    try:
        with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))
        time.sleep(SOME_TIME)
    finally:
        filler.unlink(missing_ok=True)


@contextlib.contextmanager
def small_disk(path: Path) -> Iterator[None]:
    """A file system of DISK megabytes. Needs the right to mount."""
    path.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}m", "tmpfs", str(path)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def results(runs: Path) -> dict[str, dict[str, object]]:
    return {path.parent.name: kills.result(path.parent) for path in sorted(runs.glob("*/result.json"))}


def under_fire(sweep: Sweep, wanted: int, total: int, draw: random.Random) -> None:
    """Bring a sweep of so many members to its end, with faults until there were as many as wanted."""
    report = sweep.report
    while sweep.done() < total:
        if sweep.process is None or sweep.process.poll() is not None:
            sweep.process = sweep.start()
        time.sleep(draw.uniform(*PAUSE))
        if report.faults.total() < wanted:
            (kind,) = draw.choices(list(FAULTS), list(FAULTS.values()))
            if strike(kind, sweep, draw):
                report.faults[kind] += 1
                if report.faults.total() % 20 == 0:
                    print(
                        f"{report.faults.total()}/{wanted} faults, {sweep.done()} of {total} members done", flush=True
                    )
    if sweep.process is not None:
        sweep.process.wait(120)
    report.sweeps += 1
    texts = [path.read_text(errors="replace") for path in sweep.place.rglob("*.log") if path.name != "train.log"]
    for name, pattern in TELLS.items():
        report.printed[name] += sum(len(re.findall(pattern, text, re.MULTILINE)) for text in texts)
    tracebacks = sum("Traceback" in text for text in texts)
    if tracebacks:
        report.differences.append(f"{tracebacks} logs of sweep {report.sweeps} hold a traceback")


def page(report: Report, seed: int, total: int) -> str:
    """The report in Markdown."""
    commit, dirty = source_commit()
    count = report.faults.total()
    lost = (report.seconds - report.sweeps * report.alone) / max(count, 1)
    faults = "\n".join(f"| {kind} | {report.faults[kind]} |" for kind in FAULTS)
    printed = "\n".join(f"| {name} | {report.printed[name]} |" for name in TELLS)
    differences = "\n".join(f"- {line}" for line in report.differences) or "None."
    return f"""# A sweep under fire: {count} faults

`python scripts/chaos.py --faults {count} --seed {seed}`, commit {commit[:10]}{" and changes" if dirty else ""},
{time.strftime("%Y-%m-%d")}. A sweep of {total} small networks on MNIST, three processes at a time; to end it
{"once" if report.sweeps == 1 else f"{report.sweeps} times"} took {report.commands} commands.

| fault | times |
|---|---:|
{faults}
| all | {count} |

| what the programs told | times |
|---|---:|
{printed}

The undisturbed sweep took {report.alone:.0f} s, under fire it took {report.seconds / max(report.sweeps, 1):.0f} s:
{lost:.1f} s lost for a fault, the time until the next command included.

Differences between the {report.sweeps * total} results and those of the undisturbed sweep (weights, momentum, curves,
records, names of files; every byte that is not a time): {differences}
"""


def main() -> None:
    parser = Parser(prog="python scripts/chaos.py", description=__doc__.splitlines()[0].split(": ")[1])
    parser.add_argument("--faults", type=int, default=200, help="how many (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the faults (default %(default)s)")
    parser.add_argument(
        "--data", type=given_place, default=kills.ROOT / "data", help="where mnist.npz is (%(default)s)"
    )
    parser.add_argument(
        "--out", type=given_place, default=kills.ROOT / "results" / "chaos.md", help="the report (%(default)s)"
    )
    parser.add_argument("words", nargs="*", default=[], help="more words for the sweep")
    options = parser.parse_intermixed_args()  # words after options too
    require_positive(faults=options.faults)
    require_file(options.out)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the disk is taken down
    report, draw = Report(), random.Random(options.seed)
    words = [*WORDS, *options.words, "processes=3"]
    with tempfile.TemporaryDirectory() as folder:
        alone = Sweep(Path(folder) / "alone", options.data, words, report)
        alone.place.mkdir()
        began = time.monotonic()
        if alone.start().wait():
            raise SystemExit(f"the undisturbed sweep failed:\n{(alone.place / 'printed.log').read_text()}")
        report.alone, report.commands = time.monotonic() - began, 0
        expected = results(alone.runs)
        print(f"undisturbed: {len(expected)} members in {report.alone:.0f} s", flush=True)
        while report.faults.total() < options.faults and not report.differences:
            place = Path(folder) / f"sweep{report.sweeps}"
            began = time.monotonic()
            with small_disk(place):
                sweep = Sweep(place, options.data, words, report)
                try:
                    under_fire(sweep, options.faults, len(expected), draw)
                finally:
                    if sweep.process is not None:
                        sweep.process.kill()  # nothing, if it has ended
                report.seconds += time.monotonic() - began
                found = results(place / "runs")
                for name, value in expected.items():
                    report.differences += kills.differences(name, value, found[name])
                if report.differences:
                    shutil.copytree(place, Path(tempfile.gettempdir()) / "chaos-differs", dirs_exist_ok=True)
    text = page(report, options.seed, len(expected))
    kills.conclude(text, report.differences, options.out)


if __name__ == "__main__":
    sys.exit(as_command(main))
