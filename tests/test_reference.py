"""Three updates of a whole network, from images to weights, against the same in numpy float64 written out by hand.

Nothing of torch's or of ours is in the reference but the initial weights, the order of the images and the dropout
masks, which are functions of the seed. Maxout networks have theirs in test_maxout.py.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from test_sgd import CudaConvnet

from nin_repro import build, rng
from nin_repro.config.compose import load
from nin_repro.data.sources import DATASETS
from nin_repro.data.splits import Split
from nin_repro.schema import Config, Mlpconv, Nin, Regularizer
from nin_repro.training.console import Console
from nin_repro.training.loop import Trainer

IMAGES, CLASSES = 24, 4
EPSILON = float(np.finfo(np.float32).eps)  # 1.2e-7
# What rounding to fp32 may do to a weight over three updates, in units of the largest weight of its tensor: sums of
# up to 2,000 rounded terms came out wrong by 6.4 epsilon at most. Every tensor moves by over 200 times the leeway.
LEEWAY = 20 * EPSILON

SMALL = [
    "dataset=digits",
    "architecture=nin_small",
    "architecture.init=normal",
    "architecture.blocks.mlpconv1={widths: [7, 6, 5], kernel: 5, pad: 2, std: [0.2, 0.6, 0.6]}",
    "architecture.blocks.mlpconv2={widths: [8, 6, 6], kernel: 3, pad: 1, std: [0.3, 0.6, 0.6]}",
    "architecture.blocks.mlpconv3={widths: [6, 5, classes], kernel: 3, pad: 1, std: [0.3, 0.6, 0.6]}",
    f"optimizer.batch_size={IMAGES}",  # so that an update is an epoch
    "optimizer.last_layer_bias_factor=0.3",
    "optimizer.lr=1",
    "optimizer.weight_decay=0.002",
    "optimizer.schedule={epochs: 3, drops: [2]}",
]


def split() -> Split:
    """Images of 9 rows and 8 columns: pooled to 4x4, the windows fitting one way and hanging over the other."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, CLASSES, IMAGES)
    pixels = draw.integers(0, 17, (IMAGES, 9, 8, 2)).astype(np.uint8)
    return Split(pixels, labels, pixels[:4], labels[:4], pixels, CLASSES, "0" * 64, "made up", "test")


def train(config: Config, images: Split, folder: Path) -> tuple[Trainer, list[np.ndarray]]:
    """Our trainer after its run, and the weights that it began with."""
    console = Console(folder / "train.log")
    trainer = build.trainer(config, images, build.machine(config), console, folder / "run.pt", lambda row: None)
    initial = [parameter.detach().numpy().copy() for parameter in trainer.network.parameters()]
    trainer.run()
    console.log.close()
    return trainer, initial


# --- the network, channels last -------------------------------------------------------------------------------------


def convolved(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, pad: int) -> np.ndarray:
    rows, columns = x.shape[1:3]
    padded, kernel = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0))), weight.shape[2]
    out = np.zeros((len(x), rows + 2 * pad - kernel + 1, columns + 2 * pad - kernel + 1, len(weight))) + bias
    for i in range(kernel):
        for j in range(kernel):
            out += padded[:, i : i + out.shape[1], j : j + out.shape[2]] @ weight[:, :, i, j].T
    return out


def convolved_back(push: np.ndarray, x: np.ndarray, weight: np.ndarray, pad: int) -> list[np.ndarray]:
    """Gradients of the input, the weight and the bias from that of the output."""
    padded, kernel = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0))), weight.shape[2]
    into_padded, into_weight = np.zeros(padded.shape), np.zeros(weight.shape)
    rows, columns = push.shape[1:3]
    for i in range(kernel):
        for j in range(kernel):
            place = np.s_[:, i : i + rows, j : j + columns]
            into_weight[:, :, i, j] = np.einsum("nrco,nrci->oi", push, padded[place])
            into_padded[place] += push @ weight[:, :, i, j]
    into_x = into_padded[:, pad : pad + x.shape[1], pad : pad + x.shape[2]]
    return [into_x, into_weight, push.sum((0, 1, 2))]


