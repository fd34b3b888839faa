"""Faults of files and of the machine, each caused for real. tests/FAULTS.md lists them all."""

import contextlib
import itertools
import json
import os
import platform
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_records import record
from faults import FLOCK, ROOT, damages, full, mounted, mounting, read_only
from small import SMALL_NETWORK

from nin_repro import train
from nin_repro.config.compose import load
from nin_repro.config.recipe import directory
from nin_repro.data.preprocess import preprocess
from nin_repro.files import locked, read_json, write_json
from nin_repro.results import records
from nin_repro.run import kept_from
from nin_repro.schema import Preprocessing
from nin_repro.training import checkpoint
from nin_repro.training.loop import Trainer
from nin_repro.training.rundir import RunDirectory

Train = Callable[..., tuple[int, str]]

# A run of a second, with a checkpoint after every update.
SMALL = [
    *SMALL_NETWORK,
    "dataset.preprocessing.divide=16",
    "optimizer.clip_norm=1",
    "budget.train_images=400",
    "budget.epochs=4",
    "checkpoint_seconds=0",
    "record=always",
    "wandb.mode=disabled",
]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, data: str) -> Train:
    """`python -m nin_repro.train` for the small run in this process; gives back its exit code and all it printed."""
    monkeypatch.chdir(tmp_path)

    def called(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["train", *SMALL, data, *words])
        code = train.main()
        shown = "".join(capsys.readouterr())
        assert "Traceback" not in shown
        return code, shown

    return called


def run_of(folder: Path, *words: str) -> Path:
    return folder / directory(load([*SMALL, *words]))


def told(run: Path) -> dict[str, Any]:
    """What must be the same whatever happened to a run."""
    found = read_json(run / "result.json")
    for name in ("seconds", "images_per_second", "started", "finished", "command", "environment", "commit", "dirty"):
        del found[name]
    del found["curve"]["seconds"], found["curve"]["images_per_second"]
    return found


@pytest.fixture(scope="session")
def expected(tmp_path_factory: pytest.TempPathFactory, data: str) -> dict[str, Any]:
    """The result of the small run when nothing happens to it."""
    from nin_repro.config.compose import load_with_text
    from nin_repro.outcome import Request
    from nin_repro.run import execute

    words = [*SMALL, data, f"runs_dir={tmp_path_factory.mktemp('undisturbed')}", "record=never"]
    config, text = load_with_text(words)
    return told(Path(execute(Request(config, words, None, text)).path))


# --- bits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
def test_a_damaged_record_is_refused_or_tells_the_right_numbers(seed: int, tmp_path: Path) -> None:
    paths = sorted(ROOT.glob("results/records/*/*/*.json"))
    paths = [records.write(tmp_path / "made", record()), random.Random(seed).choice(paths)]
    for raw in (path.read_bytes() for path in paths):
        path = tmp_path / "read" / f"{json_key(raw)}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(raw)
        ((sound,), _), refused, flips = records.read_all(path.parent), 0, 100
        for damaged in damages(raw, seed, flips):
            path.write_bytes(damaged)
            found, problems = records.read_all(path.parent)
            assert (found == [sound] and not problems) or (not found and "not used" in problems[0]), damaged
            refused += not found
        assert refused > 0.9 * flips  # the others met the name of the seal, or an E for an e
        path.unlink()


def json_key(raw: bytes) -> str:
    found = re.search(rb'"key": "(\w+)"', raw)
    assert found
    return found[1].decode()


def test_the_number_in_a_record_has_no_other_that_passes_for_it(tmp_path: Path) -> None:
    path = records.write(tmp_path, record(error=10.5))
    text = path.read_text()
    for digit in "1234567":
        path.write_text(text.replace('"test_error": 10.5', f'"test_error": 1{digit}.5'))
        found, (problem,) = records.read_all(tmp_path)
        assert not found and "it was altered" in problem


