"""One run: start it, go on with it, try it again, or say that it is done. Which of these, the run's directory decides.

torch is imported only when there is something to train.
"""

import contextlib
import dataclasses
import shlex
import signal
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from nin_repro.command import fail, uncollected
from nin_repro.config.recipe import budget_name, directory, key, recipe
from nin_repro.cpu import lacks
from nin_repro.files import UsageError, dispensable, locked, require_place, told
from nin_repro.outcome import ENDED, Outcome, Request, ended, make_record, recorded, verdict
from nin_repro.results import records
from nin_repro.schema import Config
from nin_repro.training.console import Console
from nin_repro.training.environment import environment
from nin_repro.training.rundir import TIME, RunDirectory, why
from nin_repro.training.stop import STOP, Interrupted, NotFinite, interruption, signal_of
from nin_repro.words import counted

if TYPE_CHECKING:
    from nin_repro.build import Ancestor, Machine
    from nin_repro.data.splits import Split
    from nin_repro.training.loop import Trainer
    from nin_repro.training.tracking import Tracker

_opened: "WeakValueDictionary[tuple[str, Path, str], Split]" = WeakValueDictionary()
_opening = threading.Lock()
BUSY = 75  # exit code of a run that another process is training: "try again later"
LOOK = 0.5  # seconds between looks at whether it still does


def execute(request: Request) -> Outcome:
    """Bring the run of a request to its end, whatever state it is in.

    Raises:
        UsageError: the data, the device or the place is not as asked, or memory is short; nothing was trained.
    """
    try:
        return _execute(request)
    except OSError as error:  # once it is trained, `_train` has its own answers
        raise UsageError(
            f"no run can be kept here: {told(error)}; free the place, or choose another runs_dir"
        ) from None
    except MemoryError:
        raise UsageError("there is not enough memory to begin this run; the same command tries again") from None


def attempt(request: Request, where: bool = False) -> Outcome:
    """As `execute`, but what it raises is an outcome, told in one line. `where`: and where the unexpected was."""
    try:
        return execute(request)
    except UsageError as error:
        return Outcome("refused", fail(error), str(error))
    except Exception as error:
        if (stop := interruption(error)) is not None:
            raise stop from None
        if where:
            traceback.print_exc()
        words = _one_line(error)
        fail(UsageError(words))
        return Outcome("failed", 1, words)


def _execute(request: Request) -> Outcome:
    config = request.config
    run = RunDirectory(directory(config))
    before = _finished(run, config)
    if before:
        return before
    with uncollected():
        from nin_repro.build import machine, require_heir
    if config.parent is not None:
        parent = _parent(request)
        require_heir(config, parent.config)
        print(f"its parent: {parent.command}", flush=True)
        outcome = execute(parent)
        if outcome.state == "done" and STOP.signal is not None:  # it came as the parent was at its end
            why = "stopped as its parent was trained"
            return Outcome("interrupted", 128 + STOP.signal, why, path=str(run.path))
        if outcome.state != "done":  # a dead parent has its result, which is none of this run's
            state, code = ("failed", 1) if outcome.state == "dead" else (outcome.state, outcome.code)
            words = f"the parent of this run is {outcome.state}: {outcome.words}"
            return Outcome(state, code, words, path=str(run.path))
    if recorded(config):
        require_place(Path(config.records_dir), "records_dir=")
    found, split = machine(config), _images(config)

    def tried() -> Outcome | None:
        """What became of it; None if another process has the lock."""
        with locked(run.lock, wait=False) as free:  # whoever had it until now may have brought the run to its end
            return (_finished(run, config) or _train(request, run, found, split)) if free else None

    for patience in (LOOK / 10, 0):  # who looks at its state has the lock for a moment, too
        if ended_now := tried():
            return ended_now
        time.sleep(patience)
    status = run.status()
    holder = f" ({status['pid']} on {status['host']})" if status.get("state") == "running" else ""
    if not config.wait:
        words = f"another process{holder} is training this run in {run.path}; wait=true waits for it"
        print(words)
        return Outcome("busy", BUSY, words, path=str(run.path))
    print(f"waiting for the process{holder} that is training this run in {run.path}", flush=True)
    while STOP.signal is None:  # a thread that waits in the system for a lock would not hear of it
        if ended_now := tried():
            return ended_now
        time.sleep(LOOK)
    why = f"{signal.Signals(STOP.signal).name} came while another process was training this run"
    return Outcome("interrupted", 128 + STOP.signal, why, path=str(run.path))


