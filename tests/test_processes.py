"""Members of a sweep in processes of their own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from test_together import SMALL, results

from nin_repro import processes, run, train
from nin_repro.build import machine
from nin_repro.config.compose import load, load_with_text, parents
from nin_repro.config.recipe import directory
from nin_repro.files import UsageError
from nin_repro.outcome import ENDED, Request
from nin_repro.progress import Row, Table
from nin_repro.sweep import OPEN
from nin_repro.training.rundir import RunDirectory

WORDS = [word for word in SMALL if not word.startswith("budget.")]


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "nin_repro.train", "-m", *WORDS, "seed=0,1,2", "checkpoint_seconds=0", *words]


def wait_for(found: Callable[[], object], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 60
    while not found():
        assert process.poll() is None and time.monotonic() < end, "it did not come"
        time.sleep(0.005)


def pids(runs: Path) -> dict[str, int]:
    """Processes by run, of the runs that say they are running."""
    found = {}
    for path in runs.glob("*/status.json"):
        told = json.loads(path.read_text())
        if told["state"] == "running":
            found[path.parent.name] = told["pid"]
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_before_members_begin_is_for_the_sweep_alone(times: int, tmp_path: Path) -> None:
    words = command("processes=2", f"runs_dir={tmp_path}", f"data_dir={tmp_path}", "optimizer.schedule.epochs=500")
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0) as sweep:
        children = Path(f"/proc/{sweep.pid}/task/{sweep.pid}/children")

        def forked_from() -> bool:
            """Whether the process is there that members are forked from, which imports torch yet."""
            return any(
                b"forkserver" in Path(f"/proc/{one}/cmdline").read_bytes() for one in children.read_text().split()
            )

        wait_for(forked_from, sweep)
        for _ in range(times):
            os.killpg(sweep.pid, signal.SIGINT)  # as a terminal does
            time.sleep(0.3)
        said, errors = sweep.communicate(timeout=60)
    assert sweep.returncode == 130 and errors == "" and "the same command" in said


def test_members_stop_and_save_when_their_sweep_is_killed(tmp_path: Path) -> None:
    words = command("processes=2", f"runs_dir={tmp_path}", f"data_dir={tmp_path}", "optimizer.schedule.epochs=3000")
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as sweep:
        wait_for(lambda: len([*tmp_path.glob("*/checkpoint.pt")]) == 2, sweep)
        members = pids(tmp_path)
        sweep.kill()
    end = time.monotonic() + 60
    while any(alive(one) for one in members.values()):
        assert time.monotonic() < end, "members outlive their sweep"
        time.sleep(0.05)
    told = [json.loads((tmp_path / name / "status.json").read_text()) for name in members]
    assert len(told) == 2 and {one["state"] for one in told} == {"interrupted"}


def test_members_and_the_sweep_itself_are_killed_and_end_as_each_alone(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    shared = [f"data_dir={tmp_path / 'data'}", "budget.epochs=10", "budget.train_images=200"]
    several = command("processes=2", f"runs_dir={runs}", *shared)
    sweep = subprocess.Popen(several, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for(lambda: list(runs.glob("*/checkpoint.pt")), sweep)
    name, pid = next((path.parent.name, pids(runs)[path.parent.name]) for path in runs.glob("*/checkpoint.pt"))
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: pids(runs).get(name, pid) != pid or (runs / name / "result.json").exists(), sweep)
    sweep.kill()  # and its members find out
    shown = sweep.communicate(timeout=60)[0]
    assert "killed by SIGKILL, starts again from its checkpoint" in shown
    end = time.monotonic() + 60
    while any(alive(one) for one in pids(runs).values()):
        assert time.monotonic() < end, "members outlive their sweep"
        time.sleep(0.05)

    done = subprocess.run(several, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 runs in this sweep" in done.stdout and "going on after epoch" not in done.stdout
    printed = "".join(path.read_text() for path in runs.glob("sweeps/*/*.log"))
    assert "going on after epoch" in printed and "test error" in printed
    alone = command(f"runs_dir={tmp_path / 'alone'}", *shared)
    assert subprocess.run(alone, capture_output=True, timeout=120).returncode == 0
    assert results(runs) == results(tmp_path / "alone")
    told = json.loads(next(runs.glob("*/result.json")).read_text())
    assert "processes=" not in told["command"]  # it repeats this run alone


def test_a_member_gets_further_while_it_trains_its_parent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["experiment=table4/maxout", "budget=smoke"]
    config, text = load_with_text(words)
    member = processes.Member("one", Request(config, words, "table4/maxout", text), tmp_path / "0.log")
    assert member.saved() is None
    (first,) = parents(config, words).values()
    for time_, one in ((5, first), (9, config)):
        path = RunDirectory(directory(one)).checkpoint
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (time_, time_))
        assert member.saved() == time_


def test_a_member_that_is_killed_is_given_up_only_when_it_gets_no_further(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Killed:
        exitcode, pid = -signal.SIGKILL, 1

        def __init__(self, **_: object) -> None: ...
        def start(self) -> None: ...
        def join(self) -> None: ...
        def close(self) -> None: ...

    class Context:
        Process = Killed

        def Pipe(self, duplex: bool) -> tuple[Connection, Connection]:
            return Pipe(duplex)

    monkeypatch.chdir(tmp_path)
    words = [*WORDS, "seed=0"]
    config, text = load_with_text(words)
    member = processes.Member("one", Request(config, words, "quickstart", text), tmp_path / "0.log")
    checkpoint = RunDirectory(directory(config)).checkpoint
    checkpoint.parent.mkdir(parents=True)
    for saved in range(2 * processes.TRIES):
        processes._start([member], 1, Context())
        checkpoint.touch()
        os.utime(checkpoint, (saved, saved))
        processes._collect(member, Table(["one"]))
        assert member.outcome is None
    for _ in range(processes.TRIES):
        assert member.outcome is None
        processes._start([member], 1, Context())
        processes._collect(member, Table(["one"]))
    assert member.outcome is not None and "3 times without getting further" in member.outcome.words


def test_a_parent_is_trained_with_the_cores_of_its_child() -> None:
    words = ["experiment=table4/maxout", "budget=smoke"]
    config, text = load_with_text([*words, "processes=2"])
    parent = run._parent(Request(config, words, "table4/maxout", text))
    assert parent.config.processes == 2 and machine(parent.config).threads == machine(config).threads


def test_a_member_that_is_killed_again_and_again_is_given_up_and_the_others_end(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    words = [f"runs_dir={runs}", f"data_dir={tmp_path / 'data'}", "processes=2", "seed=0,1"]
    words += ["optimizer.schedule.epochs=9999", "eval_every=0", "checkpoint_seconds=999"]
    several = [sys.executable, "-m", "nin_repro.train", "-m", *WORDS, *words]
    sweep = subprocess.Popen(several, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    killed: dict[int, str] = {}
    while sweep.poll() is None:
        for name, pid in pids(runs).items():
            if "seed0" in name and pid not in killed:
                killed[pid] = name
                os.kill(pid, signal.SIGKILL)
        if len(killed) == processes.TRIES and len(told := pids(runs)) == 1:
            sweep.terminate()  # the other one is still at work
            assert "seed1" in next(iter(told))
            break
        time.sleep(0.01)
    shown = sweep.communicate(timeout=60)[0]
    assert sweep.returncode == 128 + signal.SIGTERM
    assert f"killed by SIGKILL, {processes.TRIES} times without getting further" in shown
    assert "stopped by SIGTERM" in shown and "Traceback" not in shown
    (name,) = set(killed.values())
    assert json.loads((runs / name / "status.json").read_text())["state"] == "failed"


def test_several_processes_are_for_sweeps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["train", "processes=2", *WORDS, f"runs_dir={tmp_path}/runs"])
    assert train.main() == 2
    assert "add -m, or leave it out" in capsys.readouterr().err and not list(tmp_path.glob("runs/digits*"))


def test_gpus_are_those_that_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-8a")
    assert processes.gpus() == ["2", "GPU-8a"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,-1,2")
    assert processes.gpus() == ["1"]
    for none in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", none)
        assert processes.gpus() == []


def test_processes_have_the_gpus_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    config = load(["experiment=quickstart", "device=auto"])
    members = [processes.Member("", Request(config, [], None, ""), Path(), slot=slot) for slot in range(3)]
    assert [processes._gpu(member) for member in members] == ["4", "7", "4"]
    there = Request(load(["experiment=quickstart", "device=cuda:1"]), [], None, "")
    assert processes._gpu(processes.Member("", there, Path())) is None


def test_a_table_of_members_fits_the_screen_and_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("LINES", "6")
    rows = [Row(f"seed={seed}", "waiting") for seed in range(9)]
    rows[8] = Row("seed=8", "running", 3, 60, 12.345, 90.0)
    table = Table([row.name for row in rows])
    table.show(rows)
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 5 and all(len(line) < 60 for line in shown)
    assert any(line.split() == ["seed=8", "running", "3/60", "12.35", "%", "1:30", "left"] for line in shown)
    assert shown[-1] == "1 running, 8 waiting"
    table.line("seed=0: done")
    assert capsys.readouterr().out == "\x1b[5A\x1b[Jseed=0: done\n"
    table.show(rows, last=True)
    assert capsys.readouterr().out == ""
    ended = [Row(state, state) for state in {*OPEN, *ENDED, "failed", "refused", "busy"}]
    table.shown = 0.0
    monkeypatch.setenv("COLUMNS", "200")
    table.show(ended)
    assert capsys.readouterr().out.count("1 ") == len(ended)


def test_large_networks_share_the_cores_and_small_ones_have_one_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    for words, threads in (
        (["experiment=table1/nin", "processes=4"], 4),
        (["experiment=table1/nin", "processes=32"], 1),
        (["experiment=quickstart", "processes=2"], 1),
        (["experiment=quickstart", "processes=2", "threads=3"], 3),
    ):
        assert machine(load(words)).threads == threads
    with pytest.raises(UsageError, match="threads=17: this machine has 16 cores"):
        machine(load(["threads=17"]))
    machine(load(["threads=1"]))
