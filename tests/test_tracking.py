"""The mirror in Weights & Biases, with the real package: what it writes, and that it never disturbs a training."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from wandb_peer import Server, exit_code, history, records, runs

from nin_repro.training.tracking import Tracker

KEY = "5ec7e7" * 6 + "abcd"  # 40 characters, as W&B wants them

# A training in a process of its own: argv is mode, directory, timeout and what happens after two epochs.
TRAINER = """
import os, signal, sys, time
from pathlib import Path
from nin_repro.training.tracking import Tracker

mode, directory, timeout, then = sys.argv[1:]
warnings = []
tracker = Tracker(mode=mode, project="p", entity=None, group=None, tags=[], name="nin seed 1", run_id="key-1",
    directory=Path(directory), config={"lr": 0.1}, warn=warnings.append, timeout=float(timeout))
for epoch in range(2):
    tracker.log({"loss": 1.0 / (epoch + 1)}, epoch)
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
print("running", flush=True)
until = time.time() + 60
while then == "wait for a warning" and not warnings and time.time() < until:
    tracker.log({"loss": 0.0}, epoch)
    time.sleep(0.2)
while then == "wait for a signal" and not stopped and time.time() < until:
    time.sleep(0.1)
tracker.log({"loss": 0.25}, 7)
if stopped:
    print("stopped", flush=True)
    time.sleep(60)
tracker.finish(failed=False, summary={"best": 0.25})
assert "wandb" not in sys.modules
for line in warnings:
    print(line)
