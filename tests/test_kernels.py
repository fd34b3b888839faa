"""Our kernels for a GPU, on the CPU by Triton's interpreter, in fp32: the interpreter has no products in bf16."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from near import distance
from torch import Tensor, nn

from nin_repro import build, gpu, rng
from nin_repro.config.compose import load
from nin_repro.data import batches
from nin_repro.models.network import Dropout
from nin_repro.models.nin import MlpconvBlock
from nin_repro.schema import Augment, Mlpconv
from nin_repro.training import sgd, update

pytest.importorskip("triton", "3.7", reason="the interpreter of Triton before 3.7 has no loops with numpy 2.4")
SPEC: Any = load(["experiment=table1/nin"]).architecture.blocks["mlpconv1"]  # type: ignore[union-attr]
NEAR = 2e-6


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Any:
    """In use for the CPU too."""
    from nin_repro import kernels

    monkeypatch.setattr(gpu, "kernels", lambda device: kernels)
    return kernels


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> Any:
    from nin_repro.models import fused

    monkeypatch.setattr(fused, "KIND", torch.float32)
    return fused


def images(*shape: int, wanted: bool) -> Tensor:
    return torch.randn(*shape).to(memory_format=torch.channels_last).requires_grad_(wanted)


WIDE = "the paper's widths"
# channels, maps, side, and what else the block has. Neither channels nor sides are the multiples that tiles like.
BLOCKS: dict[str, tuple[int, list[int], int, dict[str, Any]]] = {
    "images, pooled over the edge": (3, [32, 24, 20], 8, {}),
    "one channel, windows that fit": (1, [16, 12, 32], 7, {"pool_ceil": False}),
    "maps": (20, [24, 32, 16], 9, {}),
    "few maps": (4, [7, 5, 9], 6, {}),
    "no pooling, ten classes": (16, [16, 24, 10], 5, {"pool": "none", "kernel": 3, "pad": 1}),
    "windows side by side": (9, [16, 16], 6, {"pool_size": 2}),
    "windows of every pixel": (9, [16, 16], 6, {"pool_stride": 1}),
    "strides": (3, [16, 10, 8], 11, {"stride": 2, "pad": 0}),
    WIDE: (96, [192, 160, 192], 5, {}),
}
DROPOUTS: list[tuple[float | None, str]] = [(0.5, "released"), (None, ""), (0.5, "inverted"), (0.2, "inverted")]


@pytest.mark.parametrize("one_pass", [False, True])
@pytest.mark.parametrize(
    "case, p, convention",
    # Interpreted, a block of the paper's widths takes seconds: it has the paper's dropout alone.
    [(case, *dropout) for case in BLOCKS for dropout in (DROPOUTS[:1] if case == WIDE else DROPOUTS)],
)
def test_a_block_and_its_gradients_are_those_of_torchs_layers(
    case: str, p: float | None, convention: str, one_pass: bool, fused: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if one_pass:
        monkeypatch.setattr(fused, "LARGE", 1)
    channels, maps, side, rest = BLOCKS[case]
    spec: Mlpconv = dataclasses.replace(SPEC, widths=[*maps], **rest)
    torch.manual_seed(0)
    block = MlpconvBlock(channels, maps, spec)
    for layer in block.convolutions:
        nn.init.normal_(layer.bias, std=0.3)  # type: ignore[arg-type]
    block.to(memory_format=torch.channels_last)
    x = images(3, channels, side, side, wanted=channels not in (1, 3))
    dropout = None if p is None else Dropout(p, convention, 1, rng.Clock((1, 2), 3)).train()

    y = fused.block(x, [*block.convolutions], spec, dropout, fused.halves([*block.parameters()]))
    push = torch.randn_like(y)
    y.backward(push)
    found = [y, *(parameter.grad for parameter in block.parameters()), x.grad]

    exact = x.detach().double().requires_grad_(x.requires_grad)
    block.double().zero_grad()
    reference = block(exact)
    reference = reference if dropout is None else dropout(reference)
    reference.backward(push.double())
    wanted = [reference, *(parameter.grad for parameter in block.parameters()), exact.grad]
    for one, other in zip(found, wanted, strict=True):
        assert (one is None and other is None) or distance(one, other) < NEAR


@pytest.mark.parametrize(
    "words, fuses",
    [
        ([], 3),
        (["regularizer.convention=released", "regularizer.dropout=0.3"], 3),
        (["architecture.last_relu=false"], 2),
        (["architecture.blocks.mlpconv2.pool=avg"], 2),
        (["regularizer=fc_head_dropout"], 3),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_a_network_is_the_same_function(
    words: list[str], fuses: int, training: bool, fused: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow = [f"architecture.blocks.mlpconv{i}.widths=[12,10,{last}]" for i, last in enumerate((9, 11, "classes"), 1)]
    small = [*narrow, "dataset.resize=12", "architecture.init=he"]
    net: Any = build.network(load(["experiment=table1/nin", *small, *words]))
    net.initialise(0, 0)
    torch.manual_seed(0)  # a sum that is 0 but for rounding would go another way in a ReLU
    net.to(memory_format=torch.channels_last).train(training)
    x, seen = images(4, 3, 12, 12, wanted=False), []
    plain = fused.block
    monkeypatch.setattr(fused, "block", lambda *a: seen.append(1) or plain(*a))  # type: ignore[func-returns-value]
    net.fused = True
    found = net(x)
    found.square().sum().backward()
    gradients = [parameter.grad.clone() for parameter in net.parameters()]
    assert len(seen) == fuses
    net.fused = False
    net.double().zero_grad()
    reference = net(x.double())
    reference.square().sum().backward()
    assert distance(found, reference) < NEAR
    for one, parameter in zip(gradients, net.parameters(), strict=True):
        assert distance(one, parameter.grad) < 10 * NEAR


def test_images_too_many_to_be_counted_are_left_to_torch(fused: Any) -> None:
    block = MlpconvBlock(3, [192, 160, 96], SPEC)
    few, many = (torch.empty(count, 3, 224, 224, device="meta") for count in (200, 220))
    assert fused.fits(few, [*block.convolutions], SPEC, True) and not fused.fits(
        many, [*block.convolutions], SPEC, True
    )


def test_windows_of_more_places_than_a_byte_counts_are_left_to_torch(fused: Any) -> None:
    channels, side, size = 16, 20, 15
    spec = dataclasses.replace(SPEC, widths=[16], kernel=1, pad=0, pool_size=size, pool_stride=1, pool_ceil=False)
    block = MlpconvBlock(channels, [16], spec)
    x = images(1, channels, side, side, wanted=True)
    assert fused.fits(x, [*block.convolutions], spec, True)
    y = fused.block(x, [*block.convolutions], spec, None, fused.halves([*block.parameters()]))
    y.square().sum().backward()
    exact = x.detach().double().requires_grad_()
    block.double()(exact).square().sum().backward()
    assert x.grad is not None and exact.grad is not None and distance(x.grad, exact.grad) < NEAR
    wider = dataclasses.replace(spec, pool_size=size + 1)
    assert not fused.fits(x, [*block.convolutions], wider, True)


def test_what_is_not_a_number_comes_through_the_pooling(kernels: Any) -> None:
    x = torch.randn(1, 16, 6, 6).to(memory_format=torch.channels_last)
    x[0, 3, 2, 2] = torch.nan
    y, places = kernels.pool(x, torch.zeros(16), (3, 3), 3, 2, None, 0, 0, 1.0)
    assert y[0, 3].isnan().sum() == 4 and y.isnan().sum() == 4
    assert (places[0, 3][y[0, 3].isnan()] == 255).all()


@pytest.mark.parametrize("shape", [(1, 5), (70, 33), (300, 4, 1100)])
def test_sums_of_parts(shape: tuple[int, ...], kernels: Any) -> None:
    parts = torch.randn(shape)
    assert distance(kernels.total(parts), parts.double().sum(0)) < NEAR


@pytest.mark.parametrize("count, classes, size", [(1, 2, 1.0), (128, 10, 5.0), (37, 100, 30.0)])
def test_loss_and_gradient_and_what_is_added_up_are_those_of_torch(
    count: int, classes: int, size: float, kernels: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    labels = torch.randint(0, classes, (count,))
    found: list[Any] = []
    wanted: list[Any] = []
    for sums, ours in ((found, True), (wanted, False)):
        if not ours:
            monkeypatch.setattr(gpu, "kernels", lambda device: None)
        logits = (size * torch.randn(count, classes, generator=torch.Generator().manual_seed(1))).requires_grad_()
        more = [torch.ones(3, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)]
        more += [torch.tensor([2.0, 0.5], dtype=torch.float64), torch.tensor([7, 3])]
        loss, wrong = update.backward(logits * 2, labels)
        for norm in (0.25, 0.75, 0.5):
            update.note(loss, wrong, torch.tensor(norm), 0.5, count, *more)
        sums += [loss, logits.grad, *more]
    assert all(distance(one, other.double()) < NEAR for one, other in zip(found, wanted, strict=True))
    totals, norms, window, now = found[-4:]
    assert now.tolist() == [10, 6] and window[1] == 0.75 and totals[2] == 1 + 3 * count
    assert norms.tolist() == [1.5, 1]  # of 0.25, 0.75 and 0.5, one longer than 0.5


def test_logits_need_not_lie_in_rows(kernels: Any) -> None:
    values, labels = torch.randn(5, 7, dtype=torch.float64), torch.randint(0, 5, (7,))
    gradients: list[Any] = []
    for kind in (torch.float32, torch.float64):
        x = values.to(kind).requires_grad_()
        if kind == torch.float32:
            update.backward(x.t() * 1, labels)
        else:
            torch.nn.functional.cross_entropy(x.t(), labels).backward()
        gradients.append(x.grad)
    assert distance(*gradients) < NEAR


def test_of_logits_as_large_as_others_the_first_is_the_answer(kernels: Any) -> None:
    loss, wrong = update.backward(torch.zeros(4, 10, requires_grad=True) * 1, torch.tensor([0, 0, 1, 9]))
    assert wrong == 2 and abs(loss - math.log(10)) < NEAR


@pytest.mark.parametrize("clip", [1.0, None])
def test_updates_in_one_piece_of_memory_are_those_of_torch(
    clip: float | None, kernels: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make() -> tuple[list[Tensor], sgd.SGD]:
        torch.manual_seed(0)
        shapes = [(24, 3, 5, 5), (24,), (33, 24, 1, 1), (7, 9)]
        own = [torch.randn(shape) for shape in shapes]
        own[0] = own[0].to(memory_format=torch.channels_last)
        groups = [sgd.Group([own[0], own[2]], 0.1, 0.01, False), sgd.Group([own[1]], 0.2, 0.0, True)]
        return own, sgd.SGD([*groups, sgd.Group([own[3]], 0.05, 0.001, False)], 0.9, clip)

    weights, ours = make()
    assert ours.flat is not None and all(weight.storage_offset() % 64 == 0 for weight in weights)
    monkeypatch.setattr(gpu, "kernels", lambda device: None)
    others, theirs = make()
    for number in range(5):
        for weight, other in zip(weights, others, strict=True):
            weight.grad = torch.randn(weight.shape) * (torch.nan if number == 4 else 1.0)  # the last one moves nothing
            other.grad = weight.grad.clone()
        for each in (ours, theirs):
            each.set_momentum(0.9 - 0.1 * number)
            each.set_scale(1 - 0.2 * number, 1.0, number)
            each.step(torch.tensor(1.0))
    assert ours.updates == theirs.updates == 4 and ours.fault == 1
    for one, other in zip(weights, others, strict=True):
        assert one.stride() == other.stride() and distance(one, other.double()) < NEAR
    before = [weight.clone() for weight in weights]
    for one, other in zip(ours.state()["buffers"], theirs.state()["buffers"], strict=True):
        assert distance(one, other.double()) < NEAR
    ours.load(theirs.state())
    assert all(torch.equal(*pair) for pair in zip(ours.state()["buffers"], theirs.state()["buffers"], strict=True))
    assert all(torch.equal(*pair) for pair in zip(weights, before, strict=True))


@pytest.mark.parametrize("pad, flip", [(4, True), (0, True), (2, False)])
def test_crops_are_equal(pad: int, flip: bool, kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    x, augment, clock = torch.randn(5, 11, 9, 3), Augment(pad=pad, flip=flip), rng.Clock((1, 2), 3)
    found = batches.crop_and_flip(x, augment, clock)
    monkeypatch.setattr(gpu, "kernels", lambda device: None)
    assert torch.equal(found, batches.crop_and_flip(x, augment, clock)) and not torch.equal(found, x)


def test_they_compile_for_gpus_and_fit_them(tmp_path: Path) -> None:
    """For Ampere and Hopper, to machine code, by Triton's own tools; no GPU is needed for that."""
    words = [sys.executable, "-W", "error", str(Path(__file__).with_name("compiled_kernels.py")), "80", "90"]
    plain = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    there = plain | {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[1])}
    told = json.loads(subprocess.run(words, env=there, stdout=subprocess.PIPE, check=True).stdout)
    launched = {"_unfold", "_pool", "_pool_backward", "_inputs", "_both", "_crop", "_update"}
    launched |= {"_total", "_cross_entropy", "_note", "_judge"}
    for architecture in (80, 90):
        found = [each for each in told if each["architecture"] == architecture]
        assert {each["kernel"] for each in found} == launched
        assert max(each["shared"] for each in found) <= 99 * 1024  # bytes; larger GPUs than a desktop's have more
        assert max(each["spilled"] for each in found) <= (0 if architecture == 90 else 128)  # bytes of a thread


