"""Section 3.1: three ways to write an mlpconv layer are one function, to the precision of float64."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from nin_repro.models.nin import MlpconvBlock
from nin_repro.probes.forms import parametric_pooling, sliding_perceptron
from nin_repro.schema import Mlpconv


def test_sliding_perceptron_convolution_and_parametric_pooling_are_one_function() -> None:
    settings = Mlpconv([7, 6, 5], 3, 1, 1, [0.1] * 3, "none", 3, 2, True)
    block = MlpconvBlock(4, [7, 6, 5], settings).double()
    images = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 4, 6, 5)))
    with torch.no_grad():
        found, perceptron, pooled = block(images), sliding_perceptron(block, images), parametric_pooling(block, images)
    assert found.shape == (2, 5, 6, 5) and bool((found > 0).any())
    assert found.numpy() == pytest.approx(perceptron.numpy(), rel=1e-12, abs=1e-14)
    assert found.numpy() == pytest.approx(pooled.numpy(), rel=1e-12, abs=1e-14)


def test_the_example_in_the_readme_runs() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    (example,) = (
        block
        for block in re.findall("```python\n(.*?)```", readme, re.DOTALL)
        if "perceptron" in block and "pooled" in block
    )
    exec(example, {})
    with pytest.raises(AssertionError):  # and it would notice a difference
        exec(example.replace("(perceptron, pooled)", "(perceptron, pooled * (1 + 1e-6))"), {})
