"""Which keys do nothing, given the others: no source could tell them, and to set one only makes another recipe."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from nin_repro.config.conf import at, choices, composed
from nin_repro.files import UsageError
from nin_repro.models.own import BUILT_IN_HEADS
from nin_repro.schema import Cnn, Config, Maxout, Nin, Own, Schedule, idle_in_regularizer


def idle(config: Config) -> list[str]:
    """Patterns of keys that are there and do nothing."""
    regularizer, architecture = config.regularizer, config.architecture
    found = [f"optimizer.schedule.{name}" for name in _idle_schedule(config.optimizer.schedule)]
    if config.optimizer.schedule.kind == "parent":
        found.append("optimizer.momentum")
    names = idle_in_regularizer(regularizer.dropout, regularizer.head, regularizer.head_dropout)
    found += [f"regularizer.{name}" for name in names]
    if isinstance(architecture, Maxout):
        found += ["regularizer.fc_std", "optimizer.last_layer_factor", "optimizer.last_layer_bias_factor"]
    if isinstance(architecture, Nin):
        found += [] if architecture.init == "normal" else ["architecture.blocks.*.std"]
        for name, block in architecture.blocks.items():
            found += [f"architecture.blocks.{name}.pool_*"] if block.pool == "none" else []
    if isinstance(architecture, Cnn) and not any(block.response_norm for block in architecture.blocks.values()):
        found.append("architecture.response_norm.*")
    return found


# What each kind of schedule goes by.
BY_KIND = {
    "drops": {"drops", "factor", "bias_drops"},
    "plateau": {"patience", "plateau_drops", "factor", "bias_drops"},
    "linear": {"decay_epochs", "factor", "bias_drops"},
    "exponential": {"floor", "factor", "bias_drops"},
    "parent": {"bias_drops"},
}


def _idle_schedule(schedule: Schedule) -> set[str]:
    used = {"drops"} if schedule.kind == "drops" and not schedule.drops else BY_KIND[schedule.kind]
    if schedule.kind != "parent":
        used = used | ({"momentum_epochs", "momentum_final"} if schedule.momentum_epochs else {"momentum_epochs"})
    if schedule.stop == "validation":
        used = used | {"stop_patience"}
    return {"momentum_epochs", "momentum_final", "stop_patience"}.union(*BY_KIND.values()) - used


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


def require_effect(config: Config, plain: Mapping[str, Any], words: Sequence[str]) -> None:
    """Refuse a word of these keys that does nothing beside the others: it would make another recipe, whose runs fill
    no cell. That files have such values is no fault, and networks and heads that are not built in may mean others.
    Refuse likewise the name of a data set that is given the preprocessing of another by no word.

    Raises:
        UsageError: names what the key goes with.
    """
    names = [word.partition("=")[0] for word in words]
    built_in = not isinstance(config.architecture, Own) and config.regularizer.head in BUILT_IN_HEADS
    if not built_in or "optimizer.kind" in names:  # which only a whole recipe has, as describe prints it
        return
    patterns = idle(config)
    own = composed([word for word, name in zip(words, names, strict=True) if name in choices()])
    chosen, asked = at(own, "dataset.name"), config.dataset.name
    alone = "dataset.name" in names and not any(name.startswith("dataset.preprocessing") for name in names)
    if alone and chosen not in (None, asked) and asked in choices()["dataset"]:
        raise UsageError(
            f"dataset.name={asked} alone leaves the preprocessing that is of {chosen}: choose dataset={asked}, or set "
            "dataset.preprocessing too"
        )
    for name in names:
        goes_with = next((what for key, what in GOES_WITH.items() if fnmatchcase(name, key)), None)
        idles = goes_with and any(fnmatchcase(name, pattern) for pattern in patterns)
        if idles and at(own, name) not in (None, at(plain, name)):
            raise UsageError(
                f"{name}={at(plain, name)} does nothing here but make another recipe, which fills no cell: leave it "
                f"out, or choose {goes_with}"
            )
