"""Training: exact resumption, deaths, faults, and what must not change the weights."""

import dataclasses
import hashlib
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from near import distance

from nin_repro import build, rng
from nin_repro.config.compose import load
from nin_repro.data.splits import Split
from nin_repro.models.nin import NetworkInNetwork
from nin_repro.schema import Config
from nin_repro.training import checkpoint, evaluate
from nin_repro.training.console import Console
from nin_repro.training.loop import Trainer
from nin_repro.training.schedule import Reached
from nin_repro.training.stop import STOP, Interrupted, NotFinite, ignore_warnings

TINY = [
    "dataset=digits",
    "architecture=nin_small",
    "architecture.blocks.mlpconv1.widths=[12,8,8]",
    "architecture.blocks.mlpconv2.widths=[12,8,8]",
    "architecture.blocks.mlpconv3.widths=[12,8,classes]",
    "dataset.preprocessing.divide=16",
    "optimizer.batch_size=16",
    "optimizer.clip_norm=1",
    "optimizer.schedule.epochs=3",
    "optimizer.schedule.drops=[2]",
]


def images(count: int = 90) -> Split:
    """Ten kinds of noisy stripes that a small network learns."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 10, count)
    patterns = draw.integers(0, 2, (10, 8, 8, 1)) * 200
    pixels = (patterns[labels] + draw.integers(0, 56, (count, 8, 8, 1))).astype(np.uint8)
    train, test = slice(0, count - 20), slice(count - 20, count)
    arrays = pixels[train], labels[train], pixels[test], labels[test], pixels[train]
    return Split(*arrays, 10, "0" * 64, "made up", "test")


Make = Callable[..., Trainer]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A trainer of the tiny network with further words, on made-up images, resumed where its checkpoint is."""

    def trainer(*words: str, name: str = "run", count: int = 90, ancestor: build.Ancestor | None = None) -> Trainer:
        config: Config = load([*TINY, *words])
        console = Console(tmp_path / "train.log")
        split = dataclasses.replace(images(count), eval_name="test" if config.protocol == "final" else "validation")
        made = build.trainer(
            config, split, build.machine(config), console, tmp_path / f"{name}.pt", lambda row: None, ancestor
        )
        console.log.close()
        console.line = console.status = lambda *_: None  # type: ignore[method-assign,assignment]
        state = checkpoint.load(tmp_path / f"{name}.pt")
        if state is not None:
            made.resume(state)
        return made

    return trainer


def test_a_fresh_start_draws_otherwise(make: Make) -> None:
    trainer = make()
    keys = [trainer.network.clock.key]
    trainer.progress = dataclasses.replace(trainer.progress, attempt=1)
    trainer._begin_attempt()
    keys.append(trainer.network.clock.key)
    assert keys == [rng.seed_words("train", 0, attempt) for attempt in (0, 1)] and keys[0] != keys[1]


def result(trainer: Trainer) -> tuple[str, list[dict[str, Any]], Any]:
    rows = [{name: value for name, value in row.items() if "second" not in name} for row in trainer.progress.rows]
    return checkpoint.fingerprint(trainer.network.state_dict()), rows, trainer.final


def stop_after(trainer: Trainer, steps: int, *signals: signal.Signals) -> None:
    """Ask the trainer to stop when it has made so many updates."""
    original = trainer.step

    def step(position: int) -> None:
        original(position)
        if trainer.progress.step == steps:
            for number in signals or [signal.SIGTERM]:
                os.kill(os.getpid(), number)

    trainer.step = step  # type: ignore[method-assign]


