"""A run that is killed at every kind of point of its life ends as one that nobody disturbed."""

import random
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import chaos  # noqa: E402
import kills  # noqa: E402

from nin_repro.files import UsageError  # noqa: E402


def test_a_run_killed_before_any_of_its_file_operations_ends_as_undisturbed(tmp_path: Path) -> None:
    def next_operation(report: kills.Report, draw: random.Random) -> kills.Point:
        step = report.operations // 30 + 1  # how many there are before the first update depends on what is installed
        return "file operation", 1 + step * report.starts % report.operations, signal.SIGKILL

    report = kills.kill_again_and_again(tmp_path, 40, random.Random(0), point=next_operation)
    assert report.differences == [] and report.kills == 40 and report.runs > 2 and report.operations > 100


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_run_asked_to_stop_at_any_line_stops_with_that_code_and_goes_on(tmp_path: Path, number: int) -> None:
    def any_line(report: kills.Report, draw: random.Random) -> kills.Point:
        return "line", draw.randint(1, report.lines), number

    report = kills.kill_again_and_again(tmp_path, 5, random.Random(number), point=any_line)
    assert report.differences == [] and report.kills == 5


def test_a_difference_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(path: Path, state: dict[str, Any]) -> None:
        save(path, state | {"totals": torch.zeros_like(state["totals"])})

    save = kills.checkpoint.save
    monkeypatch.setattr(kills.checkpoint, "save", forgetful)
    words = [*kills.WORDS, "checkpoint_seconds=0"]
    report = kills.kill_again_and_again(
        tmp_path,
        9,
        random.Random(0),
        words,
        lambda report, draw: ("file operation", report.operations - 60 - report.starts, signal.SIGKILL),
    )
    assert report.differences


@pytest.mark.parametrize(
    "page",
    [
        lambda count: kills.page(kills.Report(kills=count), 0),
        lambda count: chaos.page(chaos.Report(faults=Counter({"disk full": count})), 0, 12),
    ],
    ids=["kills", "chaos"],
)
def test_a_smaller_trial_does_not_replace_the_report_of_a_larger_one(
    page: Callable[[int], str], tmp_path: Path
) -> None:
    out = tmp_path / "report.md"
    for count, kept in ((1200, 1200), (3, 1200), (1201, 1201)):
        kills.conclude(page(count), [], out)
        assert out.read_text() == page(kept)


@pytest.mark.parametrize("script, count", [(kills, "--kills"), (chaos, "--faults")])
def test_nothing_is_begun_whose_report_would_be_empty_or_lost(
    script: Any, count: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "report.md"
    for words in ([count, "0"], [count, "-1"], ["--out", str(tmp_path)], ["--out", "/dev/null/report.md"]):
        monkeypatch.setattr("sys.argv", ["", "--out", str(out), *words])
        with pytest.raises(UsageError, match=words[0]):
            script.main()
    assert [*tmp_path.iterdir()] == []
