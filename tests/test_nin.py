"""The network: the released sizes, the function it computes, its dropout and its initial weights."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from nin_repro import build, rng
from nin_repro.config.compose import load
from nin_repro.data.sources import DATASETS
from nin_repro.models.network import Clock, Dropout
from nin_repro.models.nin import MlpconvBlock, NetworkInNetwork
from nin_repro.models.shape import Layer, Shape
from nin_repro.models.spec import layers, pooled
from nin_repro.schema import Config, Mlpconv, Nin


def network(config: Config) -> NetworkInNetwork:
    facts = DATASETS[config.dataset.name]
    height, width, channels = facts.shape
    assert isinstance(config.architecture, Nin)
    return NetworkInNetwork(Shape(channels, height, width), facts.classes, config.architecture, config.regularizer)


RELEASED = {
    ("cifar10", "nin"): 966_986,
    ("cifar100", "nin"): 984_356,
    ("cifar100", "nin_cifar100"): 984_356,
    ("svhn", "nin_svhn"): 1_986_026,
    ("mnist", "nin_mnist"): 349_674,
}


@pytest.mark.parametrize(("dataset", "architecture"), RELEASED)
def test_parameter_counts_are_those_of_the_released_networks(dataset: str, architecture: str) -> None:
    config = load([f"dataset={dataset}", f"architecture={architecture}"])
    with torch.device("meta"):
        built = network(config)
    assert sum(parameter.numel() for parameter in built.parameters()) == RELEASED[dataset, architecture]
    described = layers(config.dataset, config.architecture, config.regularizer)
    assert sum(layer.parameters for layer in described) == RELEASED[dataset, architecture]


def test_multiply_adds_of_the_cifar_network() -> None:
    described = layers(load([]).dataset, load([]).architecture, load([]).regularizer)
    assert round(sum(layer.multiply_adds for layer in described) / 1e6, 1) == 222.5


SMALLER = [f"architecture.blocks.mlpconv{i}.{word}" for i in (1, 2) for word in ("pool_ceil=false", "pool_size=3")]


@pytest.mark.parametrize(
    "words", [[], ["architecture.blocks.mlpconv2.pool=avg"], ["regularizer=fc_both_dropout"], SMALLER]
)
@pytest.mark.parametrize("dataset", ["cifar10", "mnist"])
def test_described_shapes_are_those_of_the_network(words: list[str], dataset: str) -> None:
    config = load([f"dataset={dataset}", "architecture=nin_mnist", *words])
    built = network(config).eval()
    seen: list[Shape] = []
    for module in built.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            module.register_forward_hook(lambda _m, _i, out: seen.append(Shape(*out.shape[1:], *[1] * (4 - out.dim()))))
    height, width, channels = DATASETS[dataset].shape
    built(torch.zeros(1, channels, height, width))
    described = layers(config.dataset, config.architecture, config.regularizer)
    assert [layer.output for layer in described if layer.parameters] == seen


@pytest.mark.parametrize("size", range(3, 12))
@pytest.mark.parametrize(("window", "stride"), [(3, 2), (2, 2), (3, 3), (2, 3), (1, 2)])
@pytest.mark.parametrize("ceil", [True, False])
def test_pooled_sizes_are_torchs(size: int, window: int, stride: int, ceil: bool) -> None:
    found = F.max_pool2d(torch.zeros(1, 1, size, size), window, stride, ceil_mode=ceil)
    assert pooled(size, window, stride, ceil) == found.shape[-1]


# --- the function, in numpy -----------------------------------------------------------------------------------------


def convolve(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, pad: int) -> np.ndarray:
    count, _, height, width = x.shape
    kernel = weight.shape[2]
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    out = np.zeros((count, len(weight), height + 2 * pad - kernel + 1, width + 2 * pad - kernel + 1))
    for row in range(out.shape[2]):
        for column in range(out.shape[3]):
            patch = padded[:, :, row : row + kernel, column : column + kernel]
            out[:, :, row, column] = np.tensordot(patch, weight, ([1, 2, 3], [1, 2, 3])) + bias
    return out


def pool(x: np.ndarray, kind: str) -> np.ndarray:
    """cuda-convnet's 3x3 windows in steps of 2: clipped at the edge, the mean over what is left of the window."""
    side = -(-(x.shape[2] - 3) // 2) + 1
    reduce = np.max if kind == "max" else np.mean
    return np.stack(
        [
            np.stack([reduce(x[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3], axis=(2, 3)) for j in range(side)], axis=2)
            for i in range(side)
        ],
        axis=2,
    )


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["architecture.blocks.mlpconv2.pool=avg"],
        ["architecture.last_relu=false"],
        ["regularizer=fc_both_dropout"],
        ["regularizer=fc"],
        ["regularizer.convention=inverted"],
    ],
)
def test_evaluation_is_the_papers_function(words: list[str]) -> None:
    config = load(["dataset=digits", "architecture=nin_small", *words])
    built = network(config).double().eval()
    built.initialise(0, 0)
    draw = np.random.default_rng(0)
    for parameter in built.parameters():  # biases too, so that none is forgotten
        parameter.data.copy_(torch.from_numpy(draw.normal(0, 0.3, parameter.shape)))
    x = images = draw.normal(size=(3, 1, 8, 8))
    parameters = [parameter.detach().numpy() for parameter in built.parameters()]
    regularizer = config.regularizer
    keep = 1 - regularizer.dropout if regularizer.convention == "released" else 1.0
    assert isinstance(config.architecture, Nin)
    for number, block in enumerate(config.architecture.blocks.values()):
        for i in range(3):
            weight, bias = parameters[:2]
            del parameters[:2]
            x = convolve(x, weight, bias, block.pad if i == 0 else 0)
            if config.architecture.last_relu or (number, i) != (2, 2):
                x = np.maximum(x, 0)
        if block.pool != "none":
            x = pool(x, block.pool)
        if number < 2:
            x = x * keep
    if regularizer.head == "gap":
        expected = x.mean((2, 3))
    else:
        weight, bias = parameters
        expected = x.reshape(3, -1) * (1 - regularizer.head_dropout) @ weight.T + bias
    np.testing.assert_allclose(built(torch.from_numpy(images)).detach().numpy(), expected, rtol=1e-10, atol=1e-12)


