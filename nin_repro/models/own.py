"""Networks and heads by the names that `schema` gives them. Those that are not built in are imported to be known."""

import dataclasses
import hashlib
import importlib
import sys
import traceback
from pathlib import Path
from typing import Any

from nin_repro.files import UsageError
from nin_repro.schema import HEADS, NETWORKS, Own, default

# Their settings are in schema.py and their geometry in spec.py, so that nothing has to import torch to know them.
BUILT_IN, BUILT_IN_HEADS = ("nin", "cnn", "maxout"), ("gap", "fc")


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
    """What went wrong in somebody's own file, and where, in one line."""
    frames = [one for one in traceback.extract_tb(error.__traceback__) if "site-packages" not in one.filename]
    where = f", in {Path(frames[-1].filename).name} line {frames[-1].lineno}" if frames else ""
    return " ".join(f"{type(error).__name__}: {error}".split()) + where


def code_of(kind: str, head: str) -> dict[str, str]:
    """The first 12 digits of the SHA-256 of the files of a network and a head that are not built in, by their class."""
    named = [(NETWORKS, BUILT_IN, kind), (HEADS, BUILT_IN_HEADS, head)]
    paths = [known[name] for known, built_in, name in named if name in known and name not in built_in]
    files = {path: getattr(sys.modules[imported(path).__module__], "__file__", None) for path in paths}
    return {path: hashlib.sha256(Path(file).read_bytes()).hexdigest()[:12] for path, file in files.items() if file}


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
