"""Tables from records: statistics, the rule of the verdict, and which run fills which cell."""

import math
import statistics
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_records import digest, record, stored
from hypothesis import given, settings
from hypothesis import strategies as st

from nin_repro.results import luck, tables
from nin_repro.results.tables import Cell, Report, Result, Stats

ROOT = Path(__file__).parents[1]
Command = Callable[..., subprocess.CompletedProcess[str]]
SHARED = {"table5/gap": "table1/nin"}
NAMES = [name for table in tables.paper.TABLES for row in table.rows for name in row.experiments]
CELLS = {name: Cell(name, digest(f"{SHARED.get(name, name)} paper"), f"run {name}", "5 h") for name in NAMES}


def results(report: Report) -> dict[str, Result]:
    return {one.cell.experiment: one for table in report.tables for row in table.rows for one in row.results}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 100, allow_subnormal=False), max_size=12))
def test_statistics_agree_with_the_standard_library(errors: list[float]) -> None:
    stats = Stats(errors=tuple(errors))
    assert stats.n == len(errors)
    assert (stats.best, stats.worst) == ((min(errors), max(errors)) if errors else (None, None))
    if errors:
        assert stats.mean == pytest.approx(statistics.fmean(errors), abs=1e-12)
    else:
        assert stats.mean is None
    if len(errors) > 1:
        assert stats.std == pytest.approx(statistics.stdev(errors), rel=1e-9, abs=1e-9)
    else:
        assert stats.std is None


def test_t_quantiles() -> None:
    scipy = pytest.importorskip("scipy.stats")
    for df in [*range(2, 41), 100, 1000]:
        assert luck.t975(df) == pytest.approx(scipy.t.ppf(0.975, df), abs=1e-3)


def test_how_likely_luck_is() -> None:
    scipy = pytest.importorskip("scipy.stats")
    for df in [*range(1, 30), 2.4, 7.9, 100]:
        for t in (0.0, 0.5, -1.3, 2.2, 7.0):
            assert luck.beyond(t, df) == pytest.approx(2 * scipy.t.sf(abs(t), df), abs=1e-12)
    stds, counts = (0.3, 0.5), (3, 5)
    for d in (0.0, 0.4, -0.9):
        welch = scipy.ttest_ind_from_stats(d, stds[0], 3, 0.0, stds[1], 5, equal_var=False).pvalue
        assert luck.chance_of_means(d, stds, counts) == pytest.approx(welch, abs=1e-12)
    assert luck.chance_of_means(luck.luck_of_means(stds, counts), stds, counts) < 0.05  # whose degrees are rounded down
    assert luck.luck_of_pair((0.1, 0.1), (3, 3)) == pytest.approx(2.7764 * math.sqrt(0.01 * 4 / 3 * 2), abs=1e-4)


def test_which_of_several_findings_hold() -> None:
    assert luck.hold([0.03, 0.001, 0.02]) == [True, True, True]  # 0.001 < 0.05 / 3, 0.02 < 0.05 / 2, 0.03 < 0.05
    assert luck.hold([0.04, 0.001, 0.03]) == [False, True, False]  # 0.03 > 0.05 / 2, so what comes after falls too
    assert luck.hold([]) == []


# Errors 10.3 to 10.7 in steps of 0.1: s = sqrt(0.025) = 0.15811; t(0.975, 4) = 2.7764; sqrt(1 + 1/5) = 1.09545
# so (a) = 0.48090. (b) at 10.41 % of 10,000: 1.96 * sqrt(10.41 * 89.59 / 10000) = 1.96 * 0.305391 = 0.59855.
FIVE = (10.3, 10.4, 10.5, 10.6, 10.7)


def test_the_two_kinds_of_luck_by_hand() -> None:
    assert luck.luck_of_run(5, math.sqrt(0.025)) == pytest.approx(0.48090, abs=1e-4)
    assert luck.luck_of_images(10.41, 10_000) == pytest.approx(0.59855, abs=1e-4)
    assert luck.luck_of_images(2.35, 26_032) == pytest.approx(0.18402, abs=1e-4)


