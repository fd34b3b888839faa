"""The contract of a run, through the commands as users type them: start, resume, retry, already done, busy, sweeps."""

import gc
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small import SMALL_NETWORK

from nin_repro import build, cpu, describe
from nin_repro import run as run_module
from nin_repro.command import uncollected
from nin_repro.config.compose import load, load_with_text
from nin_repro.config.recipe import directory, key
from nin_repro.files import read_json
from nin_repro.outcome import Request
from nin_repro.results import records
from nin_repro.run import attempt, execute
from nin_repro.training import checkpoint, rundir

ROOT = Path(__file__).parents[1]
Command = Callable[..., subprocess.CompletedProcess[str]]

# A run of the project's own network on the digits that takes a second.
SMALL = [
    *SMALL_NETWORK,
    "dataset.preprocessing.divide=16",
    "optimizer.clip_norm=1",
    "budget.train_images=400",
    "budget.epochs=8",
    "restarts=3",
    "wandb.mode=disabled",
]


def begin(folder: Path, *words: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "nin_repro.train", *words],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)


def run_directory(folder: Path, *words: str) -> Path:
    return folder / directory(load(words))


def outcome(folder: Path, *words: str) -> dict[str, Any]:
    """What must be the same whenever and however often a run was interrupted."""
    found = read_json(run_directory(folder, *words) / "result.json")
    for name in ("seconds", "images_per_second", "started", "finished", "command", "environment"):
        del found[name]
    del found["curve"]["seconds"], found["curve"]["images_per_second"]
    return found


def test_first_call_trains_and_second_repeats_the_result(command: Command, data: str, tmp_path: Path) -> None:
    first = command("train", *SMALL, data)
    assert first.returncode == 0, first.stderr
    assert "this run is in them if it is given record=always" in first.stdout  # the budget is not the paper's
    run = run_directory(tmp_path, *SMALL)
    assert str(run.relative_to(tmp_path)) in first.stdout and "python -m nin_repro.tables" in first.stdout
    names = {
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "checkpoint.pt",
        "status.json",
        "train.log",
        "result.json",
    }
    assert names <= {path.name for path in run.iterdir()}
    assert json.loads((run / "status.json").read_text())["state"] == "done"
    record = json.loads((run / "result.json").read_text())
    assert record["key"] == key(load(SMALL)) and record["budget"] == "custom"
    assert not (tmp_path / "results").exists()  # reduced budgets stay in their run directory unless asked
    state = checkpoint.load(run / "checkpoint.pt")
    assert state is not None and checkpoint.fingerprint(state["weights"]) == record["weights_sha256"]

    code = "import sys; from nin_repro.train import main; c = main(); sys.exit(9 if 'torch' in sys.modules else c)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    second = subprocess.run(
        [sys.executable, "-c", code, *SMALL, data], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert second.returncode == 0, second.stderr
    assert "already done" in second.stdout and second.stdout.splitlines()[-1] == first.stdout.splitlines()[-1]

    third = command("train", *SMALL, data, "record=always")
    assert third.returncode == 0 and "already done" in third.stdout
    assert f"the first in {tmp_path}/results/records, which was not there before" in third.stdout
    assert [path.stem for path in (tmp_path / "results/records").rglob("*.json")] == [record["key"]]

    fourth = command("train", *SMALL, data, "record=always", "runs_dir=again")
    assert fourth.returncode == 0 and f"on record already, error {record['test_error']:.2f} %" in fourth.stdout
    (tmp_path / "file").touch()
    fifth = command("train", *SMALL, data, "record=always", "records_dir=file", "runs_dir=never")
    assert fifth.returncode == 2 and "records_dir=file" in fifth.stderr and not (tmp_path / "never").exists()

    described = command("describe", *SMALL)
    assert "state      done" in described.stdout and record["key"] in described.stdout


def test_killed_and_stopped_runs_end_as_undisturbed_ones(command: Command, data: str, tmp_path: Path) -> None:
    recipe = [*SMALL, "budget.epochs=40"]  # long enough that every signal finds it at work
    words = [*recipe, data, "checkpoint_seconds=0"]
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    done = command("train", *words, cwd=undisturbed)
    assert done.returncode == 0 and "test error" in done.stdout, done.stderr
    expected = outcome(undisturbed, *recipe)

    run = run_directory(tmp_path, *recipe)
    for number, pause in ((signal.SIGKILL, 0.0), (signal.SIGTERM, 0.1), (signal.SIGINT, 0.05), (signal.SIGKILL, 0.15)):
        with begin(tmp_path, *words) as process:
            wait_for(run / "checkpoint.pt", process)
            assert process.stdout is not None and process.stdout.readline().startswith("run ")
            time.sleep(pause)
            process.send_signal(number)
            output = process.communicate()[0]
        assert process.returncode in (-number, 128 + number)
        if number != signal.SIGKILL:
            assert "the same command goes on from" in output
            assert json.loads((run / "status.json").read_text())["state"] == "interrupted"
    assert "going on after" in command("train", *words).stdout
    assert outcome(tmp_path, *recipe) == expected
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["test_error"] for row in rows] == expected["curve"]["test_error"]
    ends = [read_json(run_directory(folder, *recipe) / "result.json") for folder in (tmp_path, undisturbed)]
    assert ends[0]["environment"]["kernels"] == "ours"
    assert ends[0]["environment"] == ends[1]["environment"] and "since" not in ends[0]["environment"]


