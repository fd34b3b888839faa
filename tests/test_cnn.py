"""The convolutional network of section 4.6: its layers against formulas and loops in numpy float64."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from nin_repro import build
from nin_repro.config.compose import load
from nin_repro.models.cnn import ConvNet, LocallyConnected2d, response_norm
from nin_repro.models.heads import FullyConnected
from nin_repro.models.shape import Shape
from nin_repro.models.spec import layers
from nin_repro.schema import ResponseNorm

CNN = ["architecture=cnn", "dataset=cifar10_mean", "optimizer=sgd_cnn"]


def network(*words: str) -> ConvNet:
    built = build.network(load([*CNN, *words]))
    assert isinstance(built, ConvNet)
    return built


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (["regularizer=fc"], 303_722),
        (["regularizer=fc_head_dropout"], 303_722),
        (["regularizer=gap"], 302_112),
        (["regularizer=fc", "architecture.local.maps=16"], 303_722 + 147_712 - 92_320 + 2_570 - 1_610),
    ],
)
def test_parameter_counts(words: list[str], count: int) -> None:
    config = load([*CNN, *words])
    assert sum(parameter.numel() for parameter in network(*words).parameters()) == count
    assert sum(layer.parameters for layer in layers(config.dataset, config.architecture, config.regularizer)) == count


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 12), st.integers(1, 9), st.booleans(), st.integers(0, 2**32 - 1))
def test_response_norm_is_its_formula(maps: int, size: int, printed: bool, seed: int) -> None:
    x = np.random.default_rng(seed).normal(0, 20, (2, maps, 3, 2))
    found = response_norm(torch.from_numpy(x), ResponseNorm(size, 0.001, 0.75, printed)).numpy()
    alpha = 0.001 if printed else 0.001 / size
    for i in range(maps):
        first, last = max(0, i - size // 2), min(maps, i - size // 2 + size)
        total = (x[:, first:last] ** 2).sum(axis=1)
        np.testing.assert_allclose(found[:, i], x[:, i] / (1 + alpha * total) ** 0.75, rtol=1e-12)


def test_response_norm_of_the_defaults_is_torchs_which_divides_alpha_by_size() -> None:
    x = torch.from_numpy(np.random.default_rng(0).normal(0, 50, (2, 64, 4, 4)))
    settings_ = load([*CNN, "regularizer=gap"]).architecture.response_norm  # type: ignore[union-attr]
    torch.testing.assert_close(response_norm(x, settings_), F.local_response_norm(x, 9, 0.001, 0.75, 1.0))


def test_local_layer_is_a_loop_over_places_forward_and_backward() -> None:
    draw = np.random.default_rng(0)
    layer = LocallyConnected2d(Shape(3, 5, 4), 6, 3, 1).double()
    for parameter in layer.parameters():
        parameter.data.copy_(torch.from_numpy(draw.normal(size=parameter.shape)))
    images = draw.normal(size=(2, 3, 5, 4))
    x = torch.from_numpy(images).requires_grad_()
    out = layer(x)
    push = draw.normal(size=out.shape)
    (out * torch.from_numpy(push)).sum().backward()

    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    expected, into_x = np.zeros(out.shape), np.zeros(padded.shape)
    into_weight, into_bias = np.zeros(weight.shape), np.zeros(bias.shape)
    for row in range(5):
        for column in range(4):
            for n in range(2):
                patch = padded[n, :, row : row + 3, column : column + 3].ravel()
                for o in range(6):
                    expected[n, o, row, column] = patch @ weight[row, column, o] + bias[row, column, o]
                    g = push[n, o, row, column]
                    into_weight[row, column, o] += g * patch
                    into_bias[row, column, o] += g
                    into_x[n, :, row : row + 3, column : column + 3] += g * weight[row, column, o].reshape(3, 3, 3)
    np.testing.assert_allclose(out.detach().numpy(), expected, rtol=1e-10, atol=1e-12)
    assert layer.weight.grad is not None and layer.bias.grad is not None and x.grad is not None
    np.testing.assert_allclose(layer.weight.grad.numpy(), into_weight, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(layer.bias.grad.numpy(), into_bias, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(x.grad.numpy(), into_x[:, :, 1:-1, 1:-1], rtol=1e-10, atol=1e-12)


def test_network_is_its_layers_in_order() -> None:
    built = network("regularizer=fc_head_dropout").double().eval()
    built.initialise(0, 0)
    x = torch.from_numpy(np.random.default_rng(0).normal(0, 50, (2, 3, 32, 32)))
    y = F.max_pool2d(F.relu(built.convolutions[0](x)), 3, 2, ceil_mode=True)
    y = F.local_response_norm(y, 9, 0.001, 0.75, 1.0)
    y = F.avg_pool2d(F.relu(built.convolutions[1](y)), 3, 2, ceil_mode=True)
    y = F.local_response_norm(y, 9, 0.001, 0.75, 1.0)
    y = F.avg_pool2d(F.relu(built.convolutions[2](y)), 3, 2, ceil_mode=True)
    y = F.relu(built.local(y)).flatten(1) * 0.5
    assert isinstance(built.head, FullyConnected)
    torch.testing.assert_close(built(x), built.head.fc(y))


def test_initial_weights_and_biases() -> None:
    built = network("regularizer=fc", "regularizer.fc_std=0.02")
    built.initialise(0, 0)
    weighted: list[Any] = [start.layer for start in built.weighted()]
    found = [(layer.weight.std().item(), layer.bias.unique().tolist()) for layer in weighted]
    for (std, biases), expected in zip(found, [1e-4, 0.01, 0.01, 0.04], strict=True):
        assert std == pytest.approx(expected, rel=0.05) and biases == [1.0]
    assert isinstance(built.head, FullyConnected)
    assert built.head.fc.weight.std().item() == pytest.approx(0.02, rel=0.1) and not built.head.fc.bias.any()
