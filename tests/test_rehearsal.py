"""Tests that need a GPU, rehearsed on the CPU: smaller networks, captured by what stands for a CUDA graph there.

Of a GPU they say nothing here, but that they can pass: on a rare one a test that cannot keeps all else from running.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from test_capture import captured
from test_gpu import (  # noqa: F401
    WORDS,
    data_dir,
    maker,
    split,
    test_a_run_that_is_stopped_goes_on_exactly,
    test_after_a_capture_that_failed_runs_are_launched_one_by_one_and_others_captured,
    test_captured_updates_are_those_launched_kernel_by_kernel_and_repeat,
    test_draws_are_those_of_the_cpu,
    test_updates_of_an_epoch_do_not_wait_for_the_device,
    test_what_does_not_fit_the_device_is_said_in_one_line,
)

from nin_repro import rng

SMALL = [
    "architecture.blocks.mlpconv1.widths=[32,24,24]",
    "architecture.blocks.mlpconv2.widths=[32,24,24]",
    "architecture.blocks.mlpconv3.widths=[32,24,classes]",
    "dataset.preprocessing.zca=null",
    "optimizer.batch_size=16",
]


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: None)
    return "cpu"


@pytest.fixture
def make(tmp_path: Path, data_dir: Path, device: str, monkeypatch: pytest.MonkeyPatch) -> Any:  # noqa: F811
    monkeypatch.setattr(rng.Clock, "AHEAD", 8)
    made = maker(tmp_path, data_dir, device, split(9 * 16 + 8))

    def trainer(*words: str, name: str = "run", base: tuple[str, ...] = WORDS) -> Any:
        known = [word.replace("tf32", "fp32") for word in words]  # which a CPU has not
        run = made(*known, *SMALL, name=name, base=base)
        return run if "cuda_graphs=false" in words else captured(run)

    trainer.said = made.said  # type: ignore[attr-defined]
    return trainer