def test_what_was_written_before_there_were_seals_is_read(tmp_path: Path) -> None:
    path = records.write(tmp_path, record())
    path.write_text(re.sub(r',\n "sha256": ".*"', "", path.read_text()))
    assert "sha256" not in path.read_text().replace("weights_sha256", "")
    assert len(records.read_all(tmp_path)[0]) == 1


@pytest.mark.parametrize("seed", range(2))
def test_a_damaged_cache_is_made_again_and_gives_the_same_images(
    seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, 2, 2, 1), dtype=np.uint8)
    params = Preprocessing(divide=255, gcn=None, zca=0.1, mean="none")

    def made() -> list[np.ndarray]:
        return [np.array(array) for array in preprocess(images, [images[:5], images[5:]], params, tmp_path, "digest")]

    expected = made()
    for path in sorted(tmp_path.rglob("*.*")):
        raw = path.read_bytes()
        for damaged in damages(raw, seed, 12) if raw else ():
            path.write_bytes(damaged)
            for found, right in zip(made(), expected, strict=True):
                np.testing.assert_array_equal(found, right)
        path.write_bytes(raw)
    assert "damaged or incomplete: making it again" in capsys.readouterr().err


# --- disks -----------------------------------------------------------------------------------------------------------

PAGE = 4096


@mounting
def test_a_full_disk_stops_a_run_in_one_line_and_the_same_command_ends_it(
    tmp_path: Path, call: Train, expected: dict[str, Any]
) -> None:
    """So full that each file in turn finds no space: those that only people read are done without."""
    ends = set()
    for pages in (0, 4, 13, 17):
        with mounted(tmp_path / "disk") as disk:
            words = (f"runs_dir={disk}", "record=never")
            run = run_of(Path("/"), words[0])
            with full(disk, but=pages * PAGE):
                code, shown = call(*words)
                state = checkpoint.load(run / "checkpoint.pt")  # raises if it is not whole
                ends.add((code, state is not None))
                if code:
                    assert len(re.findall("(?:error|failed): .*No space left on device", shown)) == 1, (pages, shown)
                    assert not (run / "result.json").exists() and not list(run.glob(".*.part"))
                else:
                    assert told(run) == expected
            code, shown = call(*words)
            assert code == 0 and told(run) == expected, (pages, shown)
            rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
            assert [row["train_loss"] for row in rows] == expected["curve"]["train_loss"]
            assert read_json(run / "status.json")["state"] == "done"
    # refused before it began; stopped without and with a checkpoint
    assert ends >= {(2, False), (1, False), (1, True)}, ends


@mounting
def test_a_finished_run_outlives_a_record_that_cannot_be_written(
    tmp_path: Path, call: Train, expected: dict[str, Any]
) -> None:
    with mounted(tmp_path / "disk") as disk:
        words = ("record=always", f"records_dir={disk / 'records'}")
        run = run_of(tmp_path)
        with full(disk, but=0):
            code, shown = call(*words)
            assert code == 1 and shown.count("its record is not among those that tables are made of: ") == 1
            assert "No space left on device; the same command tries again" in shown.splitlines()[-1]
        assert told(run) == expected and read_json(run / "status.json")["state"] == "done"
        with read_only(disk):
            code, shown = call(*words)
            assert code == 1 and "Read-only file system" in shown.splitlines()[-1] and "already done" in shown
        code, shown = call(*words)
        assert code == 0 and "already done" in shown
        assert [path.stem for path in disk.rglob("*.json")] == [expected["key"]]


@mounting
def test_a_read_only_place_refuses_new_runs_and_tells_of_finished_ones(
    tmp_path: Path, call: Train, expected: dict[str, Any]
) -> None:
    with mounted(tmp_path / "disk") as disk:
        words = (f"runs_dir={disk}", "record=never")
        with read_only(disk):
            code, shown = call(*words)
            assert code == 2 and shown.count("\n") == 1 and "Read-only file system" in shown, shown
            code, shown = call("-m", *words)
            assert code == 2 and shown.count("\n") == 1 and "no sweep can be kept here: " in shown, shown
        run = run_of(Path("/"), words[0])
        assert call(*words)[0] == 0
        before = sorted((path.name, path.read_bytes()) for path in run.iterdir())
        with read_only(disk):
            code, shown = call(*words)
            assert code == 0 and "already done" in shown
            (run / "result.json").read_bytes()
        assert sorted((path.name, path.read_bytes()) for path in run.iterdir()) == before
        (run / "result.json").unlink()  # as if it had been stopped before its end
        with read_only(disk):
            code, shown = call(*words)
            assert code == 2 and "Read-only file system" in shown, shown
        assert call(*words)[0] == 0 and told(run) == expected


