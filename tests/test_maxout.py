"""Maxout networks: layers and updates against loops in numpy float64, norm limits, exact resumption."""

import dataclasses
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nin_repro import build
from nin_repro.config.compose import experiments, load
from nin_repro.config.recipe import key, recipe, require_sense
from nin_repro.data.sources import DATASETS
from nin_repro.data.splits import Split
from nin_repro.files import UsageError
from nin_repro.models.maxout import MaxoutConv2d, MaxoutLinear, MaxoutNetwork
from nin_repro.models.network import Clock, Dropout, Role
from nin_repro.models.spec import layers
from nin_repro.schema import Config, Maxout, MaxoutConv, MaxoutFull
from nin_repro.training import checkpoint
from nin_repro.training.console import Console
from nin_repro.training.loop import Trainer
from nin_repro.training.stop import Interrupted

MAXOUT = ["architecture=maxout_cifar10", "regularizer=maxout", "optimizer=maxout_cifar10"]
# 8x8 images: 8 places a side, 4 after pooling; weights so large that they matter at once
SMALL = Maxout(
    "maxout",
    {"conv1": MaxoutConv(4, 3, 3, 1, 3, 2, 0.9, tied_bias=False)},
    {"full1": MaxoutFull(6, 2, 1.2)},
    input_dropout=0.2,
    output_norm=0.8,
    irange=0.4,
)
NO_DROPOUT = ["regularizer.dropout=0", "regularizer.head_dropout=0"]


def small(*words: str, **changes: Any) -> Config:
    config = load([*MAXOUT, "dataset=digits", "restarts=0", *words])
    return dataclasses.replace(config, architecture=dataclasses.replace(SMALL, **changes))


def network(config: Config) -> MaxoutNetwork:
    built = build.network(config)
    assert isinstance(built, MaxoutNetwork)
    return built


# --- the function, in numpy -----------------------------------------------------------------------------------------


