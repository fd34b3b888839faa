"""What is known of a layer without its weights: the shape of its output and what it costs."""

from dataclasses import dataclass
from typing import NamedTuple


class Shape(NamedTuple):
    channels: int
    height: int
    width: int

    def __str__(self) -> str:
        return "x".join(map(str, self))

    @property
    def size(self) -> int:
        return self.channels * self.height * self.width


@dataclass(frozen=True)
class Layer:
    name: str
    kind: str
    output: Shape
    parameters: int = 0
    multiply_adds: int = 0  # per image, forward
