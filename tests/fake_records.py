"""Records of runs that never took place, for tests of what reads them."""

import hashlib
from pathlib import Path
from typing import Any

from nin_repro.results import records
from nin_repro.results.records import Record


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def record(experiment: str | None = "table1/nin", seed: int = 0, error: float | None = 10.5, **changes: Any) -> dict:
    """A sound record; its family follows from experiment and budget unless given."""
    budget = changes.get("budget", "paper")
    family = changes.get("family", digest(f"{experiment} {budget}"))
    value = {
        "format": 1,
        "key": digest(f"{family} {seed}"),
        "family": family,
        "experiment": experiment,
        "budget": budget,
        "protocol": "final",
        "seed": seed,
        "status": "done",
        "test_error": error,
        "validation_error": None,
        "train_error": 1.25,
        "train_error_running": 5.5,
        "dead_classes": [],
        "attempts": [{"attempt": 0, "died": None, "epoch": 260, "step": 102700}],
        "epochs": 260,
        "steps": 102700,
        "seconds": 7200.0,
        "images_per_second": 1800.5,
        "device": "a GPU",
        "commit": "0123456789abcdef",
        "dirty": False,
        "command": f"python -m nin_repro.train experiment={experiment} seed={seed}",
        "deviations": [],
        "recipe": {"lr": 0.1},
        "environment": {},
        "data": {"provenance": "official", "digest": "d"},
        "weights_sha256": "0" * 64,
        "started": "2025-01-01T00:00:00Z",
        "finished": "2025-01-01T02:00:00Z",
        "curve": {"epoch": [1, 2], "train_loss": [2.3, 2.1], "test_error": [None, 80.0]},
    }
    return value | changes


def stored(folder: Path, *values: dict) -> list[Record]:
    """The records after a trip through files, as a table reads them."""
    for value in values:
        records.write(folder, value)
    read, problems = records.read_all(folder)
    assert problems == []
    return read
