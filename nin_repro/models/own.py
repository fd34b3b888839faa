"""Networks and heads by the names that `schema` gives them. Those that are not built in are imported to be known."""

import dataclasses
import importlib
from typing import Any

from nin_repro.files import UsageError
from nin_repro.schema import NETWORKS, Own, default

# Their settings are in schema.py and their geometry in spec.py, so that nothing has to import torch to know them.
BUILT_IN = ("nin", "cnn", "maxout", "gap", "fc")


def imported(path: str) -> Any:
    """The class that NETWORKS or HEADS names.

    Raises:
        UsageError: its file cannot be imported.
    """
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever may be wrong in a file that is being written
        raise UsageError(f"{path}, which nin_repro/schema.py names, cannot be imported ({reason_of(error)})") from error


def reason_of(error: Exception) -> str:
    """What went wrong in somebody's own file, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def own_kinds() -> list[str]:
    """The kinds of networks that are not built in."""
    return [kind for kind in NETWORKS if kind not in BUILT_IN]


def settings(kind: str) -> type[Own]:
    """The class of the settings of a network that is not built in.

    Raises:
        UsageError: there is none.
    """
    found = getattr(imported(NETWORKS[kind]), "settings", None)
    if not (isinstance(found, type) and issubclass(found, Own) and "__dataclass_fields__" in vars(found)):
        raise UsageError(
            f"{NETWORKS[kind]} needs an attribute `settings`, a dataclass derived from nin_repro.schema.Own: "
            "README.md has an example"
        )
    return found


def defaults(kind: str) -> dict[str, Any]:
    """What `architecture=<kind>` stands for; "???", which Hydra asks for, where a setting has no default."""
    known = {f.name: default(f) for f in dataclasses.fields(settings(kind))}
    return {name: "???" if value is dataclasses.MISSING else value for name, value in known.items()} | {"kind": kind}
