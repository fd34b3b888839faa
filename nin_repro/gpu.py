"""Whether this program's own kernels can be used. Light: what has no GPU does not import Triton for it."""

import functools
import importlib
from typing import Any

import torch

MODULE = "nin_repro.kernels"
AMPERE = (8, 0)


@functools.cache
def refusal(device: torch.device) -> str | None:
    """Why the kernels cannot be used on a device, in one line, or None. The smallest of them is tried.

    Triton may be missing, for example, or the C compiler that it calls.
    """
    if device.type != "cuda" or torch.version.hip is not None:
        return "they are for NVIDIA's GPUs"
    if torch.cuda.get_device_capability(device) < AMPERE:
        return "this GPU has no units for bf16"
    try:
        pixel, nowhere = torch.zeros(1, 1, 1, 1, device=device), torch.zeros(1, dtype=torch.int64, device=device)
        importlib.import_module(MODULE).crop(pixel, nowhere, nowhere, nowhere, 0)
    except Exception as error:  # whatever it is, torch's own do the same
        return " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return None


def kernels(device: torch.device) -> Any:
    """The module nin_repro.kernels, or None where torch's own have to do."""
    return None if refusal(device) is not None else importlib.import_module(MODULE)
