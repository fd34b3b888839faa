"""Turning plain dictionaries into the schema's objects, or into one line that says what is wrong with them."""

import dataclasses
import difflib
import functools
import math
import re
import types
from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from nin_repro.files import UsageError
from nin_repro.models.own import own_kinds, settings
from nin_repro.schema import Own, Range, default

LONGEST = 1000  # characters of a word
WHERE = "all keys: python -m nin_repro.train --help"


def nearest(word: str, choices: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the closest choice, or nothing when none is close.

    The case of letters does not count. Of a right name in the wrong place all its right places are told.
    """
    pool = {choice.lower(): choice for choice in choices}
    ends: dict[str, list[str]] = {}
    for lower, choice in pool.items():
        ends.setdefault(_end(lower), []).append(choice)
    word, end = word.lower(), _end(word.lower())
    if word in pool:
        found = [pool[word]]
    elif end in ends:
        found = ends[end]
    elif close := difflib.get_close_matches(word, pool, n=1, cutoff=0.5):
        found = [pool[close[0]]]
    else:
        found = [name for close in difflib.get_close_matches(end, ends, n=1, cutoff=0.75) for name in ends[close]]
    return f" (did you mean {' or '.join(map(repr, found))}?)" if found else ""


def _end(name: str) -> str:
    """The last component of a key, or of an experiment's name."""
    return re.split("[./=]", name)[-1]


@functools.cache
def hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


def convert(kind: Any, value: Any, path: str) -> Any:
    """`value` as the annotation `kind` wants it.

    An int is taken for a float, and a float with an integral value for nothing but a float: 1.0 is not a count.

    Raises:
        UsageError: wrong type, out of range, unknown or missing key; the line names `path`.
    """
    origin = get_origin(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _object(kind, value, path)
    if origin is Annotated:
        base, *notes = get_args(kind)
        converted = convert(base, value, path)
        for note in notes:
            if isinstance(note, Range) and not note.holds(converted):
                raise UsageError(f"{path}={value} is impossible: it must be {note}; {WHERE}")
        return converted
    if origin in (Union, types.UnionType):
        return _union(get_args(kind), value, path)
    if origin is Literal:
        return choice(value, get_args(kind), path)
    if origin is list:
        if not isinstance(value, list):
            raise _wrong(path, value, "a list such as [1, 2]")
        return [convert(get_args(kind)[0], item, f"{path}[{i}]") for i, item in enumerate(value)]
    if origin is dict:
        if not isinstance(value, Mapping):
            raise _wrong(path, value, "a group of named entries")
        return {str(name): convert(get_args(kind)[1], item, f"{path}.{name}") for name, item in value.items()}
    return _scalar(kind, value, path)


def choice(value: Any, choices: Collection[Any], path: str, where: str = WHERE) -> Any:
    """`value`, if it is one of `choices`, which stand `where`. Raises UsageError if not."""
    if value not in choices or isinstance(value, bool):
        listed = ", ".join(map(str, choices))
        raise UsageError(f"{path}={value} is not a choice{nearest(str(value), map(str, choices))}: {listed}; {where}")
    return value


def _object(cls: type, value: Any, path: str) -> Any:
    if not isinstance(value, Mapping):
        raise _wrong(path, value, "a group of keys")
    prefix = f"{path}." if path else ""
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for name in value:
        if name not in fields:
            near = nearest(f"{prefix}{name}", [f"{prefix}{known}" for known in fields])
            raise UsageError(f"there is no key {prefix}{name}{near}; {WHERE}")
    converted = {}
    for name, kind in hints(cls).items():
        if name in value:
            converted[name] = convert(kind, value[name], f"{prefix}{name}")
        elif default(fields[name]) is dataclasses.MISSING:
            raise UsageError(f"the key {prefix}{name} is missing; {WHERE}")
    return cls(**converted)


def _union(kinds: tuple[Any, ...], value: Any, path: str) -> Any:
    if value is None and types.NoneType in kinds:
        return None
    others = [kind for kind in kinds if kind is not types.NoneType]
    if len(others) == 1:
        try:
            return convert(others[0], value, path)
        except UsageError:
            if isinstance(value, str) and value.lower() in ("", "none", "nil", "off", "no"):
                raise UsageError(f"{path}={value} has the wrong type: none is written {path}=null; {WHERE}") from None
            raise
    if isinstance(value, Mapping) and all(map(dataclasses.is_dataclass, others)):
        choices = {get_args(hints(kind)["kind"])[0]: kind for kind in others if kind is not Own}
        own = own_kinds() if Own in others else []
        word = choice(str(value.get("kind")), [*choices, *own], f"{path}.kind")
        return convert(settings(word) if word in own else choices[word], value, path)
    problems = []
    for kind in others:
        try:
            return convert(kind, value, path)
        except UsageError as problem:
            problems.append(problem)
    words = [word for kind in others if get_origin(kind) is Literal for word in get_args(kind)]
    if words and isinstance(value, str):
        raise UsageError(
            f"{path}={value} is neither a number nor one of {', '.join(words)}{nearest(value, words)}; {WHERE}"
        )
    raise problems[0]


def _scalar(kind: Any, value: Any, path: str) -> Any:
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)  # a name made of digits
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise _wrong(path, value, words[kind])
    if kind is str and not (value.isprintable() and len(value) <= LONGEST):
        shown = ascii(value[:40])[1:-1] + "..." * (len(value) > 40)
        raise UsageError(f"{path}={shown} has characters that cannot be shown, or more than {LONGEST:,}; {WHERE}")
    if kind is float and not math.isfinite(value):
        raise _wrong(path, value, "a finite number")
    return value


def _wrong(path: str, value: Any, wanted: str) -> UsageError:
    shown = "null" if value is None else str(value)
    return UsageError(f"{path}={shown} has the wrong type: it must be {wanted}; {WHERE}")


def keys(cls: type, prefix: str = "") -> list[str]:
    """Every dotted key of a schema class; `*` stands for a name that the user chooses."""
    found = []
    for name, kind in hints(cls).items():
        path = f"{prefix}{name}"
        found.append(path)
        if get_origin(kind) is dict:
            found.append(f"{path}.*")
            found.extend(keys(get_args(kind)[1], f"{path}.*."))
        for one in get_args(kind) or (kind,):
            if dataclasses.is_dataclass(one) and isinstance(one, type) and get_origin(kind) is not dict:
                found.extend(keys(one, f"{path}."))
    return list(dict.fromkeys(found))