@mounting
@pytest.mark.parametrize("state", ["full", "read-only"])
def test_tables_that_cannot_be_written_are_one_line(state: str, tmp_path: Path, command: Any) -> None:
    with mounted(tmp_path / "disk") as disk, full(disk, but=0) if state == "full" else read_only(disk):
        done = command("tables", f"--out={disk / 'out'}", "--records", str(ROOT / "results/records"))
        assert done.returncode == 2 and f"{disk}/" in done.stderr and done.stderr.count("\n") == 1
        assert [path.name for path in disk.rglob("*") if path.is_file()] in ([], ["ballast"])


@mounting
def test_data_that_find_no_space_are_one_line(tmp_path: Path, call: Train) -> None:
    with mounted(tmp_path / "disk", 64) as disk:
        code, shown = call(f"data_dir={disk}")
        assert code == 2 and "No space left on device" in shown and shown.count("\n") == 1
        assert not list(disk.glob("*.npz")) and not (tmp_path / "runs").exists()


# --- the files of a run ----------------------------------------------------------------------------------------------


def test_damaged_files_of_a_run_cost_time_and_no_digit(tmp_path: Path, call: Train, expected: dict[str, Any]) -> None:
    assert call("record=never")[0] == 0
    run = run_of(tmp_path)
    sound = {path.name: path.read_bytes() for path in run.iterdir()}
    result, state = sound["result.json"], sound["checkpoint.pt"]
    cases = [
        (name, damaged)
        for name in ("status.json", "metrics.jsonl", "config.yaml", "environment.json")
        for damaged in list(damages(sound[name], 3, 1))[-2:]
    ]
    for name, damaged in cases:  # of a run that was killed near its end: all is there but its result
        (run / name).write_bytes(damaged)
    (run / "result.json").unlink()
    assert call("record=never")[0] == 0 and told(run) == expected
    for seed, damaged in enumerate(damages(state, 4, 1)):  # a checkpoint, of a result that is damaged too
        (run / "checkpoint.pt").write_bytes(damaged)
        (run / "result.json").write_bytes(list(damages(result, seed, 1))[seed % 5])
        code, shown = call("record=never")
        assert code == 0 and told(run) == expected
        if "already done" not in shown:
            assert f"{run.relative_to(tmp_path)}/result.json is truncated or altered" in shown
            assert "checkpoint.pt is truncated or altered: this run starts from the beginning" in shown


def test_a_member_that_a_signal_keeps_from_its_turn_is_where_it_was(tmp_path: Path, call: Train) -> None:
    config = load([*SMALL, "record=never"])
    waits = kept_from(config, signal.SIGTERM)
    assert (waits.state, waits.code, waits.words) == ("not begun", 128 + signal.SIGTERM, "nothing was trained")
    assert call("record=never")[0] == 0
    ended = kept_from(config, signal.SIGTERM)
    assert (ended.state, ended.code, ended.already) == ("done", 0, True) and "test error" in ended.words
    (run_of(tmp_path) / "result.json").unlink()
    RunDirectory(run_of(tmp_path)).write_status("failed", why="no memory")
    waits = kept_from(config, signal.SIGINT)
    assert (waits.state, waits.words) == ("not begun", "failed before: no memory")


