"""The recipe of a run, its key, and the rules that no single key can state."""

import dataclasses
import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

from nin_repro.config.check import choice
from nin_repro.data.sources import DATASETS, HERE
from nin_repro.files import UsageError
from nin_repro.models.own import code_of
from nin_repro.models.spec import layers
from nin_repro.schema import HEADS, LABELS, RECIPE, Cnn, Config, Maxout, Nin, Own, given
from nin_repro.training.schedule import speed

# Raised when the same recipe starts to mean another computation. It moves every key, and is meant to.
MEANING = 1


def recipe(config: Config) -> dict[str, Any]:
    """All that decides the result, as plain JSON values. See `schema` for what is left out and why."""
    values = given(config)
    found = {name: _plain(values[name]) for name in RECIPE if name in values}
    for group, labels in LABELS.items():
        for label in labels:
            found.get(group, {}).pop(label, None)
    code = code_of(config.architecture.kind, config.regularizer.head)  # what is built in is told by the commit
    return {"meaning": MEANING, **found, **({"code": code} if code else {})}


def _plain(value: Any, own: bool = False) -> Any:
    """`own`: of the settings of somebody's own network, of whose names nothing is known."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        own = own or isinstance(value, Own)
        return {name: _plain(item, own) for name, item in given(value).items()}
    if isinstance(value, dict) and own:
        return {name: _plain(item, own) for name, item in value.items()}
    if isinstance(value, dict):  # named blocks: their order decides, their names do not
        return [_plain(item) for item in value.values()]
    if isinstance(value, list):
        return [_plain(item, own) for item in value]
    return value


def digest(value: Any) -> str:
    """12 hexadecimal digits of the SHA-256 of the canonical JSON of `value`."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def key(config: Config) -> str:
    """The name of this run: the digest of its recipe."""
    return digest(recipe(config))


def family(config: Config) -> str:
    """The name of all runs that differ from this one in nothing but the seed: what a table's cell averages over.

    A parent has the seed of its child, so here it counts by its own family.
    """
    found = {name: value for name, value in recipe(config).items() if name != "seed"}
    if config.parent is not None:
        found["parent"] = found["parent"] | {"key": config.parent.family}
    return digest(found)


def directory(config: Config) -> Path:
    """Where the run lives. The words before the key are there to be read; the key alone decides."""
    name = f"{config.dataset.name}-{config.architecture.kind}-seed{config.seed}-{key(config)}"
    return Path(config.runs_dir) / name


def budget_name(config: Config) -> str:
    """What the tables call this run's budget: `paper` only when nothing was taken away."""
    budget = config.budget
    if budget.epochs is None and budget.train_images is None and budget.max_steps is None:
        return "paper"
    return budget.name if budget.name != "paper" else "custom"


def require_sense(config: Config) -> None:
    """Refuse combinations of keys that are fine one by one and make no sense together.

    Raises:
        UsageError: with the choices that do make sense.
    """
    choice(config.dataset.name, DATASETS, "dataset.name", f"one of your own is a line in DATASETS of {HERE}")
    choice(config.regularizer.head, HEADS, "regularizer.head")
    preprocessing = config.dataset.preprocessing
    if preprocessing.zca is not None and preprocessing.mean != "none":
        raise UsageError(
            f"dataset.preprocessing.mean={preprocessing.mean} makes no sense with zca, which subtracts its own mean: "
            "choose mean=none or zca=null"
        )
    if preprocessing.gcn is not None and preprocessing.gcn_std_bias is not None:
        raise UsageError(
            "dataset.preprocessing.gcn and gcn_std_bias are two ways to normalise the contrast: set one of them to null"
        )
    _require_head(config)
    _require_schedule(config)
    images, asked = DATASETS[config.dataset.name].for_training(config.protocol), config.budget.train_images
    if asked is not None and asked >= images:
        raise UsageError(
            f"budget.train_images={asked}: {config.dataset.name} has {images:,} of them: give fewer, or "
            "budget.train_images=null"
        )
    if config.optimizer.batch_size > images:
        raise UsageError(
            f"optimizer.batch_size={config.optimizer.batch_size}: {config.dataset.name} has {images:,} images to train "
            "on: give at most that"
        )
    for name in ("data_dir", "runs_dir", "records_dir"):
        if not getattr(config, name).strip():
            raise UsageError(f"{name} is empty: give a directory, or leave it out")
    require_device(config.device, "device=")


def require_device(name: str, flag: str) -> None:
    """Refuse what names no device. `flag`: what named it, for errors.

    Raises:
        UsageError: it does not; whether the device is there is not asked.
    """
    if not re.fullmatch("auto|cpu|cuda(:[0-9]{1,3})?", name):
        raise UsageError(f"{flag}{name} is not a device: choose auto, cpu, cuda or cuda:0, cuda:1 ...")


