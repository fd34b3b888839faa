"""The record store: one JSON file per finished run, named by the run's key. Nothing unsound is ever used in silence."""

import contextlib
import json
import re
import shlex
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from nin_repro.data.sources import DATASETS
from nin_repro.files import UsageError, parse_json, write_json
from nin_repro.schema import JUDGED_ON

FORMAT = 1
STORE = Path("results/records")  # the committed ones, where runs put theirs
GUESSING = 0.5  # points: guesses at random of 10,000 images of 10 classes err by 90 % within 0.6 points


class OtherFormat(ValueError):
    """Written by another version of this program."""


class Conflict(UsageError):
    """Two results that cannot both be right."""


@dataclass(frozen=True)
class Attempt:
    """One start of a run. `died` says what stopped answering (the "network", or single "classes"), "diverged" if
    the loss or the gradient was not finite, or None."""

    attempt: int
    died: str | None
    epoch: int
    step: int


@dataclass(frozen=True)
class Record:
    """A finished run. Errors are percent. Fields that may be None were not measured under the run's protocol."""

    path: Path
    key: str  # hash of the recipe
    family: str  # hash of the recipe without its seed: runs of one family are samples of one cell
    experiment: str | None
    budget: str
    protocol: str  # "final": trained on everything, tested; "validate": tested on the held-out part of the training set
    seed: int
    status: str  # "done", or "dead": every start died or diverged
    test_error: float | None
    validation_error: float | None
    train_error: float | None  # evaluated after training
    train_error_running: float | None  # mean over the last epoch's batches, dropout active
    dead_classes: tuple[int, ...]
    attempts: tuple[Attempt, ...]
    epochs: int
    steps: int
    seconds: float
    images_per_second: float
    device: str
    commit: str
    dirty: bool
    command: str
    deviations: tuple[str, ...]
    recipe: dict[str, Any]
    environment: dict[str, Any]
    data: dict[str, Any]
    weights_sha256: str
    started: str  # of the process that brought it to its end: `seconds` are of all that had it
    finished: str
    curve: dict[str, Any]

    @property
    def error(self) -> float | None:
        """The error its protocol measures, in percent."""
        return self.test_error if JUDGED_ON[self.protocol] == "test" else self.validation_error

    @property
    def earlier(self) -> list[str]:
        """Of a run that was computed by different commits, machines or versions in turn: all but the last, in words."""
        parts = self.environment.get("before", [])
        found = []
        for part, after in zip(parts, [*parts[1:], self.environment], strict=False):
            start, update = after["since"]
            where = f"update {update:,}" + (f" of start {start + 1}" if start else "")
            commit, torch = commit_of(part["commit"], part["dirty"]), part["versions"]["torch"]
            found.append(f"up to {where} by commit {commit} on {machine(part)}, torch {torch}")
        return found

    @property
    def alive(self) -> bool:
        """Whether every class still answers, and better than by guessing: else a run measures that, not the method."""
        return self.answers and self.error is not None and self.learned

    @property
    def answers(self) -> bool:
        """Whether it ended with every class answering."""
        return self.status == "done" and not self.dead_classes

    @property
    def learned(self) -> bool:
        """Whether its final weights tell the training images apart better than guessing does, by GUESSING points.

        Of a data set that is not known any more it is taken for granted.
        """
        facts = DATASETS.get(str(self.recipe.get("dataset", {}).get("name")))
        if facts is None or self.train_error is None:
            return True
        return self.train_error < 100 - 100 / facts.classes - GUESSING

    @property
    def sample(self) -> bool:
        """Whether the run is a sample of a cell of the paper's tables."""
        return self.alive and self.protocol == "final"


def judged(record: Mapping[str, Any]) -> tuple[str, Any]:
    """What the record of a run says of it as JSON: which images it is judged on, and its error on those in percent."""
    images = JUDGED_ON.get(str(record.get("protocol")), "test")
    return images, record.get(f"{images}_error")


def answers(record: Mapping[str, Any]) -> bool:
    """`Record.answers` of a record as JSON."""
    return record["status"] == "done" and not record["dead_classes"]


