"""Members of a sweep that are trained at the same time in one process."""

import contextlib
import gc
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nin_repro import build, outcome, run, sweep, together, train
from nin_repro.command import Lossy
from nin_repro.config.compose import load, load_with_text
from nin_repro.config.recipe import directory
from nin_repro.data import splits
from nin_repro.files import locked
from nin_repro.outcome import Outcome, Request
from nin_repro.training.rundir import RunDirectory
from nin_repro.training.stop import STOP

SEEDS = (0, 1, 2)
SMALL = [
    "experiment=quickstart",
    "architecture.blocks.mlpconv1.widths=[12,8,8]",
    "architecture.blocks.mlpconv2.widths=[12,8,8]",
    "architecture.blocks.mlpconv3.widths=[12,8,classes]",
    "restarts=0",
    "dataset.augment.pad=1",
    "budget.epochs=4",
    "budget.train_images=100",
    "wandb.mode=disabled",
]


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "nin_repro.train", "-m", *SMALL, "seed=0,1,2", *words]


def results(runs: Path) -> dict[int, tuple[str, list[float]]]:
    found = [json.loads(path.read_text()) for path in runs.glob("*/result.json")]
    return {one["seed"]: (one["weights_sha256"], one["curve"]["train_loss"]) for one in found}


def test_runs_that_are_trained_together_and_interrupted_end_as_each_alone(tmp_path: Path) -> None:
    shared = [f"data_dir={tmp_path / 'data'}"]
    at_once = command("together=2", f"runs_dir={tmp_path / 'together'}", *shared)
    process = subprocess.Popen(at_once, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while len(list((tmp_path / "together").glob("*/metrics.jsonl"))) < 2 and process.poll() is None:
        time.sleep(0.02)
    while not all(path.read_text() for path in (tmp_path / "together").glob("*/metrics.jsonl")):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    shown = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + signal.SIGTERM, shown
    assert shown.count("stopped by SIGTERM") >= 2 and "3 of 3 runs are interrupted, not begun; the same" in shown
    assert "[seed=0] epoch 1/4" in shown

    done = subprocess.run(at_once, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "going on after epoch" in done.stdout and "3 runs in this sweep" in done.stdout
    alone = command(f"runs_dir={tmp_path / 'alone'}", *shared)
    assert subprocess.run(alone, capture_output=True, timeout=120).returncode == 0
    assert results(tmp_path / "together") == results(tmp_path / "alone")
    assert sorted(results(tmp_path / "alone")) == list(SEEDS)
    told = json.loads(next((tmp_path / "together").glob("*/result.json")).read_text())["command"]
    assert "together=" not in told  # it repeats this run alone


def test_members_share_the_images_while_they_train(data: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    met, read, held = threading.Barrier(3), [], []
    opened, uploaded = splits.open_split, build._uploaded

    def reading(*asked: Any) -> Any:
        read.append(asked)
        return opened(*asked)

    def uploading(*asked: Any) -> Any:
        found = uploaded(*asked)
        held.append(found)
        met.wait(60)  # all are under way
        return found

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(splits, "open_split", reading)
    monkeypatch.setattr(build, "_uploaded", uploading)
    requests = {}
    for seed in SEEDS:
        words = [*SMALL, data, f"seed={seed}", "budget.epochs=1"]
        config, text = load_with_text(words)
        requests[str(seed)] = Request(config, words, None, text)
    assert [outcome.state for outcome in together.train(requests, 3)] == ["done"] * 3
    assert len(read) == 1 and all(one is held[0] for one in held)
    del held[:], requests
    gc.collect()
    assert not build._on_devices  # and nobody keeps them


def test_a_signal_ends_the_wait_for_a_run_of_another_process(
    data: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    config, text = load_with_text([*SMALL, data, "wait=true"])
    place, said = RunDirectory(directory(config)), io.StringIO()
    with locked(place.lock), contextlib.redirect_stdout(said):  # a lock is of an opened file: as if of another process

        def ask() -> None:
            end = time.monotonic() + 60
            while "waiting for the process" not in said.getvalue() and time.monotonic() < end:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGTERM)

        asking = threading.Thread(target=ask)
        asking.start()
        (outcome,) = together.train({"alone": Request(config, [*SMALL, data], None, text)}, 2)
        asking.join()
    assert (outcome.state, outcome.code) == ("interrupted", 128 + signal.SIGTERM) and "another process" in outcome.words
    assert not (place.path / "status.json").exists()


def test_a_signal_at_the_very_end_of_a_member_ends_the_sweep(
    data: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """As on a GPU, where a run hears of it only after it has waited for its last numbers."""

    def attempt(request: Request) -> Outcome:
        outcome = run.attempt(request)
        STOP.ask(signal.SIGTERM)
        return outcome

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "attempt", attempt)
    monkeypatch.setattr(STOP, "signal", None)
    monkeypatch.setattr(sys, "argv", ["train", "-m", *SMALL, data, "budget.epochs=1", "seed=0,1"])
    with pytest.raises(SystemExit) as stopped:
        train.main()
    assert stopped.value.code == 128 + signal.SIGTERM
    *_, first, second, last, _ = capsys.readouterr().out.splitlines()
    assert first.split()[:2] == ["seed=0", "done"] and second.split()[:3] == ["seed=1", "not", "begun"]
    assert last == "the same command goes on from there:"


def test_ctrl_c_between_two_members_shows_how_far_they_are(
    data: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    done: list[Request] = []

    def attempt(request: Request) -> Outcome:
        if done:
            raise KeyboardInterrupt
        done.append(request)
        return run.attempt(request)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "attempt", attempt)
    monkeypatch.setattr(sys, "argv", ["train", "-m", *SMALL, data, "budget.epochs=1", "seed=0,1"])
    assert train.main() == 128 + signal.SIGINT
    *_, first, second, last, _ = capsys.readouterr().out.splitlines()
    assert first.split()[:2] == ["seed=0", "done"] and second.split()[:3] == ["seed=1", "not", "begun"]
    assert last == "1 of 2 runs are not begun; the same command goes on from there:"


@pytest.mark.parametrize(
    "words, said",
    [
        (["together=2", "processes=2"], "leave one out (and so are the other 1 of this sweep refused)"),
        (["processes=2", "hydra/launcher=submitit_local"], "a launcher was chosen for them: leave one out"),
        (["runs_dir=one,other"], "runs_dir is of a sweep, whose outcomes lie there, and not of a member: "),
    ],
)
def test_members_that_do_not_go_together_are_refused_before_any_begins(
    words: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train", "-m", *SMALL, "seed=0,1", *words])
    with pytest.raises(SystemExit) as refused:
        train.main()
    out, error = capsys.readouterr()
    assert refused.value.code == 2 and out == "" and error.count("\n") == 1 and said in error
    assert list(tmp_path.iterdir()) == []


def test_the_command_of_a_member_repeats_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert train.alone([*SMALL, "seed=0", "processes=3"]) == [*SMALL, "seed=0"]
    monkeypatch.setattr(train, "load", lambda words: replace(load(words), together=4))  # as its file has it
    assert train.alone([*SMALL, "together=2"]) == [*SMALL, "together=1"]


def test_what_cannot_be_printed_does_not_end_a_member() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    with contextlib.redirect_stdout(together.Labelled(Lossy(Gone()))):  # type: ignore[arg-type]
        print("one line\nand another")


def test_a_sweep_that_breaks_is_no_success(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no threads left")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(together, "train", broken)
    monkeypatch.setattr(sys, "argv", ["train", "-m", *SMALL, "seed=0,1", "together=2"])
    assert train.main() == 1
    out, error = capsys.readouterr()
    assert "no threads left" in error and error.count("\n") == 1
    assert "2 of 2 runs are not begun; the same command goes on from there" in out


def test_a_sweep_goes_on_when_nobody_takes_what_it_shows(data: str, tmp_path: Path) -> None:
    for how in ("together", "processes"):
        words = command(f"{how}=3", f"runs_dir={tmp_path / how}", data, "budget.epochs=1")
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert (process.wait(timeout=120), process.stderr.read()) == (0, "")
        assert sorted(results(tmp_path / how)) == list(SEEDS)
        process.stderr.close()


def test_one_run_has_nothing_to_be_trained_together_with(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["train", *SMALL, "together=2", f"runs_dir={tmp_path}"])
    assert train.main() == 2
    assert "add -m, or leave it out" in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words, about, machine",
    [
        ([], {"device": "cpu", "threads": 2, "processor": "AMD EPYC"}, "2 x AMD EPYC"),
        (["together=2"], {"device": "cpu", "threads": 1, "processor": "AMD EPYC"}, "1 x AMD EPYC"),
        ([], {"device": "NVIDIA H200"}, "NVIDIA H200"),
        (["together=5"], {"device": "NVIDIA H200"}, "NVIDIA H200, 5 at once"),
    ],
)
def test_a_record_says_how_many_shared_the_gpu(words: list[str], about: dict[str, Any], machine: str) -> None:
    assert outcome._machine(load_with_text(["experiment=table1/nin", *words])[0], about) == machine


@pytest.mark.parametrize("word", ["together", "processes"])
def test_no_more_share_the_machine_than_there_are(word: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: list[Request] = []
    monkeypatch.setattr(f"nin_repro.{word}.train", lambda requests, *_: given.extend(requests.values()))
    requests = {}
    for seed in SEEDS:
        config, text = load_with_text([*SMALL, f"seed={seed}", f"{word}=5"])
        requests[str(seed)] = Request(config, SMALL, "quickstart", text)
    sweep.train_at_once(requests, tmp_path)
    assert [getattr(one.config, word) for one in given] == [3, 3, 3] and all(one.config.wait for one in given)
