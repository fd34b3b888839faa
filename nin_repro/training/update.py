"""What an update does beside network and optimizer: the loss and its gradient, and what is added up of it.

Nothing waits for the device, and all is from tensors to tensors that stay in their place (capture.py). On a GPU torch's
own take some thirty kernels for it, ours two.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from nin_repro import gpu
from nin_repro.models.network import Network


def backward(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the mean cross-entropy of logits [N, K] into what they came from; it, and how many are wrong, []."""
    kernels = gpu.kernels(logits.device)
    if kernels is None:
        mean = F.cross_entropy(logits, labels)
        mean.backward()
        return mean.detach(), (logits.detach().argmax(1) != labels).sum()
    loss, wrong, gradient = kernels.cross_entropy(logits.detach(), labels)
    logits.backward(gradient)
    return loss, wrong


def backward_in_micro_batches(network: Network, images: Tensor, labels: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """As `backward`, of what a network answers to images [N, C, H, W], `size` of them at a time, on a CPU.

    What layers keep for the way back is of so many then. The gradients are the same up to rounding.
    """
    losses, wrongs = [], []
    for first in range(0, len(labels), size):
        network.clock.image = first
        logits, right = network(images[first : first + size]), labels[first : first + size]
        loss = F.cross_entropy(logits, right, reduction="sum") / len(labels)
        loss.backward()
        losses.append(loss.detach())
        wrongs.append((logits.detach().argmax(1) != right).sum())
    network.clock.image = 0
    return torch.stack(losses).sum(), torch.stack(wrongs).sum()


def note(
    loss: Tensor, wrong: Tensor, norm: Tensor, clip: float, size: int, totals: Tensor, norms: Tensor, window: Tensor,
    now: Tensor,
) -> None:  # fmt: skip
    """Add an update of `size` images to what is known of them.

    Args:
        norm: L2 norm of its gradient, which was shortened to `clip` if it was longer.
        totals: float64 [3], summed loss, wrong and images of an epoch.
        norms: float64 [2], summed norms and shortened gradients of an epoch.
        window: float64 [2], summed loss and largest gradient norm since somebody looked.
        now: int64 [2], updates and batches of the epoch so far.
    """
    kernels = gpu.kernels(loss.device)
    if kernels is not None:
        kernels.note(loss, wrong, norm, clip, size, totals, norms, window, now)
        return
    totals += torch.stack((loss.double() * size, wrong.double(), torch.full_like(loss, size, dtype=torch.float64)))
    norms += torch.stack((norm.double(), (norm > clip).double()))
    window[0] += loss
    window[1] = torch.maximum(window[1], norm.double())
    now += 1
