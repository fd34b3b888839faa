"""The paper's two phases (section 4.2): choose by validation error, train the choice on everything, test that alone."""

import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_records import record
from omegaconf import OmegaConf
from small import SMALL_NETWORK

from nin_repro import selection, sweep, train
from nin_repro.config.compose import experiments, load
from nin_repro.config.recipe import directory, key, recipe
from nin_repro.files import UsageError, read_json, write_json
from nin_repro.outcome import Outcome
from nin_repro.training.rundir import RunDirectory
from nin_repro.training.stop import STOP

Command = Callable[..., subprocess.CompletedProcess[str]]

# A run of the project's own network on the digits that takes a second, and two choices to try with two seeds.
SMALL = [
    *SMALL_NETWORK,
    "architecture.blocks.mlpconv1.pad=same",
    "optimizer.clip_norm=1",
    "budget.train_images=200",
    "budget.epochs=3",
    "wandb.mode=disabled",
]
KERNELS = (1, 3)


def search(*words: str) -> list[str]:
    grid = ["architecture.blocks.mlpconv1.kernel=1,3", "seed=0,1"]
    return ["-m", *SMALL, *grid, "protocol=validate", "select=true", *words]


def member(kernel: int, seed: int, protocol: str) -> list[str]:
    return [*SMALL, f"architecture.blocks.mlpconv1.kernel={kernel}", f"seed={seed}", f"protocol={protocol}"]


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with the digits in it."""
    from nin_repro.data.archive import obtain

    folder = tmp_path_factory.mktemp("data")
    obtain("digits", folder)
    return folder


@pytest.fixture
def untested(digits: Path, tmp_path: Path) -> Path:
    """A data directory with the digits, but nothing of their test part in it."""
    with np.load(digits / "digits.npz") as found:
        kept = {name: found[name] for name in found.files if not name.startswith("test")}
    (tmp_path / "data").mkdir()
    np.savez(tmp_path / "data/digits.npz", **kept)
    return tmp_path / "data"


def result(folder: Path, kernel: int, seed: int, protocol: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (folder / directory(load(member(kernel, seed, protocol))) / "result.json").read_text()
    )
    return found


def states(folder: Path) -> dict[str, str]:
    """When each run ended, by its directory: what trains again moves it."""
    return {path.parent.name: json.loads(path.read_text())["finished"] for path in folder.glob("runs/*/result.json")}


def test_the_choice_is_made_without_any_test_image_or_label(
    command: Command, digits: Path, untested: Path, tmp_path: Path
) -> None:
    chosen_blind = command("train", *search())
    validated = {(kernel, seed): result(tmp_path, kernel, seed, "validate") for kernel in KERNELS for seed in (0, 1)}
    assert all(one["test_error"] is None and one["status"] == "done" for one in validated.values())
    means = {kernel: np.mean([validated[kernel, seed]["validation_error"] for seed in (0, 1)]) for kernel in KERNELS}
    assert means[1] != means[3]
    best = min(means, key=lambda kernel: means[kernel])
    (note,) = tmp_path.glob("runs/sweeps/*/selection.json")
    told = json.loads(note.read_text())
    assert told["chosen"] == f"architecture.blocks.mlpconv1.kernel={best}"
    assert [row["validation_error"] for row in told["choices"]] == pytest.approx([means[kernel] for kernel in KERNELS])
    # Only now are test images asked for, and they are not there.
    assert chosen_blind.returncode == 2
    assert chosen_blind.stderr.count("\n") == 2 and "test_images is damaged or not the data set" in chosen_blind.stderr
    before = states(tmp_path)
    assert len(before) == 4

    final = command("train", *search(f"data_dir={digits}"))
    assert final.returncode == 0, final.stderr
    assert final.stdout.count("done before") == 4
    assert final.stdout.splitlines()[-2].split()[:3] == ["seed", "0", "done"]
    after = states(tmp_path)
    assert {name: after[name] for name in before} == before
    assert len(after) == 6  # the seeds of the choice and no other
    for seed in (0, 1):
        record = result(tmp_path, best, seed, "final")
        assert record["test_error"] is not None and record["validation_error"] is None
        assert record["selection"]["choices"] == told["choices"]
        assert record["command"].endswith("protocol=final select=false")
        words = shlex.split(record["command"])[3:]
        assert key(load(words)) == record["key"]  # the command repeats the final run alone

    for key_of in ("together", "processes"):  # the final runs are at the same time, too
        elsewhere = command("train", *search(f"data_dir={digits}", f"{key_of}=2", f"runs_dir={key_of}"))
        assert elsewhere.returncode == 0, elsewhere.stderr
        here, there = (
            {path.parent.name: json.loads(path.read_text()) for path in (tmp_path / name).glob("*/result.json")}
            for name in ("runs", key_of)
        )
        assert {name: one["weights_sha256"] for name, one in there.items()} == {
            name: one["weights_sha256"] for name, one in here.items()
        }
        assert not any(f"{key_of}=" in record["command"] for record in there.values())
        assert elsewhere.stdout.count("final run: ") == 0

    again = command("train", *search(f"data_dir={digits}"))
    assert again.returncode == 0 and states(tmp_path) == after
    assert f"test error {result(tmp_path, best, 1, 'final')['test_error']:.2f} %" in again.stdout.splitlines()[-1]


def test_nothing_is_chosen_while_a_member_is_unfinished(command: Command, digits: Path, tmp_path: Path) -> None:
    blocked = tmp_path / directory(load(member(3, 1, "validate")))
    (blocked / "checkpoint.pt").mkdir(parents=True)  # this member cannot read its checkpoint
    words = search(f"data_dir={digits}")
    first = command("train", *words)
    assert first.returncode == 1
    assert "no choice yet: 1 of 4 runs are failed" in first.stdout
    assert "python -m nin_repro.train -m dataset=digits" in first.stdout.splitlines()[-1]
    assert len(states(tmp_path)) == 3 and not list(tmp_path.glob("runs/sweeps/*/selection.json"))
    (blocked / "checkpoint.pt").rmdir()
    second = command("train", *words)
    assert second.returncode == 0 and second.stdout.count("done before") == 3
    assert len(states(tmp_path)) == 6


def test_what_a_launcher_searched_is_trained_by_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    hydra = {"overrides": {"hydra": ["hydra/launcher=slurm", "hydra.launcher.partition=gpu", "hydra.mode=MULTIRUN"]}}
    monkeypatch.setattr(sweep.this, "begun", OmegaConf.create({"hydra": hydra}))
    tried = [*SMALL, "optimizer.lr=0.2", "protocol=validate", "select=true"]
    members = tuple(sweep.Member([*tried, f"seed={seed}"], None, True, Outcome("done", 0, "")) for seed in (0, 3))
    family = sweep.Family("lr", members, ({"seed": 0}, {"seed": 3}))
    words = shlex.split(train.finals_there(family))
    assert words[:4] == ["python", "-m", "nin_repro.train", "-m"]
    assert words[4:6] == ["hydra/launcher=slurm", "hydra.launcher.partition=gpu"]
    assert words[6:] == [*SMALL, "optimizer.lr=0.2", "protocol=final", "select=false", "seed=0,3"]


@pytest.mark.parametrize("end", ["a launcher", "a signal as the last member ended"])
def test_nothing_is_trained_after_a_choice(
    end: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """By the process that waited for a launcher's members, or after a signal."""
    launcher = {"_target_": "x.SlurmLauncher" if end == "a launcher" else "x.BasicLauncher"}
    hydra = {"launcher": launcher, "overrides": {"hydra": ["hydra/launcher=slurm"]}}
    members = []
    for seed in (0, 1):
        told = {"protocol": "validate", "validation_error": 1.0, "recipe": {"dataset": {"name": "digits"}}}
        write_json(tmp_path / f"{seed}/result.json", record(None, seed, 1.0, family="one", key=f"{seed}", **told))
        done = Outcome("done", 0, "", path=str(tmp_path / f"{seed}"))
        members.append(sweep.Member([*SMALL, f"seed={seed}", "protocol=validate", "select=true"], None, True, done))
    for name, value in (("begun", OmegaConf.create({"hydra": hydra})), ("members", members), ("folder", tmp_path)):
        monkeypatch.setattr(sweep.this, name, value)
    monkeypatch.setattr(STOP, "signal", None if end == "a launcher" else signal.SIGTERM)
    monkeypatch.setattr(train, "train_finals", None)
    monkeypatch.chdir(tmp_path)
    assert train.train_choice() == (0 if end == "a launcher" else 128 + signal.SIGTERM)
    out = capsys.readouterr().out
    assert ("to train and test it:" in out) == (end == "a launcher") == ("the search goes on with" not in out)
    # A process of the launcher, which is told nothing but words, finds what chose its run where the run is.
    finals = [directory(load([*SMALL, f"seed={seed}", "protocol=final"])) for seed in (0, 1)]
    noted = [RunDirectory(path).selection() for path in finals]
    chosen = read_json(tmp_path / "selection.json")
    assert noted == [{"selection": chosen} if end == "a launcher" else {}] * 2


