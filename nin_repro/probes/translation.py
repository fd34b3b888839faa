"""The error of a trained network on images that were moved."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nin_repro.models.network import Network
from nin_repro.training.evaluate import logits

DIRECTIONS = {"down": (1, 0), "up": (-1, 0), "right": (0, 1), "left": (0, -1)}  # (rows, columns) that images move by


def shifted(images: Tensor, rows: int, columns: int) -> Tensor:
    """Move the content of [N, H, W, C] down by `rows` and right by `columns` (negative: up, left); zeros come in.

    Of preprocessed images these zeros are what the convolutions' own padding is made of.
    """
    height, width = images.shape[1:3]
    moved = torch.zeros_like(images)
    to_rows, to_columns = (
        slice(max(step, 0), size + min(step, 0)) for step, size in ((rows, height), (columns, width))
    )
    of_rows, of_columns = (
        slice(max(-step, 0), size + min(-step, 0)) for step, size in ((rows, height), (columns, width))
    )
    moved[:, to_rows, to_columns] = images[:, of_rows, of_columns]
    return moved


def translation_errors(
    network: Network, images: Tensor, labels: Tensor, shifts: Sequence[int], say: Callable[[str], None]
) -> list[list[float]]:
    """Error in percent on float images [N, H, W, C]: for each shift in pixels, one for each of DIRECTIONS, in order.

    Without dropout; the network is left in training mode. `say` is told of each shift.
    """
    found: list[list[float]] = []
    for pixels in shifts:
        errors: list[float] = []
        for rows, columns in DIRECTIONS.values():
            if pixels == 0 and errors:
                errors.append(errors[0])
                continue
            moved = shifted(images, pixels * rows, pixels * columns)
            wrong = (logits(network, moved).argmax(1) != labels).sum().item()
            errors.append(100 * wrong / len(labels))
        say(f"  moved by {pixels} px: error {sum(errors) / len(errors):.2f} %")
        found.append(errors)
    return found