class Reference:
    """One maxout convolution, one fully connected maxout layer and a softmax layer, forward and backward."""

    def __init__(self, parameters: list[np.ndarray], conv: MaxoutConv, full: MaxoutFull) -> None:
        self.parameters = [parameter.astype(np.float64) for parameter in parameters]
        self.conv, self.full = conv, full

    def convolve(self, x: np.ndarray, push: np.ndarray | None = None) -> tuple[np.ndarray, list[np.ndarray]]:
        """Maps, and the gradients of weight and bias if these maps are pushed."""
        weight, bias = self.parameters[:2]
        pad, kernel, maps = self.conv.pad, self.conv.kernel, self.conv.maps
        padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        rows, columns = (side - kernel + 1 for side in padded.shape[2:])
        z = np.zeros((len(x), len(weight), rows, columns))
        for i in range(rows):
            for j in range(columns):
                patch = padded[:, :, i : i + kernel, j : j + kernel]
                z[:, :, i, j] = np.einsum("ncab,ocab->no", patch, weight)
                z[:, :, i, j] += bias if bias.ndim == 1 else bias[:, i, j]
        size, stride = self.conv.pool_size, self.conv.pool_stride
        firsts = [range(0, side, stride)[: max(0, -(-(side - size) // stride)) + 1] for side in (rows, columns)]
        out = np.zeros((len(x), maps, len(firsts[0]), len(firsts[1])))
        into_z = np.zeros(z.shape)
        for n, m, a, b in np.ndindex(*out.shape):
            top, left = firsts[0][a], firsts[1][b]
            # all that this output is the largest of: the map's pieces at the places of the window
            window = z[n, m::maps, top : top + size, left : left + size]
            out[n, m, a, b] = window.max()
            if push is not None:
                p, row, column = np.unravel_index(window.argmax(), window.shape)
                into_z[n, m + p * maps, top + row, left + column] += push[n, m, a, b]
        into_weight = np.zeros(weight.shape)
        for i in range(rows):
            for j in range(columns):
                patch = padded[:, :, i : i + kernel, j : j + kernel]
                into_weight += np.einsum("no,ncab->ocab", into_z[:, :, i, j], patch)
        return out, [into_weight, into_z.sum((0, 2, 3)) if bias.ndim == 1 else into_z.sum(0)]

    def logits(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        weight, bias, head, head_bias = self.parameters[2:]
        flat = self.convolve(x)[0].reshape(len(x), -1)
        z = (flat @ weight.T + bias).reshape(len(x), self.full.pieces, self.full.units)
        hidden = z.max(1)
        return hidden @ head.T + head_bias, hidden, z, flat

    def gradients(self, x: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
        """Of the mean cross-entropy."""
        logits, hidden, z, flat = self.logits(x)
        exps = np.exp(logits - logits.max(1, keepdims=True))
        push = (exps / exps.sum(1, keepdims=True) - np.eye(logits.shape[1])[labels]) / len(x)
        into_hidden = push @ self.parameters[4]
        into_z = (np.arange(self.full.pieces)[None, :, None] == z.argmax(1)[:, None]) * into_hidden[:, None]
        into_z = into_z.reshape(len(x), -1)
        maps = self.convolve(x)[0].shape
        conv = self.convolve(x, (into_z @ self.parameters[2]).reshape(maps))[1]
        return [*conv, into_z.T @ flat, into_z.sum(0), push.T @ hidden, push.sum(0)]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    ("side", "kernel", "pad", "size", "stride"), [(6, 3, 1, 3, 2), (5, 4, 2, 4, 2), (5, 2, 0, 2, 2)]
)
def test_convolution_is_a_loop(tied: bool, side: int, kernel: int, pad: int, size: int, stride: int) -> None:
    draw = np.random.default_rng(0)
    block = MaxoutConv(3, 2, kernel, pad, size, stride, 1.0, tied)
    places = side + 2 * pad - kernel + 1
    layer = MaxoutConv2d(2, (places, places), block).double()
    for parameter in layer.parameters():
        parameter.data.copy_(torch.from_numpy(draw.normal(size=parameter.shape)))
    x = draw.normal(size=(2, 2, side, side))
    out = layer(torch.from_numpy(x))
    push = draw.normal(size=out.shape)
    (out * torch.from_numpy(push)).sum().backward()
    assert layer.bias is not None and layer.bias.shape == ((6,) if tied else (6, places, places))
    reference = Reference([p.detach().numpy() for p in (layer.weight, layer.bias)], block, MaxoutFull(1, 1, 1.0))
    expected, (into_weight, into_bias) = reference.convolve(x, push)
    np.testing.assert_allclose(out.detach().numpy(), expected, rtol=1e-10, atol=1e-12)
    assert layer.weight.grad is not None and layer.bias.grad is not None
    np.testing.assert_allclose(layer.weight.grad.numpy(), into_weight, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(layer.bias.grad.numpy(), into_bias, rtol=1e-10, atol=1e-12)


def test_fully_connected_layer_is_a_loop() -> None:
    draw = np.random.default_rng(0)
    layer = MaxoutLinear(6, MaxoutFull(4, 5, 1.0)).double()
    x = draw.normal(size=(3, 2, 3, 1))
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    found = layer(torch.from_numpy(x)).detach().numpy()
    for n in range(3):
        for unit in range(4):
            pieces = [weight[p * 4 + unit] @ x[n].ravel() + bias[p * 4 + unit] for p in range(5)]
            assert found[n, unit] == pytest.approx(max(pieces), rel=1e-12)


def test_evaluation_neither_drops_nor_rescales() -> None:
    built = network(small()).double().eval()
    built.initialise(0, 0)
    images = np.random.default_rng(0).normal(size=(3, 1, 8, 8))
    parameters = [parameter.detach().numpy() for parameter in built.parameters()]
    reference = Reference(parameters, SMALL.blocks["conv1"], SMALL.full["full1"])
    np.testing.assert_allclose(
        built(torch.from_numpy(images)).detach().numpy(), reference.logits(images)[0], rtol=1e-10, atol=1e-12
    )


def test_dropout_of_the_input_is_not_rescaled_and_that_of_the_layers_is() -> None:
    built = network(small("regularizer.head_dropout=0.25"))
    found = [module for module in built.modules() if isinstance(module, Dropout)]
    assert [(module.p, module.convention) for module in found] == [
        (0.2, "unscaled"),
        (0.5, "inverted"),
        (0.25, "inverted"),
    ]
    assert len({module.purpose for module in found}) == 3  # so that no two have the same mask
    x = torch.rand(8, 6, 5, 5) + 1
    dropout = Dropout(0.2, "unscaled", 0, Clock((1, 2), 7))
    mask = (dropout(x) != 0).float()
    assert torch.equal(dropout(x), x * mask) and abs(mask.mean().item() - 0.8) < 0.05
    assert torch.equal(dropout.eval()(x), x)


def test_initial_weights_are_uniform_and_biases_zero() -> None:
    built = network(load([*MAXOUT, "dataset=cifar100"]))
    built.initialise(0, 0)
    for name, parameter in built.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        else:
            assert parameter.min() >= -0.005 and parameter.max() <= 0.005, name
            assert parameter.abs().max() > 0.0049 and parameter.std().item() == pytest.approx(0.005 / 3**0.5, rel=0.02)
            assert abs(parameter.mean().item()) < 0.0001


# --- sizes ----------------------------------------------------------------------------------------------------------

CIFAR = 192 * (3 * 64 + 1) + 384 * (96 * 64 + 1) + 384 * (192 * 25 + 1) + 2500 * (192 * 25 + 1)
SVHN = 128 * (3 * 25 + 1) + 256 * (64 * 25 + 1) + 256 * (128 * 25 + 1) + 2000 * (128 * 36 + 1) + 10 * 401
MNIST = 96 * (64 + 21 * 21) + 96 * (48 * 64 + 9 * 9) + 96 * (48 * 25 + 6 * 6) + 10 * (24 * 9 + 1)
SIZES = {
    ("cifar10", "maxout_cifar10"): CIFAR + 10 * 501,
    ("cifar100", "maxout_cifar10"): CIFAR + 100 * 501,
    ("svhn", "maxout_svhn"): SVHN,
    ("mnist", "maxout_mnist"): MNIST,
    ("mnist", "maxout_mnist_pi"): 1200 * 785 + 1200 * 241 + 10 * 241,
}


@pytest.mark.parametrize(("dataset", "architecture"), SIZES)
def test_parameter_counts(dataset: str, architecture: str) -> None:
    config = load([f"dataset={dataset}", f"architecture={architecture}", "regularizer=maxout"])
    with torch.device("meta"):
        built = network(config)
    count = SIZES[dataset, architecture]
    assert sum(parameter.numel() for parameter in built.parameters()) == count
    assert sum(layer.parameters for layer in layers(config.dataset, config.architecture, config.regularizer)) == count
    path = Path(__file__).parents[1] / f"conf/architecture/{architecture}.yaml"
    assert dataset == "cifar100" or "pi" in architecture or f"{count:,}" in path.read_text().replace("\n# ", " ")


@pytest.mark.parametrize(("dataset", "architecture"), [pair for pair in SIZES if pair[0] != "cifar100"])
def test_described_shapes_and_multiply_adds_are_those_of_the_network(dataset: str, architecture: str) -> None:
    config = load([f"dataset={dataset}", f"architecture={architecture}", "regularizer=maxout"])
    with torch.device("meta"):
        built = network(config).eval()
        height, width, channels = DATASETS[dataset].shape
        seen: list[tuple[int, ...]] = []
        for module in [*built.steps, built.head]:
            if not isinstance(module, Dropout):
                module.register_forward_hook(lambda _m, _i, out: seen.append((*out.shape[1:], 1, 1)[:3]))
        built(torch.zeros(1, channels, height, width))
    described = layers(config.dataset, config.architecture, config.regularizer)
    ends = [layer for layer in described if layer.kind.startswith(("max pooling", "fully"))]
    assert [tuple(layer.output) for layer in ends] == seen
    assert described[1].multiply_adds in (192 * 33**2 * 192, 128 * 36**2 * 75, 96 * 21**2 * 64, 1200 * 784)


# --- training -------------------------------------------------------------------------------------------------------

Make = Callable[..., Trainer]


def split(count: int) -> Split:
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 10, count)
    patterns = draw.integers(0, 2, (10, 8, 8, 1)) * 12
    pixels = (patterns[labels] + draw.integers(0, 5, (count, 8, 8, 1))).astype(np.uint8)
    return Split(pixels, labels, pixels[:20], labels[:20], pixels, 10, "0" * 64, "made up", "test")


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def trainer(config: Config, images: Split, name: str = "run") -> Trainer:
        console = Console(tmp_path / "train.log")
        path = tmp_path / f"{name}.pt"
        made = build.trainer(config, images, build.machine(config), console, path, lambda row: None)
        console.log.close()
        console.line = console.status = lambda *_: None  # type: ignore[method-assign,assignment]
        state = checkpoint.load(path)
        if state is not None:
            made.resume(state)
        return made

    return trainer


SCHEDULE = [
    "optimizer=maxout_mnist",
    "optimizer.lr=0.4",
    "optimizer.schedule.factor=0.5",
    "optimizer.schedule.momentum_final=0.9",
    "optimizer.schedule.momentum_epochs=3",
    "optimizer.schedule.epochs=3",
    "optimizer.conv_lr_factor=0.25",
]


def test_pieces_that_are_all_the_largest_have_the_gradient_each() -> None:
    """Theano's rule: `Maximum.grad` there passes it to whatever equals the maximum, as where an image is black."""
    layer = MaxoutLinear(1, MaxoutFull(2, 3, 1.0))  # three pieces of two units
    layer.bias.data = torch.tensor([1.0, 5.0, 1.0, 2.0, 1.0, 5.0])
    layer(torch.zeros(1, 1)).backward(torch.tensor([[10.0, 100.0]]))
    assert layer.bias.grad is not None and layer.bias.grad.tolist() == [10, 100, 10, 0, 10, 100]


@pytest.mark.parametrize("tied", [True, False])
def test_three_updates_are_pylearn2s(tied: bool, make: Make) -> None:
    block = dataclasses.replace(SMALL.blocks["conv1"], tied_bias=tied, max_norm=0.6)
    config = small(
        *SCHEDULE, *NO_DROPOUT, "optimizer.batch_size=30", input_dropout=0.0, blocks={"conv1": block}, output_norm=0.5
    )
    images = split(30)
    trainer = make(config, images)
    weights = [parameter.detach().numpy().copy() for parameter in trainer.network.parameters()]
    reference = Reference(weights, block, SMALL.full["full1"])
    trainer.run()

    x = trainer.batches.images.float().double().numpy().transpose(0, 3, 1, 2)
    velocities = [np.zeros(weight.shape) for weight in weights]
    cut = 0
    for rate, momentum in zip((0.4, 0.2, 0.1), (0.5, 0.7, 0.9), strict=True):  # an update is an epoch
        for i, gradient in enumerate(reference.gradients(x, images.train_labels)):
            velocities[i] = momentum * velocities[i] - rate * (0.25 if i < 2 else 1.0) * gradient
            reference.parameters[i] = reference.parameters[i] + velocities[i]
        for i, limit in ((0, 0.6), (2, 1.2), (4, 0.5)):
            rows = reference.parameters[i].reshape(len(weights[i]), -1)
            norms = np.sqrt((rows**2).sum(1, keepdims=True))
            cut += int((norms > limit).sum())
            reference.parameters[i] = (rows * np.minimum(1, limit / norms)).reshape(weights[i].shape)
    assert cut > 10
    for found, expected in zip(trainer.network.parameters(), reference.parameters, strict=True):
        np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-4, atol=2e-6)
    assert [row["rate"] for row in trainer.progress.rows] == [0.5, 0.25, 0.125]


def norms(trainer: Trainer) -> list[float]:
    """The largest of each layer, over its limit."""
    built = trainer.network
    assert isinstance(built, MaxoutNetwork)
    weights = [parameter for name, parameter in built.named_parameters() if name.endswith("weight")]
    return [
        (w.detach().flatten(1).norm(dim=1).max() / limit).item() for w, limit in zip(weights, built.limits, strict=True)
    ]


def test_norms_stay_under_their_limits(make: Make) -> None:
    words = ["optimizer.lr=1", "optimizer.conv_lr_factor=1", "optimizer.batch_size=16", "optimizer.schedule.epochs=4"]
    trainer = make(small(*words), split(90))
    original, seen = trainer.step, []

    def step(position: int) -> None:
        original(position)
        seen.append(norms(trainer))

    trainer.step = step  # type: ignore[method-assign]
    trainer.run()
    assert len(seen) == 24 and np.max(seen) < 1 + 2e-6
    assert (np.max(seen, axis=0) > 1 - 2e-6).all()  # each of them bound
    before = [parameter.clone() for parameter in trainer.network.parameters()]
    trainer.network.after_update()  # as after a fault, when the optimizer has left the weights alone
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.network.parameters(), strict=True))


@pytest.mark.parametrize("words", [SCHEDULE, ["optimizer.schedule.epochs=3", "optimizer.schedule.decay_epochs=3"]])
def test_a_run_that_is_stopped_after_any_step_ends_as_one_that_was_not(words: list[str], make: Make) -> None:
    config = small(*words, "optimizer.batch_size=16")

    def result(trainer: Trainer) -> tuple[Any, ...]:
        rows = [{name: value for name, value in row.items() if "second" not in name} for row in trainer.progress.rows]
        return checkpoint.fingerprint(trainer.network.state_dict()), rows, trainer.final

    whole = make(config, split(60), "whole")
    assert whole.run() == "done"
    assert whole.progress.step == 12
    for stop in range(1, 13):
        first = make(config, split(60), f"cut{stop}")
        original = first.step

        def step(position: int, original: Any = original, first: Trainer = first, stop: int = stop) -> None:
            original(position)
            if first.progress.step == stop:
                os.kill(os.getpid(), signal.SIGTERM)

        first.step = step  # type: ignore[method-assign]
        with pytest.raises(Interrupted):
            first.run()
        second = make(config, split(60), f"cut{stop}")
        assert second.progress.step == stop and second.run() == "done"
        assert result(second) == result(whole)


def test_convolutions_have_a_rate_of_their_own() -> None:
    for config in (small(), load(["optimizer.conv_lr_factor=0.05", "regularizer=fc", "dataset=digits"])):
        built = build.network(config)
        rates = {id(p): group.lr for group in build.optimizer(config, built).groups for p in group.parameters}
        for name, module in built.named_modules():
            if isinstance(module, torch.nn.Linear):
                head = "head" in name and config.regularizer.fc_lr_factor
                assert rates[id(module.weight)] == pytest.approx(config.optimizer.lr * (head or 1))
        inner = next(module for module in built.modules() if isinstance(module, torch.nn.Conv2d))
        assert rates[id(inner.weight)] == pytest.approx(0.05 * config.optimizer.lr)
        assert rates[id(inner.bias)] == pytest.approx(0.05 * config.optimizer.lr * config.optimizer.bias_lr_factor)
    mixed = Role("inner", [torch.nn.Conv2d(3, 3, 3), torch.nn.Linear(3, 3)])  # as in a network of one's own
    built.roles = lambda: [mixed]  # type: ignore[method-assign]
    assert sorted({group.lr for group in build.optimizer(config, built).groups if not group.bias}) == pytest.approx(
        [0.05 * config.optimizer.lr, config.optimizer.lr]
    )


# --- recipes --------------------------------------------------------------------------------------------------------


def test_recipes_without_maxout_have_none_of_its_fields() -> None:
    for name in experiments():
        if "maxout" not in name:
            optimizer = recipe(load([f"experiment={name}"]))["optimizer"]
            assert "conv_lr_factor" not in optimizer, name
            assert not {"decay_epochs", "floor", "momentum_final", "momentum_epochs"} & set(optimizer["schedule"]), name


def test_augmented_recipe_differs_as_published() -> None:
    plain, augmented = (load([f"experiment=table1/{name}"]) for name in ("maxout", "maxout_aug"))
    assert augmented.dataset.augment.pad == 4 and augmented.dataset.augment.flip
    schedule = dataclasses.replace(augmented.optimizer.schedule, epochs=785, momentum_final=0.6)
    assert dataclasses.replace(augmented.optimizer, schedule=schedule) == plain.optimizer
    assert augmented.architecture == plain.architecture and key(augmented) != key(plain)


def test_a_network_without_layers_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one block"):
        require_sense(small(blocks={}, full={}))
    require_sense(small(blocks={}))
    require_sense(small(full={}))