def test_every_signal_that_means_stop_does(make: Make) -> None:
    """SIGUSR2 means it where somebody handles it, who gets it when the state is saved; SIGHUP does without nohup."""
    passed: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)}
    try:
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, lambda number, _: passed.append(number))
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        for asked in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
            run = make(name=asked.name)
            stop_after(run, 3, asked, asked if asked != signal.SIGINT else signal.SIGHUP)  # systems may say it twice
            with pytest.raises(Interrupted):
                run.run()
            assert STOP.signal == asked and make(name=asked.name).progress.step == 3 and passed == []
            STOP.pass_on()
            assert passed == ([asked] if asked == signal.SIGUSR2 else [])
        ignore_warnings()
        os.kill(os.getpid(), signal.SIGUSR2)  # it comes when all is done
        assert passed == [signal.SIGUSR2]
        ignoring = make(name="nohup")
        stop_after(ignoring, 3, signal.SIGHUP)
        assert ignoring.run() == "done"
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        hung_up = make(name="hung_up")
        stop_after(hung_up, 3, signal.SIGHUP)
        with pytest.raises(Interrupted):
            hung_up.run()
        impatient = make(name="impatient")
        stop_after(impatient, 3, signal.SIGINT, signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            impatient.run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


VALIDATION = ["protocol=validate", "optimizer.schedule.stop=validation", "optimizer.schedule.stop_patience=1"]


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["optimizer=sgd_plateau", "optimizer.schedule.patience=1"],
        VALIDATION,
        ["optimizer.schedule.warmup=[7,3,5]", "optimizer.order=files"],
        ["budget.max_steps=7"],
        ["budget.max_steps=5"],
    ],
)
def test_a_run_that_is_stopped_after_any_step_ends_as_one_that_was_not(words: list[str], make: Make) -> None:
    words = [*words, "dataset.augment.pad=1", "optimizer.schedule.epochs=3"]
    whole = make(*words, name="whole")
    assert whole.run() == "done"
    steps = whole.progress.step
    assert steps >= 5
    for stop in range(1, steps + 1):
        first = make(*words, name=f"cut{stop}")
        stop_after(first, stop)
        with pytest.raises(Interrupted):
            first.run()
        assert first.progress.step == stop
        second = make(*words, name=f"cut{stop}")
        assert second.progress.step == stop and second.run() == "done"
        assert result(second) == result(whole)


def test_a_run_that_is_stopped_while_it_is_measured_ends_as_one_that_was_not(make: Make) -> None:
    whole = make(name="whole")
    whole.run()
    first = make(name="cut")
    original = first._stop_if_asked

    def stop() -> None:
        if first.rate.finished:
            os.kill(os.getpid(), signal.SIGTERM)
        original()

    first._stop_if_asked = stop  # type: ignore[method-assign]
    with pytest.raises(Interrupted, match=rf"^epoch 3, step {whole.progress.step}$"):
        first.run()
    assert first.final is None
    second = make(name="cut")
    assert second.rate.finished and second.run() == "done"
    assert result(second) == result(whole)


