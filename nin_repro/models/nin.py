"""Network In Network: mlpconv blocks with dropout between them (section 3)."""

import itertools
import math

from torch import Tensor, nn
from torch.nn import functional as F

from nin_repro.models.network import Clock, Dropout, Head, Network
from nin_repro.models.spec import Shape, nin_layers, widths
from nin_repro.schema import Mlpconv, Nin, Regularizer


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


class NetworkInNetwork(Network):
    """Mlpconv blocks, dropout after all but the last, and a head."""

    def __init__(self, shape: Shape, classes: int, architecture: Nin, regularizer: Regularizer) -> None:
        super().__init__()
        self.architecture, self.clock = architecture, Clock()
        channels, count = shape.channels, len(architecture.blocks)
        steps: list[nn.Module] = []
        for number, block in enumerate(architecture.blocks.values(), start=1):
            maps = widths(block.widths, classes)
            steps.append(MlpconvBlock(channels, maps, block, architecture.last_relu or number < count))
            if regularizer.dropout and number < count:
                steps.append(Dropout(regularizer.dropout, regularizer.convention, number, self.clock))
            channels = maps[-1]
        self.blocks = nn.Sequential(*steps)
        maps_out = nin_layers(shape, classes, architecture, regularizer)[-1].output
        self.head = Head(maps_out, classes, regularizer, count, self.clock)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x))

    def convolutions(self) -> list[nn.Conv2d]:
        """All convolutions from input to output."""
        return [module for module in self.blocks.modules() if isinstance(module, nn.Conv2d)]

    def weighted(self) -> list[tuple[nn.Module, float, float]]:
        stds = [std for block in self.architecture.blocks.values() for std in block.std]
        layers = self.convolutions()
        if self.architecture.init == "he":
            stds = [math.sqrt(2 / layer.weight[0].numel()) for layer in layers]
        stds[-1] *= self.architecture.last_init_factor
        return [(layer, std, 0.0) for layer, std in zip(layers, stds, strict=True)]