def test_pooling_before_relu_has_the_gradient_of_relu_before_pooling() -> None:
    built = network(load(["dataset=digits", "architecture=nin_small", "regularizer=gap"])).double()
    built.initialise(0, 0)
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(4, 1, 8, 8)))
    built(x).square().sum().backward()
    found = [parameter.grad.clone() for parameter in built.parameters() if parameter.grad is not None]
    built.zero_grad()
    y = x
    for block in built.blocks:
        assert isinstance(block, MlpconvBlock)
        for convolution in block.convolutions:
            y = F.relu(convolution(y))
        if block.block.pool == "max":
            y = F.max_pool2d(y, 3, 2, ceil_mode=True)
    y.mean((2, 3)).square().sum().backward()
    for gradient, parameter in zip(found, built.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad)


@pytest.mark.parametrize("way", ["an expanded value", "a tensor of its own", "channels first"])
def test_a_block_takes_any_gradient(way: str) -> None:
    """The ReLU writes over it where it can: where it is not one value for all places."""
    block: Any = network(load(["dataset=digits", "architecture=nin_small"])).blocks[-1].double()
    draw = torch.Generator().manual_seed(0)
    x = torch.randn((4, block.convolutions[0].in_channels, 4, 4), generator=draw, dtype=torch.float64)
    x = x.contiguous(memory_format=torch.channels_last)
    expected = x
    for convolution in block.convolutions:
        expected = F.relu(convolution(expected))
    push = torch.tensor(2.0, dtype=torch.float64).expand(expected.shape)
    if way != "an expanded value":
        push = torch.randn(push.shape, generator=draw, dtype=torch.float64)
    if way == "a tensor of its own":
        push = push.contiguous(memory_format=torch.channels_last)
    wanted = torch.autograd.grad(expected, list(block.parameters()), push)
    for a, b in zip(torch.autograd.grad(block(x), list(block.parameters()), push), wanted, strict=True):
        torch.testing.assert_close(a, b)


