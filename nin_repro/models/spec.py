"""The geometry of a network, worked out with whole numbers: output shapes, parameters, multiply-adds.

No torch here: `describe`, the tables and the configuration checks ask before anything heavy is imported. Only networks
and heads that are not built in are tried out with it (trial.py).
"""

from nin_repro.data.sources import DATASETS
from nin_repro.files import UsageError
from nin_repro.models.own import BUILT_IN_HEADS
from nin_repro.models.shape import Layer, Shape
from nin_repro.schema import Architecture, Cnn, Dataset, Maxout, Nin, Own, Regularizer, Width


def pooled(size: int, window: int, stride: int, ceil: bool) -> int:
    """Outputs along one side of an unpadded pooling. With `ceil`, windows that start inside the image count."""
    if not ceil:
        return (size - window) // stride + 1
    outputs = -(-(size - window) // stride) + 1
    return outputs - 1 if (outputs - 1) * stride >= size else outputs


def widths(block_widths: list[Width], classes: int) -> list[int]:
    """The widths of a block with the word `classes` replaced by its number."""
    return [classes if width == "classes" else int(width) for width in block_widths]


def layers(dataset: Dataset, architecture: Architecture, regularizer: Regularizer) -> list[Layer]:
    """Every layer of the network from input to logits.

    Raises:
        UsageError: a window is larger than what it slides over; a network or head that is not built in does not fit.
    """
    facts = DATASETS[dataset.name]
    height, width, channels = facts.shape
    shape, stem = Shape(channels, height, width), []
    if dataset.resize is not None:
        shape = Shape(channels, dataset.resize, dataset.resize)
        stem = [Layer("resize", "bilinear", shape)]
    if isinstance(architecture, Own) or regularizer.head not in BUILT_IN_HEADS:
        from nin_repro.models import trial  # imports torch

        return [*stem, *trial.layers(shape, facts.classes, architecture, regularizer)]
    if isinstance(architecture, Cnn):
        body = cnn_layers(shape, architecture)
    elif isinstance(architecture, Maxout):
        body = maxout_layers(shape, architecture, regularizer)
    else:
        body = nin_layers(shape, facts.classes, architecture, regularizer)
    return [*stem, *body, *_head_layers(body[-1].output, facts.classes, regularizer)]


def nin_layers(shape: Shape, classes: int, architecture: Nin, regularizer: Regularizer) -> list[Layer]:
    """The layers of a Network In Network up to its last maps."""
    found: list[Layer] = []
    convolutions, count = 0, len(architecture.blocks)
    for number, (name, block) in enumerate(architecture.blocks.items(), start=1):
        where = f"architecture.blocks.{name}"
        for i, maps in enumerate(widths(block.widths, classes)):
            convolutions += i > 0
            kernel = block.kernel if i == 0 else 1
            relu = i < len(block.widths) - 1 or relu_ends(architecture, number)
            stride, pad = (block.stride, block.pad) if i == 0 else (1, 0)
            output = Shape(maps, *_slid(shape, kernel, stride, pad, where))
            title = f"conv{number}" if i == 0 else f"cccp{convolutions}"
            kind = f"convolution {kernel}x{kernel}" + (" + ReLU" if relu else "")
            found.append(_convolution(title, kind, shape, output, kernel))
            shape = output
        if block.pool != "none":
            shape = _pooled(shape, block.pool_size, block.pool_stride, block.pool_ceil, where)
            found.append(Layer(f"pool{number}", f"{block.pool} pooling {block.pool_size}/{block.pool_stride}", shape))
        if number in dropped(count, regularizer):
            found.append(Layer(f"drop{number}", f"dropout {regularizer.dropout:g} ({regularizer.convention})", shape))
    return found


def relu_ends(architecture: Nin, number: int) -> bool:
    """Whether block `number`, counted from 1, ends in a ReLU."""
    block = list(architecture.blocks.values())[number - 1]
    return block.relu and (architecture.last_relu or number < len(architecture.blocks))


def dropped(count: int, regularizer: Regularizer) -> range:
    """The blocks or layers, of `count` and counted from 1, that have dropout on their outputs."""
    if not regularizer.dropout:
        return range(0)
    return range(1 if regularizer.dropout_at == "all" else max(1, count - 1), count)


def cnn_layers(shape: Shape, architecture: Cnn) -> list[Layer]:
    """The layers of the convolutional network up to its last maps."""
    found: list[Layer] = []
    for number, (name, block) in enumerate(architecture.blocks.items(), start=1):
        where = f"architecture.blocks.{name}"
        output = Shape(block.maps, *_slid(shape, block.kernel, 1, block.pad, where))
        kind = f"convolution {block.kernel}x{block.kernel} + ReLU"
        found.append(_convolution(f"conv{number}", kind, shape, output, block.kernel))
        shape = _pooled(output, block.pool_size, block.pool_stride, True, where)
        found.append(Layer(f"pool{number}", f"{block.pool} pooling {block.pool_size}/{block.pool_stride}", shape))
        if block.response_norm:
            found.append(Layer(f"norm{number}", f"response norm over {architecture.response_norm.size} maps", shape))
    local = architecture.local
    output = Shape(local.maps, *_slid(shape, local.kernel, 1, local.pad, "architecture.local"))
    inputs = shape.channels * local.kernel**2
    kind = f"local {local.kernel}x{local.kernel} + ReLU"
    found.append(Layer("local", kind, output, output.size * (inputs + 1), output.size * inputs))
    return found


def maxout_layers(shape: Shape, architecture: Maxout, regularizer: Regularizer) -> list[Layer]:
    """The layers of a maxout network up to its last maps or units."""
    found: list[Layer] = []
    if architecture.input_dropout:
        found.append(Layer("drop0", f"dropout {architecture.input_dropout:g} (unscaled)", shape))
    count = len(architecture.blocks) + len(architecture.full)

    def end_layer(number: int) -> None:
        if number in dropped(count, regularizer):
            found.append(Layer(f"drop{number}", f"dropout {regularizer.dropout:g} ({regularizer.convention})", shape))

    for number, (name, block) in enumerate(architecture.blocks.items(), start=1):
        where = f"architecture.blocks.{name}"
        filters = Shape(block.maps * block.pieces, *_slid(shape, block.kernel, 1, block.pad, where))
        inputs = shape.channels * block.kernel**2
        parameters = filters.channels * inputs + (filters.channels if block.tied_bias else filters.size)
        kind = f"maxout {block.kernel}x{block.kernel}, {block.pieces} pieces"
        shape = filters._replace(channels=block.maps)
        found.append(Layer(f"conv{number}", kind, shape, parameters, filters.size * inputs))
        shape = _pooled(shape, block.pool_size, block.pool_stride, True, where)
        found.append(Layer(f"pool{number}", f"max pooling {block.pool_size}/{block.pool_stride}", shape))
        end_layer(number)
    for number, layer in enumerate(architecture.full.values(), start=len(architecture.blocks) + 1):
        outputs, inputs = layer.units * layer.pieces, shape.size
        shape = Shape(layer.units, 1, 1)
        kind = f"fully connected maxout, {layer.pieces} pieces"
        found.append(Layer(f"full{number}", kind, shape, outputs * (inputs + 1), outputs * inputs))
        end_layer(number)
    return found


def _head_layers(maps: Shape, classes: int, regularizer: Regularizer) -> list[Layer]:
    if regularizer.head == "gap":
        return [Layer("gap", "global average pooling", Shape(maps.channels, 1, 1))]
    found = []
    if regularizer.head_dropout:
        found.append(Layer("drop", f"dropout {regularizer.head_dropout:g} ({regularizer.convention})", maps))
    parameters = classes * (maps.size + 1)
    return [*found, Layer("fc", "fully connected", Shape(classes, 1, 1), parameters, classes * maps.size)]


def _convolution(name: str, kind: str, shape: Shape, output: Shape, kernel: int) -> Layer:
    inputs = shape.channels * kernel**2
    return Layer(name, kind, output, output.channels * (inputs + 1), output.size * inputs)


def _slid(shape: Shape, kernel: int, stride: int, pad: int, where: str) -> list[int]:
    """Places of a window along both sides of an image."""
    sides = [(side + 2 * pad - kernel) // stride + 1 for side in shape[1:]]
    if min(sides) < 1:
        raise UsageError(
            f"{where}.kernel={kernel} does not fit its {shape.height}x{shape.width} input: take a smaller kernel, more "
            "pad, or a dataset of larger images"
        )
    return sides


def _pooled(shape: Shape, window: int, stride: int, ceil: bool, where: str) -> Shape:
    sides = [pooled(side, window, stride, ceil) for side in shape[1:]]
    if min(sides) < 1:
        raise UsageError(
            f"{where}.pool_size={window} does not fit its {shape.height}x{shape.width} input: take a smaller window or "
            "pool=none"
        )
    return Shape(shape.channels, *sides)


def training_multiply_adds(found: list[Layer]) -> int:
    """Multiply-adds of one image's forward and backward pass: the first layer needs no gradient of its input."""
    counted = [layer.multiply_adds for layer in found if layer.multiply_adds]
    return 3 * sum(counted) - sum(counted[:1])
