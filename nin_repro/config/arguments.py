"""The words of a command line, before any is given to Hydra: which may be there, in which order, what they name."""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from nin_repro.config.check import WHERE, nearest
from nin_repro.config.conf import choices
from nin_repro.config.known import is_key, listed
from nin_repro.files import UsageError

# Hydra's options, those of them that another word belongs to, and what that may be where little may.
_PLACES = ("-cp", "--config-path", "-cn", "--config-name", "-cd", "--config-dir")
TAKE_ONE = (*_PLACES, "-c", "--cfg", "-p", "--package", "--experimental-rerun", "-i", "--info")
_SHOWN, _TOLD = ("job", "hydra", "all"), ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
VALUES = {"-c": _SHOWN, "--cfg": _SHOWN, "-i": _TOLD, "--info": _TOLD}
SWEEP = ("-m", "--multirun")
HELP = ("-h", "--help")
OPTIONS = (*TAKE_ONE, *SWEEP, *HELP, "--hydra-help", "--version", "--resolve", "-r", "--run")
RUN = ("experiment", "dataset", "architecture", "regularizer", "optimizer")  # which of them are meant says which run
NO_RUN = "no run is named: experiment=quickstart takes half a minute, experiment=table1/nin is the paper's own; "
NO_RUN += "python -m nin_repro.train --help lists all"


def require_run(words: Sequence[str]) -> None:
    """Refuse what a user gives for a run if nothing in it says which run it is.

    Raises:
        UsageError: that is so.
    """
    asks = any(word[:1] == "-" and word not in SWEEP for word in words)  # to be shown something
    if not asks and not any(word.startswith(RUN) for word in words):
        raise UsageError(NO_RUN)


def in_order(words: Sequence[str], options: Sequence[str] = (*SWEEP, *HELP)) -> list[str]:
    """A command line with `-m` before the rest, where Hydra wants it. `options`: that are taken.

    Raises:
        UsageError: it is empty, or a word of it is neither such an option nor key=value.
    """
    if not {*words} - {*SWEEP}:
        raise UsageError(NO_RUN)
    sweep = [word for word in words if word in SWEEP]
    others = [word for word in words if word not in SWEEP]
    for before, word in zip(["", *others], [*others, None], strict=True):
        if before in TAKE_ONE and before in options:
            _require_value(before, word or "")
        elif word is None:
            break
        else:
            _require_word(word, options)
    return [*sweep[:1], *others]


def _require_value(option: str, value: str) -> None:
    """Refuse an option that takes another word, and has none or not one of its own."""
    allowed = VALUES.get(option, (value,))
    if not value or value not in allowed:
        raise UsageError(f"{option} needs {' or '.join(allowed) or 'a word'} after it")


def _require_word(word: str, options: Sequence[str]) -> None:
    """Refuse a word that is no option and not of the form key=value."""
    name, equals, value = word.partition("=")
    if word in options or (word[:1] in ("+", "~") and word.strip("+~")) or (equals and word[:1] not in ("-", "=")):
        return
    if equals and name in TAKE_ONE and name in options:
        _require_value(name, value)
        return
    key = name.lstrip("-")
    if word[:1] == "-" and (equals or key in choices() or is_key(key)):
        raise UsageError(f"there is no option {word}; all else has no dashes: {key}={value or '...'}")
    if word[:1] == "-":
        raise UsageError(f"there is no option {word}{nearest(word, options)}; all else is given as key=value")
    known = [f"{group}={name}" for group, names in choices().items() for name in names]
    same = [choice for choice in known if choice.endswith(f"={word}")] or known
    raise UsageError(f"{word or repr(word)} is not of the form key=value{nearest(word, same)}; {WHERE}")


def expand(overrides: Sequence[str]) -> list[str]:
    """Write out what Hydra does not know of groups whose files lie in several directories, as the experiments do.

    `experiment=glob(table5/*)` becomes the choices it matches, `*` matching "/" too; `experiment/table1=nin`, which
    shells complete to, becomes `experiment=table1/nin`.

    Raises:
        UsageError: nothing matches.
    """
    expanded = []
    for override in overrides:
        nested = re.fullmatch(r"(\w+)/([\w/]+)=([\w,]+)", override)
        if nested and nested[1] in choices():
            override = f"{nested[1]}=" + ",".join(f"{nested[2]}/{name}" for name in nested[3].split(","))
        match = re.fullmatch(r"(\w+)=glob\((.+)\)", override)
        if match and match[1] in choices():
            names = [name for name in choices()[match[1]] if fnmatchcase(name, match[2].strip("'\""))]
            if not names:
                raise UsageError(f"{override} matches none of {listed(match[1])}")
            override = f"{match[1]}={','.join(names)}"
        expanded.append(override)
    return expanded
