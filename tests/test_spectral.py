"""Convolutions at frequencies are torch's: outputs and gradients against float64, and networks of the paper."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from near import distance
from torch import Tensor
from torch.nn import functional as F

from nin_repro import build
from nin_repro.config.compose import load
from nin_repro.models import spectral
from nin_repro.models.shape import Shape
from nin_repro.training.update import backward

NEAR = 1e-6  # of the norm; torch's own in fp32 are up to 6e-6 away


def of_all(compute: Any, x: Tensor, weight: Tensor, bias: Tensor | None, pad: int, push: Tensor) -> list[Tensor]:
    """What a convolution gives, and the gradients of what goes in."""
    given = [one.detach().to(push.dtype).requires_grad_() for one in (x, weight, bias) if one is not None]
    y = compute(*given, *[None][: 3 - len(given)], 1, pad)
    y.backward(push)
    return [y, *(one.grad for one in given if one.grad is not None)]


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.integers(0, 4),
    st.tuples(*[st.integers(1, 4)] * 3),
    st.booleans(),
)
def test_outputs_and_gradients(
    size: tuple[int, int], kernel: tuple[int, int], pad: int, counts: tuple[int, int, int], biased: bool
) -> None:
    pad = min(pad, *(side - 1 for side in kernel))
    output = [side + 2 * pad - width + 1 for side, width in zip(size, kernel, strict=True)]
    if min(output) < 1:
        return
    torch.manual_seed(0)
    images, channels, maps = counts
    x, weight, bias = torch.randn(images, channels, *size), torch.randn(maps, channels, *kernel), torch.randn(maps)
    push = torch.randn(images, maps, *output)
    given_bias = bias if biased else None

    def at_frequencies(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, pad: int) -> Any:
        return spectral._Convolution.apply(x, weight, bias, pad)

    found = of_all(at_frequencies, x, weight, given_bias, pad, push)
    reference = of_all(F.conv2d, x, weight, given_bias, pad, push.double())
    scale = max(float(torch.linalg.vector_norm(one.detach())) for one in reference)
    for one, other in zip(found, reference, strict=True):
        assert one.shape == other.shape  # a sum may be near 0, where its distance means nothing
        assert float(torch.linalg.vector_norm(one.detach().double() - other.detach())) < NEAR * scale


@pytest.mark.parametrize("words", ["table1/nin", "text/cnn_fc", "table1/maxout", "table4/maxout"])
def test_networks_of_the_paper_are_the_same_functions(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = Shape(1, 28, 28) if words.startswith("table4") else Shape(3, 32, 32)
    torch.manual_seed(0)
    images, labels = torch.randn(32, *shape), torch.arange(32) % 10
    calls: list[int] = []
    plain = spectral._Convolution.apply
    monkeypatch.setattr(spectral._Convolution, "apply", lambda *a: calls.append(1) or plain(*a))  # type: ignore[func-returns-value]
    told: list[list[Tensor]] = []
    for fused in ("true", "false"):
        net: Any = build.network(load([f"experiment={words}", f"fused={fused}"]))
        net.initialise(0, 0)
        torch.manual_seed(0)
        for layer in net.modules():
            if isinstance(layer, torch.nn.Conv2d):  # of weights that are as small as the released ones nothing is left
                torch.nn.init.normal_(layer.weight, std=1 / layer.weight[0].numel() ** 0.5)
        net.to(memory_format=torch.channels_last).eval()
        loss, _ = backward(net(images.to(memory_format=torch.channels_last)), labels)
        assert bool(calls) == (fused == "true")
        calls.clear()
        told.append([loss, *(parameter.grad for parameter in net.parameters())])
    gaps = [distance(one, other) for one, other in zip(*told, strict=True)]
    # Where a ReLU or a maximum is in doubt, rounding turns a gradient another way, in a few values of a million.
    assert gaps[0] < NEAR and max(gaps) < 0.05


def test_the_same_bits_every_time() -> None:
    """As a run that goes on needs them, wherever in memory its tensors lie."""
    torch.manual_seed(0)
    x, weight, bias = torch.randn(16, 96, 16, 16), torch.randn(64, 96, 5, 5), torch.randn(64)
    push, kept = torch.randn(16, 64, 16, 16), []
    first = of_all(spectral.conv2d, x, weight, bias, 2, push)
    for size in (1, 1_000, 100_003):
        kept.append(torch.empty(size))
        again = of_all(spectral.conv2d, x.clone(), weight, bias, 2, push)
        assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


@pytest.mark.parametrize(
    "why, x, weight, stride, pad",
    [
        ("float64", torch.randn(64, 32, 16, 16).double(), torch.randn(32, 32, 5, 5).double(), 1, 2),
        ("bf16", torch.randn(64, 32, 16, 16).bfloat16(), torch.randn(32, 32, 5, 5).bfloat16(), 1, 2),
        ("stride", torch.randn(64, 32, 16, 16), torch.randn(32, 32, 5, 5), 2, 2),
        ("1x1", torch.randn(64, 32, 16, 16), torch.randn(32, 32, 1, 1), 1, 0),
        ("one image", torch.randn(1, 32, 16, 16), torch.randn(32, 32, 5, 5), 1, 2),
        ("few channels", torch.randn(64, 3, 32, 32), torch.randn(64, 3, 5, 5), 1, 2),
        ("padding beyond the kernel", torch.randn(64, 32, 8, 8), torch.randn(32, 32, 3, 3), 1, 3),
    ],
)
def test_torchs_own_elsewhere(
    why: str, x: Tensor, weight: Tensor, stride: int, pad: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spectral._Convolution, "apply", None)
    assert torch.equal(spectral.conv2d(x, weight, None, stride, pad), F.conv2d(x, weight, None, stride, pad))


def test_a_layer_says_what_computes_it() -> None:
    layer = spectral.Conv2d(32, 32, 5, padding=2)
    x = torch.randn(64, 32, 16, 16)
    with torch.no_grad():
        plain = F.conv2d(x, layer.weight, layer.bias, padding=2)
        assert distance(layer(x), plain) < 1e-5 and not torch.equal(layer(x), plain)
        layer.fused = False
        assert torch.equal(layer(x), plain)
