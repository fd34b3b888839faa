"""conf/ read without Hydra, whose import takes longer than all else that most commands do.

Only what leaves no doubt is read here: files that name others of their group or override choices, and words such as
`dataset=mnist seed=3` that use nothing of Hydra's grammar. Of all else these functions give back None, and Hydra has
the say. tests/test_config.py holds the two to each other, for every file of conf/.
"""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from nin_repro.models.own import own_kinds

CONF = Path(__file__).resolve().parents[2] / "conf"

WORD = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)=(\S+)", re.ASCII)
INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,15})")
NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,15})(\.[0-9]+)?(e-?[0-9]+)?")
TEXT = re.compile(r"[A-Za-z_/][\w/.-]*", re.ASCII)
CONSTANTS = {"null": None, "true": True, "false": False}


class Doubt(Exception):
    """What this is, Hydra has to say."""


@cache
def choices() -> dict[str, list[str]]:
    """The groups and their choices, {"dataset": ["cifar10", ...], ...}: files under conf/, and own networks.

    Not conf/hydra: that is of no run, but of how Hydra runs many.
    """
    found: dict[str, list[str]] = {}
    for path in sorted(CONF.rglob("*.yaml")):
        group, *rest = path.relative_to(CONF).with_suffix("").parts
        if rest and group != "hydra":
            found.setdefault(group, []).append("/".join(rest))
    found["architecture"] += [kind for kind in own_kinds() if kind not in found["architecture"]]
    return found


def word(text: str) -> tuple[str, Any] | None:
    """Key or group and value of an override such as `seed=3`; None where Hydra's grammar is needed to tell."""
    match = WORD.fullmatch(text)
    if match is None:
        return None
    name, value = match.groups()
    if INTEGER.fullmatch(value):
        return name, int(value)
    if NUMBER.fullmatch(value):
        return name, float(value)
    if value in CONSTANTS:
        return name, CONSTANTS[value]
    if TEXT.fullmatch(value) and value.lower() not in (*CONSTANTS, "nan", "inf"):
        return name, value
    return None


def composed(words: Sequence[str]) -> dict[str, Any] | None:
    """What Hydra composes from these words, unchecked."""
    parsed = [word(text) for text in words]
    pairs = {pair[0]: pair[1] for pair in parsed if pair is not None}
    if len(pairs) < len(words):  # one is not plain, or is there twice
        return None
    try:
        config = _primary({name: value for name, value in pairs.items() if name in choices()})
        for name, value in pairs.items():
            if name not in choices():
                _replace(config, name.split("."), value)
    except Doubt:
        return None
    return config


def help_text(words: Sequence[str]) -> str | None:
    """What `--help` prints beside these words."""
    import string

    import yaml

    config = composed(words)
    if config is None:
        return None
    folders: dict[str, list[str]] = {}
    for group, names in choices().items():
        for name in names:
            folder, _, choice = f"{group}/{name}".rpartition("/")
            folders.setdefault(folder, []).append(choice)
    groups = "".join(f"{folder}: {', '.join(sorted(folders[folder]))}\n" for folder in sorted(folders))
    shown = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    template = string.Template(_file("train")["hydra"]["help"]["template"])
    return template.substitute(APP_CONFIG_GROUPS=groups, CONFIG=shown)


def _primary(chosen: dict[str, Any]) -> dict[str, Any]:
    """conf/train.yaml with everything that it and the experiment take from other files."""
    own = _file("train")
    defaults = _defaults(own)
    overrides, experiment = _experiment(chosen["experiment"]) if chosen.get("experiment") else ({}, {})
    overrides |= chosen
    if not overrides.keys() <= dict(defaults).keys():
        raise Doubt
    config: dict[str, Any] = {}
    for name, choice in defaults:
        if name == "_self_":
            config = _merged(config, own)
        elif name == "experiment" and choice is None:
            config = _merged(config, experiment)
        elif not name.startswith("override hydra/"):
            config = _merged(config, {name: _choice(name, overrides.get(name, choice))})
    config.pop("hydra", None)
    return _plain(config)


def overridden(experiment: str) -> dict[str, Any]:
    """The choices of groups that an experiment's file takes.

    Raises:
        Doubt: Hydra has to say.
    """
    return _experiment(experiment)[0]