@pytest.mark.parametrize(
    ("shift", "word", "text"),
    [
        (0.0, "reproduced", "reproduced: +0.09, limit 0.60"),
        (0.39, "reproduced", "reproduced: +0.48, limit 0.60"),  # d = 0.48, inside (a)
        # d = 0.59, outside (a), inside (b)
        (0.50, "reproduced", "reproduced: +0.59, limit 0.60 (scatter of seeds alone: 0.48)"),
        (0.51, "worse", "not reproduced: worse by 0.60, limit 0.60"),
        (-0.68, "reproduced", "reproduced: -0.59, limit 0.60 (scatter of seeds alone: 0.48)"),
        (-0.70, "better", "not reproduced: better by 0.61, limit 0.60"),
    ],
)
def test_verdict_where_the_test_images_limit(shift: float, word: str, text: str) -> None:
    verdict = tables.judge(Stats(errors=tuple(error + shift for error in FIVE)), 10.41, 10_000)
    assert (verdict.word, verdict.text) == (word, text)
    assert verdict.limit == pytest.approx(0.59855, abs=1e-4)


def test_verdict_where_the_seeds_limit() -> None:
    # s = 0.5, n = 3: (a) = 4.3027 * 0.5 * sqrt(4/3) = 2.48416, on a test set where (b) is 1.83 (1000 images at 9.75 %)
    spread = Stats(errors=(9.5, 10.0, 10.5))
    assert tables.judge(spread, 9.75, 1_000).word == "reproduced"
    assert tables.judge(spread, 9.75, 1_000).limit == pytest.approx(2.48416, abs=1e-4)
    assert tables.judge(spread, 7.50, 1_000).word == "worse"  # d = 2.5
    assert tables.judge(spread, 12.5, 1_000).word == "better"


def test_scattered_runs_do_not_reproduce_anything() -> None:
    # The same runs on 10,000 images: (b) = 0.58, and (a) = 2.48 would excuse almost any difference.
    spread = Stats(errors=(9.5, 10.0, 10.5))
    assert tables.judge(spread, 9.75, 10_000).word == "too scattered"
    assert tables.judge(spread, 10.0, 10_000).word == "too scattered"
    assert tables.judge(spread, 9.75, 3_380).word == "too scattered"  # (b) = 1.0
    assert tables.judge(spread, 9.75, 2_100).word == "reproduced"  # (b) = 1.27, more than half of (a)
    assert tables.judge(spread, 7.50, 10_000).word == "worse"


@pytest.mark.parametrize(
    ("stats", "word"),
    [
        (Stats(), "no runs"),
        (Stats(dead=2), "died"),
        (Stats(errors=(10.41,)), "too few"),
        (Stats(errors=(10.41, 10.42)), "too few"),
        (Stats(errors=(10.41, 10.41, 10.41)), "reproduced"),
        (Stats(errors=(0.0, 0.0, 0.0)), "better"),
    ],
)
def test_verdict_at_the_edges(stats: Stats, word: str) -> None:
    assert tables.judge(stats, 10.41, 10_000).word == word


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 100), min_size=3, max_size=8), st.floats(0.1, 60), st.sampled_from([10_000, 26_032]))
def test_reproduced_never_means_more_than_the_rule_promises(errors: list[float], value: float, images: int) -> None:
    stats = Stats(errors=tuple(errors))
    assert stats.mean is not None
    far = abs(stats.mean - value) > 2 * luck.luck_of_images(value, images) + 1e-9
    assert not (far and tables.judge(stats, value, images).word == "reproduced")


def test_dead_runs_are_counted_but_not_averaged(tmp_path: Path) -> None:
    died = [{"attempt": 0, "died": "network", "epoch": 1, "step": 327}]
    died += [{"attempt": 1, "died": "classes", "epoch": 2, "step": 400}]
    runs = stored(
        tmp_path,
        record(seed=0, error=10.0),
        record(seed=1, error=90.0, status="dead", attempts=died),
        record(seed=2, error=20.0, dead_classes=[7]),
        record(seed=3, error=11.0, attempts=[*died, {"attempt": 2, "died": None, "epoch": 260, "step": 102700}]),
    )
    stats = results(tables.build(runs, CELLS))["table1/nin"].stats
    assert (stats.errors, stats.seeds, stats.dead) == ((10.0, 11.0), (0, 3), 2)
    assert (stats.mean, stats.worst) == (10.5, 11.0)
    assert stats.died == {"network": 2, "classes": 2}


