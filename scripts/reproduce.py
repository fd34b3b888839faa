"""`python scripts/reproduce.py [--minutes 9]`: the whole paper, every cell, five living seeds each, most useful first.

It says what is missing, what that costs on this device, and trains it: seeds at the same time as the device has room
for. On a GPU without a benchmark on record it begins with the tests that need a GPU, and the benchmark. What the
records have is not done again, so it can be stopped and started anywhere, and takes up on one machine what another has
left. After `--minutes` it stops the runs under way, which save themselves.
"""

import argparse
import contextlib
import math
import re
import shlex
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from nin_repro import cost
from nin_repro.command import Parser, as_command, require_positive
from nin_repro.config.arguments import in_order
from nin_repro.config.compose import load, parents, stand_ins
from nin_repro.config.recipe import budget_name, family
from nin_repro.cpu import bf16_instructions, cores, processor
from nin_repro.files import UsageError, read_json
from nin_repro.processes import gpus
from nin_repro.results.changes import FP32
from nin_repro.results.records import Record, read_all, tables_of
from nin_repro.results.tables import AVX512, FEWEST_RUNS, WANTED_RUNS, filled_by
from nin_repro.schema import Config, Precision
from nin_repro.training.stop import listen
from nin_repro.words import counted, duration

ROOT = Path(__file__).resolve().parents[1]
# In this order: experiments, and words that change one.
STAGES = {
    "the paper's own rows": (
        *("table4/nin", "table1/nin", "table5/fc", "table5/fc_dropout", "text/nin_no_dropout", "table2/nin"),
        *("table1/nin_unclipped", "table4/nin_unclipped", "table2/nin_released"),
    ),
    "augmentation": ("table1/nin_aug",),
    "the CNN and maxout": (
        *("text/cnn_gap", "text/cnn_fc", "text/cnn_fc_dropout", "table4/maxout"),
        *("table1/maxout", "table1/maxout_aug", "table2/maxout"),
    ),
    "SVHN": ("table3/nin", "table3/maxout"),
    "unstated choices": (
        "table1/nin regularizer.convention=inverted",
        "table1/nin architecture.blocks.mlpconv2.pool=avg",
        "table1/nin optimizer.weight_decay=1e-5",
        "table1/nin architecture.last_relu=false",
        "table4/nin regularizer.convention=inverted",
    ),
    "what others trained": (
        *(f"extra/{name}" for name in ("caffe", "fashion_alexnet", "nin_224")),
        *(f"extra/staged/{name}" for name in ("v0", "v1", "v2", "scratch")),
        *(f"extra/staged/identity_{name}" for name in ("v0", "v1", "v2")),
    ),
}
FIRST_ON_A_GPU = (("-m", "pytest", "--gpu"), ("scripts/bench.py", "--quick"))
MOST = 2  # times as many seeds are tried as are wanted, where runs die
WAIT = 90  # seconds that runs get to save themselves


@dataclass(frozen=True)
class Cell:
    """An experiment, as its file has it or changed, in one precision; and what its runs are so far."""

    name: str  # of the experiment, then words that change it
    config: Config
    records: tuple[Record, ...]
    wanted: int
    parents: tuple[Config, ...] = ()  # that its runs train first, and that are no cells of this plan
    apart: str = ""  # living runs in other precisions, which do not count here

    @property
    def living(self) -> int:
        return sum(record.sample for record in self.records)

    @property
    def seeds(self) -> list[int]:
        """The seeds to train next: as many as living runs are missing, of those that were not tried."""
        tried = {record.seed for record in self.records}
        free = [seed for seed in range(MOST * self.wanted) if seed not in tried]
        return free[: max(self.wanted - self.living, 0)]

    def said(self, words: list[str]) -> list[str]:
        """What to say on the command line for its runs, with words for all cells."""
        rest = [word for word in words if not named([word])]
        return overrides(self.name, [*rest, f"precision={self.config.precision}"])

    def seconds(self, paces: dict[str, float]) -> float | None:
        """What all epochs of one run take here, and of its parents; None if the pace is not known.

        Where no run lives, what those that died took: they end early, wherever they run.
        """
        if self.records and not self.living:
            return statistics.median(record.seconds for record in self.records)
        pace = paces.get(self.config.precision)
        return None if pace is None else sum(map(on_a_core, (self.config, *self.parents))) / pace


