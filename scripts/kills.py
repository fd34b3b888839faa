"""`python scripts/kills.py [--kills 1000]`: a small run is killed at random points, again and again, and must not care.

Each start of the run is a process that ends itself at one point of its life: before one of its file operations (an
open, a rename between the writing and the reading, ...), before any line of this package, or after any time. SIGKILL
ends it there; SIGTERM, SIGINT and SIGHUP ask it to stop. The next start goes on. When the run is done, its result must
be that of a run that nobody disturbed, in every byte that is not a time, and no half-written file may be left.

Nothing is written but the runs, in a temporary directory; a report goes to results/kills.md.
"""

import dataclasses
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # this checkout, whichever is installed
PACKAGE = str(ROOT / "nin_repro")

import torch  # noqa: E402

from nin_repro import build  # noqa: E402, F401 - so that every start is a fork of what has it
from nin_repro.command import Parser, as_command, given_place, require_positive  # noqa: E402
from nin_repro.config.compose import load_with_text  # noqa: E402
from nin_repro.config.recipe import directory  # noqa: E402
from nin_repro.data.splits import open_split  # noqa: E402
from nin_repro.files import read_json, require_file  # noqa: E402
from nin_repro.outcome import Outcome, Request  # noqa: E402
from nin_repro.results.export import write_page  # noqa: E402
from nin_repro.run import execute  # noqa: E402
from nin_repro.training import checkpoint  # noqa: E402
from nin_repro.training.environment import source_commit  # noqa: E402
from nin_repro.training.rundir import RunDirectory  # noqa: E402
from nin_repro.training.stop import listen, signal_of  # noqa: E402

WORDS = [
    "experiment=quickstart",
    "architecture.blocks.mlpconv1.widths=[12,8,8]",
    "architecture.blocks.mlpconv2.widths=[12,8,8]",
    "architecture.blocks.mlpconv3.widths=[12,8,classes]",
    "restarts=0",
    "budget.epochs=3",
    "budget.train_images=160",
    "checkpoint_seconds=0",
    "record=always",
    "wandb.mode=disabled",
]
TIMES = ("seconds", "train_seconds", "images_per_second", "started", "finished")  # differ between equal runs
WAYS = ("file operation", "line", "moment")
Point = tuple[str, float, int]  # a way, which of them (seconds, for moments), the signal


def request(folder: Path, words: list[str]) -> Request:
    """The small run, with everything it writes in a folder."""
    words = [*words, f"runs_dir={folder}/runs", f"records_dir={folder}/records", f"data_dir={folder}/data"]
    config, text = load_with_text(words)
    return Request(config, words, "quickstart", text)


