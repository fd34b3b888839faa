"""Convolutions on a CPU as a product at each frequency: a quarter of the time, and closer to the exact result.

The discrete Fourier transform of what a convolution gives is, at each frequency, the product of those of its input and
its kernel. Sliding a 5x5 kernel over 16x16 maps takes 25 multiply-adds a value; the product takes 4 at each of 180
frequencies, 2.8 a value. The transforms are small matrices, and all is real: a complex number is two values beside each
other, a complex product one of matrices twice as large.
"""

import functools
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WORTH = 1.5  # how many times fewer multiply-adds make up for what is moved besides


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


@functools.lru_cache(maxsize=64)
def plan(size: tuple[int, int], kernel: tuple[int, int], pad: int) -> Plan:
    """For maps of a size: with periods longer by a padding below the kernel's width no period gets into the next."""
    period = (size[0] + pad, size[1] + pad)
    output = (size[0] + 2 * pad - kernel[0] + 1, size[1] + 2 * pad - kernel[1] + 1)
    return Plan(transform(period, size), transform(period, kernel, -pad, inverse=True), transform(period, output))


def multiply_adds(x: Tensor, weight: Tensor, pad: int) -> tuple[float, float]:
    """Of a convolution forward with stride 1: sliding the kernel, and at frequencies."""
    (n, channels, height, width), (maps, _, *kernel) = x.shape, weight.shape
    output = (height + 2 * pad - kernel[0] + 1, width + 2 * pad - kernel[1] + 1)
    half, columns = (height + pad) // 2 + 1, width + pad

    def transformed(size: Any) -> int:
        return 2 * half * size[1] * (size[0] + 2 * columns)

    frequencies = half * columns
    images = channels * transformed((height, width)) + maps * transformed(output) + 4 * frequencies * channels * maps
    kernels = channels * maps * (transformed(kernel) + 4 * frequencies)
    return n * math.prod(output) * math.prod(kernel) * channels * maps, n * images + kernels


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, pad: int) -> Tensor:
        n, maps = len(x), len(weight)
        ctx.plan = plan(tuple(x.shape[2:]), tuple(weight.shape[2:]), pad)
        spectra = ctx.plan.image(x.permute(0, 2, 3, 1))
        real, imaginary = _of_kernel(ctx.plan.kernel(weight.permute(2, 3, 1, 0).flatten(2)[None]), maps).unbind(1)
        frequencies, channels, _ = real.shape
        # The kernel's conjugate: what is called convolution is correlation.
        product = torch.empty(frequencies, 2, channels, 2, maps)
        product[:, 0, :, 0], product[:, 1, :, 0] = real, imaginary
        torch.neg(imaginary, out=product[:, 0, :, 1])
        product[:, 1, :, 1] = real
        product = product.view(frequencies, 2 * channels, 2 * maps)
        found = torch.empty(n, frequencies, 2 * maps)
        torch.bmm(spectra.transpose(0, 1), product, out=found.transpose(0, 1))
        height, width = ctx.plan.output.rows.shape[1], ctx.plan.output.columns.shape[1] // 2
        y = torch.empty(n, maps, height, width, memory_format=torch.channels_last)
        ctx.plan.output.adjoint(found, y.permute(0, 2, 3, 1))
        if bias is not None:
            y += bias[:, None, None]
        ctx.save_for_backward(spectra, product)
        ctx.sizes = x.shape, weight.shape
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None, None]:
        spectra, product = ctx.saved_tensors
        (n, channels, height, width), (maps, _, *kernel) = ctx.sizes
        pushed = ctx.plan.output(gradient.permute(0, 2, 3, 1)).transpose(0, 1)
        inputs = None
        if ctx.needs_input_grad[0]:
            found = torch.empty_like(spectra)
            torch.bmm(pushed, product.transpose(1, 2), out=found.transpose(0, 1))
            inputs = ctx.plan.image.adjoint(found, torch.empty(n, height, width, channels)).permute(0, 3, 1, 2)
        both = torch.bmm(spectra.permute(1, 2, 0), pushed).view(-1, 2, channels, 2, maps)
        of_kernel = torch.empty(len(both), 2, channels, maps)
        torch.add(both[:, 0, :, 0], both[:, 1, :, 1], out=of_kernel[:, 0])
        torch.sub(both[:, 1, :, 0], both[:, 0, :, 1], out=of_kernel[:, 1])
        weights = ctx.plan.kernel.adjoint(of_kernel, torch.empty(1, *kernel, channels * maps))
        weights = weights.view(*kernel, channels, maps).permute(3, 2, 0, 1)
        return inputs, weights, gradient.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None, None


def _of_kernel(spectra: Tensor, maps: int) -> Tensor:
    """[1, frequencies, 2 C maps] as [frequencies, 2, C, maps]."""
    return spectra.view(spectra.shape[1], 2, -1, maps)


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
