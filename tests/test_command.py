"""How commands begin and end, whatever they are started with and whenever they are stopped."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from small import SMALL_NETWORK

from nin_repro.config.compose import load
from nin_repro.config.recipe import directory

ROOT = Path(__file__).parents[1]
RUN = [*SMALL_NETWORK, "budget=smoke", "budget.epochs=1", "wandb.mode=disabled"]


# As `python -m` does it, with nothing but Python's own packages.
WITHOUT = f"import sys, runpy; sys.path.append('{ROOT}'); name = 'nin_repro.' + sys.argv[1]; sys.argv = ['-m']; "
WITHOUT += "runpy.run_module(name, run_name='__main__')"


def give(program: str, folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a program that begins with closing what it likes, in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    return subprocess.run(
        ["sh", "-c", program, sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True
    )


SENDS = """
import os, sys

number = int(sys.argv.pop(1))

class Impatient:
    def find_spec(self, name, *_):
        if name == "numpy" and self in sys.meta_path:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), number)

sys.meta_path.insert(0, Impatient())
from nin_repro import train
sys.exit(train.main())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_torch_is_imported_is_heard(number: signal.Signals, data: str, tmp_path: Path) -> None:
    """torch imports numpy from C++, and does without it, and without the signal, if that fails."""
    (tmp_path / "sends.py").write_text(SENDS)
    done = give('"$0" sends.py "$@"', tmp_path, str(int(number)), *RUN, data)
    assert (done.returncode, done.stderr) == (128 + number, "")
    assert done.stdout == "stopped before training began; the same command starts again\n"
    assert not (tmp_path / "runs").exists()


def test_the_first_updates_of_an_experiment_are_made_and_leave_nothing(data: str, tmp_path: Path) -> None:
    script = f'"$0" {ROOT}/scripts/smoke.py "$@"'
    done = give(script, tmp_path, "quickstart", "--steps", "3", "--set", data, "threads=1")
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("quickstart ")
    assert "images/s" in done.stdout and list(tmp_path.iterdir()) == []
    more = ["--steps", "4", "--set", data, "threads=1", "optimizer.batch_size=512"]  # an epoch of them is 3 updates
    assert give(script, tmp_path, "quickstart", *more).returncode == 0
    failed = give(script, tmp_path, "quickstart", *more, "optimizer.lr=1e30", "optimizer.clip_norm=null")
    assert failed.returncode == 2 and "is not finite" in failed.stdout and failed.stderr.count("\n") == 1


def test_who_closed_the_output_gets_the_run(data: str, tmp_path: Path) -> None:
    done = give('"$0" -m nin_repro.train "$@" >&- 2>&-', tmp_path, *RUN, data)
    assert done.returncode == 0 and (tmp_path / directory(load(RUN)) / "result.json").exists()


@pytest.mark.parametrize("command", ["describe", "train"])
def test_names_that_the_terminal_has_no_signs_for_are_no_fault(command: str, data: str, tmp_path: Path) -> None:
    words = [*RUN, data, f"runs_dir='{tmp_path}/\u00fcber uns'"]
    done = give(f'"$0" -m nin_repro.{command} "$@"', tmp_path, *words, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "") and "/?ber uns" in done.stdout


@pytest.mark.parametrize(
    "words, said",
    [
        ("tables --recrods x", "did you mean '--records'?"),
        ("tables --gpu-hour nan", "no price in USD"),
        ("runs --state doen", "'done'"),
        ("claims extra", "extra"),
        ("claims --images 5", "name them with --measure"),
        ("claims --device cuda", "name them with --measure"),
        ("claims --data-dir .", "name them with --measure"),
        ("claims --records x --measure run", "--records is for the page"),
        ("train -m experiment=quickstart hydra.sweeper.max_batch_size=0", "1 or more members at a time"),
        ("figures --maps-only", "name a trained run with --run"),
        ("figures --data-dir .", "name a trained run with --run"),
        ("claims --measure run --data-dir nowhere", "--data-dir nowhere is no directory"),
        ("figures --run run --data-dir nowhere", "--data-dir nowhere is no directory"),
        ("describe --info", "there is no option --info"),
        ("describe seed=3", "no run is named"),
        ("prepare seed=3", "no run is named"),
        ("tables out=x", "did you mean '--out'?"),
        ("train -m --cfg job experiment=quickstart", "the configuration does not compose: "),
        ("train experiment=quickstart --resolve", "the configuration does not compose: "),
        (
            "train -m experiment=quickstart +hydra.sweeper.params.seed=\\'0,1,1\\'",
            "the configuration does not compose: ",
        ),
    ],
)
def test_an_option_that_there_is_not_is_one_line(words: str, said: str, tmp_path: Path) -> None:
    done = give(f'"$0" -m nin_repro.{words}', tmp_path)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1 and said in done.stderr


LATE = """
import os, signal, sys, threading

class Slow:
    def find_spec(self, name, *_):
        if name == "nin_repro.command" and self in sys.meta_path:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Slow())
"""


def test_ctrl_c_before_a_command_listens_makes_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(LATE)
    done = give('exec "$0" -m nin_repro.tables', tmp_path, PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert done.returncode in (-signal.SIGINT, 128 + signal.SIGINT) and (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize("name", ["train", "claims", "prepare", "figures"])
def test_a_python_without_the_packages_is_told_of_in_one_line(name: str, tmp_path: Path) -> None:
    done = give(f'"$0" -I -S -c "{WITHOUT}" "$@"', tmp_path, name, "experiment=quickstart")
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert "is not installed for" in done.stderr and "scripts/setup.sh" in done.stderr


def test_an_empty_place_is_not_this_one(tmp_path: Path) -> None:
    for words in ("tables --out=", "tables --records=", "runs --runs=", "claims --out="):
        done = give(f'"$0" -m nin_repro.{words}', tmp_path)
        assert done.returncode == 2 and "it is empty: name a place" in done.stderr and done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_what_prepare_makes_is_what_the_run_wants(data: str, tmp_path: Path) -> None:
    shutil.copytree(data.partition("=")[2], tmp_path / "data")
    words = [*RUN, *(f"dataset.preprocessing.{word}" for word in ("divide=1", "gcn=1", "zca=0.1", "mean=none"))]
    prepared = give('"$0" -m nin_repro.prepare "$@"', tmp_path, *words, "dataset=glob(digi*)")
    assert prepared.returncode == 0 and "then kept in data/cache" in prepared.stderr
    assert "digits is ready in data" in prepared.stdout
    made = sorted((tmp_path / "data/cache").iterdir())
    assert give('"$0" -m nin_repro.train "$@"', tmp_path, *words).returncode == 0
    assert made and sorted((tmp_path / "data/cache").iterdir()) == made


@pytest.mark.parametrize(
    "words, said", [(["-m", "seed=0,1"], "not a sweep's"), (["seed=1"], "scripts/setup.sh makes one")]
)
def test_what_prepare_cannot_do_is_one_line(words: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "sklearn.py").write_text("raise ImportError('libgomp.so.1 is not there')")
    done = give('"$0" -m nin_repro.prepare "$@"', tmp_path, "dataset=digits", *words)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1 and said in done.stderr