def named(words: list[str]) -> bool:
    """Whether words name a precision."""
    return any(word.startswith("precision=") for word in words)


def overrides(name: str, words: list[str]) -> list[str]:
    """What to say on the command line for a cell of this name, with words for all cells.

    Without `precision=...` it is the fastest: bf16 on a GPU, and on a CPU with instructions for it unless fp32 is
    faster there, as it is for maxout's networks, whose large kernels fp32 has a better way for.
    """
    said = [*f"experiment={name}".split(), *words]
    if named(said):
        return said
    faster = bool(gpus()) or (bf16_instructions() and cost.bf16_pays(load(said)))
    return [*said, f"precision={'bf16' if faster else 'fp32'}"]


def cells(records: list[Record], names: list[str], words: list[str], wanted: int) -> list[Cell]:
    """What there is to do, in order. Of a recipe that two cells share, once."""
    found: dict[str, Cell] = {}
    for name in names:
        asked = overrides(name, words)
        config = load(asked)
        before = parents(config, asked)
        shared = {parent for parent in before if parent in names and before[parent] == load(overrides(parent, words))}
        first = tuple(one for parent, one in before.items() if parent not in shared)
        budget = budget_name(config)
        offered = []
        for one in (config, *stand_ins(config, asked)):
            runs = tuple(run for run in records if (run.family, run.budget) == (family(one), budget))
            offered.append(Cell(name, one, runs, wanted, first))
        # The tables mix no precisions: runs in another one than what fills the cell there would never be seen.
        shown = sorted(offered, key=lambda one: one.config.precision != FP32)
        best = shown[filled_by([one.living for one in shown])]
        if best.living < min(wanted, FEWEST_RUNS) or (best.living < wanted and named(words)):
            best = offered[0]
        if best.living < wanted:
            others = [one for one in offered if one.living and one is not best]
            best = replace(best, apart=", ".join(f"{one.living} in {one.config.precision}" for one in others))
        found.setdefault(family(config), best)
    return list(found.values())


def on_a_core(config: Config) -> float:
    """What all epochs of one run take on one core of a CPU that `nin_repro.cost` has rates of in fp32 and bf16."""
    return cost.seconds(config)[AVX512]


def measured_paces(machine: str) -> dict[str, float]:
    """How many times as fast as such a core a machine trains Table 1's network, by precision; empty if never measured.

    From its page in results/benchmarks. Where a precision was not measured there, it is the page's own that counts: on
    a CPU fp32, on a GPU bf16. Other networks are taken to be as much faster.
    """
    found = []
    for path in (ROOT / "results" / "benchmarks").glob("*.json"):
        try:
            told = read_json(path)
        except ValueError as error:
            print(f"warning: {path} is not read: {error}", file=sys.stderr)
            continue
        found += [told] * (told["device"] == machine)
    if not found:
        return {}
    arms, paces = max(found, key=lambda told: str(told["date"]))["arms"], {}
    for precision in get_args(Precision):
        speed = arms.get(f"ours_{precision}", arms["ours"])["images_per_second"]["median"]
        # A page's speed is of updates alone.
        config = load(["experiment=table1/nin", f"precision={precision}", "eval_every=0"])
        paces[precision] = float(speed) * on_a_core(config) / cost.images_seen(config)
    return paces


def this_machine() -> str:
    """Its GPU, or its CPU with all cores, as results/benchmarks calls it."""
    if not gpus():
        return f"{cores()} x {processor()}"
    ask = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    with contextlib.suppress(OSError):
        return subprocess.run(ask, capture_output=True, text=True).stdout.partition("\n")[0].strip()
    return "a GPU that nvidia-smi does not know"


def in_words(seconds: float | None) -> str:
    return "not measured: python scripts/bench.py" if seconds is None else duration(seconds)