def test_cells_of_one_family_share_their_runs(tmp_path: Path) -> None:
    runs = stored(tmp_path, *(record(seed=seed) for seed in range(3)))
    found = results(tables.build(runs, CELLS))
    assert found["table1/nin"].records == found["table5/gap"].records == tuple(runs)
    assert found["table5/gap"].difference == pytest.approx(10.5 - 10.41)
    assert all(not one.records for name, one in found.items() if name not in ("table1/nin", "table5/gap"))


def test_a_reduced_budget_fills_no_cell(tmp_path: Path) -> None:
    family = CELLS["table1/nin"].family  # even if, against all rules, its family were the cell's
    short = [record(seed=seed, error=18.0 + seed, budget="short", family=family, epochs=26) for seed in range(3)]
    report = tables.build(stored(tmp_path, *short), CELLS)
    assert all(not one.records for one in results(report).values())
    (group,) = report.reduced
    assert (group.experiment, group.budget, group.epochs) == ("table1/nin", "short", "26")
    assert (group.stats.mean, group.stats.std, group.stats.n) == (19.0, 1.0, 3)
    assert group.paper == 10.41
    assert report.other == ()


def test_reduced_budgets_are_not_mixed(tmp_path: Path) -> None:
    runs = [record(budget="short"), record(budget="smoke"), record("table5/fc", budget="short")]
    runs.append(record(budget="short", family=digest("an older recipe")))
    report = tables.build(stored(tmp_path, *runs), CELLS)
    assert len(report.reduced) == 4 and all(group.stats.n == 1 for group in report.reduced)


def test_every_other_run_is_listed_with_its_reason(tmp_path: Path) -> None:
    runs = stored(
        tmp_path,
        record(seed=1, family=digest("v"), protocol="validate", error=None, validation_error=12.0),
        record("extra/fashion"),
        record(None, family=digest("free")),
        record(family=digest("an older recipe")),
    )
    report = tables.build(runs, CELLS)
    assert all(not one.records for one in results(report).values()) and report.reduced == ()
    reasons = {group.experiment + ", " + group.protocol: group.why for group in report.other}
    assert reasons["table1/nin, validate"] == "error on the validation split"
    assert reasons["extra/fashion, final"] == reasons["(no experiment), final"] == "no row of the paper"
    assert "not of the recipe that fills table1/nin" in reasons["table1/nin, final"]
    assert {group.stats.mean for group in report.other if group.protocol == "validate"} == {12.0}


def test_runs_that_fill_no_cell_say_in_what_they_differ_from_their_experiment(tmp_path: Path) -> None:
    base = {"optimizer": {"lr": 0.1, "clip_norm": 1.0}, "budget": {"epochs": None, "max_steps": None}, "seed": 0}
    other = base | {"optimizer": {"lr": 0.1, "clip_norm": None}}
    short = {"budget": {"epochs": 2, "max_steps": None}, "seed": 3}
    recipes = {"a": base | short, "b": other | short | {"precision": "bf16"}}
    runs = [record(budget="short", family=digest(name), recipe=one) for name, one in recipes.items()]
    runs += [record(family=digest("c"), recipe=other), record("quickstart", recipe=other), record("gone", recipe=other)]
    cells = {name: replace(cell, recipe=base) for name, cell in CELLS.items()}
    cells["quickstart"] = replace(cells["table1/nin"], experiment="quickstart")
    report = tables.build(stored(tmp_path, *runs), cells)
    assert [one.why for one in report.reduced] == [
        "reduced budget; budget.epochs=2",
        "reduced budget; budget.epochs=2 precision=bf16 optimizer.clip_norm=null",
    ]
    assert [(one.experiment, one.why) for one in report.other] == [
        ("gone", "no row of the paper"),
        ("quickstart", "no row of the paper; optimizer.clip_norm=null"),
        ("table1/nin", "not of the recipe that fills table1/nin; optimizer.clip_norm=null"),
    ]


def test_an_unknown_name_does_not_keep_a_run_from_its_cell(tmp_path: Path) -> None:
    runs = stored(tmp_path, record(None, family=CELLS["table3/nin"].family, error=2.4))
    report = tables.build(runs, CELLS)
    assert results(report)["table3/nin"].stats.errors == (2.4,) and report.other == ()


