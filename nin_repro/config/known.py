"""What the words of a command line may name: groups, their choices, and keys. All else is refused here."""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from nin_repro.config import conf
from nin_repro.config.check import WHERE, keys, nearest
from nin_repro.config.conf import choices
from nin_repro.files import UsageError
from nin_repro.models.own import own_kinds, settings
from nin_repro.schema import Config

# What other programs call what is called otherwise here.
ELSEWHERE = {"model": "architecture", "network": "architecture", "net": "architecture", "gpu": "device"}
ELSEWHERE |= {"workers": "processes", "num_workers": "processes", "jobs": "processes"}
ELSEWHERE |= {"learning_rate": "optimizer.lr", "bs": "optimizer.batch_size"}


def require_known(overrides: Sequence[str], sweep: bool = False) -> None:
    """Refuse overrides of groups, choices and keys that do not exist, `+key` and `~key` included; several values but
    in a sweep, and there the same one twice.

    Raises:
        UsageError: names the nearest valid word.
    """
    usual = not any(text.startswith("hydra/sweeper=") for text in overrides)
    for text in overrides:
        name, values = _name_and_values(text, sweep)
        if usual and "=interval(" in text:
            raise UsageError(f"{text} is a range to draw from, and Hydra's own sweeper does not draw: list the values")
        if usual and "=shuffle(" in text:
            raise UsageError(
                f"{text} is in another order each time that it is read: list the values in the order meant"
            )
        if name == "hydra.job.chdir" and values != ["False"]:
            raise UsageError(f"{text} would give each run other places for data, runs and records: leave it out")
        if name in ("hydra.sweep.dir", "hydra.run.dir") and values in ([""], ["null"]):
            raise UsageError(f"{text}: name a folder, or leave it out")
        if name == "hydra" or name.startswith(("hydra.", "hydra/")):
            continue
        if text.startswith("++"):
            raise UsageError(
                f"{text}: what is there is set without signs, {text[2:]}, and nothing can be added; {WHERE}"
            )
        if name.partition(".")[0] == "about":
            raise UsageError(f"{name} is what an experiment's file says of itself: change it there, or leave it out")
        if values is not None and "{}" in values:
            raise UsageError(f"{text} changes nothing: what a group of keys is given is added to it; {WHERE}")
        if "${" in text:
            raise UsageError(
                f"{name} is given as ${{...}}: write its value, which records and config.yaml tell; {WHERE}"
            )
        if name == "seed" and not all(re.fullmatch(r"[-+]?\d+", value) for value in values or ()):
            raise UsageError(f"{text}: a seed is a whole number; several, with -m, are seed=0,1,2 or 'seed=range(3)'")
        if name in choices() and values is not None:
            for value in values:
                _require_choice(name, value)
        elif not is_key(name):
            known = [
                *choices(),
                *(path for path in _all_keys() if "*" not in path),
                *_block_keys(name),
                *_own_keys(name),
            ]
            raise UsageError(f"there is no key or group {name}{nearest(ELSEWHERE.get(name, name), known)}; {WHERE}")


def _name_and_values(text: str, sweep: bool) -> tuple[str, list[str] | None]:
    """Key or group of an override, and the values that it asks for; None where it deletes, or leaves them to Hydra.

    Raises:
        UsageError: it cannot be read, asks for several outside of a sweep, for none, or for one several times.
    """
    plain = conf.word(text)
    if plain is not None:
        return plain[0], [_shown(plain[1])]
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException as error:
        if text.endswith(","):
            raise UsageError(f"{text} ends in a comma, and no value follows: write {text.rstrip(',')}") from None
        name, _, value = text.partition("=")
        quoted = f"what has spaces or signs is quoted twice, '{name}=\"{value}\"'" if value else "no value follows"
        raise UsageError(f"cannot read {text!r} as key=value: {_first_line(error)}; {quoted}; {WHERE}") from None
    if override.is_delete():
        return override.key_or_group, None
    swept = override.is_sweep_override()
    if swept and not sweep:
        raise UsageError(
            f"{text} is more than one value, and so more than one run: python -m nin_repro.train -m {text} ... makes "
            "them all; a list is written [a,b]"
        )
    if swept and not override.is_discrete_sweep():  # which values these are, another sweeper than Hydra's own says
        return override.key_or_group, None
    values = [*override.sweep_string_iterator()] if swept else [_shown(override.value())]
    if not values:
        raise UsageError(f"{text} has no values, and so the sweep no runs; 'seed=range(3)' is 0, 1 and 2")
    twice = next((value for value in values if values.count(value) > 1), None)
    if twice is not None:
        raise UsageError(f"{text} asks for {twice} more than once, and that is one run: leave one out")
    return override.key_or_group, values


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)


