"""A finished run as its directory holds it: configuration, record, weights that are the record's, network and images.

Nothing here trains, and only what returns tensors imports torch.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nin_repro.command import uncollected
from nin_repro.config.compose import checked
from nin_repro.config.known import explain
from nin_repro.config.recipe import key, recipe
from nin_repro.cpu import lacks
from nin_repro.files import UsageError
from nin_repro.results.records import judged
from nin_repro.schema import Config
from nin_repro.training.rundir import RunDirectory

if TYPE_CHECKING:
    from torch import Tensor

    from nin_repro.data.splits import Split
    from nin_repro.models.network import Network


def open_finished(path: Path, flag: str, dead: bool = False) -> tuple[Config, dict[str, Any]]:
    """Configuration and record of a finished run, both of one run. `flag`: the option that named `path`, for errors.

    Raises:
        UsageError: it is not a finished run, it died and `dead` is not set, or it was altered.
    """
    record = RunDirectory(path).result()
    if record is None or (record["status"] != "done" and not dead):
        why = "every start of this run died" if record else "no finished run is there (result.json tells of none)"
        raise UsageError(f"{flag} {path}: {why}; name a directory below runs/ whose training is done")
    config = _configuration(path / "config.yaml")
    if key(config) != record.get("key"):
        own = "; or the file of its network or head was changed since" * ("code" in recipe(config))
        raise UsageError(
            f"{path}: config.yaml is not of the run in result.json (key {key(config)}){own}: name another run"
        )
    if not all(isinstance(value, int | float) for value in (record.get("epochs"), judged(record)[1])):
        raise UsageError(f"{path / 'result.json'} lacks its epochs or its error: name another run")
    return config, record


def _configuration(path: Path) -> Config:
    from omegaconf import DictConfig, OmegaConf

    try:
        composed = OmegaConf.load(path)
    except Exception as error:  # of the file system, of the text's encoding, of YAML and of OmegaConf
        raise UsageError(f"{path} cannot be read: {explain(error)}") from None
    if not isinstance(composed, DictConfig):
        raise UsageError(f"{path} is not a configuration")
    try:
        return checked(composed)
    except UsageError as error:
        raise UsageError(f"{path} is of another version of nin_repro, or was altered: {error}") from None


def final_weights(path: Path, record: dict[str, Any]) -> dict[str, "Tensor"]:
    """The weights that a run ended with, which must be those that its record tells of.

    Raises:
        UsageError: they are missing, damaged or others.
    """
    from nin_repro.training import checkpoint

    return checkpoint.final_weights(RunDirectory(path).checkpoint, record)


def computable(config: Config) -> Config:
    """The same by itself, with as many threads as suit this machine, and in fp32 on a CPU without instructions for the
    run's precision: bf16 would take it hours for minutes."""
    with uncollected():
        from nin_repro.build import device_name

    config = replace(config, threads=None, together=1, processes=1)
    return replace(config, precision="fp32") if lacks(device_name(config), config.precision) else config


def rebuilt(config: Config, weights: dict[str, "Tensor"]) -> tuple["Network", "Tensor", "Tensor", "Split"]:
    """The trained network and what it is judged on, as in training: (network, images [N, H, W, C], labels [N], split).

    The images are preprocessed; the split has them as they were. The network is as for testing (`eval`), takes
    [N, C, H, W] and computes as `computable` says.

    Raises:
        UsageError: the data set is not there, or the weights do not fit.
    """
    with uncollected():
        from nin_repro.build import machine, trainer
    from nin_repro.data.splits import open_split
    from nin_repro.training.console import Console

    nowhere = Path(os.devnull)
    split = open_split(config.dataset.name, Path(config.data_dir), config.protocol)
    config = computable(config)
    with Console(nowhere) as console:
        work = trainer(config, split, machine(config), console, nowhere, lambda row: None)
    try:
        work.network.load_state_dict(weights)
    except RuntimeError:
        raise UsageError("the weights in this run's checkpoint.pt are not of its network: name another run") from None
    images, labels = work.evaluation
    return work.network.eval(), images.float(), labels, split