def test_a_killed_run_repeats_what_its_checkpoint_lacks(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = make(name="whole")
    whole.run()
    first = make("checkpoint_seconds=0")
    original = first.save

    def save() -> None:
        if first.progress.step < 6:  # later ones do not reach the disk
            original()

    first.save = save  # type: ignore[method-assign]
    first.run()
    second = make()
    assert second.progress.step == 5
    second.run()
    assert result(second) == result(whole)


def test_how_often_one_looks_changes_no_weight(make: Make) -> None:
    runs = [make(*words, name=str(words)) for words in ([], ["eval_every=0"], ["eval_every=2", "train_eval_every=1"])]
    for run in runs:
        run.run()
    assert len({result(run)[0] for run in runs}) == 1
    assert "test_error" in runs[0].progress.rows[0] and "test_error" not in runs[1].progress.rows[0]
    assert "train_error" in runs[2].progress.rows[0]


@pytest.mark.parametrize("words", [[], ["regularizer=fc_both_dropout", "regularizer.dropout=0.3"]])
def test_an_update_in_micro_batches_is_that_of_the_whole_batch(
    words: list[str], make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make(*words, name="whole")
    monkeypatch.setattr(build, "HELD", 1), monkeypatch.setattr(build, "FEWEST", 5)
    parts = make(*words, name="parts")
    sizes: list[int] = []
    parts.network.register_forward_pre_hook(lambda network, given: sizes.append(len(given[0])))
    for run in (whole, parts):
        run.begin_epoch()
        for position in range(len(run.batches)):
            run.step(position)
    assert sizes == [5, 5, 5, 1] * 4 + [5, 1]  # 70 images in batches of 16
    for one, other in zip(whole.network.parameters(), parts.network.parameters(), strict=True):
        assert distance(other, one) < 1e-5
    assert parts.totals.tolist() == pytest.approx(whole.totals.tolist(), rel=1e-6)


def test_which_updates_go_in_micro_batches() -> None:
    """Those whose layers give more than 256 MiB; but images of networks of one's own may bear on each other."""
    found = {
        words: build.micro_batch(load(words.split()))
        for words in (
            "experiment=table1/nin",
            "experiment=table1/nin precision=bf16",
            "experiment=table1/nin optimizer.batch_size=32",
            "experiment=table4/nin",
            "experiment=extra/fashion_alexnet",
        )
    }
    assert [*found.values()] == [64, 128, 32, 128, 32]
    config = load(["experiment=table1/nin"])
    for group, name in (("architecture", "kind"), ("regularizer", "head")):
        own = dataclasses.replace(getattr(config, group), **{name: "own"})
        assert build.micro_batch(dataclasses.replace(config, **{group: own})) is None


def test_seeds_differ(make: Make) -> None:
    first, second = make(name="a"), make("seed=1", name="b")
    first.run(), second.run()
    assert result(first)[0] != result(second)[0]


def test_it_learns(make: Make) -> None:
    run = make(
        "optimizer.schedule.epochs=40", "optimizer.schedule.drops=[30]", "restarts=20", "regularizer=gap", count=420
    )
    assert run.run() == "done"
    assert run.final is not None and run.final[0].error < 10 and run.final[1].error < 5


def test_progress_tells_speed_and_time_left_but_not_by_a_first_step_that_may_have_compiled(make: Make) -> None:
    trainer = make()
    told: list[tuple[str, dict[str, Any]]] = []
    trainer.console.due = lambda: True  # type: ignore[method-assign]
    trainer.console.status = lambda *status: told.append(status)  # type: ignore[method-assign]
    trainer.run()
    (first, unknown), (second, figures) = [one for one in told if one[0].startswith("epoch 1/")][:2]
    assert "step 1/" in first and "left" not in first and unknown["left"] is unknown["images_per_second"] is None
    assert "step 2/" in second and second.endswith(" left") and "images/s" in second
    assert figures["images_per_second"] > 0 and figures["left"] >= 0


def test_running_error_is_that_of_the_training_pass(make: Make) -> None:
    run = make("optimizer.lr=1e-12", "regularizer=gap", "optimizer.schedule.epochs=1", "optimizer.schedule.drops=[]")
    run.run()
    assert run.final is not None
    row = run.progress.rows[0]  # the weights stood still and there is no dropout: both ways of counting agree
    assert row["train_error_running"] == pytest.approx(run.final[1].error)
    assert row["train_loss"] == pytest.approx(run.final[1].loss, rel=1e-5)


def test_an_epoch_tells_how_long_its_gradients_were_and_how_many_were_shortened(make: Make) -> None:
    run, norms = make("optimizer.clip_norm=2"), []
    original = run.step

    def step(position: int) -> None:
        original(position)
        norms.append(run.sgd.norm.item())

    run.step = step  # type: ignore[method-assign]
    run.run()
    epochs = norms[:5], norms[5:10], norms[10:]  # 70 images in batches of 16
    for row, own in zip(run.progress.rows, epochs, strict=True):
        assert row["gradient_norm"] == pytest.approx(sum(own) / 5, abs=1e-4)
        assert row["clipped"] == pytest.approx(20 * sum(norm > 2 for norm in own))
    assert 0 < sum(row["clipped"] for row in run.progress.rows) < 300
    free = make("optimizer.clip_norm=null", name="free")
    free.run()
    assert free.progress.rows[0]["gradient_norm"] > 0 and "clipped" not in free.progress.rows[0]


def test_rates_of_the_four_groups(make: Make) -> None:
    words = ["optimizer.lr=0.3", "optimizer.bias_lr_factor=3", "optimizer.last_layer_factor=0.5"]
    words += ["optimizer.last_layer_bias_factor=0.25", "regularizer=fc", "regularizer.fc_lr_factor=0.2"]
    sgd = make(*words).sgd
    found = [(round(group.lr, 6), group.weight_decay, group.bias) for group in sgd.groups]
    assert found == [
        (0.3, 1e-4, False),
        (0.9, 0.0, True),
        (0.15, 1e-4, False),
        (0.225, 0.0, True),
        (0.06, 1e-4, False),
        (0.18, 0.0, True),
    ]


# --- deaths ---------------------------------------------------------------------------------------------------------


def convolutions(trainer: Trainer) -> Any:
    assert isinstance(trainer.network, NetworkInNetwork)
    return trainer.network.convolutions()


def kill_hidden_units(trainer: Trainer) -> None:
    for parameter in convolutions(trainer)[3].parameters():
        parameter.data.fill_(-1.0)


def test_a_dead_network_starts_again_from_another_initialisation(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nin_repro.training.loop.PROBE_EVERY", 2)
    run = make("restarts=2", "architecture.last_relu=false")
    start = run.network.initialise

    def initialise(seed: int, attempt: int) -> None:
        start(seed, attempt)
        if attempt < 2:
            kill_hidden_units(run)

    run.network.initialise = initialise  # type: ignore[method-assign]
    run._begin_attempt()
    assert run.run() == "done"
    deaths = [(one["attempt"], one["died"], one["epoch"], one["step"]) for one in run.progress.attempts]
    assert deaths == [(0, "network", 1, 2), (1, "network", 1, 2)]
    assert run.progress.attempt == 2 and {row["attempt"] for row in run.progress.rows} == {2}
    assert [one["attempt"] for one in run.progress.start] == [0, 1] + [2] * 7


def test_without_restarts_a_dead_run_ends_dead(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nin_repro.training.loop.PROBE_EVERY", 2)
    run = make()
    kill_hidden_units(run)
    assert run.run() == "dead"
    assert run.progress.step == 2 and run.progress.attempts[0]["died"] == "network"
    assert run.final is not None and run.final[0].loss == pytest.approx(math.log(10), abs=0.1)


def test_death_between_two_looks_is_found_at_the_end(make: Make) -> None:
    run, said = make(), list[str]()
    run.console.line = said.append  # type: ignore[method-assign,assignment]
    kill_hidden_units(run)
    assert run.run() == "dead" and run.progress.attempts[0]["epoch"] == 3
    assert said[-1].startswith("the network is dead at epoch 3, step ") and said[-1].endswith(
        ": this was the last start"
    )


def test_a_network_that_answers_by_the_frequency_of_the_classes_is_dead(make: Make) -> None:
    run = make("architecture.last_relu=false")
    kill_hidden_units(run)
    last, labels = convolutions(run)[-1], torch.zeros(70, dtype=torch.int64)
    last.weight.data.zero_()
    last.bias.data[0] = 5.0  # as all images are of this class
    assert evaluate.is_dead(run.network, run.batches.images, labels)[0]
    assert not evaluate.is_dead(run.network, run.batches.images, labels + 1)[0]  # far from having learned anything


def test_a_dead_class_is_counted_at_the_end(make: Make) -> None:
    run = make("optimizer.lr=1e-6")
    last = convolutions(run)[-1]
    last.bias.data.fill_(1.0)
    last.weight.data[3], last.bias.data[3] = 0.0, -1.0
    assert run.run() == "done"
    assert run.progress.silent == [3]
    assert run.progress.attempts == [{"attempt": 0, "died": "classes", "epoch": 3, "step": run.progress.step}]
    assert all(row["silent_classes"] == 1 for row in run.progress.rows)


@pytest.mark.parametrize(
    ("words", "starts", "then"),
    [
        ([], 2, "start 2 of 2"),
        (["budget.epochs=2"], 1, "a run at a reduced budget does not start anew for that"),
        (["restarts=0"], 1, "this was the last start"),
    ],
)
def test_a_dead_class_costs_a_start_unless_the_run_is_reduced(
    words: list[str], starts: int, then: str, make: Make
) -> None:
    run = make("restarts=1", "optimizer.lr=1e-6", *words)
    start = run.network.initialise

    def initialise(seed: int, attempt: int) -> None:
        start(seed, attempt)
        last = convolutions(run)[-1]
        last.bias.data.fill_(1.0)
        if attempt == 0:
            last.weight.data[3], last.bias.data[3] = 0.0, -1.0

    said: list[str] = []
    run.console.line = said.append  # type: ignore[method-assign,assignment]
    run.network.initialise = initialise  # type: ignore[method-assign]
    run._begin_attempt()
    assert run.run() == "done"
    (told,) = [line for line in said if line.startswith("classes [3] are silent at epoch")]
    assert told.endswith(f": {then}")
    assert run.progress.attempt + 1 == starts
    assert [one["died"] for one in run.progress.attempts] == ["classes"]
    assert run.progress.silent == ([] if starts == 2 else [3])


def test_a_plateau_is_not_death(make: Make) -> None:
    run = make("architecture.last_init_factor=1e-6")
    for convolution in convolutions(run)[-1:]:
        convolution.bias.data.fill_(0.1)
    data = run.batches
    found = evaluate.logits(run.network, data.images)
    assert abs(evaluate.evaluate(run.network, data.images, data.labels).loss - math.log(10)) < 1e-3
    assert (found - found[0]).abs().max() < 1e-3
    assert evaluate.is_dead(run.network, data.images, data.labels) == (False, [])


def test_a_network_without_last_relu_is_never_silent(make: Make) -> None:
    run = make("architecture.last_relu=false")
    assert evaluate.evaluate(run.network, *run.evaluation).silent == []


def test_weights_that_explode_at_an_epochs_end_cost_a_start_and_not_the_run(make: Make) -> None:
    run = make("restarts=1", "architecture.last_relu=false")
    original = run._end_epoch

    def end(images_per_second: float | None) -> None:
        if run.progress.attempt == 0:  # finite they are, but what they make of an image is not
            for parameter in run.network.parameters():
                parameter.data.mul_(1e25)
        original(images_per_second)

    run._end_epoch = end  # type: ignore[method-assign]
    assert run.run() == "done" and [one["died"] for one in run.progress.attempts] == ["diverged"]
    losses = [row["test_loss"] for row in run.progress.rows]
    assert losses[0] is None and None not in losses[1:]


def test_weights_that_explode_after_the_best_epoch_leave_its_weights(make: Make) -> None:
    words = ["protocol=validate", "optimizer.schedule.stop=validation", "optimizer.schedule.stop_patience=50"]
    run = make(*words)
    original = run.step

    def step(position: int) -> None:
        if run.rate.epoch == 2:
            run.batches.images.mean.fill_(float("nan"))  # type: ignore[union-attr]
        original(position)

    run.step = step  # type: ignore[method-assign]
    assert run.run() == "done" and run.rate.epoch == 2
    assert run.final is not None and run.final[0].error == min(row["validation_error"] for row in run.progress.rows)


# --- faults ---------------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_before_the_update(make: Make, tmp_path: Path) -> None:
    run = make("checkpoint_seconds=0")
    original = run.step

    def step(position: int) -> None:
        if run.progress.step == 4:
            run.before = checkpoint.fingerprint(run.network.state_dict())  # type: ignore[attr-defined]
            run.batches.images.mean.fill_(float("nan"))  # type: ignore[union-attr]
        original(position)

    run.step = step  # type: ignore[method-assign]
    with pytest.raises(NotFinite, match=r"epoch 1, step 5, learning rates 0.1, 0.2, 0.01, 0.02"):
        run.run()
    saved = checkpoint.load(tmp_path / "run.pt")
    assert saved is not None and saved["progress"]["step"] == 4
    assert checkpoint.fingerprint(saved["weights"]) == run.before  # type: ignore[attr-defined]
    assert checkpoint.fingerprint(run.network.state_dict()) == run.before  # type: ignore[attr-defined]


@pytest.mark.parametrize("damage", ["truncate", "flip", "zero", "empty"])
def test_a_damaged_checkpoint_is_never_loaded(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, {"a": torch.arange(100.0)})
    assert torch.equal(checkpoint.load(path)["a"], torch.arange(100.0))  # type: ignore[index]
    raw = bytearray(path.read_bytes())
    if damage == "flip":
        raw[len(raw) // 2] ^= 1
    harmed = {"truncate": raw[:-7], "flip": raw, "zero": bytes(len(raw)), "empty": b""}[damage]
    path.write_bytes(bytes(harmed))
    with pytest.raises(checkpoint.DamagedCheckpoint, match="truncated or altered"):
        checkpoint.load(path)


# --- schedules that look at errors ----------------------------------------------------------------------------------


def test_a_run_that_stops_by_the_validation_error_takes_its_best_weights(make: Make) -> None:
    run = make(
        *VALIDATION, "optimizer.schedule.epochs=40", "optimizer.schedule.drops=[]", "optimizer.schedule.stop_patience=3"
    )
    seen: list[str] = []
    original = run._end_epoch

    def end_epoch(images_per_second: float | None) -> None:
        seen.append(checkpoint.fingerprint(run.network.state_dict()))
        original(images_per_second)

    run._end_epoch = end_epoch  # type: ignore[method-assign]
    assert run.run() == "done"
    errors = [row["validation_error"] for row in run.progress.rows]
    best = errors.index(min(errors))
    assert len(errors) == best + 1 + 3 < 40  # it waited three epochs for better ones
    assert checkpoint.fingerprint(run.network.state_dict()) == seen[best] != seen[-1]
    assert run.final is not None and run.final[0].error == min(errors)


def test_a_run_that_dies_after_its_best_weights_ends_with_them_stopped_or_not(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nin_repro.training.loop.PROBE_EVERY", 2)
    words = [*VALIDATION, "optimizer.schedule.epochs=40", "optimizer.schedule.drops=[]"]

    def mortal(name: str) -> Trainer:
        run = make(*words, name=name)
        step, last = run.step, 2 * len(run.batches) + 1

        def and_die(position: int) -> None:
            step(position)
            if run.progress.step == last:
                kill_hidden_units(run)

        run.step = and_die  # type: ignore[method-assign]
        return run

    whole, cut = mortal("whole"), mortal("cut")
    assert whole.run() == "done" and len(whole.progress.rows) == 2
    assert whole.final is not None and whole.final[0].error == min(
        row["validation_error"] for row in whole.progress.rows
    )
    measure = cut._final_evaluation

    def interrupted() -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return measure()

    cut._final_evaluation = interrupted  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        cut.run()
    again = mortal("cut")
    assert again.run() == "done" and result(again) == result(whole)


def test_a_run_goes_on_at_its_parents_rate_until_the_validation_images_are_as_likely(make: Make) -> None:
    words = ["experiment=table4/maxout", "regularizer=gap", "parent.weights=false", "parent.key=0123456789ab"]
    words += ["optimizer.schedule.epochs=20"]
    losses = []
    for target in (1.5, 0.0):
        reached = Reached(train_loss=target, rate=0.5, momentum=0.8)
        run = make(*words, name=str(target), ancestor=build.Ancestor({}, reached))
        run.run()
        assert run.sgd.momentum == 0.8 and {row["rate"] for row in run.progress.rows} == {0.5}
        losses.append([row["watched_loss"] for row in run.progress.rows])
    stopped, never = losses
    assert stopped[-1] <= 1.5 < min(stopped[:-1]) and len(never) == 20
    assert never[: len(stopped)] == stopped


def test_biases_keep_their_rate_when_they_are_told_to(make: Make) -> None:
    for word, scale in (("true", 0.1), ("false", 1.0)):
        run = make(f"optimizer.schedule.bias_drops={word}", name=word)
        run.run()
        assert [group.scale for group in run.sgd.groups] == pytest.approx([0.1, scale] * (len(run.sgd.groups) // 2))


def test_a_run_ends_after_as_many_updates_as_it_may_make(make: Make) -> None:
    run = make("budget.max_steps=7")
    assert run.run() == "done" and (run.progress.step, run.rate.epoch) == (7, 2)


def test_no_state_after_a_fault_is_saved_where_faults_are_found_late(make: Make, tmp_path: Path) -> None:
    run = make("checkpoint_seconds=0")
    run.unattended, original = True, run.step

    def step(position: int) -> None:
        if run.progress.step == 3:
            run.batches.images.mean.fill_(float("nan"))  # type: ignore[union-attr]
        original(position)

    run.step = step  # type: ignore[method-assign]
    with pytest.raises(NotFinite, match="step 4"):
        run.run()
    saved = checkpoint.load(tmp_path / "run.pt")
    assert saved is not None and saved["progress"]["step"] == saved["optimizer"]["updates"] == 3


def test_a_class_that_answers_training_images_is_not_dead(make: Make) -> None:
    run = make()
    measure = run._final_evaluation

    def measured() -> Any:
        tested, trained = measure()
        return dataclasses.replace(tested, silent=[3]), dataclasses.replace(trained, silent=[])

    run._final_evaluation = measured  # type: ignore[method-assign]
    assert run.run() == "done" and (run.progress.silent, run.progress.attempts) == ([], [])


class First(torch.nn.Module):
    """The first of ten logits is the image's only value."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(x.flatten(1), (0, 9))


def test_a_network_that_answers_any_of_many_images_is_alive() -> None:
    images, labels = torch.zeros(300, 1, 1, 1), torch.arange(300) % 10
    assert evaluate.is_dead(First(), images, labels)[0]
    images[280] = 0.5  # beyond those that are looked at first
    assert not evaluate.is_dead(First(), images, labels)[0]


def test_a_fingerprint_is_of_names_and_bytes() -> None:
    raw = b"a" + torch.zeros(2).numpy().tobytes() + b"b" + torch.ones(1).numpy().tobytes()
    assert checkpoint.fingerprint({"b": torch.ones(1), "a": torch.zeros(2)}) == hashlib.sha256(raw).hexdigest()
