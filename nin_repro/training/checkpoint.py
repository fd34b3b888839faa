"""Checkpoints that are whole or absent, and never run code when they are read."""

import hashlib
import io
import re
from pathlib import Path
from typing import Any

import torch

from nin_repro.files import UsageError, atomic

AGAIN = "to train it again, move {}/result.json away and give the run's own command"

KIND, VERSION = b"nin_repro checkpoint ", 1
MAGIC = KIND + b"%d\n" % VERSION
OTHER = "use that version, or move the file away to start from the beginning"


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
        DamagedCheckpoint: truncated or altered, or holding other things than tensors and plain values.
        UsageError: another version of this program wrote it.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    start = len(MAGIC) + 32
    if (other := re.match(KIND + rb"(\d{1,9})\n", raw)) and int(other[1]) != VERSION:
        raise UsageError(f"{path} is of format {int(other[1])}, and this version of nin_repro has {VERSION}: {OTHER}")
    if not raw.startswith(MAGIC) or hashlib.sha256(raw[start:]).digest() != raw[len(MAGIC) : start]:
        raise DamagedCheckpoint(f"{path} is truncated or altered")
    try:
        found = torch.load(io.BytesIO(raw[start:]), map_location="cpu", weights_only=True)
    except Exception:  # of the archive, of the pickle in it, or of what that asks for; torch's words advise to run it
        raise DamagedCheckpoint(f"{path} holds other things than tensors and plain values") from None
    if not isinstance(found, dict):
        raise DamagedCheckpoint(f"{path} holds no state of a training")
    return found


def require_fields(path: Path, state: dict[str, Any], own: dict[str, Any]) -> None:
    """Refuse a sound state that has not the fields of `own`, the state that this version of the program would save.

    Raises:
        UsageError: another version wrote it.
    """
    theirs, ours = _fields(state, own), _fields(own, own)
    if theirs != ours:
        told = [f"unknown: {', '.join(sorted(theirs - ours))}"] * bool(theirs - ours)
        told += [f"missing: {', '.join(sorted(ours - theirs))}"] * bool(ours - theirs)
        raise UsageError(f"{path} was written by another version of nin_repro ({'; '.join(told)[:200]}): {OTHER}")


def _fields(state: dict[str, Any], own: dict[str, Any]) -> set[str]:
    """Names at the top of a state and in its groups, but for the best weights so far, which a run need not have."""
    groups = [name for name in own if isinstance(own[name], dict) and name != "chosen"]
    inner = {f"{name}.{key}" for name in groups if isinstance(state.get(name), dict) for key in state[name]}
    return {*map(str, state), *inner}


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
        raise UsageError(f"{path} cannot be used: {text}; {AGAIN.format(path.parent)}") from None
    if weights is None or not same:
        what = "is missing" if weights is None else "does not hold the weights that result.json tells of"
        raise UsageError(f"{path} {what}; {AGAIN.format(path.parent)}")
    return weights


def fingerprint(weights: dict[str, torch.Tensor]) -> str:
    """SHA-256 of all weights, names and bytes: equal exactly when the networks are."""
    total = hashlib.sha256()
    for name in sorted(weights):
        total.update(name.encode() + weights[name].detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()
