"""A captured update computes what one launched kernel by kernel does: its Python runs once, its numbers go on moving.

No GPU is needed for that: `recorded` keeps the operations of a piece of work with the very arguments that they had,
and does them again in the same memory, as a CUDA graph does. What changes from one update to the next and is not in a
tensor that stays in its place would stand still.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_loop import Make, make, result, stop_after  # noqa: F401 - make is a fixture
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nin_repro import build, rng
from nin_repro.config.compose import load
from nin_repro.data.batches import Scaled
from nin_repro.data.splits import Split
from nin_repro.training import checkpoint, evaluate, loop
from nin_repro.training.capture import WARM, Body, Replay
from nin_repro.training.console import Console
from nin_repro.training.stop import Interrupted, NotFinite


class Recorder(TorchDispatchMode):
    """Keeps all operations in order. One that hands a number to Python cannot be captured."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if call is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("the host waits for the device")
        found = call(*args, **(kwargs or {}))
        self.done.append((call, args, kwargs or {}, found))
        return found

    @torch.no_grad()
    def again(self) -> None:
        for call, args, kwargs, before in self.done:
            found = call(*args, **kwargs)
            if not any(result.alias_info for result in call._schema.returns):  # neither a view nor in place
                for old, new in zip(tree_leaves(before), tree_leaves(found), strict=True):
                    if isinstance(old, Tensor):
                        old.copy_(new)


def recorded(body: Body) -> Body:
    """What `cuda_graph` is on a GPU. There capturing executes nothing; here it does, so the first replay has been."""
    recorder = Recorder()
    with recorder:
        body()
    times = iter(range(10**9))
    return lambda: None if next(times) == 0 else recorder.again()


def captured(trainer: loop.Trainer) -> loop.Trainer:
    """Capture the trainer's updates and answers, from the next one on."""
    trainer.unattended = True
    trainer.capture = trainer.update.capture = trainer.answers.replay.capture = recorded
    return trainer