def test_what_cannot_be_compiled_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def crop(self, *given: Any) -> None:
            raise RuntimeError("Failed to find\n  a C compiler")

    there = torch.device("cuda:0")
    monkeypatch.setattr(torch, "zeros", lambda *shape, **more: None)  # no GPU is here
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    gpu.refusal.cache_clear()
    assert gpu.refusal(there) == "this GPU has no units for bf16"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    gpu.refusal.cache_clear()
    monkeypatch.setattr(gpu.importlib, "import_module", lambda name: Broken())
    assert gpu.refusal(there) == "RuntimeError: Failed to find a C compiler" and gpu.kernels(there) is None
    monkeypatch.setattr(Broken, "crop", lambda *given: None)
    gpu.refusal.cache_clear()
    assert gpu.refusal(there) is None and isinstance(gpu.kernels(there), Broken)
    gpu.refusal.cache_clear()


def test_a_cpu_has_no_use_for_them_and_does_not_wait_for_triton() -> None:
    code = (
        "import sys, torch, nin_repro.run, nin_repro.build as b; from nin_repro import gpu\n"
        "assert gpu.kernels(torch.device('cpu')) is None; print(*sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "nin_repro.build" in told and not {"triton", "nin_repro.kernels", "nin_repro.models.fused"} & {*told}


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_a_fault_whatever_its_gradient(loss: float, kernels: Any) -> None:
    fault, updates = torch.zeros(()), torch.zeros((), dtype=torch.int64)
    kernels.judge(torch.tensor(loss), torch.tensor(1.0), fault, updates, 1.0)
    assert (fault.item(), updates.item()) == (1, 0)