def _images(config: Config) -> "Split":
    """The images of a run: those of another run of this process, as long as it has them."""
    from nin_repro.data import splits

    asked = config.dataset.name, Path(config.data_dir), config.protocol
    with _opening:
        found = _opened.get(asked)
        if found is None:
            found = _opened[asked] = splits.open_split(*asked)
        return found


def _parent(request: Request) -> Request:
    """The request for the run that this one starts from.

    Raises:
        UsageError: it is not the run that the recipe names.
    """
    from nin_repro.config.compose import load_with_text, parent_words

    parent = request.config.parent
    assert parent is not None
    words = parent_words(parent, request.overrides)
    config, text = load_with_text(words)
    if key(config) != parent.key:
        raise UsageError(f"parent.key={parent.key} is not the key of {shlex.join(words)}, {key(config)}: leave it out")
    asked = request.config  # its words lack how many are trained at once, which its share of the cores follows from
    config = dataclasses.replace(config, wait=asked.wait, processes=asked.processes, together=asked.together)
    return Request(config, words, parent.experiment, text)


def _ancestor(request: Request) -> "Ancestor | None":
    """What this run takes from its parent, which is done."""
    from nin_repro.build import Ancestor
    from nin_repro.training.checkpoint import final_weights
    from nin_repro.training.schedule import Reached

    if request.config.parent is None:
        return None
    run = RunDirectory(directory(_parent(request).config))
    record = run.result()
    assert record is not None
    reached = Reached(record["train_loss"], **record["reached"])
    return Ancestor(final_weights(run.checkpoint, record), reached)


def _finished(run: RunDirectory, config: Config) -> Outcome | None:
    """The outcome of a run that has its result already; says so, and puts its record where it is wanted."""
    record = run.result()
    if record is None:
        return None
    try:
        records.require_sound(record)
    except ValueError as damage:
        print(f"{run.path / 'result.json'} is damaged ({damage}): it is made again, which gives the same result")
        return None
    if record["key"] != key(config):
        raise UsageError(f"{run.path} holds the run {record['key']} under the name of {key(config)}: move it away")
    if run.parts():  # it was killed after its result was written
        with contextlib.suppress(OSError), locked(run.lock, wait=False) as free:
            if free:
                run.remove_parts()
    print(f"this run is already {record['status']}, {record['finished']}: nothing is trained")
    return ended(config, run.path, record, already=True)


def outcome_so_far(config: Config) -> Outcome:
    """What a run's directory says of it: how it ended, or that nobody trains it and it has not."""
    run = RunDirectory(directory(config))
    try:
        state, status, record = run.look()
    except UsageError as error:
        return Outcome("refused", 2, str(error), path=str(run.path))
    if record is not None:
        return Outcome(state, 0, verdict(record), path=str(run.path))
    words = {"not begun": "nothing was trained", "running": "a process is training it"}.get(state)
    return Outcome(state, 1, words or why(state, status), path=str(run.path))


def kept_from(config: Config, number: int) -> Outcome:
    """The outcome of a member of a sweep that a signal kept from its turn: its run is where it was before."""
    found = outcome_so_far(config)
    if found.state in ENDED:
        return dataclasses.replace(found, already=True)
    if found.state in ("failed", "refused"):  # in another sweep, or by what is in its place
        return Outcome("not begun", 128 + number, f"{found.state} before: {found.words}", path=found.path)
    return dataclasses.replace(found, code=128 + number)


def _train(request: Request, run: RunDirectory, found: "Machine", split: "Split") -> Outcome:
    """Train under the lock, and leave a status and an outcome behind whatever happens."""
    about = environment(found.words, found.threads) | {"kernels": found.kernels}
    run.remove_parts()
    run.write_config(request.text, request.command)
    run.write_selection(request.selection)
    run.selection()  # refused now if it is damaged, not when all is trained

    def report(figures: dict[str, float | int | None]) -> None:
        with contextlib.suppress(OSError):
            run.write_status("running", **figures)

    with Console(run.log, report) as console:
        with dispensable(console.line):
            run.write_status("running")
        tracker = _tracker(request, run, console)
        failed = True
        try:
            record = _to_the_end(request, run, found, split, about, console, tracker.log)
            run.write_result(record)
            with dispensable(console.line):
                run.write_status(record["status"])
            shown = ("test_error", "validation_error", "train_error", "status")
            tracker.finish(failed=False, summary={name: record[name] for name in shown})
            failed = False
            return ended(request.config, run.path, record, already=False, say=console.line)
        except (Interrupted, KeyboardInterrupt) as stop:  # the latter before and after the steps, or when asked twice
            number = stop.signal if isinstance(stop, Interrupted) else signal_of(stop)
            why = f"stopped by {signal.Signals(number).name}{f' at {stop}' if str(stop) else ''}"
            with dispensable(console.line):
                run.write_status("interrupted", why=why)
            console.line(f"{why}; the same command goes on from there:\n  {request.command}")
            return Outcome("interrupted", 128 + number, why, path=str(run.path))
        except Exception as error:
            text = _one_line(error)
            again = "goes on from the last checkpoint" if run.checkpoint.exists() else "tries again"
            again = "then goes on" if isinstance(error, UsageError) else again  # which says what to do before
            console.line(f"failed: {text} (the same command {again}; details in {run.path / 'status.json'})")
            with dispensable(console.line):
                run.write_status("failed", why=text, traceback=traceback.format_exc())
            return Outcome("failed", 1, text, path=str(run.path))
        finally:
            if failed:
                tracker.finish(failed=True, summary={})


