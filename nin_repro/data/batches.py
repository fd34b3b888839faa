"""Batches gathered from one tensor on the device: no DataLoader, no copies of images on the host."""

import math

import torch
from torch import Tensor

from nin_repro import rng
from nin_repro.schema import Augment


def crop_and_flip(images: Tensor, augment: Augment, key: tuple[int, int], step: int) -> Tensor:
    """Zero-pad, crop at a random place and flip at random: float [N, H, W, C] to the same shape.

    As the released `cifar-cropped` provider: 4 zeros on each side of the whitened image, offsets 0 to 8, flip with
    probability 1/2, drawn anew for each image and update.
    """
    count, height, width, channels = images.shape
    draws = rng.words(key, rng.SHIFT, step, 3 * count, images.device).view(count, 3)
    span = 2 * augment.pad + 1
    down, right, mirrored = draws[:, 0] % span, draws[:, 1] % span, draws[:, 2] >> 31
    across = torch.arange(width, device=images.device).expand(count, width)
    if augment.flip:
        across = torch.where(mirrored[:, None] == 1, width - 1 - across, across)
    padded = images.new_zeros(count, height + 2 * augment.pad, width + 2 * augment.pad, channels)
    padded[:, augment.pad : augment.pad + height, augment.pad : augment.pad + width] = images
    rows = down[:, None] + torch.arange(height, device=images.device)
    columns = right[:, None] + across
    return padded[torch.arange(count, device=images.device)[:, None, None], rows[:, :, None], columns[:, None, :]]


class Batches:
    """The training set on the device.

    Args:
        images: float [N, H, W, C].
        labels: int64 [N].
    """

    def __init__(self, images: Tensor, labels: Tensor, batch_size: int, augment: Augment) -> None:
        self.images, self.labels, self.batch_size, self.augment = images, labels, batch_size, augment
        self.augmenting = augment.pad > 0 or augment.flip

    def __len__(self) -> int:
        """Updates in an epoch; the last batch holds what is left over."""
        return math.ceil(len(self.images) / self.batch_size)

    def order(self, key: tuple[int, int], epoch: int) -> Tensor:
        """The order of the images in an epoch, int64 [N]."""
        return rng.permutation(key, epoch, len(self.images), self.images.device)

    def gather(self, order: Tensor, position: int, key: tuple[int, int], step: int) -> tuple[Tensor, Tensor]:
        """Batch number `position` of an epoch: images [B, C, H, W] in channels-last memory, labels [B]."""
        chosen = order[position * self.batch_size : (position + 1) * self.batch_size]
        images = self.images[chosen]
        if self.augmenting:
            images = crop_and_flip(images, self.augment, key, step)
        return images.permute(0, 3, 1, 2), self.labels[chosen]
