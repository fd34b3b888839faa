"""From the command line to a checked `Config`: Hydra composes, and every refusal becomes one line."""

import dataclasses
import json
import re
from collections.abc import Callable, Container, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING, Any, get_args

from nin_repro.config import conf
from nin_repro.config.check import WHERE, convert, nearest
from nin_repro.config.conf import CONF, choices
from nin_repro.config.idle import idle
from nin_repro.config.known import explain, is_key, listed, require_known
from nin_repro.config.recipe import family, key, require_sense
from nin_repro.files import UsageError
from nin_repro.models.own import defaults, own_kinds
from nin_repro.schema import RECIPE, About, Config, Own, Parent, Precision

if TYPE_CHECKING:
    from omegaconf import DictConfig


def offer_own() -> None:
    """Let Hydra compose networks that are not built in as if each had a file in conf/architecture."""
    from hydra.core.config_store import ConfigNode, ConfigStore
    from omegaconf import DictConfig, OmegaConf

    class Offered(ConfigNode):
        """Hydra's store makes a copy of what it composes. Only then is the network imported, to know its settings."""

        def __copy__(self) -> ConfigNode:
            node = OmegaConf.create(defaults(self.name.removesuffix(".yaml")))
            return ConfigNode(self.name, node, self.group, self.package, self.provider)

    folder = ConfigStore.instance().repo.setdefault("architecture", {})
    for kind in own_kinds():
        folder[f"{kind}.yaml"] = Offered(f"{kind}.yaml", DictConfig({}), "architecture", None, None)


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
NO_RUN += "--help lists all"


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


def experiments() -> list[str]:
    """Names of all experiment files, such as "table1/nin"."""
    return choices()["experiment"]


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


def checked(composed: "DictConfig", words: Sequence[str] = ()) -> Config:
    """The schema's object for a composed configuration.

    A run with a parent needs to know that run's key, which depends on the `words` of the command line. It is noted in
    `composed` as well.

    Raises:
        UsageError: unknown or missing keys, wrong types, impossible values, combinations that make no sense.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        plain: Any = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UsageError(explain(error)) from None
    plain.pop("hydra", None)
    config = _checked(plain, words)
    if config.parent is not None and not composed.parent.get("key"):
        composed.parent.key, composed.parent.family = config.parent.key, config.parent.family
    return config


def _checked(plain: dict[str, Any], words: Sequence[str]) -> Config:
    _settle_pads(plain.get("architecture"), "architecture")
    config: Config = convert(Config, plain, "")
    config = dataclasses.replace(config, about=_still_true(config.about, plain, words))
    require_sense(config)
    _require_effect(config, plain, words)
    if config.parent is None or config.parent.key:
        return config
    parent = load(parent_words(config.parent, words))
    _require_like(parent, config)
    named = dataclasses.replace(config.parent, key=key(parent), family=family(parent))
    return dataclasses.replace(config, parent=named)


def _still_true(about: About, plain: Mapping[str, Any], words: Sequence[str]) -> About:
    """Without the deviations whose key, in square brackets at their end, is not as the experiment's own file has it;
    and without brackets. What a run's `words` set otherwise, its command tells."""
    experiment = [word for word in words if word.startswith("experiment=")]
    own = conf.composed(experiment) if about.deviations and experiment != list(words) else None
    kept = []
    for line in about.deviations:
        text, _, path = line.rstrip("]").partition(" [")
        if own is None or not path or _at(plain, path) == _at(own, path):
            kept.append(text)
    return dataclasses.replace(about, deviations=kept)


GOES_WITH = {
    "regularizer.fc_*": "a fully connected head of nin or cnn, such as regularizer=fc",
    "regularizer.convention": "dropout, such as regularizer=gap_dropout",
    "optimizer.schedule.p*": "optimizer.schedule.kind=plateau",
    "optimizer.schedule.decay_epochs": "optimizer.schedule.kind=linear",
    "optimizer.schedule.floor": "optimizer.schedule.kind=exponential",
    "optimizer.schedule.momentum_final": "optimizer.schedule.momentum_epochs",
    "optimizer.schedule.stop_patience": "optimizer.schedule.stop=validation",
    "architecture.blocks.*.pool_*": "pool=max or pool=avg in its block",
}


