"""Maxout networks: Goodfellow, Warde-Farley, Mirza, Courville, Bengio, "Maxout networks", ICML 2013 (1302.4389).

Their numbers and what the paper leaves open are those of the published pylearn2 files (scripts/papers/maxout).
"""

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nin_repro.models.network import Dropout, Fill, Network, Role, Start, make_head
from nin_repro.models.shape import Shape
from nin_repro.models.spec import dropped, maxout_layers
from nin_repro.models.spectral import Conv2d
from nin_repro.schema import Maxout, MaxoutConv, MaxoutFull, Regularizer

ROUNDING = 1e-6  # by so much a norm that was set to its limit may seem over it; without this it might be set again


class MaxoutConv2d(Conv2d):
    """[N, C, H, W] to [N, maps, H', W']: convolve, add biases, take the maximum of each map's pieces, pool.

    Piece p of map m is filter p * maps + m. Biases are [filters], or [filters, rows, columns] before the pooling.
    """

    def __init__(self, channels: int, places: tuple[int, int], block: MaxoutConv) -> None:
        filters = block.maps * block.pieces
        super().__init__(channels, filters, block.kernel, padding=block.pad, bias=False)
        self.block = block
        self.bias: nn.Parameter = nn.Parameter(
            torch.empty(filters) if block.tied_bias else torch.empty(*places, filters).permute(2, 0, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        block = self.block
        if block.tied_bias:
            x = self._conv_forward(x, self.weight, self.bias)
        else:
            x = self._conv_forward(x, self.weight, None)
            x = x + self.bias.to(x.dtype)  # in bf16 a sum with fp32 would be fp32 from here on
        return F.max_pool2d(_most(x, block.pieces), block.pool_size, block.pool_stride, ceil_mode=True)


class MaxoutLinear(nn.Linear):
    """[N, ...] to [N, units]: the maximum of each unit's pieces. Piece p of unit u is row p * units + u."""

    def __init__(self, inputs: int, layer: MaxoutFull) -> None:
        super().__init__(inputs, layer.units * layer.pieces)
        self.pieces = layer.pieces

    def forward(self, x: Tensor) -> Tensor:
        return _most(super().forward(x.flatten(1)), self.pieces)


class _Most(torch.autograd.Function):
    """The largest of the pieces, which has the gradient; several as large have it each, as in Theano, on which
    pylearn2 ran. `torch.maximum` divides it between them, and takes a quarter of a step of these networks for it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, pieces: int) -> Tensor:
        y = functools.reduce(torch.maximum, x.chunk(pieces, dim=1))
        ctx.pieces = pieces
        ctx.save_for_backward(x, y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        x, y = ctx.saved_tensors
        pieces = x.unflatten(1, (ctx.pieces, -1))
        largest = torch.eq(pieces, y.unsqueeze(1), out=torch.empty_like(pieces))  # 1 and 0: bools would be converted
        return largest.mul_(gradient.unsqueeze(1)).flatten(1, 2), None


def _most(x: Tensor, pieces: int) -> Tensor:
    most: Tensor = _Most.apply(x, pieces)
    return most


class MaxoutNetwork(Network):
    """Convolutional maxout layers, fully connected ones, and a softmax layer, with dropout on the input of each.

    The norms of all filters and weight vectors are kept under limits by `after_update`.
    """

    def __init__(self, shape: Shape, classes: int, architecture: Maxout, regularizer: Regularizer) -> None:
        super().__init__()
        outputs = {layer.name: layer.output for layer in maxout_layers(shape, architecture, regularizer)}
        steps: list[nn.Module] = []
        if architecture.input_dropout:
            steps.append(Dropout(architecture.input_dropout, "unscaled", 0, self.clock))
        settings: list[MaxoutConv | MaxoutFull] = [*architecture.blocks.values(), *architecture.full.values()]
        for number, layer in enumerate(settings, start=1):
            if isinstance(layer, MaxoutConv):
                rows, columns = outputs[f"conv{number}"][1:]
                steps.append(MaxoutConv2d(shape.channels, (rows, columns), layer))
                shape = outputs[f"pool{number}"]
            else:
                steps.append(MaxoutLinear(shape.size, layer))
                shape = outputs[f"full{number}"]
            if number in dropped(len(settings), regularizer):
                steps.append(Dropout(regularizer.dropout, regularizer.convention, number, self.clock))
        self.steps = nn.Sequential(*steps)
        self.head = make_head(shape, classes, regularizer, len(settings), self.clock)
        self.fill = self.head.fill = Fill("uniform", architecture.irange)
        self.limits = [*(layer.max_norm for layer in settings), architecture.output_norm]
        # Images of one channel do not tell layers the order to compute in; pooling in the other takes 15 times as long.
        self.to(memory_format=torch.channels_last)

    def body(self, x: Tensor) -> Tensor:
        return self.steps(x)

    def weighted(self) -> list[Start]:
        layers = [step for step in self.steps if not isinstance(step, Dropout)]
        return [Start(layer, self.fill, block=i) for i, layer in enumerate(layers)]

    def roles(self) -> list[Role]:
        layers = [start.layer for start in self.weighted()]
        convolutions: list[nn.Module] = [layer for layer in layers if isinstance(layer, MaxoutConv2d)]
        return [
            Role("inner", convolutions),
            Role("inner", layers[len(convolutions) :]),
            Role("head", [start.layer for start in self.head.weighted()]),
        ]

    @torch.no_grad()
    def after_update(self) -> None:
        """Scale filters and weight vectors that are longer than their limit down to it."""
        starts = [*self.weighted(), *self.head.weighted()]
        for start, limit in zip(starts, self.limits, strict=True):
            weight: Tensor = start.layer.weight  # type: ignore[assignment]
            norms = torch.linalg.vector_norm(weight, dim=tuple(range(1, weight.dim())), keepdim=True)
            weight.mul_(torch.where(norms > limit * (1 + ROUNDING), limit / norms, 1.0))
