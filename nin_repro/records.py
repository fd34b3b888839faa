"""`python -m nin_repro.records import FROM` merges records of other machines; `check` tells whether ours are sound.

FROM is a directory of records, a record, or the file that `scripts/unbundle` packed. It is read whole before anything
is written, in memory: nothing of it is extracted. A record that is here already stays as it is, whatever FROM says.
"""

import sys
import tarfile
import zlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from nin_repro.command import Parser, as_command, given_place
from nin_repro.config.recipe import digest
from nin_repro.files import UsageError
from nin_repro.results import records
from nin_repro.results.records import Conflict, Record
from nin_repro.results.render import clean
from nin_repro.words import counted

LARGEST = 64 << 20  # bytes; the largest record of a run of 260 epochs has 30 KB


@dataclass
class Merged:
    """What became of the records of another machine."""

    new: list[Path] = field(default_factory=list)
    already: int = 0
    conflicts: list[str] = field(default_factory=list)  # one line for each
    unsound: list[str] = field(default_factory=list)


def merge(source: Path, store: Path) -> Merged:
    """Put the records of `source` into `store`; what is stored already is never changed.

    Raises:
        UsageError: `source` cannot be read, and nothing was written; or the store cannot be written.
    """
    merged = Merged()
    groups: dict[str, list[tuple[Record, dict[str, Any]]]] = defaultdict(list)
    contents = [*_contents(source)]
    if not contents:
        raise UsageError(f"{source} has no record in it: name a directory of records, or what scripts/unbundle packed")
    for name, content in contents:
        try:
            record, value = records.parse(Path(name), _whole(content))
            _require_own_key(record)
            groups[record.key].append((record, value))
        except ValueError as error:
            merged.unsound.append(f"{name}: {error}")
    seeds = {(one.family, one.seed): one for one in records.read_all(store)[0]}
    for key, group in sorted(groups.items()):
        (first, value), *others = group
        here = seeds.setdefault((first.family, first.seed), first)
        differs = [other for other, _ in others if not records.same(first, other)]
        if differs:
            names = f"{first.path} ({records.told(first)}) and {differs[0].path} ({records.told(differs[0])})"
            merged.conflicts.append(f"{names}: different results of the key {key}; none is imported")
        elif here.key != key:
            names = f"{first.path} and {here.path}"
            merged.conflicts.append(f"{names}: two keys for seed {first.seed} of family {first.family}; not imported")
        else:
            _store(merged, store, value, f"{first.path}")
    return merged


def _store(merged: Merged, store: Path, value: dict[str, Any], name: str) -> None:
    before = any(store.rglob(f"{value['key']}.json"))
    try:
        path = records.write(store, value)
    except Conflict as conflict:
        merged.conflicts.append(f"{name}: {conflict}")
    except UsageError as error:
        merged.unsound.append(f"{name}: {error}")
    except OSError as error:
        done = f"{len(merged.new)} records were imported before, whole; the same command goes on"
        raise UsageError(f"cannot write to {store}: {error.strerror or error}: {done}") from None
    else:
        merged.already += before
        merged.new += [] if before else [path]


def _contents(source: Path) -> Iterator[tuple[str, bytes | str]]:
    """Name and content of each file that should be a record, or why it cannot be read.

    Raises:
        UsageError: there is nothing to read, it is of runs, or the archive is damaged.
    """
    if source.is_dir():
        if (source / "records").is_dir():  # what unbundle packed, unpacked
            source /= "records"
        paths = sorted(source.rglob("*.json"))
        if any(path.name == "result.json" for path in paths):
            raise UsageError(
                f"{source} has runs, not records: a run leaves its record in records_dir when it ends, and the same "
                "command with record=always does so afterwards (python -m nin_repro.runs --commands)"
            )
        for path in paths:
            try:
                yield str(path.relative_to(source)), path.read_bytes() if path.is_file() else "it is no file"
            except OSError as error:
                yield str(path.relative_to(source)), f"{error.strerror}"
        return
    if source.suffix == ".json" and source.is_file():
        yield source.name, source.read_bytes()
        return
    try:
        with tarfile.open(source) as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                if name.parts[:1] == ("records",) and name.suffix == ".json":
                    file = archive.extractfile(member) if member.isreg() and member.size <= LARGEST else None
                    yield member.name, file.read() if file else "it is a link, too large, or no file"
            while archive.fileobj and archive.fileobj.read(1 << 20):  # to its end, where gzip's checksum is
                pass
    except (tarfile.TarError, EOFError, zlib.error, OSError, ValueError) as error:
        why = "no such file or directory" if isinstance(error, FileNotFoundError) else f"{error}".partition(":\n")[0]
        raise UsageError(
            f"{source} cannot be read ({why}): name a directory of records, a record, or the file that "
            "scripts/unbundle packed"
        ) from None


def _whole(content: bytes | str) -> bytes:
    if isinstance(content, str):
        raise ValueError(content)
    return content


def _require_own_key(record: Record) -> None:
    """Raise ValueError unless a record's key and family are those of its recipe."""
    if digest(record.recipe) != record.key:
        raise ValueError(f"its key {record.key} is not that of its recipe, {digest(record.recipe)}: it was edited")
    family = digest({name: value for name, value in record.recipe.items() if name != "seed"})
    if record.recipe.get("parent") is None and family != record.family:  # a parent counts by a family it does not name
        raise ValueError(f"its family {record.family} is not that of its recipe, {family}: it was edited")
    if record.recipe.get("seed") != record.seed:
        raise ValueError(f"its seed {record.seed} is not that of its recipe: it was edited")


def check(store: Path) -> tuple[int, list[str]]:
    """How many stored records are sound, and one line for each that is not.

    Raises:
        UsageError: there is no such store.
    """
    records.require_store(store)
    found, problems = records.read_all(store)
    for record in found:
        try:
            _require_own_key(record)
        except ValueError as error:
            problems.append(f"{record.path.relative_to(store)}: {error}")
    return len(found), problems


def main() -> None:
    parser = Parser(
        prog="python -m nin_repro.records",
        description="Merge records of other machines, or check ours.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    importing = commands.add_parser("import", help="merge records of another machine; none here is ever changed")
    importing.add_argument(
        "source", type=given_place, metavar="FROM", help="a directory, a record, or the file of scripts/unbundle"
    )
    checking = commands.add_parser("check", help="tell whether all records are sound and agree")
    for one in (importing, checking):
        one.add_argument("--records", type=given_place, default=records.STORE, help="ours (default %(default)s)")
    options = parser.parse_args()
    if options.command == "check":
        sound, problems = check(options.records)
        lines, words = problems, f"{counted(sound, 'record')} read, {counted(len(problems), 'problem')}"
    else:
        merged = merge(options.source, options.records)
        lines = [f"conflict: {line}" for line in merged.conflicts] + [f"unsound: {line}" for line in merged.unsound]
        words = f"{len(merged.new)} new, {merged.already} already here, {len(merged.conflicts)} in conflict, "
        words += f"{len(merged.unsound)} unsound; next: {records.tables_of(options.records)}"
    print("\n".join(map(clean, [*lines, words])))
    if lines:
        sys.exit(1)


if __name__ == "__main__":
    sys.exit(as_command(main))
