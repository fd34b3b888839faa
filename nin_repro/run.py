"""One run: start it, go on with it, try it again, or say that it is done. Which of these, the run's directory decides.

torch is imported only when there is something to train.
"""

import shlex
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nin_repro.config.recipe import budget_name, directory, family, key, recipe
from nin_repro.files import UsageError, locked
from nin_repro.results import records
from nin_repro.schema import Config
from nin_repro.training.console import Console, duration
from nin_repro.training.rundir import RunDirectory, environment

if TYPE_CHECKING:
    from nin_repro.build import Machine
    from nin_repro.data.sources import Split
    from nin_repro.training.loop import Trainer

BUSY = 75  # exit code of a run that another process is training: "try again later"


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    state: str  # done, dead, interrupted, busy, failed, refused
    code: int  # of the process
    words: str  # what happened, in one line
    already: bool = False  # it was done before
    path: str = ""


def execute(config: Config, overrides: list[str], experiment: str | None, config_text: str) -> Outcome:
    """Bring the run of this configuration to its end, whatever state it is in.

    Raises:
        UsageError: the data or the device is not as asked; nothing was written for this run.
    """
    run = RunDirectory(directory(config))
    before = _finished(run, config)
    if before:
        return before
    from nin_repro.build import machine
    from nin_repro.data.sources import open_split

    found = machine(config)
    split = open_split(config.dataset.name, Path(config.data_dir), config.protocol)
    with locked(run.lock, wait=False) as free:
        if free:
            return _train(config, run, found, split, overrides, experiment, config_text)
    if not config.wait:
        words = f"another process is training this run in {run.path}; wait=true waits for it"
        print(words)
        return Outcome("busy", BUSY, words, path=str(run.path))
    print(f"waiting for the process that is training this run in {run.path}", flush=True)
    with locked(run.lock):
        return _finished(run, config) or _train(config, run, found, split, overrides, experiment, config_text)


def _finished(run: RunDirectory, config: Config) -> Outcome | None:
    """The outcome of a run that has its result already; says so, and puts its record where it is wanted."""
    record = run.result()
    if record is None:
        return None
    _publish(config, record)
    print(f"this run is already {record['status']}, {record['finished']}: nothing is trained")
    return _report(config, run, record, already=True)


def _train(
    config: Config,
    run: RunDirectory,
    found: "Machine",
    split: "Split",
    overrides: list[str],
    experiment: str | None,
    config_text: str,
) -> Outcome:
    """Train under the lock, and leave a status behind whatever happens."""
    from nin_repro.build import trainer
    from nin_repro.training.checkpoint import fingerprint
    from nin_repro.training.loop import Interrupted, NotFinite

    command = shlex.join(["python", "-m", "nin_repro.train", *overrides])
    about = environment(found.words, found.threads)
    run.write_config(config_text, command)
    run.write_environment(about)
    run.write_status("running")
    with Console(run.log) as console:
        tracker = _tracker(config, run, experiment, console)
        failed = True
        try:
            console.line(f"run {key(config)} in {run.path}, on {found.words}, {found.threads} CPU threads")
            console.line(f"{config.dataset.name}: {len(split.train_labels):,} training images, {split.provenance}")

            def record_row(row: dict[str, Any]) -> None:
                run.append_metrics(row)
                tracker.log({name: value for name, value in row.items() if name != "epoch"}, row["epoch"])

            work = trainer(config, split, found, console, run.checkpoint, record_row)
            _go_on(work, run, console)
            started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
            status = work.run()
            record = _record(config, work, status, split, about, command, experiment)
            record |= {"started": started, "weights_sha256": fingerprint(work.network.state_dict())}
            run.write_result(record)
            run.write_status(status)
            tracker.finish(
                failed=False, summary={name: record[name] for name in ("test_error", "train_error", "status")}
            )
            failed = False
            _publish(config, record)
            return _report(config, run, record, already=False)
        except Interrupted as stop:
            run.write_status("interrupted", why=str(stop))
            number = work.stop_signal or signal.SIGINT
            console.line(f"{stop} by {signal.Signals(number).name}; the same command goes on from here:\n  {command}")
            return Outcome("interrupted", 128 + number, str(stop), path=str(run.path))
        except KeyboardInterrupt:
            run.write_status("interrupted", why="keyboard")
            console.line(f"interrupted; the same command goes on from the last checkpoint:\n  {command}")
            return Outcome("interrupted", 128 + signal.SIGINT, "interrupted", path=str(run.path))
        except Exception as error:
            text = str(error) if isinstance(error, (NotFinite, UsageError)) else f"{type(error).__name__}: {error}"
            text = " ".join(text.split())
            run.write_status("failed", why=text, traceback=traceback.format_exc())
            console.line(f"failed: {text} (details in {run.path / 'status.json'}; the same command tries again)")
            return Outcome("failed", 1, text, path=str(run.path))
        finally:
            if failed:
                tracker.finish(failed=True, summary={})


