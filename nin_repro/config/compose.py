"""From the command line to a checked `Config`: Hydra composes, and every refusal becomes one line."""

import dataclasses
import json
import re
from collections.abc import Callable, Container, Mapping, Sequence
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING, Any, get_args

from nin_repro.config import conf
from nin_repro.config.check import WHERE, convert
from nin_repro.config.conf import CONF, choices
from nin_repro.config.idle import require_effect
from nin_repro.config.known import explain, require_known
from nin_repro.config.recipe import family, key, require_sense
from nin_repro.files import UsageError
from nin_repro.models.own import defaults, own_kinds
from nin_repro.schema import RECIPE, About, Config, Parent, Precision

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


def experiments() -> list[str]:
    """Names of all experiment files, such as "table1/nin"."""
    return choices()["experiment"]


def checked(composed: "DictConfig", words: Sequence[str] = ()) -> Config:
    """The schema's object for a composed configuration.

    A run with a parent needs to know that run's key, which depends on the `words` of the command line. It is noted in
    `composed` as well.

    Raises:
        UsageError: unknown or missing keys, wrong types, impossible values, combinations that make no sense.
    """
    from omegaconf import OmegaConf, open_dict
    from omegaconf.errors import OmegaConfBaseException

    try:
        plain: Any = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UsageError(explain(error)) from None
    plain.pop("hydra", None)
    config = _checked(plain, words)
    if config.parent is not None and not composed.parent.get("key"):
        with open_dict(composed.parent):  # a file may leave out what is worked out
            composed.parent.key, composed.parent.family = config.parent.key, config.parent.family
    return config


def _checked(plain: dict[str, Any], words: Sequence[str]) -> Config:
    _settle_pads(plain.get("architecture"), "architecture")
    config: Config = convert(Config, plain, "")
    config = dataclasses.replace(config, about=_still_true(config.about, plain, words))
    require_sense(config)
    require_effect(config, plain, words)
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
    if own is not None:
        _settle_pads(own.get("architecture"), "architecture")
    kept = []
    for line in about.deviations:
        keyed = re.fullmatch(r"(.*) \[([\w.]+)\]", line)
        text, path = keyed.groups() if keyed else (line, "")
        if own is None or not path or conf.at(plain, path) == conf.at(own, path):
            kept.append(text)
    return dataclasses.replace(about, deviations=kept)


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
    """The command line of a run's parent: what the run's own says of data set, budget, seed, restarts, precision and
    validation, and of nothing that is part of a recipe besides."""
    kept = []
    for word in words:
        group = re.split(r"[.=]", word)[0]
        of_recipe = group in RECIPE and group not in ("dataset", "budget", "seed", "restarts", "precision")
        if word == "protocol=validate" or not (of_recipe or group in ("experiment", "hydra")):
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
