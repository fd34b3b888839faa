"""Mlpconv blocks on a GPU in bf16, in a third of the kernels and of the traffic that torch's own layers take.

There 1x1 convolutions, ReLU, biases and pooling wait for memory, so each activation should be read and written as
seldom as can be. Forward, bias and ReLU are part of the convolution; those of the last one come after the pooling,
with which they commute, in one kernel with the dropout that follows. Backward, the gradient of what a 1x1 convolution
was given leaves its kernel with the mask of the ReLU before it, summed for the bias before it, and in large layers
together with the gradient of the weights. The first convolution, of 1 or 3 channels, is a product with images that
are unfolded: cuDNN's own takes several times as long.

The function is that of `MlpconvBlock` and `Dropout`, with fewer roundings.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nin_repro import kernels, rng
from nin_repro.models.network import Dropout
from nin_repro.models.spec import pooled
from nin_repro.schema import Mlpconv

KIND = torch.bfloat16  # what blocks compute in
NARROW = 8  # channels below which a convolution is a product with unfolded images
LARGE = 65_536  # rows from which on both gradients are made in one pass: measured on an H100


def fits(x: Tensor, convolutions: list[Any], spec: Mlpconv, relu_last: bool) -> bool:
    """Whether `block` computes a block of these images."""
    count, channels, height, width = x.shape
    pixels = count * (height + 2 * spec.pad) * (width + 2 * spec.pad)
    widest = max(layer.out_channels for layer in convolutions)
    if channels < NARROW:
        widest = max(widest, spec.kernel**2 * channels + 16)
    counted = pixels * widest < 2**31  # the kernels count in 32 bits
    window, stride = _window(spec)
    placed = stride <= 2 and window**2 <= kernels.NOWHERE.value  # the place of a maximum is one of 0 to 254
    return counted and placed and relu_last and spec.pool in ("none", "max")


def halves(parameters: list[Tensor]) -> dict[Tensor, Tensor]:
    """Each of a network's parameters in bf16: in one kernel where they lie in one piece of memory (training/sgd.py)."""
    first = parameters[0]
    if any(p.untyped_storage().data_ptr() != first.untyped_storage().data_ptr() for p in parameters):
        return {p: p.detach().to(KIND) for p in parameters}
    whole = torch.empty(0, dtype=first.dtype, device=first.device).set_(first.untyped_storage()).to(KIND)
    return {p: whole.as_strided(p.shape, p.stride(), p.storage_offset()) for p in parameters}