def _go_on(work: "Trainer", run: RunDirectory, console: Console) -> None:
    """Take up the checkpoint, if there is a sound one."""
    from nin_repro.training.checkpoint import DamagedCheckpoint, load

    try:
        state = load(run.checkpoint)
    except DamagedCheckpoint as damage:
        console.line(f"{damage}: this run starts from the beginning, which gives the same result")
        state = None
    if state is not None:
        work.resume(state)
        console.line(f"going on after epoch {work.rate.epoch}, step {work.progress.step}")
    run.rewrite_metrics(work.progress.rows)


def _record(
    config: Config,
    work: "Trainer",
    status: str,
    split: "Split",
    about: dict[str, Any],
    command: str,
    experiment: str | None,
) -> dict[str, Any]:
    """The record of a finished training; format and meanings in `results.records`."""
    progress = work.progress
    assert work.final is not None
    tested, trained = work.final
    rows = progress.rows
    last = rows[-1]["train_error_running"] if rows else None
    died = [*progress.attempts]
    if not died or died[-1]["attempt"] != progress.attempt:
        died.append({"attempt": progress.attempt, "died": None, "epoch": work.rate.epoch, "step": progress.step})
    names = sorted({name for row in rows for name in row})
    images = progress.step * config.optimizer.batch_size
    return {
        "format": records.FORMAT,
        "key": key(config),
        "family": family(config),
        "experiment": experiment,
        "budget": budget_name(config),
        "protocol": config.protocol,
        "seed": config.seed,
        "status": status,
        "test_error": tested.error if split.eval_name == "test" else None,
        "validation_error": tested.error if split.eval_name == "validation" else None,
        "train_error": trained.error,
        "train_error_running": last,
        "dead_classes": progress.silent if status == "done" else list(range(split.classes)),
        "attempts": died,
        "epochs": work.rate.epoch,
        "steps": progress.step,
        "seconds": round(progress.seconds, 3),
        "images_per_second": round(images / progress.seconds, 1) if progress.seconds else 0.0,
        "device": about["device"] if about["device"] != "cpu" else f"{about['threads']} x {about['processor']}",
        "commit": about["commit"],
        "dirty": about["dirty"],
        "command": command,
        "deviations": config.about.deviations,
        "recipe": recipe(config),
        "environment": about,
        "data": {"provenance": split.provenance, "digest": split.digest},
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "start": progress.start,
        "curve": {name: [row.get(name) for row in rows] for name in names},
    }


def _publish(config: Config, record: dict[str, Any]) -> None:
    """Put the record among those that tables are made of, where it belongs there."""
    if config.record == "always" or (config.record == "auto" and record["budget"] == "paper"):
        try:
            records.write(Path(config.records_dir), record)
        except UsageError as conflict:  # the run itself is fine, and stays where it is
            print(f"warning: {conflict}")


def _report(config: Config, run: RunDirectory, record: dict[str, Any], already: bool) -> Outcome:
    """Say how a run ended and what to do next."""
    kind = "test" if record["test_error"] is not None else "validation"
    words = f"{kind} error {record[f'{kind}_error']:.2f} %"
    if record["status"] == "dead":
        words = f"dead in {len(record['attempts'])} of {len(record['attempts'])} starts, {words}"
    elif record["dead_classes"]:
        words = f"classes {record['dead_classes']} died, so no sample of any table; {words}"
    print(
        f"{record['epochs']} epochs in {duration(record['seconds'])}, {record['images_per_second']:,.0f} images/s, "
        f"training error {record['train_error']:.2f} %"
    )
    print(f"run directory {run.path}")
    print(f"next: python -m nin_repro.tables\n      python -m nin_repro.describe {_described(record)}")
    if config.dataset.name == "digits":
        print("      python -m nin_repro.train experiment=table4/nin budget=short   (MNIST)")
    print(words)
    return Outcome(record["status"], 0, words, already, str(run.path))


def _described(record: dict[str, Any]) -> str:
    return shlex.join(shlex.split(record["command"])[3:])


def _tracker(config: Config, run: RunDirectory, experiment: str | None, console: Console) -> Any:
    from nin_repro.training.tracking import Tracker

    return Tracker(
        mode=config.wandb.mode,
        project=config.wandb.project,
        entity=config.wandb.entity,
        group=config.wandb.group or experiment,
        tags=[*config.wandb.tags, config.dataset.name, budget_name(config)],
        name=run.path.name,
        run_id=key(config),
        directory=run.path,
        config=recipe(config),
        timeout=config.wandb.timeout,
        warn=console.line,
    )


def fail(error: UsageError) -> int:
    """Print a refusal as the one line it is; the exit code for it."""
    print(f"error: {error}", file=sys.stderr)
    return 2
