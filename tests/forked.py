"""Commands in forks of a process that has imported what they import: each is a process, and two seconds faster."""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["hydra", "torch", "nin_repro.build", "nin_repro.run"])


def run(
    name: str, *words: str, cwd: Path, env: Mapping[str, str], timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """`python -m nin_repro.NAME WORDS...`, as `subprocess.run` would run it."""
    with tempfile.TemporaryDirectory() as folder:
        shown = [Path(folder, stream) for stream in ("stdout", "stderr")]
        process = context.Process(target=_enter, args=(name, words, cwd, dict(env), shown))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired([name, *words], timeout, *(path.read_bytes() for path in shown))
        return subprocess.CompletedProcess([name, *words], process.exitcode, *(path.read_text() for path in shown))


def _enter(name: str, words: tuple[str, ...], folder: Path, environment: dict[str, str], shown: list[Path]) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in enumerate(shown, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    sys.argv[1:], sys.path[:0] = words, [""]
    runpy.run_module(f"nin_repro.{name}", run_name="__main__", alter_sys=True)