def pooled(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The largest of 3x3 windows in steps of 2, those over the edge clipped, and the flat places they are from."""
    count, rows, columns, maps = x.shape
    out = np.zeros((count, -(-(rows - 3) // 2) + 1, -(-(columns - 3) // 2) + 1, maps))
    places = np.zeros(out.shape, dtype=np.int64)
    for n, r, c, m in np.ndindex(*out.shape):
        window = x[n, 2 * r : 2 * r + 3, 2 * c : 2 * c + 3, m]
        i, j = np.unravel_index(window.argmax(), window.shape)
        out[n, r, c, m] = window[i, j]
        places[n, r, c, m] = np.ravel_multi_index((n, 2 * r + i, 2 * c + j, m), x.shape)
    return out, places


class Reference:
    """The network for one update: `loss`, then `gradients` in the order of the parameters."""

    def __init__(self, parameters: list[np.ndarray], blocks: list[Mlpconv], regularizer: Regularizer) -> None:
        self.parameters, self.blocks, self.regularizer = parameters, blocks, regularizer

    def dropped(self, x: np.ndarray, p: float, layer: int, step: int, key: tuple[int, int]) -> np.ndarray:
        """What x is multiplied with."""
        mask = (
            rng.keep_mask(rng.Clock(key, step), rng.DROPOUT + layer, x.size, p)
            .numpy()
            .reshape(x.shape)
            .astype(np.float64)
        )
        return mask if self.regularizer.convention == "released" else mask / (1 - p)

    def loss(self, x: np.ndarray, labels: np.ndarray, step: int, key: tuple[int, int]) -> float:
        """The mean cross-entropy, with dropout."""
        self.labels = labels
        self.inputs: list[np.ndarray] = []  # of each convolution
        self.outputs: list[np.ndarray] = []  # of each, after its ReLU
        self.places: list[np.ndarray] = []  # of each pooling
        self.masks: list[np.ndarray] = []
        layer = 0
        for number, block in enumerate(self.blocks, start=1):
            for i in range(3):
                self.inputs.append(x)
                weight, bias = self.parameters[2 * layer : 2 * layer + 2]
                x = np.maximum(convolved(x, weight, bias, block.pad if i == 0 else 0), 0)
                self.outputs.append(x)
                layer += 1
            if block.pool == "max":
                x, places = pooled(x)
                self.places.append(places)
            if number < len(self.blocks):
                self.masks.append(self.dropped(x, self.regularizer.dropout, number, step, key))
                x = x * self.masks[-1]
        self.maps = x
        if self.regularizer.head == "gap":
            logits = x.mean((1, 2))
        else:
            flat = x.transpose(0, 3, 1, 2).reshape(len(x), -1)  # weights of the head go through the maps one by one
            self.head_mask = self.dropped(flat, self.regularizer.head_dropout, len(self.blocks), step, key)
            self.flat = flat * self.head_mask
            logits = self.flat @ self.parameters[-2].T + self.parameters[-1]
        exps = np.exp(logits - logits.max(1, keepdims=True))
        self.said = exps / exps.sum(1, keepdims=True)
        return float(-np.log(self.said[np.arange(len(x)), labels]).mean())

    def gradients(self) -> list[np.ndarray]:
        count, rows, columns, maps = self.maps.shape
        push = (self.said - np.eye(CLASSES)[self.labels]) / count
        found: list[np.ndarray] = []  # from the output to the input
        if self.regularizer.head == "gap":
            push = np.broadcast_to(push[:, None, None] / (rows * columns), self.maps.shape)
        else:
            found += [push.sum(0), push.T @ self.flat]
            flat = (push @ self.parameters[-2]) * self.head_mask
            push = flat.reshape(count, maps, rows, columns).transpose(0, 2, 3, 1)
        layer = 3 * len(self.blocks)
        for number, block in reversed(list(enumerate(self.blocks, start=1))):
            if number < len(self.blocks):
                push = push * self.masks.pop()
            if block.pool == "max":
                unpooled = np.zeros(self.outputs[layer - 1].shape)
                np.add.at(unpooled.reshape(-1), self.places.pop().reshape(-1), push.reshape(-1))
                push = unpooled
            for i in (2, 1, 0):
                layer -= 1
                push = push * (self.outputs[layer] > 0)
                weight, pad = self.parameters[2 * layer], block.pad if i == 0 else 0
                push, into_weight, into_bias = convolved_back(push, self.inputs[layer], weight, pad)
                found += [into_bias, into_weight]
        return found[::-1]


# --- three updates --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "clip"),
    [
        (["regularizer=gap_dropout"], 0.05),
        (["regularizer=gap_dropout"], None),
        (["regularizer=fc_both_dropout", "regularizer.head_dropout=0.25", "regularizer.fc_lr_factor=0.4"], 0.05),
        (["regularizer=fc_both_dropout", "regularizer.dropout=0.3", "regularizer.convention=inverted"], 0.05),
    ],
)
def test_three_updates(words: list[str], clip: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = dataclasses.replace(DATASETS["digits"], classes=CLASSES, shape=(9, 8, 2))
    monkeypatch.setitem(DATASETS, "digits", facts)
    config = load([*SMALL, *words, f"optimizer.clip_norm={'null' if clip is None else clip}"])
    images = split()
    trainer, initial = train(config, images, tmp_path)

    lr, momentum, decay = 1.0, 0.9, 0.002
    rates = [lr, 2 * lr] * 8 + [0.1 * lr, 0.3 * 2 * lr]  # the last 1x1: its weights at a tenth, its biases at 0.3
    if config.regularizer.head == "fc":
        rates += [config.regularizer.fc_lr_factor * lr, config.regularizer.fc_lr_factor * 2 * lr]
    update = CudaConvnet(initial, rates, [decay, 0.0] * (len(rates) // 2), momentum)
    x = np.asarray(images.train_images) / 16
    x = x - x.mean(axis=0)
    key, losses, norms = rng.seed_words("train", 0, 0), [], []
    assert isinstance(config.architecture, Nin)
    blocks = list(config.architecture.blocks.values())
    for step, scale in enumerate((1.0, 1.0, 0.1)):
        order = rng.permutation(key, step, IMAGES).numpy()
        network = Reference(update.weights, blocks, config.regularizer)
        losses.append(network.loss(x[order], images.train_labels[order], step, key))
        gradients = network.gradients()
        norms.append(sum((gradient**2).sum() for gradient in gradients) ** 0.5)
        update.step(gradients, [scale] * len(rates), clip)

    assert trainer.progress.step == 3 and [row["rate"] for row in trainer.progress.rows] == [1.0, 1.0, 0.1]
    assert clip is None or min(norms) > 1.5 * clip  # it was cut
    np.testing.assert_allclose([row["train_loss"] for row in trainer.progress.rows], losses, rtol=10 * EPSILON)
    for (name, found), before, expected in zip(
        trainer.network.named_parameters(), initial, update.weights, strict=True
    ):
        wrong = np.abs(found.detach().numpy() - expected).max() / np.abs(expected).max()
        moved = np.abs(expected - before).max() / np.abs(expected).max()
        assert moved > 200 * LEEWAY, name
        assert wrong < LEEWAY, name
