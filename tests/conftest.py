"""Shared by all tests: one thread (tiny networks are slower on two), no W&B, commands run as users run them.

GPUs are hidden, so that the suite is the same everywhere. What not every machine has is asked for by name:
`python -m pytest --gpu` runs the tests that need a GPU and no others, and so for the rest of ASKED.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forked
import pytest

os.environ |= {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
ROOT = Path(__file__).parents[1]
ASKED = {"gpu": "a CUDA device", "slurm": "the packages of Slurm, and root", "ray": "the package hydra-ray-launcher"}


def pytest_addoption(parser: pytest.Parser) -> None:
    for name, what in ASKED.items():
        parser.addoption(f"--{name}", action="store_true", help=f"run the tests that need {what}, and no others")


def pytest_configure(config: pytest.Config) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's `... &` ignores it, and so would all children
    if not config.getoption("gpu"):
        os.environ |= {"CUDA_VISIBLE_DEVICES": "", "TRITON_INTERPRET": "1"}  # our kernels are run by Python then


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """In the processes of pytest-xdist too, whose command line is another."""
    special = {f"test_{name}.py": config.getoption(name) for name in ASKED}
    wanted = special.get(collection_path.name, not any(special.values()))
    return None if wanted or collection_path.suffix != ".py" else True


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `python -m nin_repro.NAME WORDS...`, forked, in an empty directory of its own and give back what it did."""

    def call(name: str, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        usual: dict[str, Any] = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(ROOT)}}
        return forked.run(name, *words, **(usual | options))

    return call


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The word for a data directory with the digits in it."""
    from nin_repro.data.archive import obtain

    folder = tmp_path_factory.mktemp("data")
    obtain("digits", folder)
    return f"data_dir={folder}"


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a real, if short, run on the digits, with its record. Tests that alter it copy it first."""
    folder = tmp_path_factory.mktemp("trained")
    words = ["experiment=quickstart", "budget.max_steps=12", "restarts=0", "wandb.mode=disabled", "record=always"]
    done = forked.run("train", *words, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    (run,) = folder.glob("runs/digits*")
    return run


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A commit of the source as it is now, whatever state the tree that is tested is in."""
    folder = tmp_path_factory.mktemp("checkout")
    skip = shutil.ignore_patterns("__pycache__")
    for name in ("nin_repro", "conf", "scripts", "pyproject.toml", "README.md"):
        copy: Any = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name, **({"ignore": skip} if (ROOT / name).is_dir() else {}))
    (folder / ".gitignore").write_text("__pycache__/\n")
    own = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    for words in (["init", "--quiet"], ["add", "."], [*own, "commit", "--quiet", "-m", "one"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    return folder