def test_a_run_that_went_on_elsewhere_says_so(command: Command, data: str, tmp_path: Path) -> None:
    recipe = [*SMALL, "budget.epochs=40"]
    words = [*recipe, data, "checkpoint_seconds=0"]
    run = run_directory(tmp_path, *recipe)
    with begin(tmp_path, *words, "threads=2") as process:
        wait_for(run / "checkpoint.pt", process)
        process.send_signal(signal.SIGTERM)
        process.communicate()
    assert command("train", *words, "threads=1", "record=always").returncode == 0
    (record,) = records.read_all(tmp_path / "results/records")[0]
    (first,) = record.environment["before"]
    assert (first["threads"], record.environment["threads"]) == (2, 1)
    assert record.environment["since"] > [0, 0] and "since" not in first
    assert f"up to update {record.environment['since'][1]:,}" in record.earlier[0]


def test_garbage_is_collected_again_once_torch_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = gc.get_freeze_count()
    with uncollected():  # torch is there: what an earlier run left must not be kept for ever
        assert gc.isenabled()
    assert gc.get_freeze_count() == frozen
    monkeypatch.delitem(sys.modules, "torch")
    with pytest.raises(ImportError), uncollected():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled() and gc.get_freeze_count() > frozen
    gc.unfreeze()


def test_what_computed_the_parts_of_a_run(tmp_path: Path) -> None:
    run = rundir.RunDirectory(tmp_path)
    same = {"dirty": False, "device": "cpu", "threads": 2, "processor": "a CPU", "versions": {"torch": "3.0"}}
    one, two, three = (same | {"commit": letter} for letter in "abc")
    assert run.write_environment(one, [0, 0]) == run.write_environment(one, [0, 70]) == one
    second = two | {"since": [0, 100], "before": [one]}
    assert run.write_environment(two, [0, 100]) == run.write_environment(two, [1, 5]) == second
    assert run.write_environment(three, [1, 9])["before"] == [one, two | {"since": [0, 100]}]
    assert run.write_environment(one, [0, 100]) == one  # what the others made was not kept
    for damaged in ("{", '{"before": 3}', json.dumps(three | {"since": "x"}), '{"before": ["x", {"commit": "a"}]}'):
        (tmp_path / "environment.json").write_text(damaged)
        assert run.write_environment(two, [0, 200]) == two


def test_a_damaged_checkpoint_costs_time_and_nothing_else(command: Command, data: str, tmp_path: Path) -> None:
    assert command("train", *SMALL, data).returncode == 0
    expected = outcome(tmp_path, *SMALL)
    run = run_directory(tmp_path, *SMALL)
    (run / "result.json").write_text("{")
    (run / "checkpoint.pt").write_bytes((run / "checkpoint.pt").read_bytes()[:-100])
    again = command("train", *SMALL, data)
    assert again.returncode == 0 and "truncated or altered" in again.stdout
    assert outcome(tmp_path, *SMALL) == expected


def test_a_result_without_a_seal_that_lacks_something_is_described_so(tmp_path: Path) -> None:
    config = load([*SMALL, f"runs_dir={tmp_path}"])
    folder = rundir.RunDirectory(directory(config)).path
    folder.mkdir()
    (folder / "result.json").write_text(json.dumps({"format": 1, "status": "done"}))
    assert describe.state(config).startswith("its result.json is damaged (key is missing)")


def test_two_processes_on_one_key(command: Command, data: str, tmp_path: Path) -> None:
    words = [*SMALL, data, "optimizer.schedule.epochs=2000", "budget.epochs=1500"]
    run = run_directory(tmp_path, *words)
    with begin(tmp_path, *words) as first:
        wait_for(run / "metrics.jsonl", first)
        second = command("train", *words)
        assert second.returncode == 75 and f"another process ({first.pid} on " in second.stdout + second.stderr
        with begin(tmp_path, *words, "wait=true") as third:
            assert third.stdout is not None and "waiting for the process" in third.stdout.readline()
            assert third.poll() is None
            first.send_signal(signal.SIGTERM)
            first.communicate()
            assert first.returncode == 143
            while "going on after" not in (line := third.stdout.readline()):
                assert line, "the third process ended without taking over"
            third.send_signal(signal.SIGTERM)
            third.communicate()
            assert third.returncode == 143


