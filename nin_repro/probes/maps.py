"""The maps of the last mlpconv layer, as Figure 4 shows them, and which class's map a trained network answers in."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from nin_repro.models.nin import NetworkInNetwork
from nin_repro.training.evaluate import BATCH

SHARE = 10  # one value in so many is shown: "Only top 10% activations in the feature maps are shown"


def strongest(maps: Tensor) -> Tensor:
    """Keep the largest 1/SHARE of the values of each image of [N, K, H, W], over all its maps; the others become 0.

    Over all maps is our reading of the caption: a share of each map would leave something in every one, and many maps
    of the printed figure are black.

    Exactly K * H * W // SHARE values are kept; of equal ones those that come first in memory.
    """
    flat = maps.flatten(1)
    kept = flat.argsort(dim=1, descending=True, stable=True)[:, : flat.shape[1] // SHARE]
    return torch.zeros_like(flat).scatter(1, kept, flat.gather(1, kept)).view_as(maps)


@torch.no_grad()
def class_maps(network: NetworkInNetwork, images: Tensor) -> tuple[Tensor, Tensor]:
    """What a network sees of each class in float images [N, H, W, C], preprocessed as for training.

    Returns the strongest values of the last maps, scaled up bilinearly to the images' size [N, K, H, W], and the
    classes that the network says [N]. Without dropout; the network is left in the mode it was in. The maps are laid
    over the image edge to edge: that pooling windows look a few pixels to the right of and below that is not undone.
    """
    mode = network.training
    network.eval()
    maps = network.features(images.permute(0, 3, 1, 2))
    said = network.head(maps).argmax(1)
    network.train(mode)
    size = (images.shape[1], images.shape[2])
    return F.interpolate(strongest(maps), size, mode="bilinear", align_corners=False), said


@dataclass(frozen=True)
class Shares:
    """Of each image: how its strongest values divide among the maps [N, K] (rows add up to 1, or to 0 where no map
    answers), and whether the network is right [N]."""

    shares: Tensor
    right: Tensor


@torch.no_grad()
def map_shares(network: NetworkInNetwork, images: Tensor, labels: Tensor) -> Shares:
    """Where the largest 10 % of the last maps' values lie (Figure 4's rule, `strongest`), by their sum.

    Float images [N, H, W, C], labels [N]. Values below zero, which only a network without a last ReLU has, are no
    activation and count as 0. Without dropout; the network is left in training mode.
    """
    shares, right, size = [], [], BATCH[images.device.type]
    network.eval()
    for chunk, truth in zip(images.split(size), labels.split(size), strict=True):
        maps = network.features(chunk.permute(0, 3, 1, 2))
        mass = strongest(maps).clamp(min=0).double().sum((2, 3))
        total = mass.sum(1, keepdim=True)
        shares.append(torch.where(total > 0, mass / total.clamp(min=torch.finfo(mass.dtype).tiny), 0))
        right.append(network.head(maps).argmax(1) == truth)
    network.train()
    return Shares(torch.cat(shares), torch.cat(right))
