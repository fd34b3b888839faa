"""Members of a sweep that are trained at the same time in one process."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nin_repro import train

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
    together = command("together=2", f"runs_dir={tmp_path / 'together'}", *shared)
    process = subprocess.Popen(together, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while len(list((tmp_path / "together").glob("*/metrics.jsonl"))) < 2 and process.poll() is None:
        time.sleep(0.02)
    while not all(path.read_text() for path in (tmp_path / "together").glob("*/metrics.jsonl")):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    shown = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + signal.SIGTERM, shown
    assert shown.count("stopped by SIGTERM") >= 2 and "3 of 3 runs are interrupted; the same" in shown
    assert "[seed=0] epoch 1/4" in shown

    done = subprocess.run(together, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "going on after epoch" in done.stdout and "3 runs in this sweep" in done.stdout
    alone = command(f"runs_dir={tmp_path / 'alone'}", *shared)
    assert subprocess.run(alone, capture_output=True, timeout=120).returncode == 0
    assert results(tmp_path / "together") == results(tmp_path / "alone")
    assert sorted(results(tmp_path / "alone")) == list(SEEDS)
    told = json.loads(next((tmp_path / "together").glob("*/result.json")).read_text())["command"]
    assert "together=" not in told  # it repeats this run alone


def test_one_run_has_nothing_to_be_trained_together_with(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["train", *SMALL, "together=2", f"runs_dir={tmp_path}"])
    assert train.main() == 2
    assert "add -m, or leave it out" in capsys.readouterr().err and not list(tmp_path.iterdir())
