"""In what a recipe differs from another one, in words of the command line."""

import json
from collections.abc import Mapping
from typing import Any

FP32 = "fp32"  # what a recipe that names no precision is computed in
APART = ("seed", "budget", "precision")  # not of what is trained: runs are compared at the same budget and precision
SCHEDULE = "optimizer.schedule"
PARENT = "parent.key"  # it goes with the seed
# What conf calls the layers that a recipe numbers, by kind of network and key.
LAYERS = {
    ("nin", "blocks"): "mlpconv",
    ("cnn", "blocks"): "conv",
    ("maxout", "blocks"): "conv",
    ("maxout", "full"): "full",
}


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """A recipe as {"optimizer.lr": 0.1, "architecture.blocks.mlpconv1.pool": "max", ...}; other lists stay whole."""
    found: dict[str, Any] = {}
    _gather(value, path, None, found)
    return found


def _gather(value: Any, path: str, layer: str | None, found: dict[str, Any]) -> None:
    """`layer`: what items of a list are called, with their number; None: by their place alone."""
    if isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        value = {f"{layer}{place + 1}" if layer else str(place): item for place, item in enumerate(value)}
    if not isinstance(value, dict):
        found[path] = value
        return
    kind = str(value.get("kind"))
    for name, item in value.items():
        _gather(item, f"{path}.{name}" if path else str(name), LAYERS.get((kind, str(name))), found)


def word(name: str, value: Any) -> str:
    """Such as "optimizer.clip_norm=null"."""
    return f"{name}={json.dumps(value).replace(chr(34), '')}"


def changes(recipe: Mapping[str, Any], base: Mapping[str, Any]) -> list[str]:
    """A `word` for each leaf in which a recipe differs from a base, but for those that stand APART; sorted."""
    ours, theirs = (
        {k: v for k, v in leaves(one).items() if k.split(".")[0] not in APART and k != PARENT} for one in (recipe, base)
    )
    names = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
    return [word(name, ours.get(name)) for name in names]


def precision(recipe: Mapping[str, Any]) -> str:
    return str(recipe.get("precision", FP32))


def all_changes(recipe: Mapping[str, Any], base: Mapping[str, Any]) -> list[str]:
    """The same with what the budget takes away, and the precision if it is another one."""
    budget = leaves(recipe.get("budget") or {}, "budget")
    found = [word(name, value) for name, value in budget.items() if value is not None]
    found += [f"precision={precision(recipe)}"] * (precision(recipe) != precision(base))
    return found + changes(recipe, base)