def test_every_digit_of_a_result_is_sealed(tmp_path: Path, call: Train, expected: dict[str, Any]) -> None:
    assert call("record=never")[0] == 0
    path = run_of(tmp_path) / "result.json"
    text = path.read_text()
    assert f'"test_error": {expected["test_error"]}' in text
    path.write_text(text.replace(f'"test_error": {expected["test_error"]}', '"test_error": 1.25'))
    code, shown = call("record=never")
    assert code == 0 and "truncated or altered" in shown and told(path.parent) == expected


def test_a_damaged_note_of_a_search_is_refused_before_anything_is_trained(tmp_path: Path, call: Train) -> None:
    note = run_of(tmp_path) / "selection.json"
    write_json(note, {"command": "", "chosen": "a", "choices": [{"choice": "a", "validation_error": 12.5}]})
    note.write_text(note.read_text().replace("12.5", "11.5"))
    code, shown = call("record=never")
    assert code == 2 and shown.count("\n") == 1 and "selection.json: it was altered" in shown
    assert not (note.parent / "checkpoint.pt").exists()


def test_another_run_under_the_name_of_this_one_is_refused(tmp_path: Path, call: Train) -> None:
    assert call("record=never", "seed=1")[0] == 0
    other, run = run_of(tmp_path, "seed=1"), run_of(tmp_path)
    run.symlink_to(other)
    code, shown = call("record=never")
    assert code == 2 and shown.count("\n") == 1 and "holds the run" in shown and "move it away" in shown
    (other / "result.json").unlink()  # its checkpoint would fit
    code, shown = call("record=never")
    assert code == 1 and "checkpoint.pt is of the run" in shown and not (run / "result.json").exists()


def test_a_run_does_not_go_on_with_other_images_than_it_began_with(tmp_path: Path, call: Train) -> None:
    assert call()[0] == 0
    run = run_of(tmp_path)
    (run / "result.json").unlink()
    state = checkpoint.load(run / "checkpoint.pt")
    assert state is not None
    checkpoint.save(run / "checkpoint.pt", state | {"data": "0" * 64})  # as if it had begun with those
    code, shown = call()
    assert code == 1 and "checkpoint.pt is of other images of digits than " in shown.splitlines()[-1]
    assert not (run / "result.json").exists()


def blocked(run: Path, how: str) -> None:
    run.parent.mkdir()
    if how == "dangling link":
        run.symlink_to(run.parent / "nowhere")
    elif how == "loop":
        run.symlink_to(run)
    elif how == "file":
        run.write_text("no directory")
    else:
        (run / how).mkdir(parents=True)


@pytest.mark.parametrize("how", ["dangling link", "loop", "file", "result.json", "lock", "config.yaml"])
def test_what_is_in_the_way_of_a_run_is_named_in_one_line(how: str, tmp_path: Path, call: Train) -> None:
    run = run_of(tmp_path)
    blocked(run, how)
    code, shown = call("record=never")
    assert code == 2 and shown.startswith("error: no run can be") and shown.count("\n") == 1, shown
    assert str(run.relative_to(tmp_path)) in shown


@pytest.mark.parametrize("name", ["status.json", "metrics.jsonl", "checkpoint.pt"])
def test_a_directory_in_place_of_a_file(name: str, tmp_path: Path, call: Train, expected: dict[str, Any]) -> None:
    run = run_of(tmp_path)
    blocked(run, name)
    code, shown = call("record=never")
    if name == "checkpoint.pt":  # nothing can be kept, so nothing is trained
        assert code == 1 and f"failed: {run.relative_to(tmp_path)}/checkpoint.pt: Is a directory" in shown
    else:
        assert code == 0 and f"{name}: Is a directory; the run itself does without" in shown and told(run) == expected


def test_a_link_to_another_disk_is_as_good_as_a_directory(
    tmp_path: Path, call: Train, expected: dict[str, Any]
) -> None:
    run, elsewhere = run_of(tmp_path), tmp_path / "elsewhere"
    run.parent.mkdir()
    elsewhere.mkdir()
    run.symlink_to(elsewhere)
    assert call("record=never")[0] == 0 and told(elsewhere) == expected


# --- locks and clocks ------------------------------------------------------------------------------------------------


