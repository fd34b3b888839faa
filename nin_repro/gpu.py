"""Whether this program's own kernels can be used. Light: what has no GPU does not import Triton for it."""

import functools
import importlib
import importlib.util
from typing import Any

import torch


@functools.cache
def has_triton() -> bool:
    """It comes with torch for a GPU."""
    return importlib.util.find_spec("triton") is not None


def kernels(device: torch.device) -> Any:
    """The module nin_repro.kernels, or None where torch's own have to do."""
    if device.type != "cuda" or not has_triton():
        return None
    return importlib.import_module("nin_repro.kernels")