def _require_choice(group: str, value: str) -> None:
    if value not in choices()[group]:
        other = f"conf/{group}/{value}.yml"
        if (conf.CONF.parent / other).is_file():
            raise UsageError(f"{other} is not read: rename it, so that it ends in .yaml")
        raise UsageError(
            f"{group}={value} is not a choice{nearest(value, choices()[group])}: {listed(group)}; see conf/{group}/"
        )
    if group == "experiment":
        _require_sound(value)


def _require_sound(experiment: str) -> None:
    """Refuse an experiment's file that takes choices that there are not, or lacks the line without which Hydra puts it
    below the key `experiment`."""
    file = f"experiment/{experiment}.yaml"
    with suppress(OSError, ValueError):  # of what cannot be read, Hydra says why
        if not re.search(r"^#\s*@package\s+_global_\s*$", (conf.CONF / file).read_text(encoding="utf-8"), re.MULTILINE):
            raise UsageError(f"conf/{file}: its first line is missing: # @package _global_")
    try:
        for group, choice in conf.overridden(experiment).items():
            if group in choices():
                _require_choice(group, _shown(choice))
            elif not group.startswith("hydra/"):
                raise UsageError(f"there is no group {group}{nearest(group, choices())}: {', '.join(choices())}")
    except conf.Doubt:
        pass
    except UsageError as error:
        raise UsageError(f"conf/{file}: {error}") from None


def listed(group: str) -> str:
    return ", ".join(choices()[group])


@cache
def _all_keys() -> list[str]:
    return keys(Config)


def is_key(name: str) -> bool:
    if any(re.fullmatch(path.replace(".", r"\.").replace("*", r"[^.]+"), name) for path in _all_keys()):
        return True
    return name in _own_keys(name)


def _own_keys(name: str) -> list[str]:
    """The keys of networks that are not built in, if `name` might be one of them: to know them they are imported."""
    kinds = own_kinds() if name.startswith("architecture.") else []
    return [path for kind in kinds for path in keys(settings(kind), "architecture.")]


def _block_keys(name: str) -> Iterator[str]:
    """Keys with `*` filled in as `name` has it, so that a typo after it is compared with the right words."""
    parts = name.split(".")
    for path in _all_keys():
        pattern = path.split(".")
        if "*" in pattern[:-1] and len(parts) > pattern.index("*"):
            pattern[pattern.index("*")] = parts[pattern.index("*")]
            yield ".".join(pattern)


def composing(error: BaseException) -> bool:
    """Whether an exception is of those with which Hydra, OmegaConf and the YAML parser refuse what they are given."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    return isinstance(error, (HydraException, OmegaConfBaseException, YAMLError, OSError, UnicodeDecodeError))


def explain(error: Exception) -> str:
    """One line for an exception that Hydra, OmegaConf or the YAML parser raised while composing."""
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError

    if isinstance(error.__cause__, (ConfigAttributeError, ConfigKeyError)):
        return _no_such_key(error.__cause__)
    parts = [_first_line(error)]
    if error.__cause__ is not None:
        parts.append(_first_line(error.__cause__))
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        parts = [f"{Path(mark.name).name}, line {mark.line + 1}: {getattr(error, 'problem', None) or parts[0]}"]
    return f"the configuration does not compose: {'; '.join(dict.fromkeys(parts))}; see conf/"


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).partition("Config search path")[0].splitlines() if line.strip()]
    several = len(lines) if any(line.startswith("Available options") for line in lines) else 2
    return " ".join(lines[:several]) if lines else type(error).__name__


def _no_such_key(error: Any) -> str:
    """One line for OmegaConf's refusal of a key that the composed configuration does not have."""
    name, near = error.full_key, error.parent_node
    if name.startswith("hydra.launcher.") and "BasicLauncher" in near.get("_target_", ""):
        return f"{name} is of a launcher, and none is chosen: add hydra/launcher=slurm, or see conf/hydra/launcher/"
    prefix = name.removesuffix(str(error.key))
    close = nearest(name, [f"{prefix}{key}" for key in near])
    there = f", but {', '.join(map(str, near))}" if near else f": {prefix.rstrip('.')} is empty"
    return f"there is no {name} in this configuration{close}{there}; see conf/"
