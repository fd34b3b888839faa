"""Batches gathered from one tensor on the device: no DataLoader, no copies of images on the host."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nin_repro import gpu, rng
from nin_repro.data.preprocess import Bytes
from nin_repro.schema import Augment

FILE = 10_000  # images in one of the files that the released code reads one after the other


class Scaled:
    """Images that stay bytes on the device, a quarter of the size; `float` makes of them what the network sees.

    A part of it, chosen as of a tensor [N, H, W, C], is of its kind.
    """

    def __init__(self, values: Tensor, divide: Tensor, mean: Tensor) -> None:
        """uint8 [N, H, W, C] to be divided by [] and lessened by [H, W, C]. Tensors all, on one device.

        A division by a Python number would be a product on a GPU, whose last bit differs.
        """
        self.values, self.divide, self.mean = values, divide, mean
        self.device = values.device

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, part: slice | Tensor) -> Scaled:
        return Scaled(self.values[part], self.divide, self.mean)

    def float(self) -> Tensor:
        """float32 [N, H, W, C], anew at each call."""
        return self.values.float().div_(self.divide).sub_(self.mean)


Pictures: TypeAlias = Tensor | Scaled  # [N, H, W, C]; `float` makes float32 of either


def on_device(images: NDArray[np.float32] | Bytes, device: torch.device) -> Pictures:
    """What `preprocess` returned. On a CPU nothing is copied: a memory map stays one."""
    if isinstance(images, Bytes):
        scale = np.float32(images.divide), images.mean
        return Scaled(*(torch.as_tensor(array).to(device) for array in (images.values, *scale)))
    return torch.from_numpy(images).to(device)


def crop_and_flip(images: Tensor, augment: Augment, clock: rng.Clock) -> Tensor:
    """Zero-pad, crop at a random place and flip at random: float [N, H, W, C] to the same shape.

    As the released `cifar-cropped` provider is meant, which cannot run as it stands: 4 zeros on each side of the
    whitened image, offsets 0 to 8, flip with probability 1/2, drawn anew for each image and update.
    """
    count, height, width, channels = images.shape
    draws = clock.words(rng.SHIFT, 3 * count, images.device).view(count, 3)
    span = 2 * augment.pad + 1
    down, right, mirrored = draws[:, 0] % span, draws[:, 1] % span, (draws[:, 2] >> 31) * augment.flip
    kernels = gpu.kernels(images.device)
    if kernels is not None:
        cut: Tensor = kernels.crop(images, down, right, mirrored, augment.pad)
        return cut
    across = torch.arange(width, device=images.device).expand(count, width)
    across = torch.where(mirrored[:, None] == 1, width - 1 - across, across)
    padded = images.new_zeros(count, height + 2 * augment.pad, width + 2 * augment.pad, channels)
    padded[:, augment.pad : augment.pad + height, augment.pad : augment.pad + width] = images
    rows = down[:, None] + torch.arange(height, device=images.device)
    columns = right[:, None] + across
    return padded[torch.arange(count, device=images.device)[:, None, None], rows[:, :, None], columns[:, None, :]]


class Batches:
    """The training set on the device.

    Args:
        images: of [N, H, W, C].
        labels: int64 [N].
        shuffled: draw a new order in every epoch. If not, the images come as they are, and no batch reaches beyond
            one of the released code's files, so that the last of each file's is small.
    """

    def __init__(
        self, images: Pictures, labels: Tensor, batch_size: int, augment: Augment, shuffled: bool = True
    ) -> None:
        self.images, self.labels, self.batch_size, self.augment = images, labels, batch_size, augment
        self.augmenting, self.shuffled = augment.pad > 0 or augment.flip, shuffled
        count = len(images)
        span = count if shuffled else FILE
        files = [(first, min(first + span, count)) for first in range(0, count, span)]
        self.bounds = [(i, min(i + batch_size, end)) for start, end in files for i in range(start, end, batch_size)]
        self.current = torch.arange(count, device=images.device)  # the order of this epoch
        self._first = torch.tensor([start for start, _ in self.bounds], device=images.device)
        self._span = torch.arange(batch_size, device=images.device)

    def __len__(self) -> int:
        """Updates in an epoch; the last batch holds what is left over."""
        return len(self.bounds)

    def begin(self, key: tuple[int, int], epoch: int) -> None:
        """Put the images in the order of an epoch, for `gather`."""
        if self.shuffled:
            self.current.copy_(rng.permutation(key, epoch, len(self.images), self.images.device))

    def size(self, position: int) -> int:
        """Images in batch number `position` of an epoch."""
        start, end = self.bounds[position]
        return end - start

    def gather(self, position: Tensor, size: int, clock: rng.Clock) -> tuple[Tensor, Tensor]:
        """Batch number `position`, int64 [1] on the device, of the epoch that began, which has this size.

        Returns images [B, C, H, W] in channels-last memory, and labels [B].
        """
        chosen = self.current[self._first[position] + self._span[:size]]
        images = self.images[chosen].float()
        if self.augmenting:
            images = crop_and_flip(images, self.augment, clock)
        return images.permute(0, 3, 1, 2), self.labels[chosen]