def test_sweep_skips_what_is_done_and_goes_on_after_a_failure(command: Command, data: str, tmp_path: Path) -> None:
    words = ["-m", *SMALL, data]
    first = command("train", *words, "seed=range(2)")
    assert first.returncode == 0, first.stderr
    assert "2 runs in this sweep" in first.stdout
    blocked = run_directory(tmp_path, *SMALL, "seed=2")
    blocked.mkdir()
    (blocked / "checkpoint.pt").mkdir()  # this member cannot read its checkpoint
    second = command("train", *words, "seed=-1,0,2,3")
    assert "1. will be refused: seed=-1" in second.stdout[: second.stdout.index("seed=0")]
    *table, average = second.stdout[second.stdout.index("4 runs in this sweep") :].splitlines()[1:]
    assert [line.split("seed=")[1].split()[1] for line in table] == ["refused", "done", "failed", "done"]
    assert "done before" in table[1] and average.endswith("mean and standard deviation over 2 seeds")
    assert second.returncode == 2  # though the last member is done
    assert json.loads((blocked / "status.json").read_text())["state"] == "failed"
    (blocked / "checkpoint.pt").rmdir()
    third = command("train", *words, "seed=2")  # a failed one is tried again by the same command
    assert third.returncode == 0
    none = command("train", *words, "seed=-1,-2", "runs_dir=never")
    assert none.returncode == 2 and none.stderr.startswith("error: seed=-1") and none.stdout == ""
    assert "the other 1 of this sweep" in none.stderr and not (tmp_path / "never").exists()


def test_a_sweep_that_is_stopped_shows_how_far_its_members_are(data: str, tmp_path: Path) -> None:
    words = [word for word in SMALL if not word.startswith("budget.epochs")]
    words += [data, "optimizer.schedule.epochs=2000"]
    with begin(tmp_path, "-m", *words, "seed=0", "budget.epochs=8,1500,1600") as sweep:
        wait_for(run_directory(tmp_path, *words, "budget.epochs=1500") / "metrics.jsonl", sweep)
        sweep.send_signal(signal.SIGINT)
        output = sweep.communicate()[0]
    assert sweep.returncode == 128 + signal.SIGINT
    *_, first, second, third, last, command = output.splitlines()
    states = [re.split("  +", line.strip())[1] for line in (first, second, third)]
    assert states == ["done", "interrupted", "not begun"] and "stopped by SIGINT" in second
    assert last == "the same command goes on from there:" and command.endswith("budget.epochs=8,1500,1600")


def test_a_cpu_is_named_with_what_its_speed_hangs_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    monkeypatch.setattr(cpu, "CPUINFO", cpuinfo)
    assert cpu.processor() == (platform.processor() or platform.machine())
    for flags, told in (
        ("avx2 avx512f avx512_bf16", "A CPU (AVX-512, bf16)"),
        ("avx2 avx512f", "A CPU (AVX-512)"),
        ("avx2", "A CPU (AVX2)"),
        ("sse2", "A CPU"),
    ):
        cpuinfo.write_text(f"processor\t: 0\nmodel name\t: A CPU\nflags\t\t: fpu {flags} sse\n" * 2)
        assert cpu.processor() == told
    cpuinfo.write_text("processor\t: 0\nFeatures\t: fp asimd bf16\n")  # ARM has no names there
    assert cpu.processor() == f"{platform.processor() or platform.machine()} (bf16)"


