"""Which source every number of conf/ is from, as its files say.

A comment on a key's line that opens with the name of a source (results/fidelity.SOURCES), `assumed` or `deviates` is
the origin of that value: `lr: 0.1  # MAV, params: epsW 1 x coefficient 0.1`. On a key with keys below it, it is that
of all of them that say nothing themselves; in a line `# Source: ...` at the top, that of the whole file. It may go on
in comment lines right under it. On an entry of `defaults:` it says who has these numbers too, or why they are taken,
and comes before what that entry's file says, but where that file assumes or deviates. Other comments are left alone.
"""

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nin_repro.config.idle import idle
from nin_repro.files import UsageError
from nin_repro.models.own import own_kinds
from nin_repro.results.fidelity import SOURCES, Choice, Fact, Provenance, source_of
from nin_repro.schema import Config, given

if TYPE_CHECKING:
    from yaml import Node

GROUPS = ("dataset", "architecture", "regularizer", "optimizer")
SHOWN = (*GROUPS, "protocol", "restarts", "parent")  # of schema.RECIPE; budgets and seeds are not the sources' matter
NAMES = {"dataset.name", "architecture.kind", "optimizer.kind", "parent.key"}  # tell which, not how much


@dataclass(frozen=True)
class Origin:
    """What a file says of a value. `text` is empty where it says nothing; `own`: on the very line of the value."""

    text: str = ""
    own: bool = False
    experiment: bool = False  # said by an experiment file

    def through(self, why: str) -> "Origin":
        """As taken over by who says `why`, which does not turn into fact what is assumed."""
        return self if not why or source_of(self.text) in ("assumed", "deviates") else replace(self, text=why)


class File(NamedTuple):
    origins: dict[str, Origin]  # of all keys that it sets, within its group
    defaults: list[tuple[str, str, str]]  # group or "", choice, why


def provenance(conf: Path, name: str, config: Config) -> Provenance:
    """The choices and facts of an experiment, composed to `config`.

    Raises:
        UsageError: a comment names no known source.
    """
    train, own = read(conf / "train.yaml"), read(conf / "experiment" / f"{name}.yaml")
    chosen = {group: Choice(choice, why) for group, choice, why in train.defaults + own.defaults if group in GROUPS}
    origins = dict(train.origins)
    for group, choice in chosen.items():
        origins |= {f"{group}.{key}": origin for key, origin in of_choice(conf, group, choice.name).items()}
    origins |= {key: replace(origin, experiment=True) for key, origin in own.origins.items()}
    facts = []
    for key, value, at_default in values(config):
        origin = origins.get(key, Origin())
        if not at_default or origin.own:
            facts.append(Fact(key, value, origin.text, origin.experiment))
    return Provenance(chosen, tuple(facts))


def active(provenance: Provenance, config: Config) -> Provenance:
    """Without the facts that do nothing."""
    patterns = idle(config)
    kept = (fact for fact in provenance.facts if not any(fnmatchcase(fact.key, pattern) for pattern in patterns))
    return Provenance(provenance.choices, tuple(kept))


def of_choice(conf: Path, group: str, choice: str) -> dict[str, Origin]:
    """The origins of a group's file, with those of what it inherits from others of the group."""
    if group == "architecture" and choice in own_kinds():  # it has no file: its defaults are in its code
        return {}
    own = read(conf / group / f"{choice}.yaml")
    origins: dict[str, Origin] = {}
    for _, name, why in own.defaults or [("", "_self_", "")]:
        base = own.origins if name == "_self_" else of_choice(conf, group, name)
        origins |= {key: origin.through(why) for key, origin in base.items()}
    return origins


def values(config: Config) -> Iterator[tuple[str, Any, bool]]:
    """(key, value, whether it holds the default that recipes leave out) of everything that a source can tell."""

    def below(value: Any, path: str, at_default: bool) -> Iterator[tuple[str, Any, bool]]:
        if hasattr(value, "__dataclass_fields__"):
            kept = given(value)
            for name in value.__dataclass_fields__:
                yield from below(getattr(value, name), f"{path}.{name}", name not in kept)
        elif isinstance(value, dict):
            for name, item in value.items():
                yield from below(item, f"{path}.{name}", at_default)
        elif path not in NAMES:
            yield path, value, at_default

    for name in SHOWN:
        if name in given(config):
            yield from below(getattr(config, name), name, False)


@functools.cache
def read(path: Path) -> File:
    """What one file says by itself.

    Raises:
        UsageError: a comment names no known source.
    """
    import yaml

    rows = path.read_text("utf-8").splitlines()
    root = yaml.compose("\n".join(rows), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    header = next((row for row in rows if row.startswith("# Source: ")), "").removeprefix("# Source: ")
    found = File({}, [])
    assert isinstance(root, yaml.MappingNode), path
    if header and not _is_origin(header, path):
        raise UsageError(f"{path}: '# Source: {header}' names none of {', '.join(SOURCES)}")
    for key, node in root.value:
        if key.value == "defaults":
            found.defaults.extend(_default(item, rows, path) for item in node.value)
        else:
            _walk(key, node, "", header, found, rows, path)
    return found


def _walk(key: "Node", node: "Node", prefix: str, above: str, found: File, rows: list[str], path: Path) -> None:
    """Note the origins of `node`, the value of `key`; `above` is that of the nearest key around it that has one."""
    name = f"{prefix}{key.value}"
    deeper = node.id == "mapping" and node.value
    said = _comment(key if deeper else node, rows, path)
    if deeper:
        for inner_key, inner in node.value:
            _walk(inner_key, inner, f"{name}.", said or above, found, rows, path)
        return
    found.origins[name] = Origin(said or above, own=bool(said))


def _default(item: "Node", rows: list[str], path: Path) -> tuple[str, str, str]:
    """An entry of a defaults list: `sgd`, `dataset: cifar10` or `override /dataset: cifar10`, and its comment."""
    why = _comment(item.value[0][1] if item.id == "mapping" else item, rows, path)
    if item.id == "mapping":
        ((key, choice),) = item.value
        return key.value.rpartition("/")[2], choice.value, why
    return "", item.value, why


def _comment(node: "Node", rows: list[str], path: Path) -> str:
    """The origin in the comment after `node`, with the comment lines right under it; empty if there is none."""
    line, column = node.end_mark.line, node.end_mark.column
    match = re.match(r":?\s*(# ?)(.*)", rows[line][column:]) if line < len(rows) else None
    if match is None or not _is_origin(match[2], path):
        return ""
    start, text = column + match.start(1), [match[2].strip()]
    for row in rows[line + 1 :]:
        if row.find("#") != start or row[:start].strip():
            break
        text.append(row[start + 1 :].strip())
    return " ".join(text)


def _is_origin(comment: str, path: Path) -> bool:
    """Whether a comment opens with the name of a source.

    Raises:
        UsageError: it opens with what looks like one.
    """
    if source_of(comment) in SOURCES:
        return True
    if re.match(r"[A-Z0-9]{2,}[,:] ", comment):
        raise UsageError(f"{path}: '# {comment}' opens with no source there is: {', '.join(SOURCES)}")
    return False