def start(asked: Request, point: Point | None = None, count: bool = False) -> tuple[int, list[int]]:
    """A start of the run in a process of its own; its exit status and, with `count`, how many operations and lines."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            os.close(reader)
            code = _life(asked, point, writer if count else None)
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as told:
        counted = [int(number) for number in told.read().split()]
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), counted


def _life(asked: Request, point: Point | None, writer: int | None) -> int:
    """What the process of a start does: the run as the command does it, up to the point."""
    nothing = open(os.devnull, "w")  # noqa: SIM115 - for the rest of this process
    sys.stdout = nothing
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it would kill nobody, however often
    listen()
    counts, way, which, number = [0, 0], *(point or ("", 0.0, 0))
    pid = os.getpid()

    def operation(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(("open", "os.", "fcntl.", "shutil.")) and os.getpid() == pid:
            counts[0] += 1
            if way == "file operation" and counts[0] == which:
                os.kill(pid, number)

    def line(frame: Any, event: str, _: object) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line":
            counts[1] += 1
            if way == "line" and counts[1] == which:
                os.kill(pid, number)
        return line

    if way == "file operation" or writer is not None:
        sys.addaudithook(operation)
    if way == "line" or writer is not None:
        sys.settrace(line)
    if way == "moment":
        signal.signal(signal.SIGALRM, lambda *_: os.kill(pid, number))
        signal.setitimer(signal.ITIMER_REAL, max(which, 1e-4))
        if number == signal.SIGKILL:  # at once, not at the next instruction of Python
            timer = threading.Timer(which, os.kill, (pid, number))
            timer.daemon = True
            timer.start()
    try:
        outcome = execute(asked)
    except KeyboardInterrupt as stop:
        outcome = Outcome("interrupted", 128 + signal_of(stop), "before training")
    sys.settrace(None)
    if writer is not None:
        os.write(writer, f"{counts[0]} {counts[1]}".encode())
    return outcome.code


def result(path: Path) -> dict[str, Any]:
    """Everything that the finished run in a directory left, but times: record, curves, weights, momentum, file names.

    Its record is below records, beside the directory that the run's is in.
    """
    run, place = RunDirectory(path), path.parent.parent
    state = checkpoint.load(run.checkpoint)
    record = run.result()
    assert state is not None and record is not None, f"{path} has no finished run"
    stored = read_json(next((place / "records").rglob(f"{record['key']}.json")))
    rows = [json.loads(row) for row in (path / "metrics.jsonl").read_text().splitlines()]
    told = json.dumps([_timeless(record), _timeless(stored), _timeless(rows)], sort_keys=True)
    return {
        "told": told.replace(str(place), "PLACE").replace(os.path.relpath(place), "PLACE"),
        "bytes": checkpoint.fingerprint(_flat({"weights": state["weights"], "optimizer": state["optimizer"]})),
        "progress": json.dumps(_timeless(state["progress"]), sort_keys=True),
        "files": sorted(inner.name for inner in path.rglob("*")),
    }


def differences(name: str, expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """One line for each part of a result that is another one than expected, from where they part."""
    lines = []
    for part, value in expected.items():
        one, other = str(value), str(found[part])
        if one != other:
            same = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), 0)
            at = max(same - 40, 0)
            lines.append(f"{name}: {part}: ...{other[at : at + 120]}... instead of ...{one[at : at + 120]}...")
    return lines


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _timeless(item) for name, item in value.items() if name not in TIMES}
    if isinstance(value, list | tuple):
        return [_timeless(item) for item in value]
    return value


def _flat(value: Any, name: str = "") -> dict[str, torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return {name: value}
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    found: dict[str, torch.Tensor] = {}
    for inner, item in pairs:
        found |= _flat(item, f"{name}.{inner}")
    return found


@dataclasses.dataclass
class Report:
    starts: int = 0
    kills: int = 0
    runs: int = 0
    alone: float = 0.0  # seconds of the run that nobody disturbed
    operations: int = 0  # of its file operations
    lines: int = 0
    ended: Counter[tuple[str, str, str]] = dataclasses.field(default_factory=Counter)  # way, signal, how it ended
    differences: list[str] = dataclasses.field(default_factory=list)
    seconds: float = 0.0


def kill_again_and_again(
    folder: Path,
    kills: int,
    draw: random.Random,
    words: list[str] = WORDS,
    point: Callable[[Report, random.Random], Point] | None = None,
    progress: Callable[[Report], None] = lambda report: None,
) -> Report:
    """Kill the run so often, each time at a point that `point` draws. The data are prepared before, by the reference.

    Stops at the first difference.
    """
    report, began = Report(), time.monotonic()
    reference = request(folder / "reference", words)
    open_split(reference.config.dataset.name, Path(reference.config.data_dir), reference.config.protocol)
    started = time.monotonic()
    code, (report.operations, report.lines) = start(reference, count=True)
    report.alone = time.monotonic() - started
    assert code == 0, f"the undisturbed run ended with exit code {code}"
    expected = result(directory(reference.config))
    while report.kills < kills and not report.differences:
        place = folder / f"run{report.runs}"
        shutil.copytree(folder / "reference" / "data", place / "data")
        asked, code = request(place, words), 1
        while code and report.kills < kills:
            drawn = (point or any_point)(report, draw)
            code, _ = start(asked, drawn)
            report.starts += 1
            if code:
                report.kills += 1
                name = "SIGKILL" if code == -signal.SIGKILL else signal.Signals(drawn[2]).name
                report.ended[drawn[0], name, str(code)] += 1
                if code not in (-drawn[2], 128 + drawn[2]):
                    report.differences.append(f"run {report.runs}: {drawn} ended with exit code {code}")
                    return report
                progress(report)
        code, _ = start(asked)
        found = result(directory(asked.config))
        report.runs += 1
        report.differences += differences(f"run {report.runs}", expected, found)
        shutil.rmtree(place)
        report.seconds = time.monotonic() - began
    return report


def any_point(report: Report, draw: random.Random) -> Point:
    """A point of the run's life, by any of the ways; two of three kills are SIGKILL."""
    way = draw.choice(WAYS)
    number = draw.choice([signal.SIGKILL] * 6 + [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    last = {"file operation": report.operations, "line": report.lines, "moment": 0}[way]
    return way, float(draw.randint(1, last)) if last else draw.uniform(0, 0.6 * report.alone), number


def page(report: Report, seed: int) -> str:
    """The report in Markdown."""
    commit, dirty = source_commit()
    rows = [f"| {way} | {name} | {code} | {count} |" for (way, name, code), count in sorted(report.ended.items())]
    differences = "\n".join(f"- {line}" for line in report.differences) or "None."
    return f"""# {report.kills:,} kills at random points of a small run

`python scripts/kills.py --kills {report.kills} --seed {seed}`, commit {commit[:10]}{" and changes" if dirty else ""},
{time.strftime("%Y-%m-%d")}, {report.seconds / 60:.0f} minutes. The run, a small NiN on the handwritten digits with a
checkpoint after every update, has {report.operations:,} file operations and executes {report.lines:,} lines of this
package. {report.runs} runs were brought to their ends over {report.kills:,} kills,
{report.kills / max(report.runs, 1):.1f} each.

| killed at any | by | exit code | times |
|---|---|---:|---:|
{chr(10).join(rows)}

Compared with a run that nobody disturbed: weights, momentum, curves, record and names of files, in every byte that is
not a time. A negative exit code is the signal that ended the process; 128 and a signal: it stopped as asked.

Differences: {differences}
"""


def conclude(text: str, found: list[str], out: Path) -> None:
    """Show a report, and write it if there are no differences. A smaller trial never replaces a larger one's.

    Raises:
        SystemExit: there are differences.
    """
    print(text)
    if found:
        raise SystemExit(1)
    before = _trials(out.read_text()) if out.exists() else 0
    if before > _trials(text):
        print(f"{out} is of a longer trial ({before:,}), and is kept: this was one of {_trials(text):,}")
    else:
        write_page(out, text)
        print(f"written: {out}")


def _trials(text: str) -> int:
    """How many kills or faults a report is of, by the command on it; 0 if it is none."""
    told = re.search(r"--(?:kills|faults) (\d+)", text)
    return int(told[1]) if told else 0


def main() -> None:
    parser = Parser(prog="python scripts/kills.py", description=__doc__.splitlines()[0].split(": ")[1])
    parser.add_argument("--kills", type=int, default=1000, help="how many (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the points (default %(default)s)")
    parser.add_argument(
        "--out", type=given_place, default=ROOT / "results" / "kills.md", help="the report (%(default)s)"
    )
    options = parser.parse_args()
    require_positive(kills=options.kills)
    require_file(options.out)
    torch.set_num_threads(1)

    def progress(report: Report) -> None:
        if report.kills % 50 == 0:
            print(f"{report.kills}/{options.kills} kills, {report.runs} runs ended, as the undisturbed one", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        report = kill_again_and_again(Path(folder), options.kills, random.Random(options.seed), progress=progress)
    text = page(report, options.seed)
    conclude(text, report.differences, options.out)


if __name__ == "__main__":
    sys.exit(as_command(main))