def test_bf16_on_a_cpu_without_instructions_for_it_is_warned_of(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    monkeypatch.setattr(cpu, "CPUINFO", cpuinfo)
    assert cpu.bf16_instructions() is None  # nothing is known
    for flags, has in (("avx512f avx512_bf16", True), ("amx_bf16 amx_int8", True), ("avx2 avx512f", False)):
        cpuinfo.write_text(f"model name\t: A CPU\nflags\t\t: fpu {flags} sse\n")
        assert cpu.bf16_instructions() is has
    monkeypatch.chdir(tmp_path)
    words = [*SMALL, data, "precision=bf16", "budget.epochs=1"]
    config, text = load_with_text(words)
    execute(Request(config, words, None, text))
    assert "precision=fp32 is faster here" in capsys.readouterr().out


def test_a_run_that_another_process_ends_meanwhile_is_not_made_again(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [*SMALL, data, "budget.epochs=1"]
    config, text = load_with_text(words)
    request = Request(config, words, None, text)
    machine, calls = build.machine, []

    def slowly(asked: Any) -> Any:
        calls.append(asked)
        if len(calls) == 1:  # while the first gets ready, the other comes to its end
            assert not execute(request).already
        return machine(asked)

    monkeypatch.setattr(build, "machine", slowly)
    outcome = execute(request)
    assert outcome.already and outcome.state == "done" and len(calls) == 2
    assert "altered" not in capsys.readouterr().out


def test_what_nobody_expected_is_an_outcome_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lost(_: Request) -> None:
        raise RuntimeError("CUDA error: all CUDA-capable devices are busy\nCompile with ...")

    monkeypatch.setattr(run_module, "execute", lost)
    words = ["experiment=quickstart"]
    config, text = load_with_text(words)
    outcome = attempt(Request(config, words, None, text))
    assert (outcome.state, outcome.code) == ("failed", 1) and "devices are busy" in outcome.words
    shown = capsys.readouterr()
    assert shown.err == f"error: {outcome.words}\n" and shown.out == ""


def test_a_failed_run_says_why_in_one_line_and_keeps_the_traceback(command: Command, data: str, tmp_path: Path) -> None:
    words = [*SMALL, data, "optimizer.lr=1e30", "optimizer.clip_norm=null", "restarts=0"]
    failed = command("train", *words)
    assert failed.returncode == 1
    assert "Traceback" not in failed.stdout + failed.stderr
    assert "the loss or the gradient is not finite at epoch 1, step" in failed.stdout
    status = json.loads((run_directory(tmp_path, *words) / "status.json").read_text())
    assert status["state"] == "failed" and "NotFinite" in status["traceback"]
    described = command("describe", *words).stdout
    assert f"state      failed ({status['why']}); nothing is saved, the same command begins anew\n" in described


def test_a_run_that_diverges_in_all_its_starts_is_dead_and_on_record(
    command: Command, data: str, tmp_path: Path
) -> None:
    words = [*SMALL, data, "optimizer.lr=1e30", "optimizer.clip_norm=null", "restarts=2"]
    dead = command("train", *words)
    assert dead.returncode == 0 and "dead in all of its 3 starts" in dead.stdout.splitlines()[-1], dead.stdout
    result = json.loads((run_directory(tmp_path, *words) / "result.json").read_text())
    assert result["status"] == "dead" and [one["died"] for one in result["attempts"]] == ["diverged"] * 3
    assert all(0 < one["step"] < 10 and one["epoch"] == 1 for one in result["attempts"])


@pytest.mark.parametrize("word", ["device=cuda:7", "dataset=mnist"])
def test_what_is_not_there_is_refused_without_a_trace(word: str, command: Command, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/mnist.npz").write_bytes(b"PK\3\4 not an archive")
    refused = command("train", *SMALL, word)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: ") and refused.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_validation_leaves_the_test_images_unread(command: Command, data: str, tmp_path: Path) -> None:
    words = [*SMALL, data, "protocol=validate"]
    done = command("train", *words)
    assert done.returncode == 0 and "validation error" in done.stdout.splitlines()[-1]
    record = json.loads((run_directory(tmp_path, *words) / "result.json").read_text())
    assert record["test_error"] is None and record["validation_error"] is not None
    assert not any("test" in name for name in record["curve"])


def test_help_prints_groups_and_keys(command: Command) -> None:
    shown = command("train", "--help")
    assert shown.returncode == 0
    for word in ("regularizer: fc, fc_both_dropout", "experiment/table1: maxout", "clip_norm", "quickstart"):
        assert word in shown.stdout


def test_composed_configuration_and_completion_are_hydras(command: Command) -> None:
    shown = command("train", "--cfg", "job", "experiment=table1/nin")
    assert shown.returncode == 0 and "clip_norm: 1" in shown.stdout
    installed = command("train", "--shell-completion", "install=bash")
    assert installed.returncode == 0 and "complete -o nospace" in installed.stdout
    for typed, choice in (("nin-train optimizer.l", "optimizer.lr="), ("nin-train experiment/table1=", "nin_aug")):
        line = os.environ | {"PYTHONPATH": str(ROOT), "COMP_LINE": typed, "COMP_POINT": str(len(typed))}
        assert choice in command("train", "-sc", "query=bash", env=line).stdout


def test_tables_need_neither_torch_nor_data(tmp_path: Path) -> None:
    heavy = "{'torch', 'wandb', 'hydra', 'numpy', 'matplotlib'}"
    code = (
        f"import sys; from nin_repro.tables import main; main(); sys.exit(', '.join({heavy} & set(sys.modules)) or 0)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    (tmp_path / "results" / "records").mkdir(parents=True)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "python -m nin_repro.train -m experiment=table1/nin seed=0,1,2,3,4" in done.stdout
    assert (tmp_path / "results/tables/tables.md").exists()