def test_a_lock_is_held_by_a_process_and_never_by_a_file(tmp_path: Path, call: Train, expected: dict[str, Any]) -> None:
    run = run_of(tmp_path)
    run.mkdir(parents=True)
    (run / "lock").write_text("4194999")  # left behind by a process that died, here or on another host
    write_json(run / "status.json", {"state": "running", "time": "", "host": "another-host", "pid": 1})
    with subprocess.Popen(["flock", str(run / "lock"), "sleep", "60"], start_new_session=True) as holder:
        wait_until(lambda: not flock_is_free(run / "lock"))
        code, shown = call("record=never")
        assert code == 75 and "another process (1 on another-host) is training this run" in shown
        os.killpg(holder.pid, signal.SIGKILL)
    code, shown = call("record=never")
    assert code == 0 and told(run) == expected


def flock_is_free(path: Path) -> bool:
    with locked(path, wait=False) as free:
        return free


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.skipif(platform.machine() not in FLOCK, reason="the number of flock is not known for this machine")
def test_a_file_system_without_locks_is_one_line(command: Any, tmp_path: Path, data: str) -> None:
    code = "from faults import without_locks; without_locks(); from nin_repro.train import command; command()"
    words = [*SMALL, data, "dataset.preprocessing.zca=0.1", "dataset.preprocessing.mean=none"]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: no run can be kept here: runs/digits-nin-seed0-")
    assert "this file system has no locks (No locks available)" in done.stderr and "another runs_dir" in done.stderr


def test_a_clock_that_jumps_back_changes_nothing(
    tmp_path: Path, call: Train, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    hours, now, local = itertools.count(), time.time, time.localtime

    def jumping() -> float:  # an hour earlier whenever somebody looks
        return now() - 3600 * next(hours)

    monkeypatch.setattr(time, "time", jumping)
    monkeypatch.setattr(time, "localtime", lambda seconds=None: local(jumping() if seconds is None else seconds))
    shown_time = time.strftime
    monkeypatch.setattr(time, "strftime", lambda how, when=None: shown_time(how, when or time.localtime()))
    step = Trainer.step
    stopped: list[bool] = []

    def stop_once(self: Trainer, position: int) -> None:
        step(self, position)
        if self.progress.step == 10 and not stopped:
            stopped.append(True)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Trainer, "step", stop_once)
    assert call("record=never")[0] == 143
    code, shown = call("record=never")
    assert code == 0 and "going on after epoch" in shown
    record = read_json(run_of(tmp_path) / "result.json")
    assert told(run_of(tmp_path)) == expected and record["finished"] < record["started"]  # it did jump
    assert 0 <= record["seconds"] < 60 and all(seconds >= 0 for seconds in record["curve"]["seconds"])
    assert call("record=never")[0] == 0


# --- names -----------------------------------------------------------------------------------------------------------

NAMES = {
    'runs_dir="a\nb"': "runs_dir=a\\nb has characters that cannot be shown",
    "runs_dir=a\nb": "cannot read",
    'wandb.group="\x1b[2J"': "wandb.group=\\x1b[2J has characters",
    'wandb.tags=["a\udcff"]': "wandb.tags[0]=a\\udcff has characters",
    f"wandb.group={'x' * 5000}": "more than 1,000",
    f"runs_dir={'x' * 5000}": "more than 1,000",
    f"runs_dir={'x' * 300}": "File name too long",
    "runs_dir=/dev/null/x": "Not a directory",
    "runs_dir=/proc/x": "/proc/x",
    "wandb.project=${oc.env:HOME}": "write its value",
    "runs_dir='${oc.env:HOME}'": "write its value",
    "+x=${oc.env:HOME}": "write its value",
    "experiment=../../etc": "is not a choice",
    "dataset=../../../etc/passwd": "is not a choice",
    'experiment="a\nb"': "is not a choice",
    f"dataset.{'x' * 5000}=1": "there is no key",
    "architecture.blocks.mlpconv1.__class__=1": "there is no key",
}