def _require_head(config: Config) -> None:
    architecture, regularizer = config.architecture, config.regularizer
    if isinstance(architecture, Own):
        pass  # it has no such rules, and is tried out by `layers`
    elif not architecture.blocks and not (isinstance(architecture, Maxout) and architecture.full):
        raise UsageError("architecture.blocks is empty: give at least one block, such as those of conf/architecture")
    if isinstance(architecture, Nin):
        for name, block in architecture.blocks.items():
            if len(block.std) != len(block.widths):
                raise UsageError(
                    f"architecture.blocks.{name} has {len(block.widths)} widths but {len(block.std)} std: give as many"
                )
    elif isinstance(architecture, Cnn) and regularizer.dropout:
        raise UsageError(
            f"architecture {architecture.kind} has no dropout between its blocks: choose regularizer=gap, fc or "
            "fc_head_dropout, or set regularizer.dropout=0"
        )
    elif isinstance(architecture, Maxout) and regularizer.head != "fc":
        raise UsageError(
            "architecture maxout ends in a fully connected layer: choose regularizer=maxout, or fc, fc_inner_dropout, "
            "fc_head_dropout or fc_both_dropout"
        )
    found = layers(config.dataset, architecture, regularizer)  # refuses windows that do not fit the image
    classes = DATASETS[config.dataset.name].classes
    if regularizer.head == "gap" and found[-1].output.channels != classes:
        where = "the last block's widths" if isinstance(architecture, Nin) else "architecture.local.maps"
        raise UsageError(
            f"regularizer.head=gap needs one map for each of {classes} classes, but {where} end in "
            f"{found[-1].output.channels}: end it in `classes` or {classes}, or choose regularizer=fc, "
            "fc_inner_dropout, fc_head_dropout or fc_both_dropout"
        )
    if regularizer.head == "gap" and regularizer.head_dropout:
        raise UsageError(
            "regularizer.head_dropout needs a fully connected head: choose regularizer=fc_head_dropout or "
            "fc_both_dropout, or set regularizer.head_dropout=0"
        )


def _require_schedule(config: Config) -> None:
    schedule = config.optimizer.schedule
    if schedule.kind == "drops":
        if schedule.drops != sorted(set(schedule.drops)):
            raise UsageError(f"optimizer.schedule.drops={schedule.drops} must be ascending epochs, such as [200, 230]")
        if schedule.drops and schedule.drops[-1] >= schedule.epochs:
            raise UsageError(
                f"optimizer.schedule ends before it starts its last rate: drops={schedule.drops} must lie below "
                f"epochs={schedule.epochs}; for a shorter run with the drops in proportion use budget.epochs"
            )
    blocks, after = len(getattr(config.architecture, "blocks", {})), len(getattr(config.architecture, "full", {}))
    after += isinstance(config.architecture, Cnn) + (config.regularizer.head != "gap")
    most = math.inf if isinstance(config.architecture, Own) else blocks + after
    if len(schedule.warmup) > 1 and not blocks <= len(schedule.warmup) <= most:
        raise UsageError(
            f"optimizer.schedule.warmup={schedule.warmup} has {len(schedule.warmup)} numbers for {blocks} blocks"
            + f" and {after} layers after them" * (after > 0)
            + ": give one number for all, or one for each"
        )
    if (schedule.kind == "parent" or schedule.stop == "likelihood") and config.parent is None:
        raise UsageError(
            "optimizer.schedule.kind=parent and stop=likelihood go by a parent run: choose an experiment that has one, "
            "such as table4/maxout"
        )
    if schedule.stop == "likelihood" and (config.protocol != "final" or not DATASETS[config.dataset.name].validation):
        raise UsageError(
            "optimizer.schedule.stop=likelihood goes by the validation images while it trains on them: it needs "
            "protocol=final and a dataset whose last training images validate, not svhn"
        )
    if schedule.stop == "validation" and (config.protocol != "validate" or not schedule.stop_patience):
        raise UsageError(
            "optimizer.schedule.stop=validation needs images to stop by and epochs to wait for: set protocol=validate "
            "and optimizer.schedule.stop_patience"
        )
    if schedule.stop == "validation" and schedule.kind == "plateau":
        raise UsageError(
            "optimizer.schedule.kind=plateau ends a run by its training error and stop=validation by the validation "
            "error: choose one of them"
        )
    # Of a rate that falls faster momentum grows without end. A shorter run goes through the schedule faster.
    rises = schedule.momentum_epochs and not schedule.floor
    least = max(config.optimizer.momentum, schedule.momentum_final if rises else 0.0)
    faster = speed(schedule, config.budget.epochs or schedule.epochs)
    if schedule.kind == "exponential" and schedule.factor**faster < least:
        shorter = f", to the power of {faster:g} as budget.epochs is less" if faster > 1 else ""
        raise UsageError(
            f"optimizer.schedule.factor={schedule.factor} of kind=exponential is that of each update{shorter}, and may "
            f"not be less than the momentum, {least:g}: give at least {math.ceil(1e6 * least ** (1 / faster)) / 1e6:g}"
        )
    if schedule.kind == "linear" and not schedule.decay_epochs:
        raise UsageError(
            "optimizer.schedule.kind=linear needs the epoch it ends in: set optimizer.schedule.decay_epochs"
        )
    if config.budget.epochs is not None and config.budget.epochs > schedule.epochs:
        raise UsageError(
            f"budget.epochs={config.budget.epochs} is more than the recipe's own {schedule.epochs}: a budget only "
            "reduces; for a longer run set optimizer.schedule.epochs"
        )