def _one_line(error: Exception) -> str:
    """What went wrong. The whole of it is in status.json: libraries add pages of advice and addresses."""
    if isinstance(error, OSError):
        return told(error)
    text = " ".join(str(error).split())
    if isinstance(error, (NotFinite, UsageError)):
        return text
    return f"{type(error).__name__}{': ' if text else ''}{text[:300]}"


def _to_the_end(
    request: Request,
    run: RunDirectory,
    found: "Machine",
    split: "Split",
    about: dict[str, Any],
    console: Console,
    mirror: Callable[[dict[str, float], int, int], None],
) -> dict[str, Any]:
    """Build the trainer, take up its checkpoint if there is one, train; the record."""
    from nin_repro.build import trainer

    def record_row(row: dict[str, Any]) -> None:
        with dispensable(console.line):
            run.append_metrics(row)
        mirror({name: value for name, value in row.items() if name != "epoch"}, row["epoch"], len(work.progress.rows))

    config = request.config
    started = time.strftime(TIME)
    work = trainer(config, split, found, console, run.checkpoint, record_row, _ancestor(request))
    console.line(f"run {key(config)} in {run.path}, on {found.words}, {counted(found.threads, 'CPU thread')}")
    console.line(f"{config.dataset.name}: {len(work.batches.labels):,} training images, {split.provenance}")
    if lacks(found.device.type, config.precision):  # tf32 was refused before
        console.line("this CPU has no instructions for bf16: precision=fp32 is faster here")
    if recorded(config) and (known := records.stored(Path(config.records_dir), key(config))):
        console.line(f"on record already, {records.told(known)}: this run adds no seed to it")
    _go_on(work, run, config, console)
    about = run.write_environment(about, [work.progress.attempt, work.progress.step])
    status = work.run()
    with dispensable(console.line):
        run.rewrite_metrics(work.progress.rows)  # with what found no space before
    record = make_record(request, work, status, split, about) | run.selection()
    return record | {"started": started, "finished": time.strftime(TIME)}


def _go_on(work: "Trainer", run: RunDirectory, config: Config, console: Console) -> None:
    """Take up the checkpoint, if there is a sound one. Raises UsageError if it is another run's."""
    from nin_repro.training.checkpoint import DamagedCheckpoint, load

    if (run.path / "result.json").exists():
        console.line(f"{run.path / 'result.json'} is truncated or altered: this run makes its end again")
    try:
        state = load(run.checkpoint)
    except DamagedCheckpoint as damage:
        console.line(f"{damage}: this run starts from the beginning, which gives the same result")
        state = None
    if state is not None:
        if (other := state["key"]) != key(config):
            raise UsageError(f"{run.checkpoint} is of the run {other}, not of {key(config)}: move it away")
        if state["data"] != work.limits.data:
            name, place = config.dataset.name, config.data_dir
            raise UsageError(f"{run.checkpoint} is of other images of {name} than {place} has: move it away, or those")
        work.resume(state)
        console.line(f"going on after epoch {work.rate.epoch}, step {work.progress.step}")
    with dispensable(console.line):
        run.rewrite_metrics(work.progress.rows)


def _tracker(request: Request, run: RunDirectory, console: Console) -> "Tracker":
    from nin_repro.training.tracking import Tracker

    config = request.config
    return Tracker(
        mode=config.wandb.mode,
        project=config.wandb.project,
        entity=config.wandb.entity,
        group=config.wandb.group or request.experiment,
        tags=[*config.wandb.tags, config.dataset.name, budget_name(config)],
        name=run.path.name,
        run_id=key(config),
        directory=run.path,
        config=recipe(config),
        timeout=config.wandb.timeout,
        warn=console.line,
    )
