"""The maps of the last mlpconv layer, as Figure 4 shows them."""

import torch
from torch import Tensor
from torch.nn import functional as F

from nin_repro.models.nin import NetworkInNetwork

SHARE = 10  # one value in so many is shown: "Only top 10% activations in the feature maps are shown"


def strongest(maps: Tensor, share: int = SHARE) -> Tensor:
    """Keep the largest 1/`share` of the values of each image of [N, K, H, W], over all its maps; the others become 0.

    Exactly K * H * W // share values are kept; of equal ones those that come first in memory.
    """
    flat = maps.flatten(1)
    kept = flat.argsort(dim=1, descending=True, stable=True)[:, : flat.shape[1] // share]
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
