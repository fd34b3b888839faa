"""Section 3.1: three ways to write an mlpconv layer are one function, to the precision of float64."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from nin_repro.models.nin import MlpconvBlock
from nin_repro.schema import Mlpconv


def test_sliding_perceptron_convolution_and_parametric_pooling_are_one_function() -> None:
    settings = Mlpconv([7, 6, 5], 3, 1, 1, [0.1] * 3, "none", 3, 2, True)
    block = MlpconvBlock(4, [7, 6, 5], settings).double()
    images = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 4, 6, 5)))
    weights = [(layer.weight.detach(), layer.bias.detach()) for layer in block.convolutions]

    # A multilayer perceptron that is given every 3x3 patch in turn (Eq. 2).
    patches = F.unfold(images, 3, padding=1).transpose(1, 2)  # [N, places, 4 * 9]
    perceptron = patches
    for weight, bias in weights:
        perceptron = F.relu(F.linear(perceptron, weight.flatten(1), bias))
    perceptron = perceptron.transpose(1, 2).reshape(2, 5, 6, 5)

    # Cascaded cross-channel parametric pooling on an ordinary convolution: each map a weighted sum of all maps at a
    # pixel, then a rectifier.
    pooled = F.relu(F.conv2d(images, *weights[0], padding=1))
    for weight, bias in weights[1:]:
        maps = [
            sum(weight[k, c, 0, 0] * pooled[:, c] for c in range(pooled.shape[1])) + bias[k] for k in range(len(bias))
        ]
        pooled = F.relu(torch.stack(maps, dim=1))

    found = block(images)
    assert found.detach().numpy() == pytest.approx(perceptron.numpy(), rel=1e-12, abs=1e-14)
    assert found.detach().numpy() == pytest.approx(pooled.numpy(), rel=1e-12, abs=1e-14)
