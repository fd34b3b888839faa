"""What all networks share: counter-based dropout, what a head is, and how a trainer meets a network."""

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nin_repro import rng
from nin_repro.files import UsageError
from nin_repro.models.own import imported
from nin_repro.models.shape import Shape
from nin_repro.rng import Clock
from nin_repro.schema import HEADS, NETWORKS, Architecture, Own, Regularizer


class Dropout(nn.Module):
    """Dropout of single elements whose mask is a function of (key, layer, step) and not of a generator's state.

    The `released` convention is cuda-convnet's: x * mask in training, x * (1 - p) in evaluation. `inverted` is Caffe's
    and PyTorch's: x * mask / (1 - p), and x. `unscaled`, which maxout networks have on their input: x * mask, and x.
    With fixed initial weights and rates they are different recipes.
    """

    def __init__(self, p: float, convention: str, layer: int, clock: Clock) -> None:
        super().__init__()
        self.p, self.convention, self.clock = p, convention, clock
        self.purpose = rng.DROPOUT + layer
        self.scale = 1 / (1 - p) if convention == "inverted" else 1.0  # of what is kept

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x * (1 - self.p) if self.convention == "released" else x
        first = self.clock.image * (x.numel() // len(x))
        kept = rng.keep_mask(self.clock, self.purpose, x.numel(), self.p, x.device, first)
        # in memory order, images [N, C, H, W] counted as N, H, W, C
        mask = kept.view(x.shape) if x.dim() == 2 else kept.view(x.shape[0], *x.shape[2:], x.shape[1]).movedim(-1, 1)
        dropped = x * mask
        return dropped / (1 - self.p) if self.convention == "inverted" else dropped


Kind = Literal["normal", "uniform", "constant", "identity"]


@dataclass(frozen=True)
class Fill:
    """What weights or biases start at. Raises UsageError if there is no such kind."""

    kind: Kind
    size: float = 0.0  # the standard deviation, the bound, the value

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise UsageError(f"Fill({self.kind!r}) is no way to start: it is one of {', '.join(get_args(Kind))}")

    def draw(self, shape: torch.Size, generator: torch.Generator) -> Tensor:
        """A tensor on the CPU. The identity is one of [out, in, 1, 1], with zeros where out and in differ."""
        if self.kind == "normal":
            return torch.randn(shape, generator=generator) * self.size
        if self.kind == "uniform":
            return (2 * torch.rand(shape, generator=generator) - 1) * self.size
        if self.kind == "identity":
            return torch.eye(shape[0], shape[1]).view(shape)
        return torch.full(shape, self.size)


ZERO = Fill("constant")


class Start(NamedTuple):
    """A layer and how it starts."""

    layer: nn.Module
    weight: Fill
    bias: Fill = ZERO
    block: int = 0  # which it belongs to, counted from 0


class Head(nn.Module):
    """From the last maps [N, C, H, W], or units [N, C], to logits [N, classes]. To be derived from.

    Args:
        maps: the shape of what it is given for an image.
        layer: the number of its dropout, if it has one; no other Dropout of the network has it.
        clock: the network's, for its dropout.
    """

    def __init__(self, maps: Shape, classes: int, regularizer: Regularizer, layer: int, clock: Clock) -> None:
        super().__init__()
        self.fill = Fill("normal", regularizer.fc_std)  # of its weights; a network may set another

    def weighted(self) -> list[Start]:
        """Its layers that have weights, input to output."""
        return []


def make_head(maps: Shape, classes: int, regularizer: Regularizer, layer: int, clock: Clock) -> Head:
    """The head that `regularizer` names; see Head for the rest."""
    made: Head = imported(HEADS[regularizer.head])(maps, classes, regularizer, layer, clock)
    return made


def placed(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters by their places instead of their names: modules in a row are counted without those that have none.

    So layers of two networks are in the same place whether there is dropout between them or not.
    """
    rows = defaultdict[tuple[str, ...], set[int]](set)
    for name in parameters:
        path = name.split(".")
        for depth, part in enumerate(path):
            if part.isdecimal():
                rows[(*path[:depth],)].add(int(part))
    ranks = {row: {place: rank for rank, place in enumerate(sorted(found))} for row, found in rows.items()}

    def place(name: str) -> str:
        path = name.split(".")
        shown = [str(ranks[(*path[:i],)][int(part)]) if part.isdecimal() else part for i, part in enumerate(path)]
        return ".".join(shown)

    return {place(name): values for name, values in parameters.items()}


@dataclass(frozen=True)
class Inheritance:
    """What a network starts from instead of its own initialisation: the weights of an earlier one, by their places."""

    weights: dict[str, Tensor]
    fill: Fill | None  # of weights that the earlier one lacks; None: their own initialisation
    biases: bool  # the earlier one's too, and 0 where it lacks them; false: their own initialisation


class Role(NamedTuple):
    """Layers whose learning rates are set together: "inner", the "last" layer of the network proper, its "head"."""

    name: str
    layers: list[nn.Module]


class Network(nn.Module):
    """Images [N, C, H, W] to logits [N, classes]. Until `initialise` is called the weights are not the recipe's."""

    settings: type[Own]  # of a network that is not built in
    head: Head
    resize: int | None = None  # pixels of each side that images are scaled to first
    bf16: bool = False  # whether the body computes in bf16, from weights that stay fp32
    fused: bool = False  # whether it does so by the kernels of models/fused.py, as far as they go; on a GPU only
    inheritance: Inheritance | None = None
    made: dict[str, Tensor]  # its buffers as `make_network` found them

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()

    @abstractmethod
    def body(self, x: Tensor) -> Tensor:
        """Images of the size that the network is built for to the last maps [N, C, H, W] or units [N, C]."""

    @abstractmethod
    def weighted(self) -> list[Start]:
        """The layers that have weights, input to output, without the head."""

    def features(self, x: Tensor) -> Tensor:
        """What the head sees of images [N, C, H, W]; fp32 as they are, whatever the body computes in."""
        if self.resize is not None:
            x = F.interpolate(x, (self.resize, self.resize), mode="bilinear", align_corners=False)
        if not self.bf16:
            return self.body(x)
        with torch.autocast(x.device.type, torch.bfloat16, cache_enabled=False):
            return self.body(x).float()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))

    def after_update(self) -> None:
        """What is done to the weights after each update. Leaves unchanged weights alone, never waits for a device."""

    def initialise(self, seed: int, attempt: int) -> None:
        """Draw all weights from (seed, attempt). Drawn on the CPU, so that every device starts alike.

        Buffers, such as the statistics of batch normalisation, are again what they were made as.
        """
        low, high = rng.seed_words("initialise", seed, attempt)
        generator = torch.Generator().manual_seed(high << 32 | low)
        with torch.no_grad():
            for layer, weight, bias, _ in [*self.weighted(), *self.head.weighted()]:
                for values, fill in ((layer.weight, weight), (layer.bias, bias)):
                    values.copy_(fill.draw(values.shape, generator))  # type: ignore[operator,arg-type]
            for name, values in self.named_buffers():
                values.copy_(self.made[name])
            if self.inheritance is not None:
                self._inherit(self.inheritance, generator)

    def _inherit(self, given: Inheritance, generator: torch.Generator) -> None:
        for place, values in placed(dict(self.named_parameters())).items():
            bias = place.endswith("bias")
            if bias and not given.biases:
                continue
            fill = ZERO if bias else given.fill
            if place in given.weights:
                values.copy_(given.weights[place])
            elif fill is not None:
                values.copy_(fill.draw(values.shape, generator))

    def roles(self) -> list[Role]:
        """All layers with weights by the learning rates they have."""
        layers = [start.layer for start in self.weighted()]
        return [
            Role("inner", layers[:-1]),
            Role("last", layers[-1:]),
            Role("head", [start.layer for start in self.head.weighted()]),
        ]


def make_network(shape: Shape, classes: int, architecture: Architecture, regularizer: Regularizer) -> Network:
    """The network of a kind, for images of a shape."""
    net: Network = imported(NETWORKS[architecture.kind])(shape, classes, architecture, regularizer)
    net.made = {name: values.clone() for name, values in net.named_buffers()}
    return net
