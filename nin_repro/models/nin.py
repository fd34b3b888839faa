"""Network In Network: mlpconv blocks, dropout between them, and a global average pooling or fully connected head."""

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nin_repro import rng
from nin_repro.models.spec import Shape, widths
from nin_repro.schema import Mlpconv, Nin, Regularizer


@dataclass
class Clock:
    """Which update a network is in. The trainer sets it before every step; dropout reads it."""

    key: tuple[int, int] = (0, 0)
    step: int = 0


class Dropout(nn.Module):
    """Dropout of single elements whose mask is a function of (key, layer, step) and not of a generator's state.

    The `released` convention is cuda-convnet's: x * mask in training, x * (1 - p) in evaluation. `inverted` is Caffe's
    and PyTorch's: x * mask / (1 - p), and x. With fixed initial weights and rates they are different recipes.
    """

    def __init__(self, p: float, convention: str, layer: int, clock: Clock) -> None:
        super().__init__()
        self.p, self.convention, self.layer, self.clock = p, convention, layer, clock

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x * (1 - self.p) if self.convention == "released" else x
        kept = rng.keep_mask(
            self.clock.key, rng.DROPOUT + self.layer, self.clock.step, x.numel(), self.p, x.device
        )  # in memory order, images [N, C, H, W] counted as N, H, W, C
        mask = kept.view(x.shape) if x.dim() == 2 else kept.view(x.shape[0], *x.shape[2:], x.shape[1]).movedim(3, 1)
        dropped = x * mask
        return dropped if self.convention == "released" else dropped / (1 - self.p)


class MlpconvBlock(nn.Module):
    """A convolution and 1x1 convolutions, ReLU after each, then pooling (section 3.1).

    `relu_last=False` leaves the ReLU after the last convolution out.
    """

    def __init__(self, channels: int, maps: list[int], block: Mlpconv, relu_last: bool = True) -> None:
        super().__init__()
        self.block, self.relu_last = block, relu_last
        convolutions = [nn.Conv2d(channels, maps[0], block.kernel, block.stride, block.pad)]
        convolutions += [nn.Conv2d(before, after, 1) for before, after in itertools.pairwise(maps)]
        self.convolutions = nn.ModuleList(convolutions)

    def forward(self, x: Tensor) -> Tensor:
        *inner, last = self.convolutions
        for convolution in inner:
            x = F.relu(convolution(x), inplace=True)
        x = last(x)
        block = self.block
        # ReLU is monotone, so it commutes with max pooling, gradients included; after it there is less to do.
        if block.pool == "max":
            x = F.max_pool2d(x, block.pool_size, block.pool_stride, ceil_mode=block.pool_ceil)
        if self.relu_last:
            x = F.relu(x, inplace=True)
        if block.pool == "avg":
            x = F.avg_pool2d(x, block.pool_size, block.pool_stride, ceil_mode=block.pool_ceil)
        return x


class NetworkInNetwork(nn.Module):
    """Images [N, C, H, W] to logits [N, classes].

    `initialise` draws the weights; until then they are not those of the recipe.
    """

    def __init__(self, shape: Shape, classes: int, architecture: Nin, regularizer: Regularizer) -> None:
        super().__init__()
        self.architecture, self.regularizer, self.clock = architecture, regularizer, Clock()
        channels = shape.channels
        steps: list[nn.Module] = []
        for number, block in enumerate(architecture.blocks.values(), start=1):
            last = number == len(architecture.blocks)
            maps = widths(list(block.widths), classes)
            steps.append(MlpconvBlock(channels, maps, block, architecture.last_relu or not last))
            if regularizer.dropout and not last:
                steps.append(Dropout(regularizer.dropout, regularizer.convention, number, self.clock))
            channels = maps[-1]
        self.blocks = nn.Sequential(*steps)
        self.head_dropout: nn.Module = nn.Identity()
        self.fc: nn.Linear | None = None
        if regularizer.head == "fc":
            if regularizer.head_dropout:
                number = len(architecture.blocks)
                self.head_dropout = Dropout(regularizer.head_dropout, regularizer.convention, number, self.clock)
            with torch.device("meta"):
                pixels = self.blocks(torch.empty(1, *shape)).numel()
            self.fc = nn.Linear(pixels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(x)
        if self.fc is None:
            return x.mean((2, 3))
        return self.fc(self.head_dropout(x.flatten(1)))

    def convolutions(self) -> list[nn.Conv2d]:
        """All convolutions from input to output."""
        return [module for module in self.blocks.modules() if isinstance(module, nn.Conv2d)]

    def initialise(self, seed: int, attempt: int) -> None:
        """Draw all weights from (seed, attempt); biases 0. Drawn on the CPU, so that every device starts alike."""
        low, high = rng.seed_words("initialise", seed, attempt)
        generator = torch.Generator().manual_seed(high << 32 | low)
        stds = [std for block in self.architecture.blocks.values() for std in block.std]
        convolutions = self.convolutions()
        for convolution, std in zip(convolutions, stds, strict=True):
            if self.architecture.init == "he":
                std = math.sqrt(2 / (convolution.weight[0].numel()))
            if convolution is convolutions[-1]:
                std *= self.architecture.last_init_factor
            _fill(convolution, std, generator)
        if self.fc is not None:
            _fill(self.fc, self.regularizer.fc_std, generator)


@torch.no_grad()
def _fill(layer: nn.Conv2d | nn.Linear, std: float, generator: torch.Generator) -> None:
    layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * std)
    assert layer.bias is not None
    layer.bias.zero_()