"""


def make(directory: Path, warn: Callable[[str], None], **changes: Any) -> Tracker:
    plain: dict[str, Any] = {"mode": "offline", "project": "p", "entity": None, "group": "table1", "tags": ["a", "b"]}
    plain |= {"name": "nin seed 1", "run_id": "key-1", "config": {"lr": 0.1, "where": Path("x")}, "timeout": 60.0}
    return Tracker(directory=directory, warn=warn, **(plain | changes))


@pytest.fixture(scope="module")
def server() -> Iterator[Callable[..., Server]]:
    with contextlib.ExitStack() as stack:

        def start(broken: bool = False) -> Server:
            new = stack.enter_context(Server(broken))
            stack.callback(new.shutdown)
            return new

        yield start


def train(directory: Path, mode: str, timeout: float, then: str = "", **environment: str) -> subprocess.Popen[str]:
    home = directory.with_suffix(".home")
    home.mkdir()
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    environment = {"HOME": str(home), "NETRC": str(home / "netrc"), "WANDB_API_KEY": KEY} | environment
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", TRAINER, mode, str(directory), str(timeout), then],
        env=inherited | {"PYTHONPATH": str(Path(__file__).parents[1])} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def trainings(
    tmp_path_factory: pytest.TempPathFactory, server: Callable[..., Server]
) -> Iterator[dict[str, tuple[subprocess.Popen[str], Path]]]:
    """All trainings with something wrong, side by side: they mostly wait."""
    folder = tmp_path_factory.mktemp("trainings")
    broken_install = folder / "site" / "wandb"
    broken_install.mkdir(parents=True)
    (broken_install / "__init__.py").write_text("raise ImportError('half installed')")
    (folder / "a_file").write_text("")
    with socket.create_server(("127.0.0.1", 0)) as hanging, socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        taken.close()  # from here on connections to it are refused
        hangs, refuses = f"http://127.0.0.1:{hanging.getsockname()[1]}", f"http://127.0.0.1:{port}"
        wait = "wait for a warning"
        started = {
            "hangs": train(folder / "hangs", "online", 8, wait, WANDB_BASE_URL=hangs),
            "refuses": train(folder / "refuses", "online", 8, wait, WANDB_BASE_URL=refuses),
            "fails": train(folder / "fails", "online", 8, wait, WANDB_BASE_URL=server(broken=True).url),
            "no key": train(folder / "no key", "online", 30, WANDB_BASE_URL=refuses, WANDB_API_KEY=""),
            "short": train(folder / "short", "online", 1, WANDB_BASE_URL=hangs),
            "a_file": train(folder / "a_file", "offline", 30),
            "half installed": train(
                folder / "half installed",
                "offline",
                30,
                PYTHONPATH=f"{folder / 'site'}{os.pathsep}{Path(__file__).parents[1]}",
            ),
            "killed": train(folder / "killed", "offline", 30, "wait for a signal"),
        }
        yield {name: (process, folder / name) for name, process in started.items()}
        for process in started.values():
            process.kill()
            process.communicate()


def test_an_offline_run_holds_its_numbers_and_nothing_it_was_not_given(
    tmp_path: Path, server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    listening, warnings = server(), list[str]()
    monkeypatch.setenv("WANDB_BASE_URL", listening.url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    tracker = make(tmp_path / "run", warnings.append)
    tracker.log({"loss": 0.5, "exit_code": 3.0}, 0)
    tracker.log({"loss": 0.25, "gap": float("nan")}, 1)
    tracker.finish(failed=False, summary={"best": 0.25})

    (file,) = runs(tmp_path / "run")
    logged = history(file)
    assert logged[0] == {"loss": 0.5, "exit_code": 3.0, "epoch": 0}
    assert logged[1]["loss"] == 0.25 and logged[1]["gap"] != logged[1]["gap"]
    run = next(record.run for record in records(file) if record.HasField("run"))
    assert (run.run_id, run.project, run.run_group, run.display_name) == ("key-1", "p", "table1", "nin seed 1")
    assert list(run.tags) == ["a", "b"] and not run.HasField("git") and not run.host
    config = {item.key: item.value_json for item in run.config.update}
    assert json.loads(config["lr"]) == 0.1 and json.loads(config["where"]) == "x"
    assert any(i.key == "best" and i.value_json == "0.25" for r in records(file) for i in r.summary.update)
    assert exit_code(file) == 0
    assert warnings == [] and listening.requests == 0  # offline means no request at all
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["wandb"]
    assert not list(tmp_path.rglob("requirements.txt")) and not list(tmp_path.rglob("wandb-metadata.json"))
    assert all(KEY.encode() not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_a_resumed_offline_run_is_joined_by_wandb_sync(tmp_path: Path, server: Callable[..., Server]) -> None:
    for epochs, failed in ((range(3), True), (range(3, 5), False)):
        tracker = make(tmp_path, pytest.fail)
        for epoch in epochs:
            tracker.log({"loss": 1.0 / (epoch + 1)}, epoch)
        tracker.finish(failed=failed, summary={})
    receiving = server()
    folders = [str(file.parent) for file in runs(tmp_path)]
    assert len(folders) == 2
    subprocess.run(
        [sys.executable, "-m", "wandb", "sync", *folders],
        cwd=tmp_path,  # its log goes into a folder there
        env=os.environ | {"WANDB_BASE_URL": receiving.url, "WANDB_API_KEY": KEY, "WANDB_ERROR_REPORTING": "false"},
        check=True,
        capture_output=True,
        timeout=60,
    )
    rows = [(row["_step"], row["epoch"], row["loss"]) for _, row in sorted(receiving.history.items())]
    assert rows == [(epoch, epoch, 1.0 / (epoch + 1)) for epoch in range(5)]


def test_an_online_run_arrives_and_is_resumed(
    tmp_path: Path, server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    receiving = server()
    monkeypatch.setenv("WANDB_BASE_URL", receiving.url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    for epochs, failed in ((range(3), True), (range(2, 5), False)):  # epoch 2 was logged, but not saved: it is repeated
        tracker = make(tmp_path, pytest.fail, mode="online")
        for epoch in epochs:
            tracker.log({"loss": 1.0 / (epoch + 1)}, epoch)
        tracker.finish(failed=failed, summary={})
    assert {row["epoch"]: row["loss"] for row in receiving.history.values()} == {e: 1.0 / (e + 1) for e in range(5)}
    assert receiving.exit_codes == [1, 0]


@pytest.mark.parametrize("wrong", ["hangs", "refuses", "fails", "no key"])
def test_without_a_server_or_a_key_the_run_is_kept_offline(
    wrong: str, trainings: dict[str, tuple[subprocess.Popen[str], Path]]
) -> None:
    process, directory = trainings[wrong]
    lines = process.communicate(timeout=90)[0].splitlines()
    assert process.returncode == 0
    assert len(lines) == 2 and lines[0] == "running" and "kept offline" in lines[1]
    (file,) = runs(directory)
    logged = history(file)
    assert logged[0] == {"loss": 1.0, "epoch": 0} and logged[7] == {"loss": 0.25, "epoch": 7}
    assert exit_code(file) == 0
    assert all(KEY.encode() not in path.read_bytes() for path in directory.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [("short", "gave up after 1 s"), ("a_file", "Not a directory"), ("half installed", "half installed")],
)
def test_what_cannot_be_mirrored_costs_one_line(
    wrong: str, reason: str, trainings: dict[str, tuple[subprocess.Popen[str], Path]]
) -> None:
    process, _ = trainings[wrong]
    lines = process.communicate(timeout=60)[0].splitlines()
    assert process.returncode == 0
    assert len(lines) == 2 and lines[1].startswith("W&B mirror: ") and reason in lines[1]


def test_a_signal_and_a_kill_leave_a_failed_run_with_the_last_words_of_the_trainer(
    trainings: dict[str, tuple[subprocess.Popen[str], Path]],
) -> None:
    process, directory = trainings["killed"]
    assert process.stdout and process.stdout.readline() == "running\n"
    os.killpg(process.pid, signal.SIGTERM)
    assert process.stdout.readline() == "stopped\n"
    process.kill()
    process.wait()
    until = time.time() + 60
    while (not runs(directory) or exit_code(runs(directory)[0]) is None) and time.time() < until:
        time.sleep(0.1)
    (file,) = runs(directory)
    assert exit_code(file) == 1
    assert {epoch: row["loss"] for epoch, row in history(file).items()} == {0: 1.0, 1: 0.5, 7: 0.25}


def test_a_mirror_that_does_not_listen_is_given_up_and_never_waited_for(tmp_path: Path) -> None:
    warnings = list[str]()
    tracker = make(tmp_path, warnings.append)
    assert tracker._process
    os.kill(tracker._process.pid, signal.SIGSTOP)
    for epoch in range(20_000):  # a blocking write would hang here
        tracker.log({"loss": 1.0, "error": 0.5}, epoch)
    tracker.finish(failed=False, summary={})
    assert len(warnings) == 1 and "does not keep up" in warnings[0]


def test_what_cannot_be_written_down_does_not_stop_a_training(tmp_path: Path) -> None:
    warnings = list[str]()
    tracker = make(tmp_path, warnings.append)
    endless: dict[str, Any] = {}
    endless["itself"] = endless
    tracker.log(endless, 0)
    tracker.log({"loss": 1.0}, 1)
    tracker.finish(failed=False, summary={})
    assert len(warnings) == 1


def test_no_process_to_be_had_costs_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings = list[str]()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nowhere"))
    tracker = make(tmp_path, warnings.append)
    tracker.log({"loss": 1.0}, 0)
    tracker.finish(failed=False, summary={})
    assert len(warnings) == 1 and "cannot start" in warnings[0]


def test_disabled_starts_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("started a process"))
    tracker = make(tmp_path, pytest.fail, mode="disabled")
    tracker.log({"loss": 1.0}, 0)
    tracker.finish(failed=True, summary={})
    assert list(tmp_path.iterdir()) == []


def test_importing_the_tracker_is_light() -> None:
    """Neither W&B in the trainer, nor PyTorch in the process that runs W&B."""
    code = "import sys, nin_repro.training.tracking; print('wandb' in sys.modules, 'torch' in sys.modules)"
    root = str(Path(__file__).parents[1])
    said = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout
    assert said == "False False\n"


def test_a_new_start_of_a_run_is_not_dropped(tmp_path: Path) -> None:
    tracker = make(tmp_path, pytest.fail)
    for row, epoch in enumerate([1, 2, 3, 1, 2], start=1):
        tracker.log({"loss": row / 10}, epoch, row)
    tracker.finish(failed=False, summary={})
    found = history(runs(tmp_path)[0])
    assert {step: (row["epoch"], row["loss"]) for step, row in found.items()} == {
        1: (1, 0.1),
        2: (2, 0.2),
        3: (3, 0.3),
        4: (1, 0.4),
        5: (2, 0.5),
    }


def test_a_full_disk_is_told_once_and_stops_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "full"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot mount a small file system here")
    told: list[str] = []
    try:
        (folder / "ballast").write_bytes(bytes(384 << 10))
        tracker = make(folder, told.append)
        for epoch in range(3):
            tracker.log({"loss": 1.0}, epoch)
        tracker.finish(failed=False, summary={})
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
    assert len(told) == 1 and "disk is full" in told[0]
