"""Writing files so that a reader never sees half of one, and errors that a user can act on. Imports nothing heavy."""

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

UMASK = os.umask(0)  # read once: asking sets it for the whole process
os.umask(UMASK)


class UsageError(Exception):
    """Something the user can put right. The message is one line: what was wrong, the nearest choice, where to look.

    Every command turns it into that line on standard error and exit code 2, without a traceback.
    """


@contextlib.contextmanager
def atomic(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`; on success fsync it and rename it to `path`, on failure remove it.

    After a crash at any point `path` holds either its old bytes or all of the new ones.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    except OSError as error:
        error.filename = str(path)  # as below
        raise
    try:
        with os.fdopen(descriptor, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~UMASK)  # mkstemp makes private files; results are for everyone
        os.replace(name, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(name)
        if isinstance(error, OSError):  # of a full disk: write and fsync know no name, and that of the part is no help
            error.filename, error.filename2 = str(path), None
        raise
    folder = os.open(path.parent, os.O_RDONLY)  # the rename itself must survive a power cut
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def require_place(folder: Path, flag: str = "--out ") -> None:
    """Refuse a folder for files, which need not be there yet, before the work that would fill it; nothing stays.

    Args:
        flag: what named it, for errors.

    Raises:
        UsageError: nothing can be written there.
    """
    try:
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        why = error.strerror or error
        raise UsageError(f"{flag}{folder}: nothing can be written there ({why}): name another place") from None


def require_file(path: Path) -> None:
    """The same for one file.

    Raises:
        UsageError: it is a directory, or nothing can be written where it would be.
    """
    if path.is_dir():
        raise UsageError(f"--out {path} is a directory: name a file")
    require_place(path.parent)


def told(error: OSError) -> str:
    """What the system says is wrong, and with which file, in one clause."""
    what = error.strerror or str(error)
    return f"{error.filename}: {what}" if error.filename else what


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a mapping as JSON, one line per key, atomically, sealed with a SHA-256. NaN is refused: it is not JSON."""
    lines = [f" {json.dumps(name)}: {json.dumps(item, allow_nan=False)}" for name, item in value.items()]
    seal = _seal(json.loads("{" + ",".join(lines) + "}"))  # as a reader will find it
    with atomic(path) as file:
        file.write("{\n" + ",\n".join([*lines, f' "sha256": "{seal}"']) + "\n}\n")


def read_json(path: Path) -> dict[str, Any]:
    """The mapping that `write_json` wrote, without its seal. What has none (earlier versions wrote none) is believed.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not as it was written. The message is one clause.
    """
    return parse_json(path.read_bytes())


def parse_json(content: bytes) -> dict[str, Any]:
    """The mapping that a file of `write_json` with this content holds, as `read_json` reads it. Raises ValueError."""
    try:
        value = json.loads(content.decode("utf-8"), object_pairs_hook=_once, parse_constant=_refuse)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"broken JSON ({error})") from None
    except RecursionError:
        raise ValueError("broken JSON (too deep)") from None
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    if (seal := value.pop("sha256", None)) not in (None, _seal(value)):
        raise ValueError(f"it was altered: what it says does not have the SHA-256 {str(seal)[:12]}... that it tells")
    return value


def _seal(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON lets a name appear twice and Python keeps the last; in our files that is an edit gone wrong."""
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name appears twice in it")
    return value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number")


@contextlib.contextmanager
def dispensable(say: Callable[[str], None]) -> Iterator[None]:
    """Inside, a file is written that only people read: that it cannot be written is told, and work goes on."""
    try:
        yield
    except OSError as error:
        say(f"warning: {told(error)}; the run itself does without this file")


@contextlib.contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold an exclusive lock on the file `path` (made if absent); yields whether it was got.

    The kernel drops the lock when its holder dies, so a lock can never be stale. With `wait=False` a lock that is
    held elsewhere yields False at once. Raises OSError where no lock can be had.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        except OSError as error:
            why = f"this file system has no locks ({error.strerror})"
            raise OSError(error.errno, why, str(path.parent)) from None
        yield True


def taken(path: Path) -> bool:
    """Whether the lock on the file `path` is held. Raises OSError where nobody can say, as where there is no file.

    To read the file is enough: it may be another user's.
    """
    with open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
