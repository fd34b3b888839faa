"""Ablations: which runs are compared with which, and what their table says."""

from pathlib import Path

import pytest
from fake_records import digest, record, stored

from nin_repro.results import ablations

BASE = {
    "meaning": 1,
    "optimizer": {"lr": 0.1, "clip_norm": 1.0, "schedule": {"drops": [200, 230]}},
    "architecture": {"blocks": [{"pool": "max", "widths": [8, 4]}, {"pool": "none", "widths": [8, 4]}]},
    "budget": {"epochs": None},
    "seed": 0,
}


def with_(seed: int = 0, epochs: int | None = None, **optimizer: object) -> dict:
    return BASE | {"optimizer": BASE["optimizer"] | optimizer, "budget": {"epochs": epochs}, "seed": seed}  # type: ignore[operator]


def run(error: float, recipe: dict, **more: object) -> dict:
    budget = "paper" if recipe["budget"]["epochs"] is None else "short"
    return record("table4/nin", recipe["seed"], error, recipe=recipe, budget=budget, family=digest(str(recipe)), **more)


def test_changes_name_the_keys_that_differ_and_neither_seed_nor_budget() -> None:
    other = with_(seed=5, epochs=3, clip_norm=None, lr=0.05)
    assert ablations.changes(other, BASE) == ["optimizer.clip_norm=null", "optimizer.lr=0.05"]
    blocks = [{"pool": "max", "widths": [8, 4]}, {"pool": "avg", "widths": [9, 4]}]
    assert ablations.changes(BASE | {"architecture": {"blocks": blocks}}, BASE) == [
        "architecture.blocks.1.pool=avg",
        "architecture.blocks.1.widths=[9, 4]",
    ]
    assert ablations.changes(BASE, BASE) == []


def test_a_key_that_came_later_is_a_change_from_none() -> None:
    assert ablations.changes(with_(nesterov=True), BASE) == ["optimizer.nesterov=true"]


def test_effect_is_the_difference_of_means_at_the_same_budget(tmp_path: Path) -> None:
    died = [
        {"attempt": 0, "died": "network", "epoch": 1, "step": 300},
        {"attempt": 1, "died": None, "epoch": 3, "step": 9},
    ]
    runs = stored(
        tmp_path,
        *(run(1.0 + seed, with_(seed, 3)) for seed in range(3)),
        *(run(4.0 + seed, with_(seed, 3, clip_norm=None), attempts=died) for seed in range(2)),
        run(90.0, with_(9, 3, clip_norm=None), status="dead", attempts=died[:1]),
        run(0.5, with_(0)),  # another budget, with nothing to compare
    )
    base, other = ablations.choices(runs, {"table4/nin": BASE})
    assert (base.changed, base.stats.mean, base.effect) == ("", 2.0, None)
    assert (other.changed, other.stats.mean, other.effect) == ("optimizer.clip_norm=null", 4.5, 2.5)
    assert (other.stats.n, other.stats.dead, other.stats.starts_network, other.starts) == (2, 1, 3, 5)
    shown = ablations.text([base, other])
    assert "optimizer.clip_norm=null" in shown and "+2.50" in shown and "3 of 5" in shown


def test_nothing_is_compared_with_what_is_not_there(tmp_path: Path) -> None:
    alone = stored(tmp_path / "a", run(4.0, with_(0, 3, clip_norm=None)))
    assert ablations.choices(alone, {"table4/nin": BASE}) == []
    far = with_(0, 3, clip_norm=None, lr=1.0, momentum=0.5, decay=1)
    apart = stored(tmp_path / "b", run(1.0, with_(0, 3)), run(4.0, far))
    assert ablations.choices(apart, {"table4/nin": BASE}) == []
    assert ablations.text([]) == "" and "No records" in ablations.markdown([])


@pytest.mark.parametrize("name", ["<script>x</script>", "a|b", "`c`"])
def test_hostile_names_do_no_harm(name: str, tmp_path: Path) -> None:
    runs = stored(tmp_path, run(1.0, with_(0, 3)), run(4.0, with_(0, 3, clip_norm=name)))
    page = ablations.markdown(ablations.choices(runs, {"table4/nin": BASE}))
    assert name not in page