@pytest.mark.parametrize("word", NAMES, ids=[word[:30] for word in NAMES])
def test_a_hostile_name_is_refused_in_one_line(word: str, tmp_path: Path, call: Train) -> None:
    code, shown = call(word)
    assert code == 2 and shown.startswith("error: ") and shown.count("\n") == 1, shown
    assert NAMES[word] in shown and shown[:-1].isprintable()
    assert os.environ["HOME"] not in shown and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["-x/../a b/ü %s {0} $HOME", "😀'\"" + "x" * 200])
def test_an_unusual_name_is_a_name(name: str, tmp_path: Path, call: Train, expected: dict[str, Any]) -> None:
    quoted = name.replace("\\", "\\\\").replace("'", "\\'")
    words = (f"runs_dir='{quoted}'", f"records_dir='{quoted}/records'", f"wandb.group='{quoted}'")
    code, shown = call(*words)
    assert code == 0, shown
    (result,) = (tmp_path / name).glob("*/result.json")
    assert told(result.parent) == expected
    assert "already done" in call(*words)[1]


# --- memory and devices ----------------------------------------------------------------------------------------------

SHORT_OF_MEMORY = """
import resource
from nin_repro import train
from nin_repro.training.loop import Trainer

step = Trainer.step

def limited(self, position):
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (8 << 20), -1))
    step(self, position)

Trainer.step = limited
train.command()
"""


def test_out_of_memory_is_one_line_and_the_same_command_tries_again(tmp_path: Path, call: Train, data: str) -> None:
    words = ["record=never", "architecture.blocks.mlpconv1.widths=[512,8,8]", "budget.max_steps=1"]
    words += ["optimizer.batch_size=400"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    short = [sys.executable, "-c", SHORT_OF_MEMORY, *SMALL, data, *words]
    done = subprocess.run(short, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr == "", done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("failed: ")]
    assert "Error" in line and "the same command tries again" in line and len(line) < 500
    assert read_json(run_of(tmp_path, *words) / "status.json")["state"] == "failed"
    code, shown = call(*words)
    assert code == 0 and "test error" in shown


def test_a_gpu_that_vanishes_is_one_line_and_the_run_goes_on_from_its_checkpoint(
    tmp_path: Path, call: Train, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer.step

    def lost(self: Trainer, position: int) -> None:
        if self.progress.step == 10:
            raise torch.AcceleratorError(
                "CUDA error: unspecified launch failure\nCUDA kernel errors might be asynchronously reported at some\n"
                "other API call, so the stacktrace below might be incorrect.\n" + "Compile with ...\n" * 50
            )
        step(self, position)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "step", lost)
        code, shown = call("record=never")
    (line,) = [line for line in shown.splitlines() if line.startswith("failed: ")]
    assert code == 1 and "AcceleratorError: CUDA error: unspecified launch failure" in line and len(line) < 600
    assert "the same command goes on from the last checkpoint" in line
    code, shown = call("record=never")
    assert code == 0 and "going on after epoch 2, step 10" in shown and told(run_of(tmp_path)) == expected


def test_a_run_goes_on_when_nobody_takes_what_it_shows(
    tmp_path: Path, call: Train, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open("/dev/full", "w") as nobody:
        monkeypatch.setattr(sys, "stdout", nobody)
        assert call("record=never")[0] == 0
        monkeypatch.undo()
        with contextlib.suppress(OSError):
            nobody.close()
    assert told(tmp_path / run_of(tmp_path)) == expected
    assert "test error" in (run_of(tmp_path) / "train.log").read_text()


def test_every_row_of_the_list_of_faults_has_its_tests() -> None:
    lines = (ROOT / "tests/FAULTS.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| ") and "| | |" not in line][1:]
    assert len(rows) > 30
    for row in rows:
        named = re.findall(r"`(\w+)`", row.split("|")[3])
        found = re.findall(r"(test_\w+)\.py", row.split("|")[3])
        assert found and named, row
        text = "".join((ROOT / "tests" / f"{name}.py").read_text() for name in found)
        for name in named:
            assert f"\ndef {name}(" in text, name
