"""Errors without dropout, and whether a network is still alive.

Two deaths are known of this network. Either its hidden units answer nothing for any input, so that the logits are
constants; or the last ReLU leaves some classes a map that is zero for every input, and so no gradient.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nin_repro.data.batches import Pictures

BATCH = {"cpu": 100, "cuda": 500}  # a CPU is as fast with few, and they take less memory than a training step
PROBE, CONFIRM = 256, 2000  # images that a suspicion of death is raised and confirmed on
NEAR = 0.1  # how far over ln K the loss of a dead network may be, in nats: its last biases still move a little


@dataclass(frozen=True)
class Evaluation:
    """How a network does on some images."""

    loss: float  # mean cross-entropy, nats
    error: float  # percent
    silent: list[int]  # classes whose logit is exactly zero for every image


@torch.no_grad()
def logits(network: nn.Module, images: Pictures, between: Callable[[], None] = lambda: None) -> Tensor:
    """Logits [N, K] of images [N, H, W, C], without dropout; the network is left in training mode.

    `between` is called after every batch, and may raise.
    """
    found, size = [], BATCH[images.device.type]
    network.eval()
    for start in range(0, len(images), size):
        found.append(network(images[start : start + size].float().permute(0, 3, 1, 2)))
        between()
    network.train()
    return torch.cat(found)


def evaluate(
    network: nn.Module, images: Pictures, labels: Tensor, between: Callable[[], None] = lambda: None
) -> Evaluation:
    """Loss and error of a network on images [N, H, W, C] with labels [N]; see `logits` for `between`."""
    found = logits(network, images, between)
    loss, wrong = F.cross_entropy(found, labels), (found.argmax(1) != labels).sum()
    values = torch.cat((torch.stack((loss.double(), wrong.double())), _silent(found).double())).tolist()  # waits once
    return Evaluation(values[0], 100 * values[1] / len(labels), [i for i, flag in enumerate(values[2:]) if flag])


def _silent(found: Tensor) -> Tensor:
    """bool [K]: whether a class's logit is exactly zero in all rows of [N, K]. Only a last ReLU makes such zeros."""
    return (found == 0).all(0)


def is_dead(network: nn.Module, images: Pictures, labels: Tensor) -> tuple[bool, list[int]]:
    """(the whole network is dead, the classes that look dead) by the first images of [N, H, W, C].

    A network is dead when its logits are equal to the last bit for all images and its loss is about ln K, or less by
    what its last biases learn of how frequent the classes are. On the plateau at the start of a run the logits differ
    little, but they differ.
    """
    found = logits(network, images[:PROBE])
    suspected = _answers_nothing(found, labels[:PROBE])
    dead = suspected and _answers_nothing(logits(network, images[:CONFIRM]), labels[:CONFIRM])
    return dead, _silent(found).nonzero().flatten().tolist()


def _answers_nothing(found: Tensor, labels: Tensor) -> bool:
    """Whether logits [N, K] are all one row, with a loss that is at most NEAR over that of guessing."""
    near = F.cross_entropy(found, labels).item() <= math.log(found.shape[1]) + NEAR
    return near and bool((found == found[0]).all())
