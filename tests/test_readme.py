"""README's commands: the cheap ones run as they stand, those that train compose, and the rest says why not here."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from itertools import product
from math import prod
from pathlib import Path

import pytest

from nin_repro.config.arguments import expand
from nin_repro.config.compose import load
from nin_repro.config.recipe import key

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
LINES = re.findall(r"^ {4}((?:python|sh|eval) .+)$", re.sub(r"^```.*?^```$", "", README, flags=re.M | re.S), flags=re.M)
COMMANDS = [re.sub(r" {2,}# .*", "", line) for line in LINES]
OWN = README.split("## Your own network, head or data set\n")[1].split("\n## ")[0]
# Why a command is not run here, by what it begins with.
ELSEWHERE = {
    "sh scripts/setup.sh": "the second of these lines is how this suite is run; the first trains for half a minute",
    "python scripts/reproduce.py --minutes": "trains for 9 minutes; tests/test_reproduce.py stops it sooner",
    "python -m pytest --gpu": "needs a GPU",
    "python scripts/reproduce.py": "trains for days",
    "python scripts/bench.py": "7 minutes; tests/test_bench.py runs its parts",
    "python scripts/smoke.py": "minutes, and the real data sets",
}


def trains(command: str) -> bool:
    return "nin_repro.train" in command and "--help" not in command and not command.startswith(("sh ", "eval "))


def kind(command: str) -> str:
    if command in OWN:
        return "tests/test_own.py"
    if trains(command):
        return "composed"
    return next(
        (why for start, why in ELSEWHERE.items() if command.startswith(start) and "--plan" not in command), "run"
    )


CHEAP = [command for command in COMMANDS if kind(command) == "run"]
CHEAP.sort(key=lambda command: "--remove" in command)  # that one last
TRAINING = [command for command in COMMANDS if kind(command) == "composed"]


@pytest.fixture(scope="module")
def place(checkout: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with its results, and a trained network in it."""
    folder = tmp_path_factory.mktemp("readme") / "checkout"
    shutil.copytree(checkout, folder)
    shutil.copytree(ROOT / "results", folder / "results")
    shutil.copytree(trained, folder / "runs" / trained.name)
    shutil.copytree(trained.parents[1] / "data", folder / "data")
    return folder


def test_all_that_is_told_of_a_command_is_true_of_one() -> None:
    assert len(COMMANDS) > 30 and len(CHEAP) > 8 and len(TRAINING) > 9
    for start in ELSEWHERE:
        assert any(command.startswith(start) for command in COMMANDS), f"{start} does not stand in README.md any more"


def test_a_finished_run_predicts_as_it_did(place: Path) -> None:
    (block,) = re.findall(r"^What a finished run has learned:\n\n```python\n(.*?)^```$", README, flags=re.M | re.S)
    environment = os.environ | {"PYTHONPATH": str(place)}
    done = subprocess.run([sys.executable, "-c", block], cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found, told = re.fullmatch(r"([\d.]+) %, ([\d.]+) % as it ended\n", done.stdout).groups()  # type: ignore[union-attr]
    assert abs(float(found) - float(told)) < 0.3


@pytest.mark.parametrize("command", CHEAP)
def test_a_cheap_command_does_what_it_is_there_for(command: str, place: Path) -> None:
    (run,) = (place / "runs").iterdir()
    command = command.replace("runs/<run directory>", shlex.quote(f"runs/{run.name}")).removesuffix(" ...")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(place)}
    done = subprocess.run(
        ["bash", "-c", command], cwd=place, env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, (done.stdout, done.stderr)
    assert done.stdout or command.startswith("eval")


@pytest.mark.parametrize("command", TRAINING)
def test_what_a_command_would_train_composes(command: str) -> None:
    words = [word for word in shlex.split(command)[3:] if word != "-m" and not word.startswith(("hydra/", "hydra."))]
    choices = []
    for word in expand(words):
        name, _, values = word.partition("=")
        choices.append([f"{name}={value}" for value in values.split(",")] if "-m" in command else [word])
    keys = {key(load(list(member))) for member in product(*choices)}
    assert len(keys) == prod(map(len, choices))
