"""The convolutional network of Hinton et al. 2012 (1207.0580, appendix F and G) as section 4.6 uses it."""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nin_repro.models.network import Fill, Network, Start, make_head
from nin_repro.models.shape import Shape
from nin_repro.models.spec import cnn_layers
from nin_repro.models.spectral import Conv2d
from nin_repro.schema import Cnn, ConvPool, Regularizer, ResponseNorm


def response_norm(x: Tensor, settings: ResponseNorm) -> Tensor:
    """Divide each value of [N, C, H, W] by (1 + a * sum of the squares of `size` adjacent maps) ** power.

    a is `alpha` as the formula of Hinton et al. is printed, or `alpha / size` as cuda-convnet and PyTorch compute it.
    The sum is a 1x1 convolution with ones in a band: a sum of slices makes a step of this network a fifth longer, and
    `pow` in bf16 a twentieth. In fp32 `log1p` takes a CPU 15 times as long as `log`, a sixth of a step; in bf16 it does
    not, and 1 + ... would be rounded to steps of 1/128.
    """
    alpha = settings.alpha * (1 if settings.printed else 1 / settings.size)
    before = settings.size // 2
    after = settings.size - 1 - before
    band = x.new_ones(x.shape[1], x.shape[1]).tril(after).triu(-before)
    grown = alpha * F.conv2d(x.square(), band[:, :, None, None])
    logarithm = torch.log1p(grown) if grown.dtype == torch.bfloat16 else torch.log(1 + grown)
    return x * torch.exp(-settings.power * logarithm)


class LocallyConnected2d(nn.Module):
    """[N, in, H', W'] to [N, out, H, W]: a convolution whose weights are not shared, as every place has its own.

    weight [H, W, out, in * kernel * kernel] (the last in the order of torch's unfold), bias [H, W, out].
    """

    def __init__(self, shape: Shape, maps: int, kernel: int, pad: int) -> None:
        super().__init__()
        self.kernel, self.pad = kernel, pad
        self.places = tuple(side + 2 * pad - kernel + 1 for side in shape[1:])
        self.weight = nn.Parameter(torch.empty(*self.places, maps, shape.channels * kernel**2))
        self.bias = nn.Parameter(torch.empty(*self.places, maps))

    def forward(self, x: Tensor) -> Tensor:
        patches = F.unfold(x, self.kernel, padding=self.pad).view(len(x), -1, *self.places)  # [N, in k k, H, W]
        out = torch.einsum("nihw,hwoi->nhwo", patches, self.weight) + self.bias
        return out.permute(0, 3, 1, 2)


class ConvNet(Network):
    """Convolutions with ReLU, pooling and response normalisation, a locally connected layer with ReLU, and a head."""

    def __init__(self, shape: Shape, classes: int, architecture: Cnn, regularizer: Regularizer) -> None:
        super().__init__()
        self.architecture = architecture
        self.blocks = list(architecture.blocks.values())
        channels = [shape.channels, *(block.maps for block in self.blocks)]
        self.convolutions = nn.ModuleList(
            Conv2d(before, after, block.kernel, padding=block.pad)
            for (before, after), block in zip(itertools.pairwise(channels), self.blocks, strict=True)
        )
        outputs = {layer.name: layer.output for layer in cnn_layers(shape, architecture)}
        local = architecture.local
        self.local = LocallyConnected2d(outputs[f"pool{len(self.blocks)}"], local.maps, local.kernel, local.pad)
        self.head = make_head(outputs["local"], classes, regularizer, len(self.blocks) + 1, self.clock)

    def body(self, x: Tensor) -> Tensor:
        for convolution, block in zip(self.convolutions, self.blocks, strict=True):
            x = _relu_pool(convolution(x), block)
            if block.response_norm:
                x = response_norm(x, self.architecture.response_norm)
        return F.relu(self.local(x))

    def weighted(self) -> list[Start]:
        layers = [*self.convolutions, self.local]
        stds = [*(block.std for block in self.blocks), self.architecture.local.std]
        bias = Fill("constant", self.architecture.hidden_bias)
        return [
            Start(layer, Fill("normal", std), bias, i) for i, (layer, std) in enumerate(zip(layers, stds, strict=True))
        ]


def _relu_pool(x: Tensor, block: ConvPool) -> Tensor:
    if block.pool == "max":  # commutes with ReLU, which then has a quarter to do
        return F.relu(F.max_pool2d(x, block.pool_size, block.pool_stride, ceil_mode=True))
    return F.avg_pool2d(F.relu(x), block.pool_size, block.pool_stride, ceil_mode=True)
