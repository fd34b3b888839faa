"""Convolutions on a CPU as a product at each frequency: a quarter of the time, and closer to the exact result.

The discrete Fourier transform of what a convolution gives is, at each frequency, the product of those of its input and
its kernel. Sliding a 5x5 kernel over 16x16 maps takes 25 multiply-adds a value; the product takes 4 at each of 180
frequencies, 2.8 a value. The transforms are small matrices, and all is real: a complex number is two values beside each
other, a complex product one of matrices twice as large.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WORTH = 2.0  # how many times fewer multiply-adds make up for what is moved besides
# To make, read and add up the matrices of the kernel, which do not stay in the caches, takes as long as the products of
# so many images: measured with 8 to 128 of them.
KERNEL = 30


class Transform(NamedTuple):
    """Maps [N, H, W, C] to their discrete Fourier transform [N, frequencies, 2 C], and the adjoint of that.

    Rows have half of the frequencies: those of real numbers are in pairs.
    """

    rows: Tensor  # [row frequencies * 2, H]
    columns: Tensor  # [column frequencies * 2, 2 * W]

    def __call__(self, maps: Tensor) -> Tensor:
        n, height, width, channels = maps.shape
        lines = torch.matmul(self.rows, maps.reshape(n, height, width * channels))
        lines = lines.view(-1, 2 * width, channels)
        return torch.bmm(self.columns.expand(len(lines), -1, -1), lines).view(n, -1, 2 * channels)

    def adjoint(self, spectra: Tensor, out: Tensor) -> Tensor:
        """Into `out`, [N, H, W, C]."""
        n, height, width, channels = out.shape
        spectra = spectra.view(-1, len(self.columns), channels)
        lines = torch.bmm(self.columns.t().expand(len(spectra), -1, -1), spectra)
        torch.matmul(self.rows.t(), lines.view(n, -1, width * channels), out=out.view(n, height, width * channels))
        return out


def transform(period: tuple[int, int], size: tuple[int, int], start: int = 0, inverse: bool = False) -> Transform:
    """Of maps of a size, the first row and column of which are at `start` of a period.

    `inverse`: each frequency weighed as in the sum over frequencies that gives maps again.
    """

    def angles(length: int, count: int, extent: int) -> Tensor:
        places = torch.arange(extent, dtype=torch.float64) + start
        return 2 * math.pi / length * torch.outer(torch.arange(count, dtype=torch.float64), places)

    (height, width), half = period, period[0] // 2 + 1
    down, across = angles(height, half, size[0]), angles(width, width, size[1])
    rows = torch.stack([down.cos(), -down.sin()], 1)  # [frequency, 2, H]
    if inverse:
        paired = torch.full((half, 1, 1), 2.0, dtype=torch.float64)
        paired[0] = 1
        if height % 2 == 0:
            paired[-1] = 1
        rows = rows * paired / (height * width)
    cos, sin = across.cos(), across.sin()
    columns = torch.stack([torch.cat([cos, sin], 1), torch.cat([-sin, cos], 1)], 1)  # [frequency, 2, 2 W]
    return Transform(rows.flatten(0, 1).float(), columns.flatten(0, 1).float())


class Plan(NamedTuple):
    """The transforms of a convolution's input, kernel and output."""

    image: Transform
    kernel: Transform
    output: Transform


def _slid(size: Sequence[int], kernel: Sequence[int], pad: int) -> tuple[int, int]:
    """Rows and columns of a convolution's output."""
    return size[0] + 2 * pad - kernel[0] + 1, size[1] + 2 * pad - kernel[1] + 1


@functools.lru_cache(maxsize=64)
def plan(size: tuple[int, int], kernel: tuple[int, int], pad: int) -> Plan:
    """For maps of a size: with periods longer by a padding below the kernel's width no period gets into the next."""
    period = (size[0] + pad, size[1] + pad)
    output = transform(period, _slid(size, kernel, pad))
    return Plan(transform(period, size), transform(period, kernel, -pad, inverse=True), output)


def multiply_adds(x: Tensor, weight: Tensor, pad: int) -> tuple[float, float]:
    """Of a convolution forward with stride 1: sliding the kernel, and what takes as long as at frequencies."""
    (n, channels, height, width), (maps, _, *kernel) = x.shape, weight.shape
    output = _slid((height, width), kernel, pad)
    half, columns = (height + pad) // 2 + 1, width + pad

    def transformed(size: Sequence[int]) -> int:
        return 2 * half * size[1] * (size[0] + 2 * columns)

    frequencies = half * columns
    images = channels * transformed((height, width)) + maps * transformed(output) + 4 * frequencies * channels * maps
    kernels = channels * maps * (3 * transformed(kernel) + KERNEL * 4 * frequencies)
    return n * math.prod(output) * math.prod(kernel) * channels * maps, n * images + kernels