def show_plan(todo: list[Cell], paces: dict[str, float], machine: str, at_once: int) -> None:
    """What is missing, and what it costs here: the whole machine's time, if it does nothing else."""
    print(f"{machine}, {at_once} at a time. Time in h:mm:ss of the whole machine, as if one run had all of it.")
    width = max(len(cell.name) for cell in todo)
    print(f"{'experiment, choice':{width}}  living  seeds to train  precision  time a run  up to here")
    total: float | None = 0.0
    for cell in todo:
        one = cell.seconds(paces)
        total = None if total is None or one is None else total + one * len(cell.seeds)
        seeds = ",".join(map(str, cell.seeds)) or "-"
        counts = f"{cell.living}/{cell.wanted:<4}  {seeds:14}"
        note = f"  (and {cell.apart}, which are not mixed with these)" if cell.apart else ""
        note += f"  (none of {counted(len(cell.records), 'run')} lives)" * bool(cell.records and not cell.living)
        print(f"{cell.name:{width}}  {counts}  {cell.config.precision:9}  {in_words(one):>10}  {in_words(total)}{note}")


def check_gpu(deadline: float) -> None:
    """What comes before the first run on a GPU.

    Raises:
        UsageError: it failed, or the time was up.
    """
    for words in FIRST_ON_A_GPU:
        command = shlex.join(["python", *words])
        print(f"\nfirst on a GPU: {command}", flush=True)
        try:
            code = subprocess.run([sys.executable, *words], cwd=ROOT, timeout=deadline - time.monotonic()).returncode
        except subprocess.TimeoutExpired:
            raise UsageError(f"the time was up during {command}; give it more --minutes") from None
        if code:
            raise UsageError(f"{command} failed, see above: nothing is trained; --unchecked does so all the same")


def data_of(cell: Cell) -> Path:
    """The file that its data set is in, or will be."""
    return Path(cell.config.data_dir) / f"{cell.config.dataset.name}.npz"


def run(words: list[str], deadline: float) -> int | None:
    """Run a command of this package; its exit code, or None if it was stopped because the time was up."""
    command = [sys.executable, "-m", *words]
    print(f"\n{shlex.join(['python', *command[1:]])}", flush=True)
    process = subprocess.Popen(command, start_new_session=True)  # Ctrl-C is passed on below, once
    try:
        return process.wait(max(deadline - time.monotonic(), 0.1))
    except (subprocess.TimeoutExpired, KeyboardInterrupt) as stop:
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(WAIT)
        except subprocess.TimeoutExpired:
            raise UsageError(
                f"process {process.pid} was asked to stop and still saves its runs; wait for it, then the same command "
                "goes on"
            ) from None
        if isinstance(stop, KeyboardInterrupt):
            raise
        return code if 0 <= code < 128 else None  # the first: it ended by itself meanwhile, or failed


def asked() -> argparse.Namespace:
    """The options of this command, each by itself found sound.

    Raises:
        UsageError: one is not.
    """
    parser = Parser(
        prog="python scripts/reproduce.py",
        description="Train what the tables lack, most useful first.",
    )
    parser.add_argument("--plan", action="store_true", help="only say what is missing and what it costs here")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so many, runs under way saved")
    parser.add_argument("--seeds", type=int, default=WANTED_RUNS, help="living runs of each cell (default %(default)s)")
    parser.add_argument("--only", metavar="EXPERIMENT,...", help="these cells, in this order")
    parser.add_argument(
        "--unchecked", action="store_true", help="on a GPU, no tests and no benchmark before the first run"
    )
    parser.add_argument("--at-once", type=int, help="runs at the same time (default: 5 on a GPU, else one a core)")
    parser.add_argument(
        "words",
        nargs="*",
        help="more words for all runs; without precision=..., that of the cell, or what is fastest on this machine",
    )
    options = parser.parse_intermixed_args()  # words after options too
    require_positive(minutes=options.minutes, seeds=options.seeds, at_once=options.at_once)
    for word in in_order(options.words) if options.words else ():
        what = {"experiment": "--only names the cells", "seed": "--seeds says how many living runs a cell wants"}
        if why := what.get(word.partition("=")[0]):
            raise UsageError(f"{word} is for all runs, and here each has its own: {why}")
    return options


