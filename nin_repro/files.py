"""Writing files so that a reader never sees half of one, and errors that a user can act on. Imports nothing heavy."""

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


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
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(descriptor, mode) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)  # mkstemp makes private files; results are for everyone
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    folder = os.open(path.parent, os.O_RDONLY)  # the rename itself must survive a power cut
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a mapping as JSON, one line per key, atomically. NaN is refused: it is not JSON."""
    lines = [f" {json.dumps(name)}: {json.dumps(item, allow_nan=False)}" for name, item in value.items()]
    with atomic(path) as file:
        file.write("{\n" + ",\n".join(lines) + "\n}\n")


@contextlib.contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold an exclusive lock on the file `path` (made if absent); yields whether it was got.

    The kernel drops the lock when its holder dies, so a lock can never be stale. With `wait=False` a lock that is
    held elsewhere yields False at once.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
