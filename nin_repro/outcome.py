"""What is asked for and what comes of it: a request, the record that a training leaves, and an outcome in words."""

import math
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nin_repro.config.recipe import budget_name, family, key, recipe
from nin_repro.files import UsageError, told
from nin_repro.results import records
from nin_repro.schema import Config
from nin_repro.words import counted, duration

if TYPE_CHECKING:
    from nin_repro.data.splits import Split
    from nin_repro.training.loop import Trainer

Say = Callable[[str], None]
ENDED = ("done", "dead")  # states of runs that have their result


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    state: str  # done, dead, interrupted, busy, failed, refused; of members of a sweep also not begun, running, lost
    code: int  # of the process
    words: str  # what happened, in one line
    already: bool = False  # it was done before
    path: str = ""


@dataclass(frozen=True)
class Request:
    """What the user asked for."""

    config: Config
    overrides: list[str]
    experiment: str | None  # the experiment file it began with
    text: str  # the composed configuration as YAML
    selection: dict[str, Any] | None = None  # the search that chose this run, as `selection.summary` tells it

    @property
    def command(self) -> str:
        return shlex.join(["python", "-m", "nin_repro.train", *self.overrides])


def make_record(
    request: Request, work: "Trainer", status: str, split: "Split", about: dict[str, Any]
) -> dict[str, Any]:
    """The record of a finished training; format and meanings in `results.records`."""
    from nin_repro.training.checkpoint import fingerprint

    config = request.config
    progress = work.progress
    assert work.final is not None
    tested, trained = work.final
    rows = progress.rows
    last = next((row["train_error_running"] for row in rows[::-1] if row["attempt"] == progress.attempt), None)
    attempts = [*progress.attempts]
    if not attempts or attempts[-1]["attempt"] != progress.attempt:
        attempts.append({"attempt": progress.attempt, "died": None, "epoch": work.rate.epoch, "step": progress.step})
    names = sorted({name for row in rows for name in row})
    return {
        "format": records.FORMAT,
        "key": key(config),
        "family": family(config),
        "experiment": request.experiment,
        "budget": budget_name(config),
        "protocol": config.protocol,
        "seed": config.seed,
        "status": status,
        "test_error": tested.error if split.eval_name == "test" else None,
        "validation_error": tested.error if split.eval_name == "validation" else None,
        "train_error": trained.error,
        "train_loss": trained.loss if math.isfinite(trained.loss) else None,
        "reached": progress.reached,
        "train_error_running": last,
        "dead_classes": progress.silent if status == "done" else list(range(split.classes)),
        "attempts": attempts,
        "epochs": work.rate.epoch,
        "steps": progress.step,
        "seconds": round(progress.seconds, 3),
        "images_per_second": round(progress.trained / max(progress.train_seconds, 1e-9), 1),
        "device": _machine(config, about),
        "commit": about["commit"],
        "dirty": about["dirty"],
        "command": request.command,
        "deviations": config.about.deviations,
        "recipe": recipe(config),
        "environment": about,
        "data": {"provenance": split.provenance, "digest": split.digest},
        "weights_sha256": fingerprint(work.network.state_dict()),
        "start": progress.start,
        "curve": {name: [row.get(name) for row in rows] for name in names},
    }


def _machine(config: Config, about: dict[str, Any]) -> str:
    """What its seconds are of: a CPU with its threads, or a GPU with the runs of its process that shared it (whether
    other processes did, as with processes=N, is not told)."""
    shared = about["device"] != "cpu" and config.together > 1
    return records.machine(about) + (f", {config.together} at once" if shared else "")


def recorded(config: Config) -> bool:
    """Whether the record of a run is to be among those that tables are made of."""
    return config.record == "always" or (config.record == "auto" and budget_name(config) == "paper")


def _publish(config: Config, record: dict[str, Any]) -> str | None:
    """Put the record among those that tables are made of; what prevents that, if anything. None: it is not wanted."""
    if not recorded(config):
        return None
    try:
        records.write(Path(config.records_dir), record)
    except UsageError as conflict:
        return str(conflict)
    except OSError as error:
        return f"{told(error)}; the same command tries again"
    return ""


def ended(config: Config, run: Path, record: dict[str, Any], already: bool, say: Say = print) -> Outcome:
    """Publish the record, say how the run ended and what to do next."""
    store = Path(config.records_dir)
    kept_before = store.is_dir()
    unpublished = _publish(config, record)
    words = verdict(record)
    say(
        f"{counted(record['epochs'], 'epoch')} in {duration(record['seconds'])}, "
        f"{record['images_per_second']:,.0f} images/s, training error {record['train_error']:.2f} %"
    )
    say(f"run directory {run}")
    if unpublished == "" and not kept_before:
        say(f"its record is the first in {store.absolute()}, which was not there before")
    tables = records.tables_of(store)
    known = records.stored(store, record["key"])
    left_out = unpublished is None and known is None
    say(f"next: {tables}" + "   (this run is in them if it is given record=always)" * left_out)
    say(f"      python -m nin_repro.describe {_described(record)}")
    if config.dataset.name == "digits":
        say("      python -m nin_repro.train experiment=table4/nin budget=short   (MNIST)")
    if unpublished:  # the run itself is fine, and stays where it is
        words = f"{words}; but its record is not among those that tables are made of: {unpublished}"
    say(words)
    return Outcome(record["status"], 1 if unpublished else 0, words, already, str(run))


def verdict(record: dict[str, Any]) -> str:
    """The result of a run in one line."""
    images, error = records.judged(record)
    words = f"{images} error {error:.2f} %"
    if record["status"] == "dead":
        return f"dead in all of its {len(record['attempts'])} starts; {words}"
    if record["dead_classes"]:
        briefly = " (so short a training may end so)" * (record["budget"] != "paper")
        return f"classes {record['dead_classes']} are silent{briefly}, and this counts in no mean; {words}"
    return words


def _described(record: dict[str, Any]) -> str:
    return shlex.join(shlex.split(record["command"])[3:])