def machine(environment: Mapping[str, Any]) -> str:
    """A CPU with its threads, or a GPU: of what `training.environment.environment` found, in words."""
    if environment["device"] == "cpu":
        return f"{environment['threads']} x {environment['processor']}"
    return str(environment["device"])


def commit_of(commit: str, modified: bool) -> str:
    """A commit in ten digits, and whether what ran differed from it."""
    return commit[:10] + " (modified)" * modified


def read_all(folder: Path) -> tuple[list[Record], list[str]]:
    """Read every `*.json` below `folder`; returns (sound records, one line per file or group that was not used).

    Two files that tell the same result of one key are one record. If they tell different results, neither is used:
    which of them is right cannot be known here.
    """
    found: dict[str, list[Record]] = defaultdict(list)
    problems = []
    for path in sorted(folder.rglob("*.json")):
        try:
            record = _read(path)
        except (OSError, ValueError) as error:
            problems.append(f"{path.relative_to(folder)}: not used: {error}")
        else:
            found[record.key].append(record)
    records = []
    for key, group in sorted(found.items()):
        if all(same(record, group[0]) for record in group):
            records.append(group[0])
        else:
            problems.append(f"{_names(group, folder)}: none used: different results for the key {key}")
    # A family and a seed make the key; the same pair under two keys is one run counted twice, by a copy or an edit.
    seeds: dict[tuple[str, int], list[Record]] = defaultdict(list)
    for record in records:
        seeds[record.family, record.seed].append(record)
    for (family, seed), group in sorted(seeds.items()):
        if len(group) > 1:
            problems.append(f"{_names(group, folder)}: none used: two keys for seed {seed} of family {family}")
    records = [record for record in records if len(seeds[record.family, record.seed]) == 1]
    records.sort(key=lambda record: (record.experiment or "", record.budget, record.family, record.seed))
    return records, problems


def require_store(folder: Path) -> None:
    """Refuse a folder of records that is not there.

    Raises:
        UsageError: it is not.
    """
    if not folder.is_dir():
        raise UsageError(
            f"--records {folder} is no directory: name one of records, or run this in the directory of the project"
        )


def tables_of(store: Path) -> str:
    """The command that makes the tables of the records in a store."""
    elsewhere = "" if store.resolve() == STORE.resolve() else f" --records {shlex.quote(str(store))} --out pages"
    return f"python -m nin_repro.tables{elsewhere}"


def require_own_place(folder: Path, out: Path, usual: Path) -> None:
    """Refuse to put pages that other records make in the place of those of this project's own.

    Args:
        folder: the records; out: where the pages would go; usual: where they go unless a command is told otherwise.

    Raises:
        UsageError: they would.
    """
    if folder.resolve() != STORE.resolve() and out.resolve() == usual.resolve():
        raise UsageError(f"--records {folder}: {usual} has what {STORE} makes; name another place with --out")


def read_given(folder: Path) -> tuple[list[Record], list[str]]:
    """`read_all` of a folder that a command was given. Of files that were not used it says so where pages do not.

    Raises:
        UsageError: there is no such folder, and so nothing that pages could be made of.
    """
    require_store(folder)
    found, problems = read_all(folder)
    if problems:
        print(
            f"warning: {len(problems)} of the records in {folder} are not used, so what follows may lack runs: "
            f"python -m nin_repro.records check --records {folder} says why",
            file=sys.stderr,
        )
    return found, problems


