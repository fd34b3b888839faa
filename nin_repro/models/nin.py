"""Network In Network: mlpconv blocks with dropout between them (section 3)."""

import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nin_repro.models.network import Dropout, Fill, Network, Start, make_head
from nin_repro.models.shape import Shape
from nin_repro.models.spec import dropped, nin_layers, relu_ends, widths
from nin_repro.models.spectral import Conv2d
from nin_repro.schema import Mlpconv, Nin, Regularizer


class _ReLU(torch.autograd.Function):
    """ReLU in place, forward and backward: torch's own makes a new tensor for the gradient.

    It overwrites the gradient that it is given. In a block that is nobody else's: one layer made it, for one ReLU.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x.relu_()
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        if gradient.stride() != y.stride():  # that of a sum is one value, expanded
            return torch.ops.aten.threshold_backward(gradient, y, 0)
        return torch.ops.aten.threshold_backward.grad_input(gradient, y, 0, grad_input=gradient)


class _ConvolutionReLU(torch.autograd.Function):
    """A convolution in bf16 on a CPU, and ReLU of what it is about to write: oneDNN takes no time for that.

    The same numbers as by the two layers, but for NaN: it becomes 0, with a gradient that is NaN all the same.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: int, pad: int) -> Tensor:
        x, weight = x.bfloat16(), weight.bfloat16()
        strides, pads, dilation = ctx.geometry = [stride] * 2, [pad] * 2, [1, 1]
        y: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, weight, bias.bfloat16(), pads, strides, dilation, 1, "relu", [], ""
        )
        ctx.save_for_backward(x, weight, y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None, None]:
        x, weight, y = ctx.saved_tensors
        gradient = torch.ops.aten.threshold_backward(gradient, y, 0)
        wanted = [ctx.needs_input_grad[0], True, True]
        inputs, weights, biases = torch.ops.aten.convolution_backward(
            gradient, x, weight, [len(weight)], *ctx.geometry, False, [0, 0], 1, wanted
        )
        return inputs, weights.float(), biases.float(), None, None


def _convolution_relu(x: Tensor, layer: Any) -> Tensor:
    in_bf16 = x.device.type == "cpu" and torch.is_autocast_enabled("cpu") and torch.backends.mkldnn.is_available()
    if not in_bf16 or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return _relu(layer(x))
    y: Tensor = _ConvolutionReLU.apply(x, layer.weight, layer.bias, layer.stride[0], layer.padding[0])
    return y


def _relu(x: Tensor) -> Tensor:
    if x.dtype == torch.bfloat16 and x.device.type == "cpu":  # torch takes 2.5 times as long in place
        return F.relu(x)
    rectified: Tensor = _ReLU.apply(x)
    return rectified


class MlpconvBlock(nn.Module):
    """[N, C, H, W] to [N, widths[-1], H', W']: a convolution and 1x1 convolutions, ReLU after each, then pooling
    (section 3.1).

    `relu_last=False` leaves the ReLU after the last convolution out.
    """

    def __init__(self, channels: int, maps: list[int], block: Mlpconv, relu_last: bool = True) -> None:
        super().__init__()
        self.block, self.relu_last = block, relu_last
        convolutions: list[nn.Conv2d] = [Conv2d(channels, maps[0], block.kernel, block.stride, block.pad)]
        convolutions += [nn.Conv2d(before, after, 1) for before, after in itertools.pairwise(maps)]
        self.convolutions = nn.ModuleList(convolutions)

    def forward(self, x: Tensor) -> Tensor:
        *inner, last = self.convolutions
        for convolution in inner:
            x = _convolution_relu(x, convolution)
        x = last(x)
        block = self.block
        # ReLU is monotone, so it commutes with max pooling, gradients included; after it there is less to do.
        if block.pool == "max":
            x = F.max_pool2d(x, block.pool_size, block.pool_stride, ceil_mode=block.pool_ceil)
        if self.relu_last:
            x = _relu(x)
        if block.pool == "avg":
            x = F.avg_pool2d(x, block.pool_size, block.pool_stride, ceil_mode=block.pool_ceil)
        return x


class NetworkInNetwork(Network):
    """Mlpconv blocks, dropout after all but the last, and a head."""

    def __init__(self, shape: Shape, classes: int, architecture: Nin, regularizer: Regularizer) -> None:
        super().__init__()
        self.architecture = architecture
        channels, count = shape.channels, len(architecture.blocks)
        with_dropout = dropped(count, regularizer)
        steps: list[nn.Module] = []
        for number, block in enumerate(architecture.blocks.values(), start=1):
            maps = widths(block.widths, classes)
            steps.append(MlpconvBlock(channels, maps, block, relu_ends(architecture, number)))
            if number in with_dropout:
                steps.append(Dropout(regularizer.dropout, regularizer.convention, number, self.clock))
            channels = maps[-1]
        self.blocks = nn.Sequential(*steps)
        maps_out = nin_layers(shape, classes, architecture, regularizer)[-1].output
        self.head = make_head(maps_out, classes, regularizer, count, self.clock)

    def body(self, x: Tensor) -> Tensor:
        if not self.fused or x.requires_grad:
            maps: Tensor = self.blocks(x)
            return maps
        from nin_repro.models import fused  # which imports Triton

        found = fused.halves([*self.blocks.parameters()])
        done = None  # dropout that was part of the block before it
        for step, after in itertools.pairwise([*self.blocks, None]):
            if isinstance(step, MlpconvBlock) and fused.fits(x, [*step.convolutions], step.block, step.relu_last):
                done = after if self.training and isinstance(after, Dropout) else None
                x = fused.block(x, [*step.convolutions], step.block, done, found)
            elif step is not done:
                x = step(x)
        return x

    def convolutions(self) -> list[nn.Conv2d]:
        """All convolutions from input to output."""
        return [module for module in self.blocks.modules() if isinstance(module, nn.Conv2d)]

    def weighted(self) -> list[Start]:
        stds = [(std, i) for i, block in enumerate(self.architecture.blocks.values()) for std in block.std]
        starts = [self._start(layer, std, i) for layer, (std, i) in zip(self.convolutions(), stds, strict=True)]
        last = starts[-1].weight
        return [
            *starts[:-1],
            starts[-1]._replace(weight=Fill(last.kind, last.size * self.architecture.last_init_factor)),
        ]

    def _start(self, layer: nn.Conv2d, std: float, block: int) -> Start:
        fan_in, fan_out = layer.weight[0].numel(), layer.out_channels * layer.kernel_size[0] * layer.kernel_size[1]
        default = Fill("uniform", 1 / math.sqrt(fan_in))  # torch's own for weights and biases
        if self.architecture.init == "torch":
            return Start(layer, default, default, block)
        if self.architecture.init == "xavier":  # Glorot and Bengio 2010, eq. 16
            return Start(layer, Fill("uniform", math.sqrt(6 / (fan_in + fan_out))), default, block)
        if self.architecture.init == "he":
            std = math.sqrt(2 / fan_in)
        return Start(layer, Fill("normal", std), block=block)