def _require_effect(config: Config, plain: Mapping[str, Any], words: Sequence[str]) -> None:
    """Refuse a word of these keys that does nothing beside the others: it would make another recipe, whose runs fill
    no cell. That files have such values is no fault, and networks and heads that are not built in may mean others.
    Refuse likewise the name of a data set that is given the preprocessing of another by no word.

    Raises:
        UsageError: names what the key goes with.
    """
    names = [word.partition("=")[0] for word in words]
    built_in = not isinstance(config.architecture, Own) and config.regularizer.head in ("gap", "fc")
    if not built_in or "optimizer.kind" in names:  # which only a whole recipe has, as describe prints it
        return
    patterns = idle(config)
    own = conf.composed([word for word, name in zip(words, names, strict=True) if name in choices()])
    chosen, asked = _at(own, "dataset.name"), config.dataset.name
    alone = "dataset.name" in names and not any(name.startswith("dataset.preprocessing") for name in names)
    if alone and chosen not in (None, asked) and asked in choices()["dataset"]:
        raise UsageError(
            f"dataset.name={asked} alone leaves the preprocessing that is of {chosen}: choose dataset={asked}, or set "
            "dataset.preprocessing too"
        )
    for name in names:
        goes_with = next((what for key, what in GOES_WITH.items() if fnmatchcase(name, key)), None)
        idles = goes_with and any(fnmatchcase(name, pattern) for pattern in patterns)
        if idles and _at(own, name) not in (None, _at(plain, name)):
            raise UsageError(
                f"{name}={_at(plain, name)} does nothing here but make another recipe, which fills no cell: leave it "
                f"out, or choose {goes_with}"
            )


def _at(config: Any, path: str) -> Any:
    """What stands at a dotted key; None where there is no such key."""
    for name in path.split("."):
        config = config.get(name) if isinstance(config, dict) else None
    return config


def _require_like(parent: Config, child: Config) -> None:
    """Refuse a run whose parent is of other images or of another budget: only the command line speaks to both.

    Raises:
        UsageError: it is so, as the experiment's file says it for the child alone.
    """
    compared = [("dataset", child.dataset.name, parent.dataset.name), ("seed", child.seed, parent.seed)]
    theirs = dataclasses.asdict(parent.budget)
    compared += [(f"budget.{name}", value, theirs[name]) for name, value in dataclasses.asdict(child.budget).items()]
    if child.protocol == "validate":  # else the parent would train on the images that the child is judged by
        compared.append(("protocol", child.protocol, parent.protocol))
    apart = [
        f"{name}={json.dumps(value)} and not {json.dumps(its)}".replace('"', "")
        for name, value, its in compared
        if value != its and name != "budget.name"
    ]
    if apart:
        assert child.parent is not None
        raise UsageError(
            f"this run has {', '.join(apart)} as its parent {child.parent.experiment}: what the file of an experiment "
            f"says of these it says of one of the two; give them on the command line; {WHERE}"
        )


def parents(config: Config, words: Sequence[str]) -> dict[str, Config]:
    """The experiments that a run of these words starts from, the nearest first, each as it trains before the run."""
    found: dict[str, Config] = {}
    while config.parent is not None:
        name, words = config.parent.experiment, parent_words(config.parent, words)
        config = found[name] = load(words)
    return found


def stand_ins(config: Config, words: Sequence[str]) -> tuple[Config, ...]:
    """What a command line asks for in the other precisions, in which its parents are trained too."""
    others = [name for name in get_args(Precision) if name != config.precision]
    if config.parent is None:
        return tuple(dataclasses.replace(config, precision=name) for name in others)
    rest = [word for word in words if not word.startswith("precision=")]
    return tuple(load([*rest, f"precision={name}"]) for name in others)