def train(
    todo: Callable[[], list[Cell]], paces: dict[str, float], words: list[str], at_once: str, deadline: float
) -> dict[str, str]:
    """Train the cells that want runs, one after the other, until all have them or the time is up.

    Args:
        todo: reads anew what there is to do: other machines may add to the records meanwhile.
        at_once: the word that says how many runs of a cell go at the same time.

    Returns:
        The names of the cells that cannot be completed, and why.

    Raises:
        UsageError: it was stopped by a signal.
    """
    given_up: dict[str, str] = {}
    while open_cells := [cell for cell in todo() if cell.seeds and cell.name not in given_up]:
        if time.monotonic() >= deadline:
            print("\nthe time is up; runs under way are saved, and the same command goes on")
            break
        left = sum((cell.seconds(paces) or 0) * len(cell.seeds) for cell in open_cells) if paces else None
        missing = sum(len(cell.seeds) for cell in open_cells)
        print(f"\n{missing} runs in {len(open_cells)} cells to go, {in_words(left)} of this machine for all epochs")
        cell = open_cells[0]
        ready = data_of(cell).exists()
        if ready:
            seeds = f"seed={','.join(map(str, cell.seeds))}"
            code = run(["nin_repro.train", "-m", *cell.said(words), seeds, at_once], deadline)
        else:  # once, and not by each seed of each cell; they are trained in the next round
            code = run(["nin_repro.prepare", *cell.said(words)], deadline)
        if code is None:
            continue  # the time is up
        if code >= 128:
            raise UsageError(f"stopped by {signal.Signals(code - 128).name}; the same command goes on")
        if code and not ready:
            why = f"no {data_of(cell)}, see above"
            given_up |= {one.name: why for one in open_cells if data_of(one) == data_of(cell)}
        elif code:
            given_up[cell.name] = f"exit code {code}, see above"
        elif ready and cell.seeds == next(one.seeds for one in todo() if one.name == cell.name):
            given_up[cell.name] = "its runs left no record (at a reduced budget they do with record=always)"
    for cell in todo():
        if cell.living < cell.wanted and not cell.seeds:
            why = f"{cell.living} of {cell.wanted} runs live, and no more than {MOST * cell.wanted} seeds are tried"
            given_up.setdefault(cell.name, why)
    return given_up


def main() -> None:
    options = asked()
    listen()
    began, gpu = time.monotonic(), bool(gpus())
    names = [name for stage in STAGES.values() for name in stage]
    if options.only is not None:
        names = re.split(r",(?![^\[]*\])", options.only)  # a list is a value of one name
        if "" in names:
            raise UsageError(f"--only {options.only!r} has an empty name: give experiments with a comma between two")
    words = options.words
    count = options.at_once or (5 if gpu else cores())
    seconds = 60 * options.minutes
    deadline = began + seconds - min(WAIT / 3, seconds / 10)
    place = Path(load(words).records_dir)
    if not place.is_dir():  # of no records every cell would be trained again
        raise UsageError(
            f"records_dir={place} is no directory: run this in the directory of the project, or make it for new records"
        )

    if problems := read_all(place)[1]:
        raise UsageError(
            f"{len(problems)} of the records in {place} cannot be used: their runs would be trained again, and not be "
            f"stored; python -m nin_repro.records check --records {place} names them"
        )

    def todo() -> list[Cell]:
        return cells(read_all(place)[0], names, words, options.seeds)

    machine = this_machine()
    paces = measured_paces(machine)
    show_plan(todo(), paces, machine, count)
    if options.plan:
        return
    if gpu and not paces and not options.unchecked:
        check_gpu(deadline)
        paces = measured_paces(machine)
    given_up = train(todo, paces, words, f"{'together' if gpu else 'processes'}={count}", deadline)
    for name, why in given_up.items():
        print(f"{name}: not completed: {why}")
    print(f"next: {tables_of(place)}")
    if given_up:
        sys.exit(1)


if __name__ == "__main__":
    sys.exit(as_command(main))
