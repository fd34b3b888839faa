"""Checkpoints that are whole or absent, and never run code when they are read."""

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import torch

from nin_repro.files import UsageError, atomic

MAGIC = b"nin_repro checkpoint 1\n"


class DamagedCheckpoint(Exception):
    """The file is not what was written."""


def save(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values beside `path`, with a checksum, and put them in its place."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    with atomic(path, "wb") as file:
        file.write(MAGIC + hashlib.sha256(payload).digest())
        file.write(payload)


def load(path: Path) -> dict[str, Any] | None:
    """What `save` wrote, tensors on the CPU; None if there is no file.

    Raises:
        DamagedCheckpoint: truncated or altered, or made by somebody else to run code, which is not run.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    start = len(MAGIC) + 32
    if not raw.startswith(MAGIC) or hashlib.sha256(raw[start:]).digest() != raw[len(MAGIC) : start]:
        raise DamagedCheckpoint(f"{path} is truncated or altered")
    try:
        return torch.load(io.BytesIO(raw[start:]), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise DamagedCheckpoint(f"{path} holds more than numbers and was not written by this program") from None


def final_weights(path: Path, record: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The weights that a finished run with this record left in its checkpoint.

    Raises:
        UsageError: the file is not there, damaged, or holds others.
    """
    try:
        state = load(path)
        weights: dict[str, torch.Tensor] | None = state if state is None else state["weights"]
        same = weights is not None and fingerprint(weights) == record.get("weights_sha256")
    except Exception as error:  # damaged, or sound but nothing that a training wrote
        text = " ".join(str(error).split())[:200]
        raise UsageError(f"{path} cannot be used: {text}; the run's own command trains it again") from None
    if weights is None or not same:
        what = "is missing" if weights is None else "does not hold the weights that result.json tells of"
        raise UsageError(f"{path} {what}: name another run")
    return weights


def fingerprint(weights: dict[str, torch.Tensor]) -> str:
    """SHA-256 of all weights, names and bytes: equal exactly when the networks are."""
    total = hashlib.sha256()
    for name in sorted(weights):
        total.update(name.encode() + weights[name].detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()
