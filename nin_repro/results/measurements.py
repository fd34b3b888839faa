"""What was measured on trained networks: one small JSON file per run, named by the run's key, as records are."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from nin_repro.files import read_json
from nin_repro.results.changes import precision

FORMAT = 1
SHIFTS = (0, 1, 2, 3, 4)  # pixels


@dataclass(frozen=True)
class Measurement:
    """Errors and shares are percent. A run that died in every start has neither `translation` nor `maps`."""

    path: Path
    key: str
    family: str
    experiment: str | None
    budget: str
    seed: int
    status: str  # "done" or "dead"
    dead_classes: tuple[int, ...]
    epochs: int
    weights_sha256: str
    recipe: dict[str, Any]
    images: int  # test images measured on
    measured_by: dict[str, Any]  # the commit, whether it was modified, and the precision if it is not the recipe's
    translation: dict[str, Any] | None  # shifts; directions; errors: one list for each shift, by direction
    maps: dict[str, Any] | None  # see `nin_repro.claims.map_numbers`; None for heads that are no maps

    @property
    def alive(self) -> bool:
        return self.status == "done" and not self.dead_classes and self.translation is not None

    @property
    def measured_in(self) -> str:
        """The precision that it was measured in."""
        return str(self.measured_by.get("precision", precision(self.recipe)))

    @property
    def curve(self) -> list[float]:
        """Error at each of SHIFTS, the mean over the directions."""
        assert self.translation is not None
        return [sum(errors) / len(errors) for errors in self.translation["errors"]]

    @property
    def increase(self) -> float:
        """By how many points the error rises when images move: the mean over all shifts but 0."""
        still, *moved = self.curve
        return sum(moved) / len(moved) - still


def read_all(folder: Path) -> tuple[list[Measurement], list[str]]:
    """The sound measurements in `folder`, by key, and one line for each file that was not used."""
    found, problems = [], []
    for path in sorted(folder.glob("*.json")):
        try:
            found.append(read(path))
        except (OSError, ValueError) as error:
            problems.append(f"{path.name}: not used: {error}")
    return found, problems


def read(path: Path) -> Measurement:
    """The measurement in a file.

    Raises:
        OSError, ValueError: it cannot be used.
    """
    value = read_json(path)
    if value.get("format") != FORMAT:
        raise ValueError(f"it is no measurement of format {FORMAT}")
    if value.get("key") != path.stem:
        raise ValueError("the file is not named by its key")
    names = [item.name for item in fields(Measurement) if item.name != "path"]
    if missing := [name for name in names if name not in value]:
        raise ValueError(f"{missing[0]} is missing")
    known = {name: value[name] for name in names}
    _check(known)
    return Measurement(path=path, **known | {"dead_classes": tuple(known["dead_classes"])})


def _check(value: dict[str, Any]) -> None:
    for name in ("key", "family", "budget", "weights_sha256"):
        _require(isinstance(value[name], str), name)
    for name in ("seed", "epochs", "images"):
        _require(type(value[name]) is int and value[name] >= 0, name)
    _require(value["experiment"] is None or isinstance(value["experiment"], str), "experiment")
    _require(value["status"] in ("done", "dead"), "status")
    _require(isinstance(value["dead_classes"], list), "dead_classes")
    _require(isinstance(value["measured_by"], dict), "measured_by")
    recipe = value["recipe"]
    groups = ("dataset", "architecture", "regularizer")
    _require(isinstance(recipe, dict) and all(isinstance(recipe.get(name), dict) for name in groups), "recipe")
    moved, maps = value["translation"], value["maps"]
    if moved is not None:
        _require(isinstance(moved, dict) and moved.get("shifts") == list(SHIFTS), "translation")
        errors = moved.get("errors")
        _require(isinstance(errors, list) and len(errors) == len(SHIFTS), "translation")
        _require(all(isinstance(some, list) and some and all(map(_percent, some)) for some in errors), "translation")
    if maps is not None:
        _require(isinstance(maps, dict) and _percent(maps.get("share")), "maps")
        _require(maps.get("share_right") is None or _percent(maps["share_right"]), "maps")
        by_class = [maps.get(name) for name in ("class_share", "rival_share")]
        sizes = {len(one) if isinstance(one, list) and all(map(_percent, one)) else 0 for one in by_class}
        _require(len(sizes) == 1 and 0 not in sizes, "maps")


def _require(holds: bool, name: str) -> None:
    if not holds:
        raise ValueError(f"{name} is not what a measurement has there")


def _percent(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 100.001