def write(folder: Path, record: dict[str, Any]) -> Path:
    """Store `record` as `<folder>/<experiment or "other">/<key>.json`, atomically; returns the path that holds it.

    A key that is already stored with the same result is left alone.

    Raises:
        Conflict: another result of the same key is stored.
        UsageError: the record, or what is in its place, is unsound.
    """
    try:
        record = json.loads(json.dumps(record, allow_nan=False))  # as a reader will find it: tuples become lists
        require_sound(record)
    except (TypeError, ValueError) as error:
        raise UsageError(f"this result cannot be stored as a record: {error}") from None
    key, experiment = record["key"], record["experiment"] or "other"
    if not re.fullmatch(r"\w[\w.-]{,99}(/\w[\w.-]{,99}){,9}", experiment, re.ASCII):
        raise UsageError(f"the experiment name {experiment[:200]!r} cannot name a folder of records")
    path = folder / experiment / f"{key}.json"
    new = _build(path, record)
    for other in sorted(folder.rglob(f"{key}.json")):
        try:
            stored = _read(other)
        except (OSError, ValueError) as error:
            raise UsageError(f"{path} is not written: {other} is in its place but unsound ({error}); move it") from None
        if not same(stored, new):
            lead = "" if other == path else f"{path} is not written: "
            raise Conflict(
                f"{lead}{other} ({told(stored)}) holds another result of the same key than this one ({told(new)}); "
                f"{compare(new, stored)}"
            )
        return other
    write_json(path, record)
    return path


def stored(folder: Path, key: str) -> Record | None:
    """The record of a run that a store has already, of whichever experiment, if it has one that can be used."""
    for path in folder.rglob(f"{key}.json"):
        with contextlib.suppress(OSError, ValueError):
            return _read(path)
    return None


def told(record: Record) -> str:
    """What tells a result from another one of the same key, in words."""
    error = "no error" if record.error is None else f"error {record.error:.2f} %"
    commit = commit_of(record.commit, record.dirty)
    return f"{error}, weights {record.weights_sha256[:8]}, commit {commit}, on {record.device}"


def compare(new: Record, stored: Record) -> str:
    """What to do about two results of one key."""
    if new.device != stored.device:
        return "devices round differently, so both may be right: keep one of the two, and move the other away"
    return "compare the two and move the wrong one away"


def _read(path: Path) -> Record:
    """Parse and check one file. Raises OSError or ValueError (its message one clause) if it cannot be used."""
    return parse(path, path.read_bytes())[0]


def parse(path: Path, content: bytes) -> tuple[Record, dict[str, Any]]:
    """The record that is the content of a file of this name, checked, and its JSON without the seal.

    Raises:
        ValueError: it is unsound; the message is one clause.
    """
    value = parse_json(content)
    require_sound(value)
    if value["key"] != path.stem:
        raise ValueError(f"the file is not named by its key {value['key']}")
    return _build(path, value), value


def _build(path: Path, value: dict[str, Any]) -> Record:
    known = {name: value[name] for name in (item.name for item in fields(Record)) if name != "path"}
    attempts = tuple(Attempt(**{item.name: one[item.name] for item in fields(Attempt)}) for one in value["attempts"])
    known |= {"attempts": attempts, "dead_classes": tuple(value["dead_classes"])}
    return Record(path=path, **known | {"deviations": tuple(value["deviations"])})


def same(one: Record, other: Record) -> bool:
    """Whether two records of one key tell the same result."""
    return _result(one) == _result(other)


def _result(record: Record) -> tuple[Any, ...]:
    """What two files of one key must agree on; where, when and how fast it ran may differ, and which name asked."""
    names = ["family", "budget", "protocol", "seed", "status", "test_error", "validation_error", "train_error"]
    names += ["train_error_running", "dead_classes", "attempts", "epochs", "steps", "weights_sha256", "recipe"]
    return tuple(getattr(record, name) for name in names)


def _names(group: Iterable[Record], folder: Path) -> str:
    return " and ".join(str(record.path.relative_to(folder)) for record in group)


# What a record must look like ------------------------------------------------------------------------------------


def _number(value: Any) -> bool:
    # Comparing also rules out NaN, infinities and integers that no float holds.
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300


def _amount(value: Any) -> bool:
    return _number(value) and value >= 0


