"""Ablations: which runs are compared with which, and what their table says."""

from pathlib import Path

import pytest
from fake_records import digest, record, stored

from nin_repro.config.compose import load
from nin_repro.config.recipe import recipe
from nin_repro.results import ablations
from nin_repro.results.changes import all_changes, changes
from nin_repro.results.contradictions import CONTRADICTIONS
from nin_repro.schema import Own

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
    assert changes(other, BASE) == ["optimizer.clip_norm=null", "optimizer.lr=0.05"]
    blocks = [{"pool": "max", "widths": [8, 4]}, {"pool": "avg", "widths": [9, 4]}]
    assert changes(BASE | {"architecture": {"blocks": blocks}}, BASE) == [  # of a network that is not built in
        "architecture.blocks.1.pool=avg",
        "architecture.blocks.1.widths=[9, 4]",
    ]
    assert changes(BASE, BASE) == []


@pytest.mark.parametrize(
    "experiment", ["table4/nin", "extra/caffe", "text/cnn_gap", "table4/maxout_first", "table1/maxout"]
)
def test_changes_of_layers_are_words_of_the_command_line(experiment: str) -> None:
    base = load([f"experiment={experiment}"])
    assert not isinstance(base.architecture, Own)
    blocks = [f"architecture.blocks.{name}" for name in base.architecture.blocks]
    changed = [[f"{block}.kernel=11", f"{block}.pad=5"] for block in blocks]
    changed += [[f"architecture.full.{name}.units=9"] for name in getattr(base.architecture, "full", {})]
    assert len(changed) >= 3
    for words in changed:
        assert changes(recipe(load([f"experiment={experiment}", *words])), recipe(base)) == words


def test_all_changes_name_the_budget_and_the_precision_too() -> None:
    other = with_(seed=5, epochs=3, lr=0.05) | {"precision": "bf16"}
    other["budget"] |= {"train_images": None, "max_steps": 90}
    assert changes(other, BASE) == ["optimizer.lr=0.05"]
    words = ["budget.epochs=3", "budget.max_steps=90", "precision=bf16", "optimizer.lr=0.05"]
    assert all_changes(other, BASE) == words
    assert all_changes(other, BASE | {"precision": "bf16"}) == [words[0], words[1], words[3]]


def test_a_key_that_came_later_is_a_change_from_none() -> None:
    assert changes(with_(nesterov=True), BASE) == ["optimizer.nesterov=true"]


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
    (row,) = [line for line in ablations.markdown([base, other]).splitlines() if "clip" in line]
    assert row.endswith("| 2 | 1 | 3 of 5 | whole network: 3 |")
    assert (other.stats.n, other.stats.dead, other.stats.died, other.starts) == (2, 1, {"network": 3}, 5)
    shown = ablations.text([base, other])
    assert "optimizer.clip_norm=null" in shown and "+2.50" in shown and "3 of 5" in shown


def test_choices_are_compared_in_their_own_precision_and_precisions_with_fp32(tmp_path: Path) -> None:
    bf16 = {"precision": "bf16"}
    runs = stored(
        tmp_path,
        *(run(1.0 + seed, with_(seed, 3)) for seed in range(3)),
        *(run(11.0 + seed, with_(seed, 3) | bf16) for seed in range(3)),
        *(run(12.5 + seed, with_(seed, 3, clip_norm=None) | bf16) for seed in range(3)),
        *(run(7.0 + seed, with_(seed) | bf16) for seed in range(2)),
        *(run(8.0 + seed, with_(seed, lr=1.0) | bf16) for seed in range(2)),
    )
    found = ablations.choices(runs, {"table4/nin": BASE})
    assert [(one.about.conditions, one.name, one.effect, one.unclaimed) for one in found] == [
        ("paper, bf16", "as the experiment", None, False),
        ("paper, bf16", "optimizer.lr=1.0", 1.0, True),
        ("short", "as the experiment", None, False),
        ("short, bf16", "as the experiment, beside fp32", 10.0, False),
        ("short, bf16", "optimizer.clip_norm=null", 1.5, True),
    ]
    assert [(one.sign, one.seen) for one in found] == [
        (None, ""),
        (None, "too few runs"),
        (None, ""),
        (1, "raises the error"),
        (0, "none seen"),
    ]
    assert "| short, bf16 | 260 | as the experiment, beside fp32 | 12.00 ± 1.00 | +10.00 |" in ablations.markdown(found)
    shown = ablations.text(found)
    assert "table4/nin, paper, bf16, 260 epochs" in shown and "as the experiment, beside fp32" in shown


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


def test_runs_judged_by_validation_images_are_no_ablations(tmp_path: Path) -> None:
    validated = {"protocol": "validate", "test_error": None, "validation_error": 5.0}
    runs = stored(tmp_path, *(run(1.0, with_(seed, 3)) for seed in range(3)), run(1.0, with_(9, 3)) | validated)
    runs += stored(tmp_path / "changed", *(run(2.0, with_(seed, 3, clip_norm=None)) for seed in range(3)))
    assert [one.stats.n for one in ablations.choices(runs, {"table4/nin": BASE})] == [3, 3]


def test_a_schedule_is_one_choice_and_another_data_set_none(tmp_path: Path) -> None:
    bases = {name: recipe(load([f"experiment={name}"])) for name in ("table1/nin", "table2/nin")}
    words = ("", "optimizer=sgd_plateau", "dataset=cifar100")
    found = [recipe(load(["experiment=table1/nin", *word.split()])) for word in words]
    runs = stored(
        tmp_path,
        *(
            record("table1/nin", seed, recipe=one | {"seed": seed}, family=digest(str(one)))
            for one in found
            for seed in range(3)
        ),
    )
    own, plateau = ablations.choices(runs, bases)
    assert not own.changed and "optimizer.schedule.kind=plateau" in plateau.changed
    (four,) = (one for one in CONTRADICTIONS if one.id == "X4")
    assert [side.holds(plateau.about.changes) for side in four.sides] == [False, True, False, False, False]


def test_two_runs_are_too_few_beside_any_number(tmp_path: Path) -> None:
    found = stored(
        tmp_path,
        *(run(1.0 + seed / 10, with_(seed, 3)) for seed in range(3)),
        *(run(4.0 + seed / 10, with_(seed, 3, clip_norm=None)) for seed in range(2)),
    )
    _, other = ablations.choices(found, {"table4/nin": BASE})
    assert (other.effect, other.limit, other.chance, other.seen) == (pytest.approx(2.95), None, None, "too few runs")
    turned = [one for one in found if one.seed or not one.recipe["optimizer"]["clip_norm"]]
    turned += stored(tmp_path / "more", run(4.2, with_(2, 3, clip_norm=None)))
    assert ablations.choices(turned, {"table4/nin": BASE})[1].seen == "too few runs beside these"


def test_another_reading_of_a_row_is_a_choice_beside_the_first(tmp_path: Path) -> None:
    other = [
        run(1.5 + seed / 10, with_(seed, clip_norm=None)) | {"experiment": "table4/nin_unclipped"} for seed in (0, 1, 2)
    ]
    found = stored(tmp_path, *(run(1.0 + seed / 10, with_(seed)) for seed in range(3)), *other)
    bases = {"table4/nin": BASE, "table4/nin_unclipped": with_(clip_norm=None)}
    first, second = ablations.choices(found, bases)
    assert (first.about.experiment, first.changed, first.stats.n) == ("table4/nin", "", 3)
    assert (second.about.experiment, second.changed) == ("table4/nin", "optimizer.clip_norm=null")
    assert (second.effect, second.seen) == (pytest.approx(0.5), "raises the error")