def test_a_sweep_ends_as_the_worst_of_its_members() -> None:
    members = [sweep.Member([], None, False, Outcome("", code, "")) for code in (0, 2, 1)]
    assert sweep.Sweep(members=members).worst_code == 2


def test_a_sweep_ends_with_the_mean_over_seeds(tmp_path: Path) -> None:
    def member(lr: float, seed: int, error: float, **more: Any) -> sweep.Member:
        words = [f"optimizer.lr={lr}", f"seed={seed}"]
        folder = tmp_path / f"{lr} {seed}"
        told = record(None, seed, error, family=f"{lr}", key=f"{lr} {seed}", **more)
        write_json(folder / "result.json", told)
        return sweep.Member(words, None, False, Outcome("done", 0, "", path=str(folder)))

    members = [member(0.1, seed, 10.0 + seed) for seed in range(3)] + [member(0.2, 0, 5.0)]
    members += [member(0.1, 3, 90.0, dead_classes=[1])]
    assert sweep.averages(members) == [
        "  optimizer.lr=0.1: test error 11.00 ± 1.00 %, mean and standard deviation over 3 seeds"
    ]
    assert sweep.averages(members[:2]) == ["  test error 10.50 ± 0.71 %, mean and standard deviation over 2 seeds"]
    begun = sweep.Member(["seed=9"], None, False, Outcome("not begun", 1, "", path=str(tmp_path / "nothing")))
    assert sweep.averages([members[0], begun]) == []


