"""What torch has no fast kernel for on a GPU, in Triton. Each sums in an order that is always the same.

A batch of images [N, C, H, W] in channels-last memory is a matrix [N * H * W, C] here: a program has some of its rows.
Kernels compute in fp32 whatever they read and write. What each is for, and the same in torch, stands where it is used.
"""

import os

import torch
import triton
import triton.language as tl
from torch import Tensor

os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # a product and a sum rounded once; from 3.10 on Triton asks
NOWHERE = tl.constexpr(255)  # in place of the place in a window
BLOCK = 1024  # values of an update that share a rate
TURNS = 4  # tiles of `pool_backward` that a program takes one after the other: so many fewer sums to add up
DEEP = 64  # outputs that `both` sums for at a time, three times at most


def images(like: Tensor, channels: int, height: int, width: int, kind: torch.dtype | None = None) -> Tensor:
    """Empty images, as many as `like` has, in channels-last memory."""
    return like.new_empty((like.shape[0], height, width, channels), dtype=kind).permute(0, 3, 1, 2)


def unfold(x: Tensor, sides: tuple[int, int], kernel: int, stride: int, pad: int, kind: torch.dtype) -> Tensor:
    """Images [N, C, H, W] so that a convolution with outputs [.., *sides] is a 1x1 one: [N, K * K * C + zeros, *sides].

    Columns are in the order (row, column, channel) of the window, and a multiple of 16.
    """
    count, channels, height, width = x.shape
    columns = kernel * kernel * channels
    found = images(x, columns + -columns % 16, *sides, kind)
    rows, step = count * sides[0] * sides[1], 64
    _unfold[(triton.cdiv(rows, step),)](
        x.contiguous(memory_format=torch.channels_last), found, rows, height, width, *sides, pad, stride,
        channels, kernel, found.shape[1], _power(found.shape[1]), step,
    )  # fmt: skip
    return found