def test_only_experiments_that_exist_are_shown() -> None:
    report = tables.build([], {"table1/nin": CELLS["table1/nin"], "extra/x": Cell("extra/x", "0" * 12, "run")})
    assert list(results(report)) == ["table1/nin"]


def test_degrees_of_freedom_are_rounded_down() -> None:
    # (4/3 + 1/3)^2 / ((4/3)^2 / 2 + (1/3)^2 / 2) = 2.94, and t(0.975, 2) = 4.3027
    assert luck.luck_of_means((2.0, 1.0), (3, 3)) == pytest.approx(4.3027 * math.sqrt(5 / 3), rel=1e-4)


def test_other_values_within_the_limit_are_named_and_which_of_them_are_nearer(tmp_path: Path) -> None:
    runs = stored(tmp_path, *(record(seed=seed, error=10.3 + seed / 10) for seed in range(3)))
    found = results(tables.build(runs, CELLS))["table5/gap"]  # 10.40, and the limit 0.60
    assert found.near == ("mlpconv + Fully Connected + Dropout (10.88)",)
    runs = stored(tmp_path / "b", *(record(seed=seed, error=10.6 + seed / 10) for seed in range(3)))
    found = results(tables.build(runs, CELLS))["table5/gap"]  # 10.70 is nearer to 10.88 than to 10.41
    assert found.near == ("mlpconv + Fully Connected + Dropout (10.88, nearer)",)


def test_the_summary_counts_verdicts(tmp_path: Path) -> None:
    runs = stored(tmp_path, *(record(seed=seed) for seed in range(3)), record("table5/fc"))
    own = {name: cell for name, cell in CELLS.items() if not name.startswith("extra/")}
    summary = tables.build(runs, own).summary
    counts = "2 reproduced (1 recipe), 1 with too few runs, 12 without runs"  # two ask for the same runs
    told = "; of other systems 5 cells to measure: 5 without runs."
    assert summary == f"Of the authors' own systems 15 cells to measure: {counts}{told}"


def test_where_nothing_was_published_there_is_a_value_and_no_verdict(tmp_path: Path) -> None:
    runs = stored(tmp_path, *(record("extra/nin_224", seed=seed, error=20.0 + seed) for seed in range(3)))
    found = results(tables.build(runs, CELLS))["extra/nin_224"]
    assert found.stats.mean == 21.0 and found.difference is None and found.verdict.word == "unpublished"


def test_a_recipe_deviates_as_its_experiment_says_now(tmp_path: Path) -> None:
    cell = Cell("table1/nin", CELLS["table1/nin"].family, "run", deviations=("gradient norm clipped",))
    runs = stored(tmp_path, record(deviations=["clipped"], data={"digest": "0" * 64, "provenance": "a copy"}))
    found = results(tables.build(runs, {"table1/nin": cell}))["table1/nin"]
    assert found.reservations == ("gradient norm clipped", "data: a copy")


# --- what runs took -------------------------------------------------------------------------------------------------


def test_time_of_an_epoch_counts_all_starts(tmp_path: Path) -> None:
    """50 epochs of 10 steps after a start of 250 steps: 75 epochs' work in 150 seconds."""
    attempts = [{"attempt": 0, "died": "network", "epoch": 25, "step": 250}]
    attempts.append({"attempt": 1, "died": None, "epoch": 50, "step": 500})
    (run,) = stored(tmp_path, record(attempts=attempts, steps=500, epochs=50, seconds=150.0))
    assert tables.epoch_seconds(run) == pytest.approx(2.0)
    (timing,) = tables.timings([run])
    assert (timing.device, timing.runs, timing.run) == ("a GPU", 1, 150.0)


def test_times_are_medians_by_machine_of_the_runs_that_were_not_dead(tmp_path: Path) -> None:
    slow: dict[str, Any] = {"device": "1 x CPU", "seconds": 26_000.0}
    runs = [record(seed=seed, seconds=seconds) for seed, seconds in enumerate((5200.0, 2600.0, 90_000.0))]
    runs += [record(seed=3, status="dead", error=None, seconds=1.0), record(seed=4, **slow)]
    found = results(tables.build(stored(tmp_path, *runs), CELLS))["table1/nin"].timings
    assert [(one.device, one.runs, one.run, one.epoch) for one in found] == [
        ("a GPU", 3, 5200.0, pytest.approx(20.0)),
        ("1 x CPU", 1, 26_000.0, pytest.approx(100.0)),
    ]