def _experiment(name: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The choices that an experiment overrides, and the keys that it sets."""
    own = _file(f"experiment/{name}", "_global_")
    overrides: dict[str, Any] = {}
    found: dict[str, Any] = {}
    for entry, choice in _defaults(own):
        if entry == "_self_":
            found = _merged(found, own)
        elif entry.startswith("override /"):
            overrides[entry.removeprefix("override /")] = choice
        elif entry.startswith("/experiment/"):
            inner, keys = _experiment(entry.removeprefix("/experiment/"))
            overrides, found = inner | overrides, _merged(found, keys)
        else:
            raise Doubt
    return overrides, found


def _choice(group: str, name: Any) -> dict[str, Any]:
    """What a choice sets within its group."""
    own = _file(f"{group}/{name}")
    found: dict[str, Any] = {}
    for entry, choice in _defaults(own):
        if choice is not None:
            raise Doubt
        found = _merged(found, own if entry == "_self_" else _choice(group, entry))
    return found


def _defaults(own: dict[str, Any]) -> list[tuple[str, Any]]:
    """A file's list of defaults as (name, choice), taken out of `own`; a file comes after what it overrides."""
    entries = own.pop("defaults", [])
    if not isinstance(entries, list):
        raise Doubt
    pairs = [pair for entry in entries for pair in (entry.items() if isinstance(entry, dict) else [(entry, None)])]
    if not all(isinstance(name, str) for name, _ in pairs):
        raise Doubt
    if all(name.startswith("override ") for name, _ in pairs):
        pairs.append(("_self_", None))
    found = dict(pairs)
    if "_self_" not in found or len(found) < len(pairs):
        raise Doubt
    return pairs


def _file(name: str, package: str = "") -> dict[str, Any]:
    """A file of conf/, whose header must name `package`, as a dictionary of the caller's own."""
    try:
        text = (CONF / f"{name}.yaml").read_text(encoding="utf-8")
    except (OSError, ValueError):
        raise Doubt from None
    if re.findall(r"@package\s*(\S*)", text) != ([package] if package else []):
        raise Doubt
    return _merged({}, _parsed(text))


@cache
def _parsed(text: str) -> dict[str, Any]:
    from yaml import YAMLError, load

    try:
        found = load(text, _loader())
    except YAMLError:
        raise Doubt from None
    if not isinstance(found, dict):
        raise Doubt
    return found


@cache
def _loader() -> Any:
    """YAML's loader with two rules of OmegaConf's: no key twice, and 1e-4 is a number."""
    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            found: dict[Any, Any] = super().construct_mapping(node, deep)
            if len(found) < len(node.value):
                raise Doubt
            return found

    exponent = re.compile(r"[-+]?[0-9]+(\.[0-9]+)?[eE][-+]?[0-9]+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", exponent, list("-+0123456789"))
    return Loader


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`base` with what `over` sets; the dictionaries in it are new ones."""
    found = dict(base)
    for name, value in over.items():
        before = found.get(name)
        if before is not None and isinstance(before, dict) != isinstance(value, dict):
            raise Doubt
        found[name] = _merged(before or {}, value) if isinstance(value, dict) else value
    return found


def _replace(config: dict[str, Any], path: list[str], value: Any) -> None:
    for name in path[:-1]:
        config = config.get(name)  # type: ignore[assignment]
        if not isinstance(config, dict):
            raise Doubt
    if path[-1] not in config or isinstance(config[path[-1]], dict):
        raise Doubt
    config[path[-1]] = value


def _plain(value: Any) -> Any:
    """`value`, if YAML and OmegaConf mean the same by it: they differ in which words are numbers, and in `${...}`."""
    if isinstance(value, dict):
        if not all(isinstance(name, str) for name in value):
            raise Doubt
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        number = re.fullmatch(r"[-+.\d_:]*\d[-+.\d_:]*(e[-+]?\d+)?", value, re.IGNORECASE)
        if number or "${" in value or value == "???":
            raise Doubt
    elif not (value is None or type(value) in (bool, int, float)):
        raise Doubt
    return value


def at(config: Any, path: str) -> Any:
    """What stands at a dotted key; None where there is no such key."""
    for name in path.split("."):
        config = config.get(name) if isinstance(config, dict) else None
    return config