def _by_row(spectra: Tensor, columns: int) -> tuple[Tensor, ...]:
    """[N, frequencies, values] as the [columns, N, values] of each row of frequencies."""
    return spectra.transpose(0, 1).split(columns)


def _matrices(weight: Tensor, transform: Transform) -> Iterator[Tensor]:
    """The transform of [maps, C, k, k] as the matrices [columns, 2 C, 2 maps] of each row of frequencies.

    Of the conjugates: what is called a convolution is a correlation.
    """
    maps, channels, *size = weight.shape
    found = transform(weight.permute(2, 3, 1, 0).reshape(1, *size, channels * maps)).view(-1, 2, channels, maps)
    for real, imaginary in (part.unbind(1) for part in found.split(len(transform.columns) // 2)):
        count = len(real)
        matrix = torch.empty(count, 2, channels, 2, maps)
        matrix[:, 0, :, 0], matrix[:, 1, :, 0] = real, imaginary
        torch.neg(imaginary, out=matrix[:, 0, :, 1])
        matrix[:, 1, :, 1] = real
        yield matrix.view(count, 2 * channels, 2 * maps)


class _Convolution(torch.autograd.Function):
    """A row of frequencies at a time, so that what is between the transforms stays in the caches."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, pad: int) -> Tensor:
        n, maps = len(x), len(weight)
        ctx.plan = image, kernel, output = plan(tuple(x.shape[2:]), tuple(weight.shape[2:]), pad)
        columns = len(image.columns) // 2
        spectra = image(x.permute(0, 2, 3, 1))
        ctx.save_for_backward(spectra, weight)
        found = torch.empty(n, spectra.shape[1], 2 * maps)
        rows, outs = _by_row(spectra, columns), _by_row(found, columns)
        for row, matrix, out in zip(rows, _matrices(weight, kernel), outs, strict=True):
            torch.bmm(row, matrix, out=out)
        y = torch.empty(n, maps, output.rows.shape[1], output.columns.shape[1] // 2, memory_format=torch.channels_last)
        output.adjoint(found, y.permute(0, 2, 3, 1))
        ctx.size = x.shape
        return y if bias is None else y.add_(bias[:, None, None])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None, None]:
        spectra, weight = ctx.saved_tensors
        image, kernel, output = ctx.plan
        (n, channels, height, width), (maps, _, *size) = ctx.size, weight.shape
        columns = len(image.columns) // 2
        pushes, inputs = _by_row(output(gradient.permute(0, 2, 3, 1)), columns), None
        if ctx.needs_input_grad[0]:
            found = torch.empty_like(spectra)
            for push, matrix, out in zip(pushes, _matrices(weight, kernel), _by_row(found, columns), strict=True):
                torch.bmm(push, matrix.transpose(1, 2), out=out)
            inputs = image.adjoint(found, torch.empty(n, height, width, channels)).permute(0, 3, 1, 2)
        total = torch.empty(spectra.shape[1], 2, channels, maps)
        for row, push, out in zip(_by_row(spectra, columns), pushes, total.split(columns), strict=True):
            both = torch.bmm(row.transpose(1, 2), push).view(-1, 2, channels, 2, maps)
            torch.add(both[:, 0, :, 0], both[:, 1, :, 1], out=out[:, 0])
            torch.sub(both[:, 1, :, 0], both[:, 0, :, 1], out=out[:, 1])
        weights = kernel.adjoint(total, torch.empty(1, *size, channels * maps)).view(*size, channels, maps)
        biases = gradient.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None
        return inputs, weights.permute(3, 2, 0, 1), biases, None


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int = 1, pad: int = 0) -> Tensor:
    """`torch.nn.functional.conv2d`: at frequencies where that is on a CPU, in fp32, and less work."""
    plain = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32
    if plain and not torch.is_autocast_enabled("cpu") and stride == 1 and 0 <= pad < min(weight.shape[2:]) > 1:
        sliding, spectral = multiply_adds(x, weight, pad)
        if sliding > WORTH * spectral:
            y: Tensor = _Convolution.apply(x, weight, bias, pad)
            return y
    return F.conv2d(x, weight, bias, stride, pad)


class Conv2d(nn.Conv2d):
    """torch's layer, as wide as high; `fused` says whether `conv2d` of this module computes it."""

    fused = True

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        compute = conv2d if self.fused else F.conv2d
        return compute(x, weight, bias, self.stride[0], self.padding[0])  # type: ignore[arg-type]