def pool(
    x: Tensor, bias: Tensor, sides: tuple[int, int], size: int, stride: int,
    words: Tensor | None, bits: int, least: int, scale: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Max pooling, bias [C], ReLU and dropout of images [N, C, H, W]: [N, C, *sides], and uint8 of this shape.

    That says where in its window each result was, or NOWHERE if it is 0. `words`, `bits` and `least` are those of
    `rng.keep_words`; `scale` is that of what is kept.
    """
    count, channels, height, width = x.shape
    y = images(x, channels, *sides)
    places = images(x, channels, *sides, torch.uint8)
    rows, power = count * sides[0] * sides[1], _power(channels)
    step = max(1, 2048 // power)
    _pool[(triton.cdiv(rows, step),)](
        x, bias, bias if words is None else words, y, places, rows, height, width, *sides, least, scale,
        channels, power, size, stride, 0 if words is None else bits, step,
    )  # fmt: skip
    return y, places


def pool_backward(
    gradient: Tensor, places: Tensor, sides: tuple[int, int], size: int, stride: int, scale: float
) -> tuple[Tensor, Tensor]:
    """Gradients of the images that `pool` was given, [N, C, *sides], and of the bias, fp32 [C]. Strides are 1 or 2."""
    count, channels, high, wide = gradient.shape
    found = images(gradient, channels, *sides)
    down, across = (-(-side // stride) for side in sides)  # cells of stride x stride pixels
    rows, power = count * down * across, _power(channels)
    step = max(1, 2048 // power)
    programs = triton.cdiv(rows, step * TURNS)
    sums = gradient.new_empty((programs, channels), dtype=torch.float32)
    _pool_backward[(programs,)](
        gradient.contiguous(memory_format=torch.channels_last), places, found, sums, rows, *sides, high, wide, down,
        across, scale, channels, power, size, stride, -(-size // stride), step, TURNS,
    )  # fmt: skip
    return found, total(sums)


def inputs(gradient: Tensor, weight: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """gradient [M, O] @ weight [O, C] where x [M, C] is above 0, like x; and its columns' sums, fp32 [C]."""
    found = torch.empty_like(x)
    (rows, channels), outputs = x.shape, weight.shape[0]
    tall, wide, deep = 128, min(64, _power(channels)), 64 if outputs % 64 == 0 else min(32, _power(outputs))
    programs = triton.cdiv(rows, tall)
    sums = x.new_empty((programs, channels), dtype=torch.float32)
    _inputs[(triton.cdiv(channels, wide), programs)](
        gradient, weight, x, found, sums, rows, outputs, channels, tall, wide, deep, num_warps=4, num_stages=3
    )
    return found, total(sums)


def both(gradient: Tensor, weight: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As `inputs`, and gradient.T @ x, fp32 [O, C], in one pass over memory. O is 3 * DEEP at most."""
    found = torch.empty_like(x)
    (rows, channels), outputs = x.shape, weight.shape[0]
    tall, wide = 64 if outputs <= 128 else 32, 64
    programs = min(88, triton.cdiv(rows, tall))  # for each 64 channels; an H100 has room for so many
    sums = x.new_empty((programs, outputs + 1, channels), dtype=torch.float32)
    _both[(triton.cdiv(channels, wide), programs)](
        gradient, weight, x, found, sums, rows, programs, outputs, channels, tall, wide, DEEP, num_warps=4, num_stages=3
    )
    whole = total(sums)
    return found, whole[outputs], whole[:outputs]


def total(parts: Tensor) -> Tensor:
    """The sum over the first dimension of fp32 [P, ...]. torch's own takes twice as long for some hundred parts."""
    found = parts.new_empty(parts.shape[1:])
    wide, tall = (16, 64) if found.numel() < 4096 else (64, 16)
    _total[(triton.cdiv(found.numel(), wide),)](parts, found, len(parts), found.numel(), wide, tall, num_warps=4)
    return found


def cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of logits [N, K], fp32, and labels [N]: the mean cross-entropy [], how many are wrong, fp32 [], the gradient."""
    logits = logits.contiguous()
    gradient, found = torch.empty_like(logits), logits.new_empty(2)
    (rows, classes), power = logits.shape, _power(logits.shape[1])
    step = max(1, 2048 // power)
    _cross_entropy[(1,)](logits, labels, gradient, found, rows, classes, power, step, num_warps=8)
    return found[0], found[1], gradient


def note(
    loss: Tensor, wrong: Tensor, norm: Tensor, clip: float, size: int, totals: Tensor, norms: Tensor, window: Tensor,
    now: Tensor,
) -> None:  # fmt: skip
    """What `training.update.note` says, in one kernel."""
    _note[(1,)](loss, wrong, norm, totals, norms, window, now, size, clip, num_warps=1)


def judge(loss: Tensor, norm: Tensor, fault: Tensor, updates: Tensor, clip: float) -> Tensor:
    """Raise `fault` to 1 if loss or norm are not finite; count an update if it is 0; what a gradient is divided by."""
    shrink = torch.empty_like(norm)
    _judge[(1,)](loss, norm, fault, updates, shrink, clip, num_warps=1)
    return shrink


def crop(x: Tensor, down: Tensor, right: Tensor, mirrored: Tensor, pad: int) -> Tensor:
    """Images [N, H, W, C] within `pad` zeros, cut from row `down` and column `right` [N] on, flipped if `mirrored`."""
    found = torch.empty_like(x)
    count, height, width, channels = x.shape
    size, step = height * width * channels, 1024
    _crop[(count, triton.cdiv(size, step))](x, found, down, right, mirrored, height, width, pad, size, channels, step)
    return found


def update(
    values: Tensor, gradient: Tensor, momentum: Tensor, which: Tensor, rates: Tensor, decays: Tensor, inertia: Tensor,
    shrink: Tensor, fault: Tensor,
) -> None:  # fmt: skip
    """Momentum SGD, all fp32, in place, unless `fault` is above 0.

    Each BLOCK of the flat `values` is of the group that `which` names, int32, which has a rate and a decay. The
    gradient is divided by `shrink`.
    """
    _update[(len(which),)](values, gradient, momentum, which, rates, decays, inertia, shrink, fault, BLOCK, num_warps=4)


def _power(count: int) -> int:
    """The power of 2 that is as large, at least 16."""
    return max(16, 1 << (count - 1).bit_length())


@triton.jit
def _unfold(
    x, found, rows, height, width, high, wide, pad, stride,
    channels: tl.constexpr, kernel: tl.constexpr, columns: tl.constexpr, power: tl.constexpr, step: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * step + tl.arange(0, step)[:, None]
    column = tl.arange(0, power)[None, :]
    channel, across, down = column % channels, column // channels % kernel, column // (channels * kernel)
    j = row % wide * stride + across - pad
    i = row // wide % high * stride + down - pad
    inside = (i >= 0) & (i < height) & (j >= 0) & (j < width) & (down < kernel) & (row < rows)
    values = tl.load(x + ((row // (wide * high) * height + i) * width + j) * channels + channel, inside, 0.0)
    tl.store(found + row * columns + column, values.to(found.dtype.element_ty), (row < rows) & (column < columns))


@triton.jit
def _pool(
    x, bias, words, y, places, rows, height, width, high, wide, least, scale,
    channels: tl.constexpr, power: tl.constexpr, size: tl.constexpr, stride: tl.constexpr, bits: tl.constexpr,
    step: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * step + tl.arange(0, step)[:, None]
    channel = tl.arange(0, power)[None, :]
    real = (row < rows) & (channel < channels)
    top, left = row // wide % high * stride, row % wide * stride
    first = (row // (wide * high) * height + top) * width + left
    best = tl.full((step, power), float("-inf"), tl.float32)
    place = tl.zeros((step, power), tl.int32)
    for k in tl.static_range(size * size):
        down, across = k // size, k % size
        inside = real & (top + down < height) & (left + across < width)
        value = tl.load(x + (first + down * width + across) * channels + channel, inside, float("-inf"))
        value = value.to(tl.float32)
        better = (value > best) | (value != value)  # what is not a number stays to be seen
        best = tl.where(better, value, best)
        place = tl.where(better, k, place)
    best += tl.load(bias + channel, channel < channels, 0.0)
    best = tl.where(best < 0, 0.0, best)
    at = row * channels + channel
    if bits == 1:
        word = tl.load(words + at // 32, real, 0)
        best = tl.where((word >> (at % 32)) & 1 == 1, best * scale, 0.0)
    if bits == 16:
        word = tl.load(words + at // 2, real, 0)
        best = tl.where((word >> (at % 2 * 16)) & 0xFFFF >= least, best * scale, 0.0)
    tl.store(y + at, best.to(y.dtype.element_ty), real)
    tl.store(places + at, tl.where(best > 0, place, NOWHERE).to(tl.uint8), real)


@triton.jit
def _pool_backward(
    gradient, places, found, sums, rows, height, width, high, wide, cells_down, cells_across, scale,
    channels: tl.constexpr, power: tl.constexpr, size: tl.constexpr, stride: tl.constexpr, reach: tl.constexpr,
    step: tl.constexpr, turns: tl.constexpr,
):  # fmt: skip
    channel = tl.arange(0, power)[None, :]
    total = tl.zeros((step, power), tl.float32)
    for turn in range(turns):
        row = (tl.program_id(0) * turns + turn) * step + tl.arange(0, step)[:, None]  # a cell of stride x stride pixels
        total += _cells(
            gradient, places, found, row, channel, (row < rows) & (channel < channels), height, width, high, wide,
            cells_down, cells_across, scale, channels, power, size, stride, reach, step,
        )  # fmt: skip
    ends = tl.arange(0, power)
    tl.store(sums + tl.program_id(0) * channels + ends, tl.sum(total, 0) * scale, ends < channels)


@triton.jit
def _cells(
    gradient, places, found, row, channel, real, height, width, high, wide, cells_down, cells_across, scale,
    channels: tl.constexpr, power: tl.constexpr, size: tl.constexpr, stride: tl.constexpr, reach: tl.constexpr,
    step: tl.constexpr,
):  # fmt: skip
    i, j, image = row // cells_across % cells_down, row % cells_across, row // (cells_across * cells_down)
    a = tl.zeros((step, power), tl.float32)  # the cell's pixels
    b = tl.zeros((step, power), tl.float32)
    c = tl.zeros((step, power), tl.float32)
    d = tl.zeros((step, power), tl.float32)
    for k in tl.static_range(reach * reach):  # the windows that reach into the cell
        up, back = k // reach, k % reach
        first = up * stride * size + back * stride  # the cell's first pixel in the window
        inside = real & (i >= up) & (j >= back) & (i - up < high) & (j - back < wide)
        at = ((image * high + i - up) * wide + j - back) * channels + channel
        place = tl.load(places + at, inside, NOWHERE)
        push = tl.load(gradient + at, inside, 0.0).to(tl.float32)
        a += tl.where(place == first, push, 0.0)
        if stride == 2:
            if back * stride + 1 < size:
                b += tl.where(place == first + 1, push, 0.0)
            if up * stride + 1 < size:
                c += tl.where(place == first + size, push, 0.0)
                if back * stride + 1 < size:
                    d += tl.where(place == first + size + 1, push, 0.0)
    at = ((image * height + i * stride) * width + j * stride) * channels + channel
    tl.store(found + at, (a * scale).to(found.dtype.element_ty), real)
    if stride == 2:
        below, beside = real & (i * stride + 1 < height), j * stride + 1 < width
        tl.store(found + at + channels, (b * scale).to(found.dtype.element_ty), real & beside)
        tl.store(found + at + width * channels, (c * scale).to(found.dtype.element_ty), below)
        tl.store(found + at + (width + 1) * channels, (d * scale).to(found.dtype.element_ty), below & beside)
    return a + b + c + d


@triton.jit
def _inputs(
    gradient, weight, x, found, sums, rows, outputs: tl.constexpr, channels: tl.constexpr,
    tall: tl.constexpr, wide: tl.constexpr, deep: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1) * tall + tl.arange(0, tall)[:, None]
    channel = tl.program_id(0) * wide + tl.arange(0, wide)
    total = tl.zeros((tall, wide), tl.float32)
    for start in range(0, outputs, deep):
        output = start + tl.arange(0, deep)
        push = tl.load(gradient + row * outputs + output[None, :], (row < rows) & (output < outputs)[None, :], 0.0)
        total = tl.dot(push, _weights(weight, output, channel, outputs, channels), total)
    at, real = row * channels + channel[None, :], (row < rows) & (channel < channels)[None, :]
    total = tl.where(tl.load(x + at, real, 0.0) > 0, total, 0.0)
    tl.store(found + at, total.to(found.dtype.element_ty), real)
    tl.store(sums + tl.program_id(1) * channels + channel, tl.sum(total, 0), channel < channels)


@triton.jit
def _weights(weight, output, channel, outputs: tl.constexpr, channels: tl.constexpr):
    real = (output < outputs)[:, None] & (channel < channels)[None, :]
    return tl.load(weight + output[:, None] * channels + channel[None, :], real, 0.0)


@triton.jit
def _both(
    gradient, weight, x, found, sums, rows, programs, outputs: tl.constexpr, channels: tl.constexpr,
    tall: tl.constexpr, wide: tl.constexpr, deep: tl.constexpr,
):  # fmt: skip
    channel = tl.program_id(0) * wide + tl.arange(0, wide)
    good = (channel < channels)[None, :]
    output = tl.arange(0, deep)  # and so many from the first and the second multiple of `deep`
    w0 = _weights(weight, output, channel, outputs, channels)
    a0 = tl.zeros((deep, wide), tl.float32)
    if outputs > deep:
        w1 = _weights(weight, output + deep, channel, outputs, channels)
        a1 = tl.zeros((deep, wide), tl.float32)
    if outputs > 2 * deep:
        w2 = _weights(weight, output + 2 * deep, channel, outputs, channels)
        a2 = tl.zeros((deep, wide), tl.float32)
    ends = tl.zeros((wide,), tl.float32)
    for tile in range(tl.program_id(1), tl.cdiv(rows, tall), programs):
        row = tile * tall + tl.arange(0, tall)[:, None]
        at, real = row * channels + channel[None, :], (row < rows) & good
        value = tl.load(x + at, real, 0.0)
        pushes = gradient + row * outputs + output[None, :]
        push = tl.load(pushes, (row < rows) & (output < outputs)[None, :], 0.0)
        total = tl.dot(push, w0)
        a0 = tl.dot(tl.trans(push), value, a0)
        if outputs > deep:
            push = tl.load(pushes + deep, (row < rows) & (output + deep < outputs)[None, :], 0.0)
            total = tl.dot(push, w1, total)
            a1 = tl.dot(tl.trans(push), value, a1)
        if outputs > 2 * deep:
            push = tl.load(pushes + 2 * deep, (row < rows) & (output + 2 * deep < outputs)[None, :], 0.0)
            total = tl.dot(push, w2, total)
            a2 = tl.dot(tl.trans(push), value, a2)
        total = tl.where(value > 0, total, 0.0)
        tl.store(found + at, total.to(found.dtype.element_ty), real)
        ends += tl.sum(total, 0)
    sums += tl.program_id(1) * ((outputs + 1) * channels) + channel
    tl.store(sums + outputs * channels, ends, channel < channels)
    into = sums[None, :] + output[:, None] * channels
    tl.store(into, a0, (output < outputs)[:, None] & good)
    if outputs > deep:
        tl.store(into + deep * channels, a1, (output + deep < outputs)[:, None] & good)
    if outputs > 2 * deep:
        tl.store(into + 2 * deep * channels, a2, (output + 2 * deep < outputs)[:, None] & good)


@triton.jit
def _total(parts, found, count, size, wide: tl.constexpr, tall: tl.constexpr):
    column = tl.program_id(0) * wide + tl.arange(0, wide)
    sums = tl.zeros((tall, wide), tl.float32)
    for start in range(0, count, tall):
        row = start + tl.arange(0, tall)[:, None]
        sums += tl.load(parts + row * size + column[None, :], (row < count) & (column < size)[None, :], 0.0)
    tl.store(found + column, tl.sum(sums, 0), column < size)


@triton.jit
def _cross_entropy(
    logits, labels, gradient, found, rows, classes: tl.constexpr, power: tl.constexpr, step: tl.constexpr
):  # fmt: skip
    column = tl.arange(0, power)[None, :]
    losses = tl.zeros((step,), tl.float32)
    wrong = tl.zeros((step,), tl.float32)
    for start in range(0, rows, step):
        row = start + tl.arange(0, step)
        good, at = row < rows, row[:, None] * classes + column
        real = good[:, None] & (column < classes)
        x = tl.load(logits + at, real, float("-inf"))
        label = tl.load(labels + row, good, 0)
        x -= tl.where(good, tl.max(x, 1), 0.0)[:, None]
        e = tl.exp(x)
        whole = tl.where(good, tl.sum(e, 1), 1.0)
        its = column == label[:, None]
        losses += tl.where(good, tl.log(whole) - tl.sum(tl.where(its, x, 0.0), 1), 0.0)
        wrong += tl.where(good & (tl.argmax(x, 1) != label), 1.0, 0.0)
        tl.store(gradient + at, (e / whole[:, None] - tl.where(its, 1.0, 0.0)) / rows, real)
    tl.store(found, tl.sum(losses, 0) / rows)
    tl.store(found + 1, tl.sum(wrong, 0))


@triton.jit
def _note(loss, wrong, norm, totals, norms, window, now, size, clip):
    value, length = tl.load(loss).to(tl.float64), tl.load(norm).to(tl.float64)
    tl.store(totals, tl.load(totals) + value * size)
    tl.store(totals + 1, tl.load(totals + 1) + tl.load(wrong).to(tl.float64))
    tl.store(totals + 2, tl.load(totals + 2) + size)
    tl.store(norms, tl.load(norms) + length)
    tl.store(norms + 1, tl.load(norms + 1) + tl.where(length > clip, 1, 0))
    tl.store(window, tl.load(window) + value)
    tl.store(window + 1, tl.maximum(tl.load(window + 1), length))
    tl.store(now, tl.load(now) + 1)
    tl.store(now + 1, tl.load(now + 1) + 1)


@triton.jit
def _judge(loss, norm, fault, updates, shrink, clip):
    length = tl.load(norm)
    fine = (tl.abs(length) < float("inf")) & (tl.abs(tl.load(loss)) < float("inf"))
    bad = tl.where(fine, tl.load(fault), 1.0)
    tl.store(fault, bad)
    tl.store(updates, tl.load(updates) + tl.where(bad == 0, 1, 0))
    tl.store(shrink, tl.maximum(length / clip, 1.0))


@triton.jit
def _crop(x, found, down, right, mirrored, height, width, pad, size, channels: tl.constexpr, step: tl.constexpr):
    image, at = tl.program_id(0), tl.program_id(1) * step + tl.arange(0, step)
    channel, across, i = at % channels, at // channels % width, at // channels // width
    j = tl.where(tl.load(mirrored + image) != 0, width - 1 - across, across) + tl.load(right + image) - pad
    i += tl.load(down + image) - pad
    inside = (i >= 0) & (i < height) & (j >= 0) & (j < width) & (at < size)
    value = tl.load(x + image * size + (i * width + j) * channels + channel, inside, 0.0)
    tl.store(found + image * size + at, value, at < size)


@triton.jit
def _update(
    values, gradient, momentum, which, rates, decays, inertia, shrink, fault, step: tl.constexpr
):  # fmt: skip
    if tl.load(fault) == 0:
        group = tl.load(which + tl.program_id(0))
        at = tl.program_id(0) * step + tl.arange(0, step)
        value = tl.load(values + at)
        push = tl.load(gradient + at) / tl.load(shrink) + tl.load(decays + group) * value
        push += tl.load(inertia) * tl.load(momentum + at)
        tl.store(momentum + at, push)
        tl.store(values + at, value - tl.load(rates + group) * push)