def _block_in_bf16(channels: int, stride: int) -> tuple[MlpconvBlock, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    block = MlpconvBlock(channels, [24, 16, 10], Mlpconv([24, 16, 10], 5, stride, 2, [0.05] * 3, "max", 3, 2, True))
    for parameter in block.parameters():
        parameter.data = torch.randn(parameter.shape, generator=draw) / 4
    block = block.to(memory_format=torch.channels_last)
    images = torch.randn((6, channels, 17, 13), generator=draw).contiguous(memory_format=torch.channels_last)
    return block, images.requires_grad_()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels", [1, 3, 32])
def test_in_bf16_a_block_is_bit_by_bit_what_torchs_layers_make_of_it(channels: int, stride: int) -> None:
    block, images = _block_in_bf16(channels, stride)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        found = block(images)
        expected = images
        for convolution in block.convolutions:
            expected = F.relu(convolution(expected))
        expected = F.max_pool2d(expected, 3, 2, ceil_mode=True)
    assert torch.equal(found, expected) and found.dtype == torch.bfloat16
    push = torch.randn(found.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    leaves = [images, *block.parameters()]
    for a, b in zip(torch.autograd.grad(found, leaves, push), torch.autograd.grad(expected, leaves, push), strict=True):
        assert torch.equal(a, b) and a.dtype == torch.float32


def test_in_bf16_a_weight_that_is_no_number_does_not_go_unnoticed() -> None:
    """A ReLU that is part of a convolution makes 0 of NaN; what the layers before it learn from it is NaN."""
    block, images = _block_in_bf16(3, 1)
    block.convolutions[1].weight.data[0, 0] = math.nan  # type: ignore[operator]
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        block(images).float().sum().backward()
    assert not all(parameter.grad.isfinite().all() for parameter in block.parameters() if parameter.grad is not None)


# --- dropout --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.5, 0.2])
def test_dropout_conventions(p: float) -> None:
    clock = Clock((1, 2), 7)
    x = torch.rand(8, 6, 5, 5).contiguous(memory_format=torch.channels_last) + 1
    released, inverted = Dropout(p, "released", 1, clock), Dropout(p, "inverted", 1, clock)
    mask = (released(x) != 0).float()
    assert abs(mask.mean().item() - (1 - p)) < 0.1
    assert torch.equal(released(x), x * mask)
    torch.testing.assert_close(inverted(x), x * mask / (1 - p))
    assert torch.equal(released.eval()(x), x * (1 - p)) and torch.equal(inverted.eval()(x), x)


def test_dropout_is_a_function_of_seed_layer_and_step_and_not_of_memory_layout() -> None:
    clock = Clock((1, 2), 7)
    x = torch.ones(4, 6, 5, 5)
    first = Dropout(0.5, "released", 1, clock)(x)
    assert torch.equal(Dropout(0.5, "released", 1, clock)(x.contiguous(memory_format=torch.channels_last)), first)
    kept = rng.keep_mask(rng.Clock((1, 2), 7), rng.DROPOUT + 1, x.numel(), 0.5).view(4, 5, 5, 6).permute(0, 3, 1, 2)
    assert torch.equal(first, kept.float())
    for shape in ((4, 6, 5), (4, 6, 2, 2, 2)):  # in memory order of channels-last, as images are
        rows = Dropout(0.5, "released", 1, clock)(torch.ones(shape)).movedim(1, -1).flatten()
        assert torch.equal(rows, rng.keep_mask(clock, rng.DROPOUT + 1, len(rows), 0.5, rows.device, 0).float())
    assert not torch.equal(Dropout(0.5, "released", 2, clock)(x), first)
    clock.step = 8
    assert not torch.equal(Dropout(0.5, "released", 1, clock)(x), first)


def test_gradient_of_dropout_is_its_mask() -> None:
    x = torch.rand(2, 3, 4, 4, requires_grad=True)
    out = Dropout(0.5, "released", 1, Clock())(x)
    out.sum().backward()
    assert x.grad is not None and torch.equal(x.grad, (out != 0).float())


def test_dropout_lies_between_the_blocks_only() -> None:
    kinds = [type(module).__name__ for module in network(load([])).blocks]
    assert kinds == ["MlpconvBlock", "Dropout", "MlpconvBlock", "Dropout", "MlpconvBlock"]


# --- initial weights ------------------------------------------------------------------------------------------------


def test_initial_weights_have_the_released_deviations_and_biases_are_zero() -> None:
    config = load(["dataset=cifar100", "architecture=nin_cifar100"])
    built = network(config)
    built.initialise(3, 0)
    stds = [convolution.weight.std().item() for convolution in built.convolutions()]
    expected = [0.001, 0.01, 0.01] + [0.05] * 6
    np.testing.assert_allclose(stds, expected, rtol=0.03)
    assert all(convolution.bias is not None and not convolution.bias.any() for convolution in built.convolutions())


def test_he_initialisation_and_the_factor_of_the_last_layer() -> None:
    config = load(["architecture.init=he", "architecture.last_init_factor=0.1"])
    built = network(config)
    built.initialise(3, 0)
    for convolution in built.convolutions():
        expected = (2 / convolution.weight[0].numel()) ** 0.5
        if convolution is built.convolutions()[-1]:
            expected *= 0.1
        assert convolution.weight.std().item() == pytest.approx(expected, rel=0.06)


def test_every_seed_and_attempt_starts_elsewhere_and_always_there() -> None:
    built = network(load(["dataset=digits", "architecture=nin_small"]))

    def start(seed: int, attempt: int) -> torch.Tensor:
        built.initialise(seed, attempt)
        return built.convolutions()[0].weight.detach().clone()

    first = start(0, 0)
    assert not torch.equal(start(0, 1), first) and not torch.equal(start(1, 0), first)
    assert torch.equal(start(0, 0), first)


def test_layers_are_plain_facts() -> None:
    config = load(["dataset=digits", "architecture=nin_small"])
    found = layers(config.dataset, config.architecture, config.regularizer)
    assert found[0] == Layer("conv1", "convolution 3x3 + ReLU", Shape(48, 8, 8), 480, 48 * 64 * 9)


def test_the_224_networks() -> None:
    config = load(["experiment=extra/fashion_alexnet"])
    found = {layer.name: layer for layer in layers(config.dataset, config.architecture, config.regularizer)}
    assert sum(layer.parameters for layer in found.values()) == 1_992_166
    names = ("resize", "conv1", "pool1", "conv2", "pool2", "conv3", "pool3", "conv4", "gap")
    assert [found[name].output.height for name in names] == [224, 54, 26, 26, 12, 12, 5, 5, 1]
    assert [name for name in found if name.startswith("drop")] == ["drop3"]
    config = load(["experiment=extra/nin_224"])
    found = {layer.name: layer for layer in layers(config.dataset, config.architecture, config.regularizer)}
    assert [found[name].output for name in ("conv1", "conv2", "cccp5", "gap")] == [
        *(Shape(96, 224, 224), Shape(256, 112, 112), Shape(384, 56, 56), Shape(10, 1, 1))
    ]


def test_dropout_only_before_the_last_block() -> None:
    built = network(load(["dataset=mnist", "architecture=nin_mnist", "regularizer.dropout_at=last"]))
    kinds = [type(module).__name__ for module in built.blocks]
    assert kinds == ["MlpconvBlock", "MlpconvBlock", "Dropout", "MlpconvBlock"]


def test_a_block_without_its_last_relu() -> None:
    words = ["dataset=mnist", "architecture=nin_mnist"]
    plain, without = (network(load([*words, *more])) for more in ([], ["architecture.blocks.mlpconv1.relu=false"]))
    plain.initialise(0, 0)
    without.load_state_dict(plain.state_dict())
    images = torch.randn(2, 1, 28, 28)
    block, bare = plain.blocks[0], without.blocks[0]
    assert bare(images).min() < 0
    torch.testing.assert_close(block(images), bare(images).relu())


@pytest.mark.parametrize("size", [5, 8, 20])
def test_images_are_scaled_as_bilinear_interpolation_defines_it(size: int) -> None:
    """Pixel centres at half-integers, clamped at the edges: what PIL and torchvision do when they enlarge."""
    config = load(["dataset=digits", "architecture=nin_small", f"dataset.resize={size}"])
    built = build.network(config)
    x = torch.randn(1, 1, 8, 8, dtype=torch.float64)
    seen = []
    built.body = lambda images: seen.append(images) or images  # type: ignore[method-assign,assignment,func-returns-value]
    built.features(x)
    places = np.clip((np.arange(size) + 0.5) * 8 / size - 0.5, 0, 7)
    low = np.minimum(places.astype(int), 6)
    weight = np.zeros((size, 8))
    weight[np.arange(size), low] = 1 - (places - low)
    weight[np.arange(size), low + 1] = places - low
    np.testing.assert_allclose(seen[0][0, 0], weight @ x[0, 0].numpy() @ weight.T, atol=1e-12)


@pytest.mark.parametrize("init", ["xavier", "torch"])
def test_uniform_initialisations(init: str) -> None:
    built = network(load(["dataset=mnist", "architecture=nin_mnist", f"architecture.init={init}"]))
    built.initialise(0, 0)
    for layer in built.convolutions():
        fan_in, fan_out = layer.weight[0].numel(), layer.weight[:, 0].numel()
        bound = math.sqrt(6 / (fan_in + fan_out)) if init == "xavier" else 1 / math.sqrt(fan_in)
        assert 0.9 * bound < layer.weight.abs().max() <= bound
        assert layer.bias is not None and layer.bias.abs().max() <= 1 / math.sqrt(fan_in) and layer.bias.std() > 0


@pytest.mark.parametrize("head", ["gap", "fc"])
def test_the_head_computes_in_fp32_whatever_the_body_does(head: str) -> None:
    config = load(["dataset=digits", "architecture=nin_small", f"regularizer={head}", "precision=bf16"])
    built, images = build.network(config), torch.rand(2, 1, 8, 8)
    assert built.bf16 and built.features(images).dtype == built(images).dtype == torch.float32
