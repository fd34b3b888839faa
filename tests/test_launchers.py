"""Launchers other than Hydra's own: refusals, and what a sweep says of members that its launcher lost."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.plugins import Plugins

from nin_repro import sweep, train
from nin_repro.config.compose import load
from nin_repro.config.recipe import directory
from nin_repro.files import locked, write_json
from nin_repro.run import outcome_so_far
from nin_repro.training.rundir import RunDirectory

SMALL = ["experiment=quickstart", "budget.max_steps=12", "restarts=0", "wandb.mode=disabled"]  # as `trained`
Give = Callable[..., tuple[int, str, str]]


@pytest.fixture
def give(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Give:
    """Run a sweep command in this process: exit code, output, errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweep, "this", sweep.this)

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["train", "-m", *SMALL, *words])
        try:
            code = train.main()
        except SystemExit as stop:
            code = int(str(stop.code))
        return code, *capsys.readouterr()

    return call


def test_a_launcher_whose_package_is_missing_is_refused_in_one_line(
    give: Give, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "hydra_plugins.hydra_ray_launcher.ray_launcher", None)  # where it is installed
    code, out, error = give("hydra/launcher=ray", "seed=0,1")
    assert code == 2 and out == "" and error.count("\n") == 1
    assert "hydra-ray-launcher" in error and "pip install -e '.[ray]'" in error
    assert list(tmp_path.iterdir()) == []


def test_a_machine_without_slurm_is_told_of_in_one_line(
    give: Give, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    classes = Plugins.instance().class_name_to_class
    monkeypatch.setattr(Plugins.instance(), "class_name_to_class", dict(classes))
    code, out, error = give("hydra/launcher=slurm", "seed=0,1")
    assert code == 2 and out == "" and error.count("\n") == 1
    assert error.startswith("error: Slurm takes no jobs: Could not detect") and "conf/hydra/launcher" in error


def test_a_launcher_that_fails_leaves_a_table_and_the_command(give: Give, trained: Path) -> None:
    (trained.parents[1] / "file").touch()
    blocked = f"hydra.launcher.submitit_folder={trained.parents[1]}/file/jobs"  # so submitit fails, with a traceback
    words = ["hydra/launcher=submitit_local", blocked, f"runs_dir={trained.parent}", "seed=0,1"]
    code, out, error = give(*words)
    assert code == 1 and "Traceback" not in out + error
    assert error.startswith("error: the launcher gave up: NotADirectoryError: ") and error.count("\n") == 1
    rows = [line.split()[:3] for line in out.splitlines()]
    assert ["seed=0", "done", "classes"] in rows and ["seed=1", "not", "begun"] in rows
    assert "1 of 2 runs are not begun; the same command goes on from there" in out
    assert out.splitlines()[-1].startswith("  python -m nin_repro.train -m")


def test_what_is_known_of_a_member_that_left_no_outcome(tmp_path: Path, trained: Path) -> None:
    config = load([*SMALL, f"runs_dir={tmp_path}"])
    run = RunDirectory(directory(config))
    assert outcome_so_far(config).state == "not begun" and not run.path.exists()
    run.write_status("running")
    assert outcome_so_far(config).state == "lost" and "ended without a word" in outcome_so_far(config).words
    with locked(run.lock):
        assert outcome_so_far(config).state == "running"
    run.write_status("failed", why="the disk was full")
    assert (outcome_so_far(config).state, outcome_so_far(config).words) == ("failed", "the disk was full")
    for damaged in ("", "{", "[]", '{"state": 1}'):
        (run.path / "status.json").write_text(damaged)
        assert outcome_so_far(config).code == 1
    record = RunDirectory(trained).result()
    assert record is not None
    write_json(run.path / "result.json", record)
    ended = outcome_so_far(config)
    assert (ended.state, ended.code) == ("done", 0) and "test error" in ended.words