def block(
    x: Tensor, convolutions: list[Any], spec: Mlpconv, dropout: Dropout | None, found: dict[Tensor, Tensor]
) -> Tensor:
    """A block that ends with ReLU, and the dropout after it.

    Args:
        x: [N, C, H, W] in channels-last memory, fp32 or bf16.
        convolutions: the block's layers. Their weights are in channels-last memory.
        dropout: in training only; or None.
        found: what `halves` made of the layers' parameters.
    """
    parameters = [parameter for layer in convolutions for parameter in (layer.weight, layer.bias)]
    with torch.autocast(x.device.type, enabled=False):
        y: Tensor = _Block.apply(x, spec, dropout, [found[parameter] for parameter in parameters], *parameters)
    return y


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, spec: Mlpconv, dropout: Dropout | None, halves: list[Tensor], *parameters: Tensor
    ) -> Tensor:
        weights, biases = halves[::2], halves[1::2]
        stride, pad = spec.stride, spec.pad
        if x.shape[1] < NARROW and not ctx.needs_input_grad[0]:
            high, wide = ((side + 2 * pad - spec.kernel) // stride + 1 for side in x.shape[2:])
            x = kernels.unfold(x, (high, wide), spec.kernel, stride, pad, KIND)
            weights[0], stride, pad = _rows(weights[0], x.shape[1]), 1, 0
        given = [x.to(KIND)]  # to each layer
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            given.append(_convolution_relu(given[-1], weight, bias, stride, pad))
            stride, pad = 1, 0
        last = F.conv2d(given[-1], weights[-1], None, stride, pad)
        y, ctx.places = _pool(last, parameters[-1], spec, dropout)
        ctx.spec, ctx.scale, ctx.sides = spec, 1.0 if dropout is None else dropout.scale, tuple(last.shape[2:])
        ctx.shape = parameters[0].shape
        ctx.save_for_backward(*given, *weights)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        spec, saved = ctx.spec, ctx.saved_tensors
        given, weights = saved[: len(saved) // 2], saved[len(saved) // 2 :]
        gradient, bias = kernels.pool_backward(gradient, ctx.places, ctx.sides, *_window(spec), ctx.scale)
        found: list[Tensor | None] = []
        for x, weight in zip(reversed(given[1:]), reversed(weights[1:]), strict=True):
            gradient, before, own = _pointwise(gradient, weight, x)
            found = [own, bias, *found]
            bias = before
        x, weight, own_input = given[0], weights[0], None
        if weight.shape == ctx.shape:
            strides, pads, wanted = [spec.stride] * 2, [spec.pad] * 2, [ctx.needs_input_grad[0], True, False]
            own_input, own, _ = torch.ops.aten.convolution_backward(
                gradient, x, weight, None, strides, pads, [1, 1], False, [0, 0], 1, wanted
            )
            own = own.float()
        else:
            outputs, channels, *kernel = ctx.shape
            own = _weights(_matrix(gradient), _matrix(x))[:, : channels * kernel[0] * kernel[1]]
            own = own.reshape(outputs, *kernel, channels).permute(0, 3, 1, 2)
        return own_input, None, None, None, own, bias, *found


def _rows(weight: Tensor, width: int) -> Tensor:
    """Weights [O, C, K, K] for images that are unfolded into `width` columns: [O, width, 1, 1]."""
    flat = weight.permute(0, 2, 3, 1).flatten(1)
    return F.pad(flat, (0, width - flat.shape[1]))[:, :, None, None].contiguous(memory_format=torch.channels_last)


def _convolution_relu(x: Tensor, weight: Tensor, bias: Tensor, stride: int, pad: int) -> Tensor:
    if x.device.type == "cpu":  # by Triton's interpreter, in tests
        return F.conv2d(x, weight, bias, stride, pad).relu_()
    return torch.cudnn_convolution_relu(x, weight, bias, [stride] * 2, [pad] * 2, [1, 1], 1)


def _window(spec: Mlpconv) -> tuple[int, int]:
    """Size and stride of the pooling; no pooling is one of single pixels."""
    return (spec.pool_size, spec.pool_stride) if spec.pool == "max" else (1, 1)


def _pool(x: Tensor, bias: Tensor, spec: Mlpconv, dropout: Dropout | None) -> tuple[Tensor, Tensor]:
    size, stride = _window(spec)
    high, wide = (pooled(side, size, stride, spec.pool_ceil) for side in x.shape[2:])
    if dropout is None:
        return kernels.pool(x, bias, (high, wide), size, stride, None, 0, 0, 1.0)
    count = x.shape[0] * x.shape[1] * high * wide
    words, bits = rng.keep_words(dropout.clock, dropout.purpose, count, dropout.p, x.device)
    return kernels.pool(x, bias, (high, wide), size, stride, words, bits, rng.least(dropout.p), dropout.scale)


def _matrix(x: Tensor) -> Tensor:
    """[N, C, H, W] in channels-last memory as it lies there: [N * H * W, C]."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _pointwise(gradient: Tensor, weight: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Backward through a 1x1 convolution and the ReLU and the bias before it.

    Gradients of what came out of the convolution before, of its bias, and of the weights.
    """
    push, rows, table = _matrix(gradient), _matrix(x), weight.view(weight.shape[:2])
    if len(rows) >= LARGE and weight.shape[0] <= 3 * kernels.DEEP:
        found, bias, own = kernels.both(push, table, rows)
    else:
        (found, bias), own = kernels.inputs(push, table, rows), _weights(push, rows)
    count, _, high, wide = x.shape
    return found.view(count, high, wide, -1).permute(0, 3, 1, 2), bias, own.view(weight.shape)


def _weights(push: Tensor, rows: Tensor) -> Tensor:
    """push.T [O, M] @ rows [M, C] in fp32."""
    outputs = push.shape[1]
    if outputs % 8:  # cuBLAS reads 8 at a time, or is ten times as slow; padding by nothing would be a copy
        push = F.pad(push, (0, -outputs % 8))
    if push.device.type == "cpu":  # by Triton's interpreter, in tests
        return (push.float().t() @ rows.float())[:outputs]
    return torch.mm(push.t(), rows, out_dtype=torch.float32)[:outputs]
