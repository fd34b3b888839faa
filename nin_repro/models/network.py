"""What all networks share: counter-based dropout, the heads of Table 5, and how a trainer meets a network."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nin_repro import rng
from nin_repro.models.spec import Shape
from nin_repro.schema import Regularizer


@dataclass
class Clock:
    """Which update a network is in. The trainer sets it before every step; dropout reads it."""

    key: tuple[int, int] = (0, 0)
    step: int = 0


class Dropout(nn.Module):
    """Dropout of single elements whose mask is a function of (key, layer, step) and not of a generator's state.

    The `released` convention is cuda-convnet's: x * mask in training, x * (1 - p) in evaluation. `inverted` is Caffe's
    and PyTorch's: x * mask / (1 - p), and x. `unscaled`, which maxout networks have on their input: x * mask, and x.
    With fixed initial weights and rates they are different recipes.
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
        return dropped / (1 - self.p) if self.convention == "inverted" else dropped


class Head(nn.Module):
    """From the last maps [N, C, H, W] to logits [N, classes]: their means, or a fully connected layer (section 4.6)."""

    def __init__(self, maps: Shape, classes: int, regularizer: Regularizer, layer: int, clock: Clock) -> None:
        super().__init__()
        self.std = regularizer.fc_std
        self.fc: nn.Linear | None = None
        self.dropout: nn.Module = nn.Identity()
        if regularizer.head == "fc":
            self.fc = nn.Linear(maps.size, classes)
            if regularizer.head_dropout:
                self.dropout = Dropout(regularizer.head_dropout, regularizer.convention, layer, clock)

    def forward(self, x: Tensor) -> Tensor:
        if self.fc is None:
            return x.mean((2, 3))
        return self.fc(self.dropout(x.flatten(1)))


class Role(NamedTuple):
    """Layers whose learning rates are set together: "inner", the "last" layer of the network proper, its "head"."""

    name: str
    layers: list[nn.Module]


class Network(nn.Module):
    """Images [N, C, H, W] to logits [N, classes]. Until `initialise` is called the weights are not the recipe's."""

    clock: Clock
    head: Head

    @abstractmethod
    def weighted(self) -> list[tuple[nn.Module, float, float]]:
        """(layer, spread of its initial weights, its initial bias), input to output, without the head."""

    def draw(self, shape: torch.Size, spread: float, generator: torch.Generator) -> Tensor:
        """Initial weights: normal, with the spread as their standard deviation."""
        return torch.randn(shape, generator=generator) * spread

    def after_update(self) -> None:
        """What is done to the weights after each update. Leaves unchanged weights alone, never waits for a device."""

    def initialise(self, seed: int, attempt: int) -> None:
        """Draw all weights from (seed, attempt). Drawn on the CPU, so that every device starts alike."""
        low, high = rng.seed_words("initialise", seed, attempt)
        generator = torch.Generator().manual_seed(high << 32 | low)
        layers = self.weighted()
        if self.head.fc is not None:
            layers = [*layers, (self.head.fc, self.head.std, 0.0)]
        with torch.no_grad():
            for layer, spread, bias in layers:
                layer.weight.copy_(self.draw(layer.weight.shape, spread, generator))  # type: ignore[operator,arg-type]
                layer.bias.fill_(bias)  # type: ignore[operator]

    def roles(self) -> list[Role]:
        """All layers with weights by the learning rates they have."""
        *inner, last = [layer for layer, _, _ in self.weighted()]
        head: list[nn.Module] = [self.head.fc] if self.head.fc is not None else []
        return [Role("inner", inner), Role("last", [last]), Role("head", head)]
