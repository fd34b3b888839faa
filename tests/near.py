"""How far a tensor is from what it should be."""

import torch
from torch import Tensor


def distance(found: Tensor, reference: Tensor) -> float:
    """Of the norm of the reference, in float64."""
    assert found.shape == reference.shape
    gap = found.detach().double() - reference.detach()
    return float(torch.linalg.vector_norm(gap) / torch.linalg.vector_norm(reference.detach()))
