"""How a command begins and ends: quickly, and a refusal is one line and exit code 2, never a traceback."""

import argparse
import contextlib
import gc
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TextIO

from nin_repro.files import UsageError, told
from nin_repro.training.stop import held, signal_of


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Import torch in this: what is imported is no garbage, and Python need not look through it for some.

    It would while it imports, and once more when the process ends: 0.5 of the 2.6 s of `import torch` alone. Where
    torch is there already nothing happens, because by then there may be garbage: images of an earlier run. Signals
    wait, as in `held`.
    """
    if "torch" in sys.modules:
        yield
        return
    gc.disable()
    try:
        with held():
            yield
    finally:
        gc.freeze()
        gc.enable()


def settle_output() -> None:
    """Let all be printed, however this process was started: to nowhere what is closed, as ? what has no sign."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


class Lossy:
    """Standard output for what goes on when nobody takes its lines, because a disk is full or a terminal has gone."""

    def __init__(self, out: TextIO) -> None:
        self.out = out

    def __getattr__(self, name: str) -> Any:
        return getattr(self.out, name)

    def write(self, text: str) -> int:
        self._tried(self.out.write, text)
        return len(text)

    def flush(self) -> None:
        self._tried(self.out.flush)

    def _tried(self, call: Callable[..., object], *arguments: str) -> None:
        try:
            call(*arguments)
        except BrokenPipeError:  # for good; what is left in a buffer must go somewhere too
            with contextlib.suppress(OSError), open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), self.out.fileno())
        except OSError:
            pass


def fail(error: UsageError) -> int:
    """Print a refusal as the one line it is, whatever names are in it; the exit code for it."""
    print("error:", "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(error)), file=sys.stderr)
    return 2


class Parser(argparse.ArgumentParser):
    """Refuses in one line, as all of this program does; options are not guessed from their beginnings."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        from nin_repro.config.check import nearest

        unknown = message.removeprefix("unrecognized arguments: ").split("=")[0]
        near = ""
        if unknown != message and (unknown[:1] == "-" or "=" in message):
            near = nearest(unknown if unknown[:1] == "-" else f"--{unknown}", self._option_string_actions)
        raise UsageError(f"{message}{near}; --help tells all")


def given_place(word: str) -> Path:
    """A file or folder, as an option gives it."""
    if not word.strip():
        raise argparse.ArgumentTypeError("it is empty: name a place, or leave it out")
    return Path(word)


def require_there(folder: Path | None) -> None:
    """Refuse an option's data_dir that is no directory, which would be made and filled; None: it was not given.

    Raises:
        UsageError: it is not there.
    """
    if folder is not None and not folder.is_dir():
        raise UsageError(f"--data-dir {folder} is no directory: name that which holds the data sets, or leave it out")


def require_positive(**options: float | None) -> None:
    """Refuse an option that counts or limits something and is not more than 0; None: it was not given.

    Raises:
        UsageError: one is not.
    """
    for name, value in options.items():
        if value is not None and not value > 0:  # nor is nan
            raise UsageError(f"--{name.replace('_', '-')} {value:g}: give more than 0, or leave it out (see --help)")


def as_command(main: Callable[[], None], usage: str | None = None) -> int:
    """Run a command's main function; its exit code. `usage` is for commands that read no options of their own."""
    settle_output()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends it without a traceback
    if usage is not None and {"-h", "--help"} & set(sys.argv):
        print(usage, end="")
        return 0
    try:
        main()
    except UsageError as error:
        return fail(error)
    except OSError as error:
        return fail(UsageError(told(error)))
    except ImportError as error:  # only packages are imported so late
        return fail(UsageError(f"{error}: this environment lacks something; sh scripts/setup.sh makes one"))
    except KeyboardInterrupt as stop:
        return 128 + signal_of(stop)
    return 0
