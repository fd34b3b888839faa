"""What a training tells in its record."""

from typing import Any

import pytest
from test_loop import TINY, Make, images, kill_hidden_units, make  # noqa: F401 - make is a fixture

from nin_repro.config.compose import load
from nin_repro.outcome import Request, make_record
from nin_repro.training import loop


def test_a_record_tells_of_every_start(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr("nin_repro.training.loop.PROBE_EVERY", 2)
    run = make("restarts=1", "architecture.last_relu=false")
    start = run.network.initialise

    def initialise(seed: int, attempt: int) -> None:
        start(seed, attempt)
        if attempt == 0:
            kill_hidden_units(run)

    run.network.initialise = initialise  # type: ignore[method-assign]
    run._begin_attempt()
    assert run.run() == "done"
    request = Request(load([*TINY, "restarts=1"]), [], None, "")
    about = {"device": "cpu", "threads": 1, "processor": "a CPU", "commit": "c", "dirty": False}
    told = make_record(request, run, "done", images(), about)
    assert [(one["attempt"], one["died"]) for one in told["attempts"]] == [(0, "network"), (1, None)]
    assert told["train_error_running"] == run.progress.rows[-1]["train_error_running"] and told["dead_classes"] == []
    run.progress.attempt = 2  # which ended before its first epoch did
    dead = make_record(request, run, "dead", images(), about)
    assert dead["train_error_running"] is None and dead["dead_classes"] == [*range(10)]


def test_the_first_updates_are_told_by_their_mean_loss_and_largest_gradient(
    make: Make,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop, "PROBE_EVERY", 4)
    losses, norms, note = list[float](), list[float](), loop.note

    def noted(loss: Any, wrong: Any, norm: Any, *rest: Any) -> None:
        losses.append(loss.item())
        norms.append(norm.item())
        note(loss, wrong, norm, *rest)

    monkeypatch.setattr(loop, "note", noted)
    run = make()
    run.run()
    told = [(one["step"], one["loss"], one["gradient_norm"]) for one in run.progress.start]
    parts = [(end, losses[end - 4 : end], norms[end - 4 : end]) for end in (4, 8, 12)]
    assert told == [(end, round(sum(some) / 4, 4), round(max(lengths), 4)) for end, some, lengths in parts]


def test_an_epoch_that_is_cut_short_tells_of_its_own_updates(make: Make) -> None:  # noqa: F811
    run = make("optimizer.clip_norm=1e-6", "budget.max_steps=7")  # 70 images in batches of 16
    run.run()
    assert [row["clipped"] for row in run.progress.rows] == [100, 100]
