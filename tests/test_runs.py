"""The list of runs."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nin_repro import runs
from nin_repro.files import UsageError, locked

NOW = "2026-01-02T03:04:05+0000"


def make(folder: Path, name: str, state: str, **more: object) -> Path:
    path = folder / name
    path.mkdir(parents=True)
    told = {"state": state, "time": NOW, "host": socket.gethostname(), "pid": os.getpid()} | more
    (path / "status.json").write_text(json.dumps(told))
    (path / "config.yaml").write_text(f"# python -m nin_repro.train {name}\nseed: 0\n")
    (path / "checkpoint.pt").write_bytes(b"1234")
    (path / "lock").touch()
    return path


@pytest.fixture
def folder(tmp_path: Path, trained: Path) -> Path:
    found = tmp_path / "runs"
    shutil.copytree(trained, found / "finished")
    make(found, "stopped", "interrupted", why="stopped by SIGTERM at epoch 3, step 4")
    make(found, "broken", "failed", why="MemoryError: no more")
    make(found, "gone", "running", epoch=3, epochs=60, error=12.5, left=90)
    return found


def test_each_run_is_listed_with_what_became_of_it_and_how_to_go_on(
    folder: Path, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    make(folder, "busy", "running", epoch=3, epochs=60, error=12.5, left=90)
    (folder / "half").mkdir()
    (folder / "half" / "status.json").write_text('{"state": "runn')
    bare = make(folder, "bare", "running")
    (bare / "status.json").unlink()
    (bare / "config.yaml").write_text("# python -m nin_repro.train wandb.mode=disabled th")  # cut
    shutil.copytree(folder / "finished", folder / "altered")
    (folder / "altered" / "result.json").write_text("{")
    (folder / "odd").mkdir()
    (folder / "odd" / "result.json").write_text('{"status": "dead", "protocol": "final", "test_error": 3.0}')
    (folder / "altered" / "config.yaml").write_text("# python -m nin_repro.train altered\n")
    with locked(folder / "busy" / "lock"):
        shown = command("runs", "--runs", str(folder)).stdout
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in shown.splitlines() if line.strip()}
    assert lines["finished"].startswith("done") and "test error" in lines["finished"]
    assert "MemoryError: no more" in lines["broken"] and "stopped by SIGTERM" in lines["stopped"]
    assert f"3/60 12.50 % 1:30 left ({socket.gethostname()}, process {os.getpid()})" in lines["busy"]
    assert lines["gone"].startswith("lost") and "ended without a word" in lines["gone"]
    assert lines["half"].startswith("not begun")
    assert lines["odd"].startswith("dead") and "what its files say is not whole (KeyError" in lines["odd"]
    assert lines["bare"].startswith("lost") and "does not say how it ended" in lines["bare"]
    assert lines["altered"].startswith("lost") and "its result.json is gone, or not as it was" in lines["altered"]
    commands = [line.split()[-1] for line in shown.splitlines() if line.startswith("  python")]
    assert sorted(commands) == ["altered", "broken", "gone", "stopped"]
    assert f"unknown: {folder}/bare/config.yaml cannot be read" in shown
    told = command("runs", "--runs", str(folder), "--commands", "--state", "done").stdout.splitlines()
    assert told[1].startswith("    python -m nin_repro.train ") and "1 run in" in told[-1]
    assert "9 runs in" in shown and "1 running, 3 lost, 1 interrupted, 1 failed, 1 not begun, 1 dead, 1 done" in shown


def test_checkpoints_of_finished_runs_go_when_asked_and_nothing_else(
    folder: Path, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    before = {path for path in folder.rglob("*") if path.is_file()}
    shown = command("runs", "--runs", str(folder), "--remove-checkpoints").stdout
    assert "1 checkpoint of finished runs removed" in shown
    assert before - set(folder.rglob("*")) == {folder / "finished" / "checkpoint.pt"}


def test_an_age_is_never_negative(folder: Path) -> None:
    path = make(folder, "tomorrow", "interrupted", time="2999-01-02T03:04:05+0000")
    assert runs.look(path).age == 0
    assert runs.look(make(folder, "timeless", "interrupted", time="yesterday")).age is None


def test_a_run_is_no_directory_of_runs(folder: Path) -> None:
    with pytest.raises(UsageError, match=f"is a run itself: name the directory that it lies in, {folder}$"):
        runs.find(folder / "stopped")


def test_a_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no directory"):
        runs.find(tmp_path / "nowhere")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may be somebody else")
def test_another_users_run_is_seen_running(tmp_path: Path) -> None:
    make(tmp_path, "busy", "running")
    tmp_path.chmod(0o755)
    program = "import os\nfrom pathlib import Path\nfrom nin_repro.training.rundir import RunDirectory\n"
    program += "os.setuid(65534)\nprint(RunDirectory(Path('busy')).look()[0])"

    def seen() -> str:
        done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    with locked(tmp_path / "busy" / "lock"):
        assert seen() == "running"
    assert seen() == "lost"