def _percent(value: Any) -> bool:
    return value is None or (_amount(value) and value <= 100)


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _hash(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{12}", value) is not None


def _mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _environment(value: Any) -> bool:
    """A mapping. Of a run of several parts it says what `Record.earlier` reads."""
    if not isinstance(value, dict) or not isinstance(value.get("before", []), list):
        return False
    parts = value.get("before", [])
    return all(map(is_part, parts)) and all(_since(part.get("since")) for part in [*parts[1:], value][: len(parts)])


def is_part(value: Any) -> bool:
    """Whether it says what computed a part of a run, as `Record.earlier` reads it."""
    return (
        isinstance(value, dict)
        and all(_text(value.get(name)) for name in ("commit", "device", "processor"))
        and isinstance(value.get("dirty"), bool)
        and _count(value.get("threads"))
        and isinstance(value.get("versions"), dict)
        and _text(value["versions"].get("torch"))
        and _since(value.get("since", [0, 0]))
    )


def _since(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_count, value))


def _recipe(value: Any) -> bool:
    groups = ("dataset", "architecture", "regularizer", "optimizer", "budget")
    return isinstance(value, dict) and all(isinstance(value.get(name, {}), dict) for name in groups)


def _attempts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_attempt, value))


def _attempt(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and all(_count(value.get(name)) for name in ("attempt", "epoch", "step"))
        and "died" in value
        and value["died"] in (None, "network", "classes", "diverged")
    )


def _curve(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(points, list) and all(point is None or _number(point) for point in points)
        for points in value.values()
    )


_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("key", "family"), (_hash, "12 hexadecimal digits")),
    "experiment": (lambda value: value is None or (_text(value) and value != ""), "a name or null"),
    "budget": (lambda value: _text(value) and value != "", "a name"),
    "protocol": (lambda value: _text(value) and value in JUDGED_ON, " or ".join(map(json.dumps, JUDGED_ON))),
    "status": (lambda value: value in ("done", "dead"), '"done" or "dead"'),
    **dict.fromkeys(
        ("test_error", "validation_error", "train_error", "train_error_running"), (_percent, "0 to 100 percent or null")
    ),
    "dead_classes": (
        lambda value: isinstance(value, list) and all(map(_count, value)) and len(set(value)) == len(value),
        "a list of class numbers",
    ),
    "attempts": (_attempts, 'a list of {attempt, died: "network"|"classes"|"diverged"|null, epoch, step}'),
    **dict.fromkeys(("seed", "epochs", "steps"), (_count, "a whole number, 0 or more")),
    **dict.fromkeys(("seconds", "images_per_second"), (_amount, "a number, 0 or more")),
    **dict.fromkeys(("device", "commit", "command", "weights_sha256", "started", "finished"), (_text, "text")),
    "dirty": (lambda value: isinstance(value, bool), "true or false"),
    "deviations": (lambda value: isinstance(value, list) and all(map(_text, value)), "a list of texts"),
    "recipe": (_recipe, "a mapping whose groups are mappings"),
    "environment": (_environment, "a mapping, whose `before` is a list of others"),
    "data": (_mapping, "a mapping"),
    "curve": (_curve, "a mapping of names to lists of numbers"),
}


def require_format(version: Any) -> None:
    """Raise OtherFormat, in one clause, unless this version of the program reads that format."""
    if version != FORMAT:
        age = "newer" if type(version) is int and version > FORMAT else "older"
        raise OtherFormat(
            f"it has format {str(version)[:40]}, {age} than this version of nin_repro reads ({FORMAT}); "
            f"{'update' if age == 'newer' else 'use the version that wrote it'}"
        )


def require_sound(value: Any) -> None:
    """Refuse what is not a record of this format.

    Raises:
        OtherFormat: it is one of another.
        ValueError: it is none; the message is one clause.
    """
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    version = value.get("format")
    if type(version) is not int:
        raise ValueError(f"its format is {str(version)[:40]!r}, expected {FORMAT}")
    require_format(version)
    for name, (holds, expected) in _CHECKS.items():
        if name not in value:
            raise ValueError(f"{name} is missing")
        if not holds(value[name]):
            raise ValueError(f"{name} is {str(value[name])[:40]!r}, expected {expected}")
    if value["protocol"] == "validate" and value["test_error"] is not None:
        raise ValueError("it has a test error although it ran under the protocol validate")
    images, error = judged(value)
    if value["status"] == "done" and error is None:
        raise ValueError(f"{images}_error is null in a run that is done")