def test_a_run_that_ended_within_an_epoch_tells_no_epochs_time(tmp_path: Path) -> None:
    (run,) = stored(tmp_path, record(epochs=0, steps=0, attempts=[{"attempt": 0, "died": None, "epoch": 0, "step": 0}]))
    (timing,) = tables.timings([run])
    assert timing.epoch is None and timing.run == 7200.0


def reduced(**changes: Any) -> dict[str, Any]:
    budget = {"epochs": 16, "train_images": None, "max_steps": None} | changes.pop("work", {})
    recipe = {"lr": 0.1, "seed": 0, "budget": budget} | changes.pop("recipe", {})
    return record(budget="short", epochs=16, seconds=1600.0, recipe=recipe, **changes)


@pytest.mark.parametrize(
    ("run", "epoch"),
    [
        (reduced(), 100.0),
        (reduced(work={"train_images": 512}), None),
        (reduced(work={"max_steps": 9}), None),
        (reduced(recipe={"lr": 0.2}), None),  # or another network
    ],
)
def test_without_runs_an_epochs_time_is_that_of_the_same_recipe_for_fewer_epochs(
    run: dict[str, Any], epoch: float | None, tmp_path: Path
) -> None:
    cells = {"table1/nin": replace(CELLS["table1/nin"], recipe={"lr": 0.1, "seed": 0, "budget": {"epochs": None}})}
    found = results(tables.build(stored(tmp_path, run), cells))["table1/nin"].timings
    assert [(one.epoch, one.run) for one in found] == ([] if epoch is None else [(pytest.approx(epoch), None)])
    full = record(seed=1, seconds=2600.0)
    (timing,) = results(tables.build(stored(tmp_path, full), cells))["table1/nin"].timings
    assert (timing.epoch, timing.run) == (pytest.approx(10.0), 2600.0)  # its own runs go first


@pytest.mark.parametrize(
    "living, place", [([0, 1], 1), ([2, 5], 1), ([2, 2], 0), ([3, 5], 0), ([-1, 0], 1), ([1, 1, 2], 2)]
)
def test_a_cells_own_precision_goes_first_once_it_has_enough_runs(living: list[int], place: int) -> None:
    assert tables.filled_by(living) == place


@pytest.mark.parametrize(
    "own, dead, other, other_dead, filled",
    [
        (0, 0, 1, 0, "bf16"),
        (1, 0, 1, 0, "own"),
        (2, 0, 5, 0, "bf16"),
        (3, 0, 5, 0, "own"),  # enough to be judged
        (0, 1, 1, 0, "bf16"),
        (0, 1, 0, 1, "own"),
        (0, 0, 0, 2, "bf16"),  # all died, which is a result
        (0, 0, 0, 0, "own"),
    ],
)
def test_runs_in_another_precision_fill_a_cell_that_has_too_few_of_its_own_and_say_so(
    own: int, dead: int, other: int, other_dead: int, filled: str, tmp_path: Path
) -> None:
    bf16 = "ab" * 6
    cell = CELLS["table1/nin"]
    tf32 = replace(cell, family="cd" * 6)
    instead = replace(cell, family=bf16, command="x precision=bf16", deviations=("computed in bf16",))
    cell = replace(cell, stand_ins=(tf32, instead))
    died = {"status": "dead", "test_error": None}
    runs = [record(seed=seed) for seed in range(own)] + [record(seed=9 + seed) | died for seed in range(dead)]
    runs += [record(seed=seed, family=bf16) for seed in range(other)]
    runs += [record(seed=9 + seed, family=bf16) | died for seed in range(other_dead)]
    report = tables.build(stored(tmp_path, *runs), CELLS | {"table1/nin": cell})
    found = results(report)["table1/nin"]
    assert found.stats.n == (other if filled == "bf16" else own)
    assert ("computed in bf16" in found.cell.deviations) == (filled == "bf16")
    assert found.cell.command.endswith("precision=bf16") == (filled == "bf16")
    apart = {record.family for group in report.other for record in group.records}
    assert apart <= ({cell.family} if filled == "bf16" else {bf16})