def test_a_folder_of_an_earlier_search_lends_it_nothing(command: Command, digits: Path, tmp_path: Path) -> None:
    words = search(f"data_dir={digits}", f"hydra.sweep.dir={tmp_path / 'here'}", "seed=0")
    kernels = next(word for word in words if "kernel=" in word)
    others = [word for word in words if word not in (kernels, "seed=0,1")]
    assert command("train", *others, kernels).returncode == 0
    slow = command("train", *others, kernels.replace("1,3", "3"), "optimizer.lr=1e-6,1e-7")
    assert slow.returncode == 0 and "2 runs in this sweep" in slow.stdout, slow.stderr
    assert "\nchosen by validation error, then trained with protocol=final: optimizer.lr=1e-0" in slow.stdout


REFUSED = {
    "one run": (["dataset=digits", "select=true", "protocol=validate"], "add -m"),
    "one final run": (["dataset=digits", "select=true"], "set protocol=validate"),
    "a choice by test error": (["-m", "dataset=digits", "select=true", "seed=0,1"], "set protocol=validate"),
    "an even kernel": (["architecture.blocks.mlpconv1.kernel=4", "architecture.blocks.mlpconv1.pad=same"], "odd"),
    "a search alone": (["experiment=search/cifar10"], "add -m"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_a_search_is_refused_in_one_line(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words, expected = REFUSED[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train", *words])
    with pytest.raises(SystemExit, match="2"):
        sys.exit(train.main())
    out, error = capsys.readouterr()
    assert out == "" and error.count("\n") == 1 and error.startswith("error: ") and expected in error, (out, error)
    assert list(tmp_path.iterdir()) == []


def test_two_searches_in_one_sweep_are_refused_before_anything_is_trained(command: Command, tmp_path: Path) -> None:
    refused = command("train", "-m", "experiment=search/cifar10,search/mnist")
    assert refused.returncode == 2 and refused.stderr.count("optimizer.weight_decay: name one") == 2
    assert states(tmp_path) == {}


# --- the rule -------------------------------------------------------------------------------------------------------


def ran(
    folder: Path,
    decay: str,
    seed: int,
    error: float,
    *,
    status: str = "done",
    silent: tuple[int, ...] = (),
    dataset: str = "mnist",
    protocol: str = "validate",
) -> sweep.Member:
    """A member of a sweep whose run ended so."""
    path = folder / f"{dataset}-{decay}-{seed}"
    record = {"family": f"{dataset}-{decay}", "key": path.name, "seed": seed, "protocol": protocol, "status": status}
    record |= {"validation_error": error, "dead_classes": list(silent), "recipe": {"dataset": {"name": dataset}}}
    write_json(path / "result.json", record)
    words = [f"optimizer.weight_decay={decay}", f"seed={seed}", "threads=1"]
    return sweep.Member(words, None, True, Outcome(status, 0, "", path=str(path)))


def test_the_lowest_mean_is_chosen_and_of_equal_ones_the_first(tmp_path: Path) -> None:
    lucky = [ran(tmp_path, "1e-5", 0, 1.0), ran(tmp_path, "1e-5", 1, 9.0)]
    steady = [ran(tmp_path, "1e-4", 0, 4.2), ran(tmp_path, "1e-4", 1, 3.0)]
    equal = [ran(tmp_path, "1e-3", 0, 3.0), ran(tmp_path, "1e-3", 1, 4.2)]
    found = selection.choices([*lucky, *steady, *equal])
    assert [choice.name for choice in found] == [f"optimizer.weight_decay=1e-{n}" for n in (5, 4, 3)]
    assert [choice.stats.mean for choice in found] == pytest.approx([5.0, 3.6, 3.6])
    assert selection.best(found).members == tuple(steady)
    assert selection.best(selection.choices([*lucky, *equal, *steady])).members == tuple(equal)


def test_dead_runs_are_in_no_mean_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dead = [ran(tmp_path, "1e-5", 0, 0.1, status="dead"), ran(tmp_path, "1e-5", 1, 5.0)]
    silent = [ran(tmp_path, "1e-4", 0, 0.2, silent=(3,)), ran(tmp_path, "1e-4", 1, 0.2, silent=(3,))]
    alive = [ran(tmp_path, "1e-3", 0, 4.0), ran(tmp_path, "1e-3", 1, 4.5)]
    found = selection.choices([*dead, *silent, *alive])
    chosen = selection.best(found)
    assert chosen.members == tuple(alive)
    selection.show(found, chosen)
    rows = [line.split()[-4:] for line in capsys.readouterr().out.splitlines()[2:5]]
    assert rows == [["5.00", "-", "1", "1"], ["-", "-", "0", "2"], ["4.25", "0.35", "2", "0"]]
    with pytest.raises(UsageError, match="nothing is chosen"):
        selection.best(selection.choices(silent))


def test_a_run_that_is_asked_for_twice_counts_once(tmp_path: Path) -> None:
    twice = [ran(tmp_path, "1e-4", 0, 4.0), ran(tmp_path, "1e-4", 0, 4.0), ran(tmp_path, "1e-4", 1, 5.0)]
    (choice,) = selection.choices(twice)
    assert choice.stats.errors == (4.0, 5.0) and len(choice.members) == 2


def test_what_does_not_compare_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cifar10 and mnist do not compare"):
        selection.choices([ran(tmp_path, "1e-4", 0, 4.0), ran(tmp_path, "1e-4", 0, 4.0, dataset="cifar10")])
    with pytest.raises(UsageError, match="no finished run of protocol=validate"):
        selection.choices([ran(tmp_path, "1e-4", 0, 4.0, protocol="final")])


# --- files and pads -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in experiments() if name.startswith("search/")])
def test_a_search_tries_the_tables_own_recipe_too(name: str) -> None:
    table = {"search/cifar10": "table1/nin", "search/mnist": "table4/nin"}[name]
    assert recipe(load([f"experiment={name}"])) == recipe(load([f"experiment={table}", "protocol=validate"]))
    final = load([f"experiment={name}", "protocol=final", "select=false"])
    assert key(final) == key(load([f"experiment={table}"]))  # so choosing it trains nothing that the table has


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
def test_pad_same_is_the_number_that_keeps_the_size(kernel: int) -> None:
    word = f"architecture.blocks.mlpconv1.kernel={kernel}"
    same = load([word, "architecture.blocks.mlpconv1.pad=same"])
    assert key(same) == key(load([word, f"architecture.blocks.mlpconv1.pad={kernel // 2}"]))


def test_pad_same_works_in_every_kind_of_convolution() -> None:
    cnn = load(["architecture=cnn", "regularizer=gap", "architecture.blocks.conv1.pad=same"])
    assert key(cnn) == key(load(["architecture=cnn", "regularizer=gap"]))
