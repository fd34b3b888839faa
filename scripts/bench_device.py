"""The other subjects of scripts/bench.py: the device itself, layer by layer, and the preprocessing."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import bench_arms
import bench_ours
import numpy as np
import torch
from bench_arms import MB, clock, memory, pictures, timed
from bench_setting import Setting
from torch.nn import functional as F

from nin_repro import build
from nin_repro.config.compose import load
from nin_repro.data.preprocess import preprocess
from nin_repro.models.network import Dropout
from nin_repro.models.shape import Shape
from nin_repro.models.spec import layers
from nin_repro.schema import Preprocessing
from nin_repro.training.capture import own_stream


class Part(NamedTuple):
    """A layer of the network by itself, with what it has to compute and to move for one image."""

    name: str
    call: Callable[[Any], Any]
    inputs: tuple[int, ...]  # C, H, W
    flops: tuple[float, float]  # forward, backward
    values: tuple[float, float]  # fp32 numbers read and written, forward and backward; weights apart
    weights: list[Any]


class Device:
    """What this device reaches at its best, and with each layer of the network."""

    def __init__(self, setting: Setting) -> None:
        self.config, self.setting = load([*setting.words, "fused=false"]), setting  # torch's own layers
        self.machine = build.machine(self.config)
        self.device, self.gpu = self.machine.device, self.machine.device.type == "cuda"
        self.kind = torch.bfloat16 if self.gpu else torch.float32  # what our fast mode computes in
        self.repeats = 10 if self.gpu else 1
        self.parts = list(self._parts())
        self.tensors = {part.name: self._tensors(part) for part in self.parts}

    def describe(self) -> dict[str, Any]:
        return {"kind": self.device.type, "words": self.machine.words, "threads": self.machine.threads}

    def ceiling(self) -> dict[str, float]:
        """GFLOP/s of a large matrix product and of each convolution forward; GB/s of a copy (read + write).

        Convolutions are torch's own, and compute in what our fast mode computes in.
        """
        bytes_copied = (2_048 if self.gpu else self.setting.copied) * MB
        source = torch.ones(int(bytes_copied / 4), device=self.device)
        target = torch.empty_like(source)
        found = {"matmul fp32": self._matmul(torch.float32)}
        if self.gpu:
            found |= {"matmul tf32": self._tf32(), "matmul bf16": self._matmul(torch.bfloat16)}
        found["copy"] = 2 * bytes_copied / 1e9 / clock(lambda: target.copy_(source), self.device, self.repeats)
        for part in self.parts:
            if part.weights:  # a short one repeated, lest it slip through between two disturbances
                flops = part.flops[0] * self.config.optimizer.batch_size
                repeats = max(self.repeats, min(20, round(2 * self.setting.matmul**3 / flops)))
                call = partial(part.call, self.tensors[part.name][0])
                with own_stream(self.device):
                    found[part.name] = flops / timed(call, self.device, self.draws, repeats) / 1e9
        return found

    def _tf32(self) -> float:
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        try:
            return self._matmul(torch.float32)
        finally:
            torch.backends.cuda.matmul.fp32_precision = "ieee"

    def _matmul(self, kind: Any) -> float:
        side = 8_192 if self.gpu else self.setting.matmul
        a, b = (torch.randn(side, side, device=self.device).to(kind) for _ in range(2))
        torch.mm(a, b)
        return 2 * side**3 / clock(lambda: torch.mm(a, b), self.device, self.repeats) / 1e9

    def layers(self) -> dict[str, tuple[float, float]]:
        """Seconds of a batch forward and backward, of each layer alone."""
        found = {}
        with own_stream(self.device):
            for part in self.parts:
                x, into = self.tensors[part.name]
                y = part.call(x)
                push, wanted = torch.ones_like(y), [*into, *part.weights]
                again = partial(torch.autograd.grad, y, wanted, push, retain_graph=True)
                forward = timed(partial(part.call, x), self.device, self.draws, self.repeats)
                found[part.name] = forward, timed(again, self.device, self.draws, self.repeats)
        return found

    def work(self) -> dict[str, list[list[float]]]:
        """FLOPs and bytes of a batch, forward and backward, of each layer: the least it can do.

        Forward reads the input and the weights and writes the output. Backward reads the output's gradient, input
        and weights, and writes the gradients of both; the first layer needs none of its input.
        """
        batch, found = self.config.optimizer.batch_size, {}
        for part in self.parts:
            weights = sum(weight.numel() for weight in part.weights)
            moved = [
                self.kind.itemsize * (batch * part.values[0] + weights),
                self.kind.itemsize * (batch * part.values[1] + weights * (1 if part is self.parts[0] else 2)),
            ]
            found[part.name] = [[batch * flops for flops in part.flops], moved]
        return found

    def _tensors(self, part: Part) -> tuple[Any, list[Any]]:
        """An input in channels-last memory, and what is differentiated besides weights: it, but for the first layer."""
        x = torch.randn(self.config.optimizer.batch_size, *part.inputs, device=self.device, dtype=self.kind)
        x = x.to(memory_format=torch.channels_last)
        if part is self.parts[0]:
            return x, []
        x.requires_grad_()
        return x, [x]

    def _parts(self) -> Iterator[Part]:
        """The layers as `MlpconvBlock` runs them: the last ReLU of a block comes after its max pooling."""
        network: Any = build.network(self.config)
        network.initialise(0, 0)
        network.to(self.device, self.kind).train()
        self.draws = network.clock
        self.draws.set(self.draws.key, torch.zeros(1, dtype=torch.int64, device=self.device))
        if self.gpu:
            network.to(memory_format=torch.channels_last)
        convolutions = iter(network.convolutions())
        dropouts = iter([module for module in network.blocks if isinstance(module, Dropout)])
        pooled = iter([block for block in network.architecture.blocks.values() if block.pool != "none"])
        specs, shape = layers(self.config.dataset, self.config.architecture, self.config.regularizer), Shape(3, 32, 32)
        for i, spec in enumerate(specs):
            weights: list[Any] = []
            if spec.multiply_adds:
                layer = next(convolutions)
                weights = [layer.weight, layer.bias]
                relu = spec.kind.endswith("ReLU") and not specs[i + 1].kind.startswith("max")
                call = _relu_after(layer) if relu else layer
            elif "pooling" in spec.kind and spec.name != "gap":
                call = _pooling(next(pooled))
            elif spec.kind.startswith("dropout"):
                call = next(dropouts)
            elif spec.name == "gap":
                call = lambda x: x.mean((2, 3))  # noqa: E731
            else:
                continue
            flops = 2.0 * spec.multiply_adds, (2.0 if i == 0 else 4.0) * spec.multiply_adds
            read, written = shape.size, spec.output.size
            again = read if weights else 0  # a convolution's backward pass reads its input once more
            values = read + written, written + again + (0 if i == 0 else read)
            yield Part(spec.name, call, tuple(shape), flops, values, weights)
            shape = spec.output


def _relu_after(layer: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda x: F.relu(layer(x), inplace=True)


def _pooling(block: Any) -> Callable[[Any], Any]:
    if block.pool == "avg":
        return lambda x: F.avg_pool2d(x, block.pool_size, block.pool_stride, ceil_mode=block.pool_ceil)
    return lambda x: F.relu(
        F.max_pool2d(x, block.pool_size, block.pool_stride, ceil_mode=block.pool_ceil), inplace=True
    )


# --- the preprocessing ----------------------------------------------------------------------------------------------


class Preparation:
    """Contrast normalisation and whitening of the paper's recipe, into a cache directory, in a process as a run's."""

    def __init__(self, setting: Setting) -> None:
        build.machine(load(setting.words))
        train, _, test, _ = pictures(setting)
        count = setting.whitened // 6
        side = setting.side
        self.train = np.array(train[: setting.whitened - count, :side, :side])
        self.test = np.array(test[:count, :side, :side])

    def prepare(self, folder: str, whole: bool) -> dict[str, float]:
        """Seconds, and the peak of memory over the raw images in MB: of the training images, or of all."""
        params = Preprocessing(divide=1, gcn=55, zca=0.1, mean="none")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before, started = memory("VmRSS"), time.perf_counter()
        wanted = [self.train, self.test] if whole else [self.train]
        preprocess(self.train, wanted, params, Path(folder), "bench")
        return {"seconds": time.perf_counter() - started, "peak": memory("VmHWM") - before}


KINDS: dict[str, Callable[[Setting], Any]] = {
    "usual": bench_arms.Usual,
    "good": bench_arms.Good,
    "ours": bench_ours.Ours,
    "ours_bf16": bench_ours.OursBf16,
    "ours_eager": bench_ours.OursEager,
    "ours_plain": bench_ours.OursPlain,
    "ours_tf32": bench_ours.OursTf32,
    "ours_fp32": bench_ours.OursFp32,
    "ours_5": bench_ours.Seeds,
    "mnist_1": bench_ours.OneMnist,
    "mnist_8": bench_ours.MnistSeeds,
    "device": Device,
    "preparation": Preparation,
}
