"""The choice among the members of a sweep by their validation error (select=true)."""

from collections.abc import Iterable
from typing import Any

from nin_repro.files import UsageError
from nin_repro.sweep import CHOOSES_BY, Family, Member, families


def require_search(protocol: str, swept: Iterable[str] | None, overrides: list[str]) -> None:
    """Refuse a run with select=true that is no member of a search as its experiment file means it.

    `swept`: the keys that the file sweeps over; None outside of a sweep.

    Raises:
        UsageError: it would be a choice by test error, or among nothing.
    """
    if protocol != "validate":
        raise UsageError(CHOOSES_BY)
    if swept is None:
        raise UsageError("select=true chooses among the members of a sweep: add -m, or set select=false for one run")
    missing = set(swept) - {word.partition("=")[0] for word in overrides}
    if missing:  # Hydra reads them of an experiment only if it is the only one
        raise UsageError(f"several experiments at once do not sweep over {', '.join(sorted(missing))}: name one")


def choices(members: list[Member]) -> list[Family]:
    """What there is to choose from, in the order of the sweep; members of one recipe count once.

    Raises:
        UsageError: the members cannot be compared by validation error.
    """
    found = families(members)
    searched = {one.outcome.path for family in found if family.judged_on == "validation" for one in family.members}
    for member in members:
        if member.outcome.path not in searched:
            raise UsageError(f"{member.outcome.path} holds no finished run of protocol=validate: nothing is chosen")
    names = sorted({record["recipe"]["dataset"]["name"] for family in found for record in family.records})
    if len(names) > 1:
        raise UsageError(f"errors on {' and '.join(names)} do not compare: search on one data set at a time")
    return found


def best(found: list[Family]) -> Family:
    """The choice with the lowest mean; of equal ones the first.

    Raises:
        UsageError: no run lives.
    """
    living = [choice for choice in found if choice.stats.n]
    if not living:
        raise UsageError(
            "every run of this search died or has dead classes, so nothing is chosen: try a larger budget, more "
            "restarts or other values"
        )
    return min(living, key=lambda choice: choice.stats.mean or 0.0)


def show(found: list[Family], chosen: Family) -> None:
    """The table of choices: mean and standard deviation of the validation error in %, living and dead runs."""
    width = max(len(choice.name) for choice in found)
    print(f"\n{'choices by validation error, %':{width + 4}}{'mean':>7}{'std':>7}{'n':>4}{'dead':>6}")
    for choice in found:
        stats = choice.stats
        mean, std = ("-" if value is None else f"{value:.2f}" for value in (stats.mean, stats.std))
        mark = ">" if choice is chosen else " "
        print(f"{mark} {choice.name:{width + 2}}{mean:>7}{std:>7}{stats.n:>4}{stats.dead:>6}")
    if any(choice.stats.dead for choice in found):
        print("  dead runs, or with dead classes, are left out of the means")


def summary(found: list[Family], chosen: Family, command: str) -> dict[str, Any]:
    """The choice and what it was made from, as JSON values, for selection.json and the records of the final runs."""
    rows = [
        {"choice": one.name, "validation_error": one.stats.mean, "std": one.stats.std}
        | {"n": one.stats.n, "dead": one.stats.dead, "keys": [record["key"] for record in one.records]}
        for one in found
    ]
    return {"command": command, "chosen": chosen.name, "choices": rows}
