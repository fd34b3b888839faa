"""The geometry of a network, worked out with whole numbers: output shapes, parameters, multiply-adds.

No torch here: `describe`, the tables and the configuration checks ask before anything heavy is imported.
"""

from dataclasses import dataclass
from typing import NamedTuple

from nin_repro.data.sources import DATASETS
from nin_repro.files import UsageError
from nin_repro.schema import Nin, Regularizer


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


def pooled(size: int, window: int, stride: int, ceil: bool) -> int:
    """Outputs along one side of an unpadded pooling. With `ceil`, windows that start inside the image count."""
    if not ceil:
        return (size - window) // stride + 1
    outputs = -(-(size - window) // stride) + 1
    return outputs - 1 if (outputs - 1) * stride >= size else outputs


def widths(block_widths: list[int | str], classes: int) -> list[int]:
    """The widths of a block with the word `classes` replaced by its number."""
    return [classes if width == "classes" else int(width) for width in block_widths]


def layers(dataset: str, architecture: Nin, regularizer: Regularizer) -> list[Layer]:
    """Every layer of the network from input to logits.

    Raises:
        UsageError: a window is larger than what it slides over.
    """
    facts = DATASETS[dataset]
    height, width, channels = facts.shape
    shape, found = Shape(channels, height, width), []
    convolutions = 0
    for number, (name, block) in enumerate(architecture.blocks.items(), start=1):
        sides = [(side + 2 * block.pad - block.kernel) // block.stride + 1 for side in shape[1:]]
        if min(sides) < 1:
            raise UsageError(
                f"architecture.blocks.{name}.kernel={block.kernel} does not fit its {shape.height}x{shape.width} "
                f"input: take a smaller kernel, more pad, or another dataset than {dataset}"
            )
        for i, maps in enumerate(widths(list(block.widths), facts.classes)):
            area = block.kernel**2 if i == 0 else 1
            output = Shape(maps, *sides)
            parameters = maps * (shape.channels * area + 1)
            adds = output.size * shape.channels * area
            convolutions += i > 0
            title = f"conv{number}" if i == 0 else f"cccp{convolutions}"
            kind = f"convolution {block.kernel}x{block.kernel}" if i == 0 else "convolution 1x1"
            last = number == len(architecture.blocks) and i == len(block.widths) - 1
            kind += " + ReLU" if architecture.last_relu or not last else ""
            found.append(Layer(title, kind, output, parameters, adds))
            shape = output
        if block.pool != "none":
            sides = [pooled(side, block.pool_size, block.pool_stride, block.pool_ceil) for side in shape[1:]]
            if min(sides) < 1:
                raise UsageError(
                    f"architecture.blocks.{name}.pool_size={block.pool_size} does not fit its "
                    f"{shape.height}x{shape.width} input: take a smaller window or pool=none"
                )
            shape = Shape(shape.channels, *sides)
            kind = f"{block.pool} pooling {block.pool_size}/{block.pool_stride}"
            found.append(Layer(f"pool{number}", kind, shape))
        if regularizer.dropout and number < len(architecture.blocks):
            found.append(Layer(f"drop{number}", f"dropout {regularizer.dropout:g} ({regularizer.convention})", shape))
    if regularizer.head == "gap":
        found.append(Layer("gap", "global average pooling", Shape(shape.channels, 1, 1)))
        return found
    if regularizer.head_dropout:
        found.append(Layer("drop", f"dropout {regularizer.head_dropout:g} ({regularizer.convention})", shape))
    parameters = facts.classes * (shape.size + 1)
    found.append(Layer("fc", "fully connected", Shape(facts.classes, 1, 1), parameters, facts.classes * shape.size))
    return found


def training_multiply_adds(found: list[Layer]) -> int:
    """Multiply-adds of one image's forward and backward pass: the first layer needs no gradient of its input."""
    counted = [layer.multiply_adds for layer in found if layer.multiply_adds]
    return 3 * sum(counted) - counted[0]