@pytest.fixture(autouse=True)
def words_drawn_for_few_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that these short runs, too, get to where what a captured update reads is drawn anew."""
    monkeypatch.setattr(rng.Clock, "AHEAD", 4)


META = torch.device("meta")
RECIPES = {
    "dropout, augmentation and a drop": ["dataset.augment.pad=1", "dataset.augment.flip=true"],
    "warm-up, and a last batch of each file": ["optimizer.schedule.warmup=[7,3,5]", "optimizer.order=files"],
    "fully connected, other dropout": ["regularizer=fc_both_dropout", "regularizer.dropout=0.2"],
    "a rate that falls with every update": [
        "optimizer.schedule.kind=exponential",
        "optimizer.schedule.factor=0.97",
        "optimizer.schedule.floor=0.1",
    ],
    "momentum that rises with every epoch": [
        "optimizer.schedule.kind=linear",
        "optimizer.schedule.decay_epochs=3",
        "optimizer.schedule.momentum_final=0.95",
        "optimizer.schedule.momentum_epochs=3",
    ],
    "bf16": ["precision=bf16"],
    "no clipping, evaluated more often": ["optimizer.clip_norm=null", "train_eval_every=1"],
}


@pytest.mark.parametrize("words", RECIPES.values(), ids=RECIPES.keys())
def test_a_captured_run_is_the_run_kernel_by_kernel(words: list[str], make: Make) -> None:  # noqa: F811
    plain, fast = make(*words, name="plain"), captured(make(*words, name="fast"))
    assert plain.run() == fast.run() == "done"
    assert fast.capture is recorded and fast.update.captures and fast.answers.replay.captures
    assert result(fast) == result(plain)
    assert fast.progress.start == plain.progress.start


def test_a_captured_run_that_is_stopped_after_any_step_ends_as_one_that_was_not(make: Make) -> None:  # noqa: F811
    words = ["dataset.augment.pad=1"]
    whole = make(*words, name="whole")
    whole.run()
    for stop in range(1, whole.progress.step + 1):
        first = captured(make(*words, name=f"cut{stop}"))
        stop_after(first, stop)
        with pytest.raises(Interrupted):
            first.run()
        second = captured(make(*words, name=f"cut{stop}"))
        assert second.progress.step == stop and second.run() == "done"
        assert result(second) == result(whole) and second.capture is recorded
        assert not second.update.forms and not second.answers.replay.forms  # nothing that a GPU holds is left


def test_every_start_of_a_captured_run_is_captured_anew(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    words = ["restarts=1", "optimizer.schedule.epochs=2", "optimizer.schedule.drops=[]"]
    plain, fast = make(*words, name="plain"), make(*words, name="fast")
    monkeypatch.setattr(loop, "is_dead", lambda *_: (plain.progress.attempt == 0 and fast.progress.attempt == 0, []))
    assert plain.run() == "done" and plain.progress.attempt == 1
    plain.progress.attempt = 0
    begin = fast._begin_attempt
    monkeypatch.setattr(fast, "_begin_attempt", lambda: (begin(), captured(fast)))
    captured(fast)
    assert fast.run() == "done" and fast.progress.attempt == 1 and fast.update.captures
    assert checkpoint.fingerprint(fast.network.state_dict()) == checkpoint.fingerprint(plain.network.state_dict())


def test_what_cannot_be_captured_is_launched_one_by_one(make: Make) -> None:  # noqa: F811
    plain, fast = make(name="plain"), captured(make(name="fast"))
    said: list[str] = []

    def wait(*_: object) -> None:
        fast.sgd.norm.item()

    fast.network.register_forward_hook(wait)
    fast.console.line = said.append  # type: ignore[method-assign,assignment]
    assert plain.run() == fast.run() == "done"
    assert not fast.update.captures and sum("no CUDA graphs" in line and "waits" in line for line in said) == 1
    assert result(fast) == result(plain)


def test_the_first_of_two_errors_says_why_work_cannot_be_captured() -> None:
    def capture(body: Body) -> Body:
        try:
            body()
        finally:
            raise RuntimeError("capture failed due to a previous error")  # as CUDA does when such a capture ends

    def body() -> None:
        if len(calls) == WARM:
            raise RuntimeError("the host waits for\n the device")
        calls.append("done")

    calls: list[str] = []
    said: list[str] = []
    work = Replay(body, capture, None, said.append)
    for _ in range(WARM):
        work()
    with pytest.raises(RuntimeError, match="waits"):  # launched one by one it fails as well
        work()
    assert said == ["the host waits for the device"] and work.capture is None


def test_an_unattended_epoch_waits_for_the_device_only_at_its_end(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(loop, "START", 0)
    monkeypatch.setattr(loop, "PROBE_EVERY", 2)
    run = make()
    run.unattended = True
    run.begin_epoch()
    with Recorder():  # refuses to wait
        for position in range(len(run.batches) - 1):
            run.step(position)
            assert not run._probes(position)
            run._between_steps(0.0, position + 1)
    assert run._probes(len(run.batches) - 1)


def test_a_fault_in_a_captured_update_is_found_with_the_weights_before_it(make: Make) -> None:  # noqa: F811
    run = captured(make())
    original = run.step

    def step(position: int) -> None:
        if run.progress.step == 2 + WARM:
            run.before = checkpoint.fingerprint(run.network.state_dict())  # type: ignore[attr-defined]
            assert isinstance(run.batches.images, Scaled)
            run.batches.images.mean.fill_(float("nan"))
        original(position)

    run.step = step  # type: ignore[method-assign]
    with pytest.raises(NotFinite, match=r"epoch 1, step 5"):
        run.run()
    assert checkpoint.fingerprint(run.network.state_dict()) == run.before  # type: ignore[attr-defined]


class OneDevice(TorchDispatchMode):
    """Refuses operations with a tensor that is on another device than the one without memory."""

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = call(*args, **(kwargs or {}))
        for one in tree_leaves((args, kwargs, found)):
            if isinstance(one, Tensor) and one.device != META:
                raise RuntimeError(f"{call} has a tensor on {one.device}")
        return found


@pytest.mark.parametrize("experiment", ["table1/nin_aug", "table1/maxout", "table5/fc_dropout", "text/cnn_fc_dropout"])
def test_an_update_touches_one_device_and_asks_it_for_no_number(
    experiment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At full size: torch's device without memory works out shapes only. What it has no number for, it cannot tell."""
    draw, labels = np.random.default_rng(0), np.arange(150) % 10
    images = draw.integers(0, 256, (150, 32, 32, 3)).astype(np.uint8)
    split = Split(images[:130], labels[:130], images[130:], labels[130:], images[:130], 10, "0" * 64, "", "test")
    given: list[Any] = []  # to the optimizer's kernel, which that device lacks
    monkeypatch.setattr(torch, "_fused_sgd_", lambda *lists, **named: given.append((lists, named)))
    config = load([f"experiment={experiment}", f"data_dir={tmp_path}", "dataset.preprocessing.zca=null"])
    machine = build.Machine(META, 1, "meta", "ours")
    with Console(tmp_path / "train.log") as console:
        run = build.trainer(config, split, machine, console, tmp_path / "run.pt", lambda row: None)
    size = run.batches.size(0)
    run._update(size)  # asks for random words, which are drawn ahead from there on
    with run.network.clock.captured(), OneDevice():
        run._update(size)
        with pytest.raises(RuntimeError, match="tensor on cpu"):
            run.totals += torch.ones(3, dtype=torch.float64)
        with pytest.raises(RuntimeError, match="meta"):
            run.totals[0].item()
    assert len(given) == 2 * len(run.sgd.groups)
    assert {one.device for one in tree_leaves(given) if isinstance(one, Tensor)} == {META}


def test_words_drawn_ahead_are_those_of_their_update() -> None:
    clock, now = rng.Clock(), torch.zeros(1, dtype=torch.int64)
    clock.set((3, 4), now)
    clock.words(16, 10), clock.words(17, 33), clock.words(16, 30)
    for step in (0, 1, 63, 64, 65, 2**33 + 5):
        clock.step = step
        now.fill_(step)
        with clock.captured():
            for purpose, count in ((16, 30), (16, 7), (17, 33)):
                assert torch.equal(clock.words(purpose, count), rng.words((3, 4), purpose, step, count))


def test_work_is_launched_one_by_one_before_it_is_captured() -> None:
    calls: list[str] = []

    def capture(body: Body) -> Callable[[], None]:
        calls.append("capture")
        return lambda: calls.append("replay")

    clock = rng.Clock()
    clock.set((0, 0), torch.zeros(1, dtype=torch.int64))
    work = Replay(lambda size: calls.append(f"body {size}"), capture, clock, calls.append)
    for size in (8, 8, 8, 4, 8):
        work(size)
    assert calls == ["body 8", "body 8", "capture", "replay", "body 4", "replay"]


def test_a_captured_run_that_is_looked_at_and_measured_in_many_batches(
    make: Make,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(evaluate.BATCH, "cpu", 10)
    monkeypatch.setattr(loop, "PROBE_EVERY", 4)
    plain, fast = make(name="plain"), captured(make(name="fast"))
    assert plain.run() == fast.run() == "done"
    assert result(fast) == result(plain)
    assert len(plain.progress.start) == 3 and fast.progress.start == plain.progress.start