def parent_words(parent: Parent, words: Sequence[str]) -> list[str]:
    """The command line of a run's parent: what the run's own says of data set, budget, seed, precision, and of nothing
    that is part of a recipe besides."""
    kept = []
    for word in words:
        group = re.split(r"[.=]", word)[0]
        of_recipe = group in RECIPE and group not in ("dataset", "budget", "seed", "restarts", "precision")
        if word == "protocol=validate" or not (of_recipe or group in ("experiment", "about", "hydra")):
            kept.append(word)
    return [f"experiment={parent.experiment}", *kept]


def _settle_pads(value: Any, path: str) -> None:
    """Put a number where `pad: same` stands beside a kernel, so that a recipe holds the number alone.

    Raises:
        UsageError: an even kernel has no such number; or it is so much that whole windows lie outside.
    """
    if not isinstance(value, dict):
        return
    for name, inner in value.items():
        _settle_pads(inner, f"{path}.{name}")
    kernel, pad = value.get("kernel"), value.get("pad")
    if type(pad) is int and type(kernel) is int and pad >= kernel > 0:
        raise UsageError(
            f"{path}.pad={pad} puts whole windows of kernel={kernel} outside of the image: give at most {kernel - 1}, "
            f"or 'same'; {WHERE}"
        )
    if pad == "same" and type(kernel) is int:
        if kernel % 2 == 0:
            raise UsageError(
                f"{path}.pad=same needs an odd kernel, such as {max(kernel, 0) + 1}, not {kernel}: a window of even "
                f"size has no middle; or give the pad as a number; {WHERE}"
            )
        value["pad"] = (kernel - 1) // 2


def refuse_early(words: Sequence[str]) -> None:
    """Refuse what can be refused before Hydra is imported.

    Raises:
        UsageError: as `checked`.
    """
    plain = conf.composed(words)
    if plain is not None:
        _checked(plain, words)


def load(overrides: Sequence[str]) -> Config:
    """Compose and check a configuration outside of Hydra's own command line.

    Raises:
        UsageError: see `require_known` and `checked`.
    """
    return _loaded(tuple(overrides))


@cache  # the stages of one staged training ask for each other's
def _loaded(overrides: tuple[str, ...]) -> Config:
    require_known(overrides)
    plain = conf.composed(overrides)
    try:
        return _composed(overrides)[0] if plain is None else _checked(plain, overrides)
    except UsageError as error:
        name = overrides[0].partition("experiment=")[2] if len(overrides) == 1 else ""
        if not name:
            raise
        raise UsageError(f"conf/experiment/{name}.yaml: {error}") from None  # no other word is to blame


def load_all(needed: Container[str] = (), warn: Callable[[str], None] = lambda line: None) -> dict[str, Config]:
    """Every experiment as its file has it, by name.

    Args:
        needed: those that there must be; others that cannot be loaded, as while somebody writes them, are left out.
        warn: gets a line about each that is.

    Raises:
        UsageError: a needed one cannot be loaded.
    """
    found = {}
    for name in experiments():
        try:
            found[name] = load([f"experiment={name}"])
        except (UsageError, UnicodeDecodeError) as error:
            if name in needed:
                raise
            warn(f"conf/experiment/{name}.yaml is left out: {error}")
    return found


def load_with_text(overrides: Sequence[str]) -> tuple[Config, str]:
    """As `load`; also the configuration as YAML."""
    require_known(overrides)
    found, composed = _composed(tuple(overrides))
    return found, to_yaml(composed)


ONE_HYDRA = Lock()  # it is one for the whole process, and runs in threads (`together`) ask for their parents'


@cache
def _composed(overrides: tuple[str, ...]) -> tuple[Config, "DictConfig"]:
    """Hydra's composition."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    with ONE_HYDRA:
        offer_own()
        running = GlobalHydra.instance().hydra  # inside of a command that Hydra runs there is one: it must step aside
        GlobalHydra.instance().clear()
        try:
            with initialize_config_dir(str(CONF), version_base="1.3"):
                composed = compose("train", list(overrides))
        except UsageError:
            raise
        except Exception as error:
            raise UsageError(explain(error)) from None
        finally:
            GlobalHydra.instance().hydra = running
    return checked(composed, overrides), composed


def to_yaml(composed: "DictConfig") -> str:
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(composed, resolve=True)
