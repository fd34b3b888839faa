"""The update, against cuda-convnet's rule written out in numpy float64."""

import math

import numpy as np
import pytest
import torch

from nin_repro.training.sgd import SGD, Group


class CudaConvnet:
    """inc = momentum * inc - rate * (gradient + decay * w); w += inc. The rate is inside the momentum."""

    def __init__(self, weights: list[np.ndarray], rates: list[float], decays: list[float], momentum: float) -> None:
        self.weights = [weight.astype(np.float64) for weight in weights]
        self.rates, self.decays, self.momentum = rates, decays, momentum
        self.increments = [np.zeros_like(weight) for weight in self.weights]

    def step(self, gradients: list[np.ndarray], scales: list[float], clip: float | None) -> None:
        norm = math.sqrt(sum(float((gradient.astype(np.float64) ** 2).sum()) for gradient in gradients))
        shrink = min(1.0, clip / norm) if clip else 1.0
        for i, gradient in enumerate(gradients):
            rate = self.rates[i] * scales[i]
            push = shrink * gradient.astype(np.float64) + self.decays[i] * self.weights[i]
            self.increments[i] = self.momentum * self.increments[i] - rate * push
            self.weights[i] = self.weights[i] + self.increments[i]


def both(clip: float | None) -> tuple[list[torch.Tensor], SGD, CudaConvnet]:
    draw = np.random.default_rng(3)
    shapes = [(8, 3, 5, 5), (8,), (10, 8, 1, 1), (10,)]
    rates, decays = [0.1, 0.2, 0.01, 0.02], [1e-2, 0.0, 1e-2, 0.0]
    weights = [draw.normal(size=shape).astype(np.float32) for shape in shapes]
    tensors = [torch.from_numpy(weight.copy()) for weight in weights]
    groups = [Group([tensors[i]], rates[i], decays[i], bias=i % 2 == 1) for i in range(4)]
    return tensors, SGD(groups, 0.9, clip), CudaConvnet(weights, rates, decays, 0.9)


@pytest.mark.parametrize("clip", [None, 1.0, 1e6])
@pytest.mark.parametrize("bias_drops", [True, False])
def test_update_is_cuda_convnets_across_a_drop(clip: float | None, bias_drops: bool) -> None:
    tensors, ours, reference = both(clip)
    draw = np.random.default_rng(4)
    for step in range(12):
        scale = 0.1 if step >= 6 else 1.0
        bias_scale = scale if bias_drops else 1.0
        gradients = [draw.normal(size=tensor.shape).astype(np.float32) for tensor in tensors]
        for tensor, gradient in zip(tensors, gradients, strict=True):
            tensor.grad = torch.from_numpy(gradient.copy())
        ours.set_scale(scale, bias_scale, step)
        ours.step(torch.tensor(1.0))
        reference.step(gradients, [scale, bias_scale] * 2, clip)
        for tensor, expected in zip(tensors, reference.weights, strict=True):
            np.testing.assert_allclose(tensor.numpy(), expected, rtol=2e-5, atol=2e-6)
    assert ours.updates.item() == 12


def test_rates_rise_over_the_updates_of_the_warm_up_each_group_its_own() -> None:
    tensors, ours, reference = both(None)
    for group, warmup in zip(ours.groups, (0, 4, 8, 8), strict=True):
        group.warmup = warmup
    draw = np.random.default_rng(5)
    for step in range(10):
        gradients = [draw.normal(size=tensor.shape).astype(np.float32) for tensor in tensors]
        for tensor, gradient in zip(tensors, gradients, strict=True):
            tensor.grad = torch.from_numpy(gradient.copy())
        ours.set_scale(1.0, 1.0, step)
        ours.step(torch.tensor(1.0))
        risen = [min(1.0, (step + 1) / warmup) if warmup else 1.0 for warmup in (0, 4, 8, 8)]
        reference.step(gradients, risen, None)
        for tensor, expected in zip(tensors, reference.weights, strict=True):
            np.testing.assert_allclose(tensor.numpy(), expected, rtol=2e-5, atol=2e-6)


def test_no_momentum_is_plain_gradient_descent() -> None:
    weight = torch.tensor([1.0, 2.0])
    sgd = SGD([Group([weight], 0.5, 0.0, bias=False)], 0.0, None)
    for _ in range(2):
        weight.grad = torch.tensor([1.0, -1.0])
        sgd.step(torch.tensor(1.0))
    assert weight.tolist() == [0.0, 3.0]


@pytest.mark.parametrize("where", ["loss", "gradient", "overflow"])
def test_nothing_moves_after_a_value_that_is_not_finite(where: str) -> None:
    tensors, ours, _ = both(1.0)
    for tensor in tensors:
        tensor.grad = torch.ones_like(tensor)
    ours.step(torch.tensor(2.0))
    before = [tensor.clone() for tensor in tensors]
    for tensor in tensors:
        tensor.grad = torch.ones_like(tensor)
    assert tensors[0].grad is not None and tensors[1].grad is not None
    if where == "gradient":
        tensors[1].grad[3] = float("nan")
    if where == "overflow":
        tensors[0].grad.fill_(3e38)
    ours.step(torch.tensor(float("inf") if where == "loss" else 2.0))
    for tensor in tensors:  # nor with the sound gradients that follow
        tensor.grad = torch.ones_like(tensor)
    ours.step(torch.tensor(2.0))
    assert all(torch.equal(tensor, old) for tensor, old in zip(tensors, before, strict=True))
    assert ours.fault.item() == 1 and ours.updates.item() == 1


def test_state_restores_momentum_and_rates() -> None:
    tensors, ours, _ = both(1.0)
    others = [tensor.clone() for tensor in tensors]
    twin = SGD([Group([t], g.lr, g.weight_decay, g.bias) for t, g in zip(others, ours.groups, strict=True)], 0.9, 1.0)

    def step(optimizer: SGD, weights: list[torch.Tensor], value: float) -> None:
        for tensor in weights:
            tensor.grad = torch.full_like(tensor, value)
        optimizer.step(torch.tensor(1.0))

    step(ours, tensors, 1.0)
    ours.set_scale(0.1, 0.1, 1)
    for other, tensor in zip(others, tensors, strict=True):
        other.copy_(tensor)
    twin.load(ours.state())
    step(ours, tensors, 0.5)
    step(twin, others, 0.5)
    assert all(torch.equal(a, b) for a, b in zip(tensors, others, strict=True))


@pytest.mark.parametrize("shape", [(4, 3, 2, 2), (4, 3, 1, 1), (4, 1, 2, 2)])
def test_weights_and_gradients_may_lie_differently_in_memory(shape: tuple[int, ...]) -> None:
    values = torch.arange(1.0, 1 + math.prod(shape)).view(shape)
    layouts = torch.channels_last, torch.contiguous_format
    for ours, theirs in (layouts, layouts[::-1]):
        weight = torch.zeros(shape).to(memory_format=ours)
        sgd = SGD([Group([weight], 1.0, 0.0, bias=False)], 0.0, None)
        weight.grad = values.to(memory_format=theirs)
        sgd.step(torch.tensor(1.0))
        assert torch.equal(weight, -values)


def test_updates_are_counted_on() -> None:
    tensors, ours, _ = both(1.0)
    for tensor in tensors:
        tensor.grad = torch.ones_like(tensor)
    ours.step(torch.tensor(1.0))
    twin = both(1.0)[1]
    twin.load(ours.state())
    assert twin.updates.item() == 1
