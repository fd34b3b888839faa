"""Section 3.1 on single layers: the forms of an mlpconv layer, and what one maxout unit and one perceptron can fit."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nin_repro.models.nin import MlpconvBlock
from nin_repro.schema import Mlpconv

# --- three ways to write an mlpconv layer ----------------------------------------------------------------------------


def sliding_perceptron(block: MlpconvBlock, images: Tensor) -> Tensor:
    """Eq. 2: a multilayer perceptron that is given every patch of [N, C, H, W] in turn. Stride 1, no pooling."""
    settings = block.block
    patches = F.unfold(images, settings.kernel, padding=settings.pad).transpose(1, 2)  # [N, places, C k k]
    for weight, bias in _weights(block):
        patches = F.relu(F.linear(patches, weight.flatten(1), bias))
    sides = [side + 2 * settings.pad - settings.kernel + 1 for side in images.shape[2:]]
    return patches.transpose(1, 2).unflatten(2, sides)


def parametric_pooling(block: MlpconvBlock, images: Tensor) -> Tensor:
    """Cascaded cross-channel parametric pooling on an ordinary convolution of [N, C, H, W]. Stride 1, no pooling.

    Each map is a weighted sum of all maps at a pixel, then a rectifier.
    """
    (weight, bias), *rest = _weights(block)
    maps = F.relu(F.conv2d(images, weight, bias, padding=block.block.pad))
    for weight, bias in rest:
        rows = zip(weight[:, :, 0, 0], bias, strict=True)
        sums = [start + sum(row[c] * maps[:, c] for c in range(maps.shape[1])) for row, start in rows]
        maps = F.relu(torch.stack(sums, dim=1))
    return maps


def _weights(block: MlpconvBlock) -> list[tuple[Tensor, Tensor]]:
    return [(layer.weight, layer.bias) for layer in block.convolutions]  # type: ignore[misc]


@torch.no_grad()
def compare_forms(channels: int, widths: list[int], kernel: int, seed: int) -> dict[str, Any]:
    """The largest differences between the three forms of a random layer in float64, relative to its largest output."""
    generator = torch.Generator().manual_seed(seed)
    settings = Mlpconv(list(widths), kernel, 1, kernel // 2, [0.05] * len(widths), "none", 3, 2, True)
    block = MlpconvBlock(channels, widths, settings).double()
    for parameter in block.parameters():
        spread = parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.1
        parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * spread)
    images = torch.randn((2, channels, 8, 8), generator=generator, dtype=torch.float64)
    found = block(images)
    largest = found.abs().max()
    differences = [((form(block, images) - found).abs().max() / largest).item() for form in FORMS]
    return {"channels": channels, "widths": widths, "kernel": kernel, "seed": seed, "differences": differences}


FORMS = (sliding_perceptron, parametric_pooling)

# --- one maxout unit and one perceptron ------------------------------------------------------------------------------

# On the square -1 .. 1, values from 0 to 1: the cap is the bowl upside down, which a perceptron can form as well.
TARGETS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "bowl": lambda x: x.square().sum(-1) / 2,
    "cap": lambda x: 1 - x.square().sum(-1) / 2,
    "saddle": lambda x: (1 + x[..., 0] * x[..., 1]) / 2,
}
FIT = {"seeds": 10, "side": 17, "steps": 1500, "rate": 0.03, "pieces": 15, "hidden": 11}


def _maxout(weights: list[Tensor], x: Tensor) -> Tensor:
    weight, bias = weights  # [S, K, 2], [S, K]
    return (x @ weight.mT + bias[:, None]).amax(-1)


def _perceptron(weights: list[Tensor], x: Tensor) -> Tensor:
    weight, bias, second, last = weights  # [S, H, 2], [S, H], [S, H], [S, 1]
    return (F.relu(x @ weight.mT + bias[:, None]) * second[:, None]).sum(-1) + last


def fit_layers() -> dict[str, Any]:
    """Fit one maxout unit and one perceptron with as many parameters to each target; see `TARGETS` and `FIT`.

    Least squares on a grid of side x side points with Adam, float64, the rate falling to 0 as a cosine. Returns, by
    target: its values on the grid, and for either layer the root mean square error of each seed as a share of the
    target's standard deviation, the number of parameters, the best seed's values on the grid, and by how much these
    lie over the mean of their two neighbours at most (`bulge`, of all seeds; 0 for a convex function).
    """
    side = FIT["side"]
    steps = torch.linspace(-1, 1, int(side), dtype=torch.float64)
    points = torch.cartesian_prod(steps, steps)
    found: dict[str, Any] = {}
    for name, target in TARGETS.items():
        values = target(points)
        found[name] = {"target": _rounded(values, int(side))}
        for layer, function in (("maxout", _maxout), ("perceptron", _perceptron)):
            found[name][layer] = _fit(function, _start(layer), points, values, int(side))
    return found


def _start(layer: str) -> list[Tensor]:
    """Initial weights of all seeds; equal for all targets."""
    count = int(FIT["seeds"])
    generator = torch.Generator().manual_seed(0)
    units = int(FIT["pieces"] if layer == "maxout" else FIT["hidden"])
    shapes: list[tuple[int, ...]] = [(count, units, 2), (count, units)]
    if layer == "perceptron":
        shapes += [(count, units), (count, 1)]
    return [(torch.randn(shape, generator=generator, dtype=torch.float64) / 2).requires_grad_() for shape in shapes]


def _fit(
    function: Callable[[list[Tensor], Tensor], Tensor], weights: list[Tensor], points: Tensor, values: Tensor, side: int
) -> dict[str, Any]:
    moments = [(torch.zeros_like(weight), torch.zeros_like(weight)) for weight in weights]
    count = int(FIT["steps"])
    for step in range(count):
        rate = FIT["rate"] * (1 + math.cos(math.pi * step / count)) / 2
        loss = (function(weights, points) - values).square().mean(1).sum()
        # Adam (Kingma & Ba 2014), written out: torch.optim imports for seconds what is not needed here.
        for weight, gradient, (first, second) in zip(weights, torch.autograd.grad(loss, weights), moments, strict=True):
            first.lerp_(gradient, 0.1)
            second.lerp_(gradient.square(), 0.001)
            unbiased = (second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
            weight.data -= rate * first / (1 - 0.9 ** (step + 1)) / unbiased
    with torch.no_grad():
        fitted = function(weights, points)
        errors = (fitted - values).square().mean(1).sqrt() / values.std(correction=0)
    grid = fitted.view(-1, side, side)
    return {
        "parameters": sum(weight[0].numel() for weight in weights),
        "errors": [round(error, 6) for error in errors.tolist()],
        "bulge": max(_bulge(grid), _bulge(grid.mT)),
        "best": _rounded(fitted[errors.argmin()], side),
    }


def _bulge(grid: Tensor) -> float:
    """By how much a value of [S, side, side] lies over the mean of its two neighbours in the row, at most; or 0."""
    return max(0.0, (grid[..., 1:-1] - (grid[..., 2:] + grid[..., :-2]) / 2).max().item())


def _rounded(values: Tensor, side: int) -> list[list[float]]:
    return [[round(value, 4) for value in row] for row in values.view(side, side).tolist()]
