"""The claims beside the tables: which runs are compared, and the verdicts."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_records import digest, record, stored

from nin_repro import claims as command_module
from nin_repro import cpu, finished
from nin_repro.files import UsageError, read_json, write_json
from nin_repro.probes.translation import DIRECTIONS
from nin_repro.results import arms, claim_page, measurements
from nin_repro.results.arms import NOT_ENOUGH, NOT_SUPPORTED, REDUCED, SUPPORTED, UNDECIDED
from nin_repro.results.claim_costs import Cost, judge_cost
from nin_repro.results.claimplots import draw_translation
from nin_repro.results.claims import Page
from nin_repro.results.records import Record

Command = Callable[..., subprocess.CompletedProcess[str]]


# --- verdicts --------------------------------------------------------------------------------------------------------


def recipe(dropout: float = 0.5, head: str = "gap", head_dropout: float = 0.0, **more: Any) -> dict[str, Any]:
    regularizer = {"dropout": dropout, "head": head, "head_dropout": head_dropout, "fc_std": 0.05}
    groups = {"regularizer": regularizer | {"convention": more.pop("convention", "released")}}
    kind = more.pop("kind", "nin")
    return {"dataset": {"name": "cifar10"}, "architecture": {"kind": kind}, "optimizer": {"lr": 0.1}} | groups | more


def runs(of: dict[str, Any], errors: list[float], train: float = 1.0, **more: Any) -> list[dict[str, Any]]:
    family = digest(json.dumps([of, more.get("budget")]))
    return [
        record("table5/gap", seed, error, recipe=of | {"seed": seed}, family=family, train_error=train, **more)
        for seed, error in enumerate(errors)
    ]


def measurement(of: dict[str, Any], seed: int, errors: list[float], share: float = 60.0, **more: Any) -> dict[str, Any]:
    family = digest(json.dumps([of, None]))
    maps = {"share": share, "share_right": share, "class_share": [share, share], "rival_share": [20.0, 20.0]}
    value = {"format": 1, "key": digest(f"{family} {seed}"), "family": family, "experiment": "table5/gap"}
    value |= {"budget": "paper", "seed": seed, "status": "done", "dead_classes": [], "epochs": 260, "command": "c"}
    value |= {
        "commit": "0",
        "measured_by": {"commit": "0", "dirty": False},
        "weights_sha256": "0" * 64,
        "recipe": of | {"seed": seed},
        "test_error": errors[0],
    }
    moved = {"shifts": [0, 1, 2, 3, 4], "directions": list(DIRECTIONS), "errors": [[error] * 4 for error in errors]}
    maps_of = maps if of["regularizer"]["head"] == "gap" else None
    return value | {"images": 100, "translation": moved, "maps": maps_of} | more


def written(folder: Path, *values: dict[str, Any]) -> list[measurements.Measurement]:
    folder.mkdir(exist_ok=True)
    for value in values:
        (folder / f"{value['key']}.json").write_text(json.dumps(value))
    found, problems = measurements.read_all(folder)
    assert problems == []
    return found


LAYERS: dict[str, Any] = {
    "forms": [{"channels": 3, "widths": [2], "kernel": 5, "seed": 0, "differences": [1e-16, 2e-16]}],
    "fits": {
        name: {
            "target": [[0.0, 1.0], [1.0, 0.0]],
            "maxout": {"parameters": 45, "errors": [bad, bad + 0.01, bad], "bulge": 0.0, "best": [[0.0, 1.0]] * 2},
            "perceptron": {"parameters": 45, "errors": [0.1, 0.11, 0.1], "bulge": 0.1, "best": [[0.0, 1.0]] * 2},
        }
        for name, bad in (("bowl", 0.1), ("cap", 0.9), ("saddle", 0.5))
    },
}


def page(found: list[Record], measured: list[measurements.Measurement] | None = None, **more: Any) -> Page:
    options: dict[str, Any] = {"layers": LAYERS, "costs": [], "bases": {}, "problems": [], "folder": Path()} | more
    return Page(found, measured or [], **options)


def test_dropout_must_cut_a_fifth_beyond_luck(tmp_path: Path) -> None:
    def judged(name: str, with_: list[float], **more: Any) -> tuple[str, str]:
        values = [*runs(recipe(0.0), [14.4, 14.5, 14.6], **more), *runs(recipe(0.5), with_, **more)]
        verdict = page(stored(tmp_path / name, *values)).dropout().verdict
        return verdict.word, verdict.text

    word, text = judged("a", [10.3, 10.4, 10.5])
    assert word == SUPPORTED and "-28.3 %" in text and "n=3 (without) and 3 (with)" in text
    assert judged("b", [11.4, 11.6, 11.5])[0] == UNDECIDED  # a fifth, but not more than luck says
    assert judged("c", [14.4, 14.5, 14.6])[0] == NOT_SUPPORTED
    assert judged("d", [10.3, 10.4])[0] == NOT_ENOUGH
    assert judged("e", [10.3, 10.4, 10.5], budget="short")[0] == SUPPORTED + REDUCED


def test_the_data_that_a_claim_is_made_of_outrank_others_of_the_paper(tmp_path: Path) -> None:
    mnist: dict[str, Any] = {"dataset": {"name": "mnist"}}
    values = [*runs(recipe(0.0, **mnist), [0.45, 0.46, 0.44]), *runs(recipe(0.5, **mnist), [0.43, 0.42, 0.44])]
    verdict = page(stored(tmp_path / "a", *values)).dropout().verdict
    assert verdict.word == "not supported on mnist" and "less than a fifth" in verdict.text
    values += [*runs(recipe(0.0), [14.4, 14.5, 14.6]), *runs(recipe(0.5), [10.3, 10.4, 10.5])]
    verdict = page(stored(tmp_path / "b", *values)).dropout().verdict
    assert verdict.word == SUPPORTED and "mnist" not in verdict.text


def test_the_limit_of_a_difference_is_its_interval_over_seeds(tmp_path: Path) -> None:
    values = [*runs(recipe(head="fc"), [10.0, 11.0, 12.0, 13.0]), *runs(recipe(), [9.1, 9.6, 10.1])]
    found_arms = arms.arms_of(stored(tmp_path, *values), lambda one: (one.test_error,))
    ((fully, pooled, _),) = arms.head_pairs(found_arms)
    found = arms.Comparison(fully, pooled)
    assert found.difference == pytest.approx(11.5 - 9.6)
    # Welch and Satterthwaite: 4.08 degrees of freedom, and t(0.975, 4)
    assert found.limit == pytest.approx(2.7764 * np.sqrt((5 / 3) / 4 + 0.25 / 3), rel=1e-4)
    assert found.sign == 0
    halved = arms.Comparison(fully, pooled, weight=0.5)  # and so its spread: 4.96 degrees of freedom
    assert halved.limit == pytest.approx(2.7764 * np.sqrt((5 / 3) / 16 + 0.25 / 3), rel=1e-4)


def test_only_the_papers_data_sets_are_at_its_budget(tmp_path: Path) -> None:
    for name, full in (("fashion_mnist", False), ("mnist", True)):
        values = runs(recipe(dataset={"name": name}), [1.0, 1.1, 1.2])
        (arm,) = arms.arms_of(stored(tmp_path / name, *values), lambda one: (one.test_error,))
        assert arm.full is full


def test_dead_runs_are_counted_and_no_samples(tmp_path: Path) -> None:
    values = [*runs(recipe(0.0), [14.4, 14.5, 14.6, 90.0]), *runs(recipe(0.5), [10.3, 10.4, 10.5, 90.0])]
    values[3] |= {"status": "dead"}
    values[7] |= {"dead_classes": [3]}
    claim = page(stored(tmp_path, *values)).dropout()
    assert claim.verdict.word == SUPPORTED and "n=3 (without) and 3 (with)" in claim.verdict.text
    ((_, _, (row,)),) = claim.tables
    assert row.count("3 (1)") == 2 and "(dead)" in row[-1]


def test_only_runs_that_differ_in_nothing_else_are_compared(tmp_path: Path) -> None:
    without, with_ = [14.4, 14.5, 14.6], [10.3, 10.4, 10.5]
    other_rate = runs(recipe(0.5) | {"optimizer": {"lr": 0.2}}, with_)
    other_budget = runs(recipe(0.5) | {"budget": {"epochs": 2}}, with_)
    other_head = runs(recipe(0.5, "fc"), with_)
    later_key = runs(recipe(0.5) | {"optimizer": {"lr": 0.1, "nesterov": True}}, with_)
    claim = page(stored(tmp_path / "a", *runs(recipe(0.0), without), *other_rate, *other_budget, *other_head)).dropout()
    assert claim.verdict.word == NOT_ENOUGH and claim.tables[0][2] == []
    claim = page(stored(tmp_path / "b", *runs(recipe(0.0), without), *later_key)).dropout()
    assert claim.verdict.word == NOT_ENOUGH
    # Without any dropout, how it would be scaled has no effect.
    inverted = runs(recipe(0.5, convention="inverted"), with_)
    claim = page(stored(tmp_path / "c", *runs(recipe(0.0), without), *inverted)).dropout()
    assert claim.verdict.word == SUPPORTED


def test_the_papers_budget_outranks_a_reduced_one(tmp_path: Path) -> None:
    full = [*runs(recipe(0.0), [14.4, 14.5, 14.6]), *runs(recipe(0.5), [10.3, 10.4, 10.5])]
    short = {"budget": {"epochs": 2}}
    reduced = runs(recipe(0.0) | short, [30.0, 30.1, 30.2], budget="short")
    reduced += runs(recipe(0.5) | short, [50.0, 50.1, 50.2], budget="short")
    verdict = page(stored(tmp_path / "a", *full, *reduced)).dropout().verdict
    assert verdict.word == SUPPORTED
    verdict = page(stored(tmp_path / "b", *full[:5], *reduced)).dropout().verdict
    assert verdict.word == NOT_SUPPORTED + REDUCED


def test_a_smaller_gap_by_a_worse_fit_is_no_regularisation(tmp_path: Path) -> None:
    fully = runs(recipe(head="fc"), [11.5, 11.6, 11.7], train=1.0)
    better = page(stored(tmp_path / "a", *fully, *runs(recipe(), [10.4, 10.5, 10.6], train=4.0))).gap_regularises()
    assert better.verdict.word == SUPPORTED and "4.10 points smaller" in better.verdict.text
    assert "with FC: +3.00 as its training error is higher, +1.10 as its test error is lower (d" in better.verdict.text
    worse = page(stored(tmp_path / "b", *fully, *runs(recipe(), [13.4, 13.5, 13.6], train=12.0))).gap_regularises()
    assert worse.verdict.word == NOT_SUPPORTED and "test error is 1.90 points higher" in worse.verdict.text
    larger = [*runs(recipe(head="fc"), [10.0, 10.1, 10.2], train=0.0), *runs(recipe(), [11.0, 11.1, 11.2], train=0.0)]
    text = page(stored(tmp_path / "h", *larger)).gap_regularises().verdict.text
    assert "1.00 points larger with GAP than with FC, and its test error is 1.00 points higher (d" in text
    dropped = runs(recipe(head="fc", head_dropout=0.5), [11.0, 11.1, 11.2], train=2.0)
    assert "hardly a training image" not in better.verdict.text
    lower = page(stored(tmp_path / "e", *fully, *runs(recipe(), [10.4, 10.5, 10.6], train=0.5))).gap_regularises()
    assert lower.verdict.word != SUPPORTED or "-0.50 as its training error is lower" in lower.verdict.text
    alike = [*runs(recipe(head="fc"), [15.5, 15.6, 15.7], train=5.0), *runs(recipe(), [10.4, 10.5, 10.6], train=5.0)]
    text = page(stored(tmp_path / "f", *alike)).gap_regularises().verdict.text
    assert "hardly a training image" not in text and "+5.10 as its test error is lower" in text
    beside = runs(recipe(head="fc", head_dropout=0.5), [8.0, 8.1, 8.2], train=0.0)
    told = page(stored(tmp_path / "g", *alike, *beside)).gap_regularises().verdict
    assert told.word == SUPPORTED and told.short == (
        "as claimed against FC; test error higher against FC + dropout (does not decide)"
    )
    fitted = [*runs(recipe(head="fc"), [11.5, 11.6, 11.7], train=0.0), *runs(recipe(), [10.4, 10.5, 10.6], train=0.0)]
    other = runs(recipe(head="fc", head_dropout=0.5), [10.4, 10.5, 10.6], train=0.0)
    both = page(stored(tmp_path / "d", *fitted, *other)).gap_regularises().verdict
    assert both.word == SUPPORTED and both.text.count("as the test error is: hardly a training image is wrong") == 2
    assert both.short == ("as claimed against FC; no difference seen against FC + dropout (does not decide)")
    assert "; beside it, cifar10 nin" in both.text and "no difference seen (does not decide))" in both.text
    only = page(stored(tmp_path / "c", *dropped, *runs(recipe(), [10.4, 10.5, 10.6], train=4.0))).gap_regularises()
    assert only.verdict.word == NOT_ENOUGH and "as claimed (does not decide)" in str(only.tables)


def test_what_is_not_compared_for_its_precision_alone_is_named(tmp_path: Path) -> None:
    values = [*runs(recipe(head="fc"), [11.5, 11.6, 11.7]), *runs(recipe(precision="bf16"), [10.4, 10.5, 10.6])]
    (note,) = page(stored(tmp_path / "a", *values)).gap_regularises().notes
    assert "table5/gap (FC, fp32, n=3: 10.60 ± 0.10) with table5/gap (GAP, bf16, n=3: 9.50 ± 0.10)." in note
    values += runs(recipe(head="fc", precision="bf16"), [11.5, 11.6])  # too few of them to be judged, but compared
    assert page(stored(tmp_path / "b", *values)).gap_regularises().notes == (note,)
    other = recipe(precision="bf16", optimizer={"lr": 0.2})
    assert page(stored(tmp_path / "c", *values[:3], *runs(other, [10.4, 10.5, 10.6]))).gap_regularises().notes == ()


def test_pooling_has_to_beat_both_other_heads(tmp_path: Path) -> None:
    fully = runs(recipe(head="fc"), [11.5, 11.6, 11.7])
    dropped = runs(recipe(head="fc", head_dropout=0.5), [10.8, 10.9, 11.0])
    other = runs(recipe(head="fc", kind="cnn"), [1.0, 1.1, 1.2]) + runs(recipe(kind="cnn"), [2.0, 2.1, 2.2])
    best = page(stored(tmp_path / "a", *fully, *dropped, *runs(recipe(), [10.4, 10.5, 10.6]), *other)).gap_is_best()
    assert best.verdict.word == SUPPORTED and "2 of 2 support it" in best.verdict.text
    assert "10.90 ± 0.10 % with FC + dropout, 10.50 ± 0.10 % with GAP" in best.verdict.text
    second = page(stored(tmp_path / "b", *fully, *dropped, *runs(recipe(), [10.9, 11.0, 11.1]))).gap_is_best()
    assert second.verdict.word == UNDECIDED and "1 of 2 support it" in second.verdict.text
    as_is = {"table5/gap": recipe()}
    told = page(stored(tmp_path / "d", *fully, *runs(recipe(), [10.4, 10.5, 10.6])), bases=as_is).gap_is_best()
    assert "the paper has" not in told.verdict.text  # one of them is no row of its
    row = [one | {"experiment": "table5/fc"} for one in fully]
    as_is |= {"table5/fc": recipe(head="fc")}
    told = page(stored(tmp_path / "e", *row, *runs(recipe(), [10.4, 10.5, 10.6])), bases=as_is).gap_is_best()
    assert "% with GAP; the paper has 11.59 and 10.41 (d +1.10," in told.verdict.text
    for name, spread_, words in (("f", 0.1, "would hardly differ by so much"), ("g", 1.0, "may differ by so much")):
        pooled = runs(recipe(), [11.6 - spread_, 11.6, 11.6 + spread_])
        told = page(stored(tmp_path / name, *row, *pooled), bases=as_is).gap_is_best()
        assert (
            f"the paper has 11.59 and 10.41, and one more run of each {words} (prediction +0.00 ±" in told.verdict.text
        )
    last = page(stored(tmp_path / "c", *fully, *dropped, *runs(recipe(), [11.4, 11.5, 11.6]))).gap_is_best()
    assert last.verdict.word == NOT_SUPPORTED and "the opposite" in last.verdict.text


def test_translation_compares_how_much_the_error_rises(tmp_path: Path) -> None:
    def moved(head: str, seed: int, rise: float) -> dict[str, Any]:
        start = 5.0 if head == "gap" else 1.0  # GAP starts higher: only the rise counts
        return measurement(recipe(head=head), seed, [start + rise * i + seed / 10 for i in range(5)])

    values = [moved("gap", seed, 1.0 + seed / 10) for seed in range(3)]
    values += [moved("fc", seed, 4.0 + seed / 10) for seed in range(3)]
    found = written(tmp_path, *values)
    claim = page([], found).translation()
    assert claim.verdict.word == SUPPORTED and "d +7.50" in claim.verdict.text  # 2.5 times (4 - 1)
    assert "measured in" not in claim.verdict.text and claim.notes == ()
    assert page([], [one for one in found if one.seed]).translation().verdict.word == NOT_ENOUGH
    # What differs in how it was measured is said so, and how far such a thing parts an error from its record.
    by = {"commit": "0", "dirty": True, "precision": "fp32"}
    halves = [one | {"recipe": one["recipe"] | {"precision": "bf16"}, "images": 10_000} for one in values]
    mixed = [*halves[:3], *(one | {"measured_by": by} for one in halves[3:])]
    tested = record("table5/gap", 0, 5.0, key=values[0]["key"], recipe=mixed[0]["recipe"])
    told = page(stored(tmp_path / "r", tested), written(tmp_path / "c", *mixed)).translation()
    assert "less with GAP than with FC, measured in fp32 and bf16 (d +7.50" in told.verdict.text
    assert {row[-2] for row in told.tables[0][2]} == {"fp32", "bf16"}
    nearness, modified = told.notes
    assert nearness.endswith(": 1 network measured in the precision trained in: at most 0.00 points.")
    assert modified.count(".json") == 3 and modified.startswith("Measured with uncommitted changes: ")
    fewer = [measurement(recipe(), seed, [1.0] * 5, images=50) for seed in range(3)]
    assert page([], written(tmp_path / "b", *fewer, *values[3:])).translation().verdict.word == NOT_ENOUGH


def test_a_dead_record_is_counted_with_its_measured_siblings(tmp_path: Path) -> None:
    of = recipe()
    found = written(tmp_path / "m", *(measurement(of, seed, [1.0] * 5) for seed in range(3)))
    dead = runs(of, [90.0] * 4, status="dead")[3] | {"family": found[0].family}
    dead["key"] = digest(f"{found[0].family} 3")
    claim = page(stored(tmp_path / "r", dead), found).maps()
    assert claim.tables[0][2][0][3:5] == ["3", "1"]


def test_maps_need_half_of_the_mass_and_the_lead_in_every_class(tmp_path: Path) -> None:
    def judged(name: str, shares: list[float], **maps: Any) -> str:
        values = [measurement(recipe(), seed, [1.0] * 5, share) for seed, share in enumerate(shares)]
        values[0]["maps"] |= maps
        return page([], written(tmp_path / name, *values)).maps().verdict.word

    assert judged("a", [60.0, 61.0, 62.0]) == f"{SUPPORTED} by our threshold"
    assert judged("b", [40.0, 41.0, 42.0]) == f"{NOT_SUPPORTED} by our threshold"
    assert judged("c", [40.0, 60.0, 80.0]) == f"{UNDECIDED} by our threshold"  # the interval has a half in it
    lead = {"class_share": [60.0, 30.0], "rival_share": [20.0, 31.0]}
    assert judged("d", [60.0, 61.0, 62.0], **lead) == f"{NOT_SUPPORTED} by our threshold"
    assert judged("e", [60.0, 61.0]) == NOT_ENOUGH
    # 4.3027 * 2 / sqrt(3) = 4.97 below the mean of three
    assert judged("f", [52.9, 54.9, 56.9]) == f"{UNDECIDED} by our threshold"
    assert judged("g", [53.1, 55.1, 57.1]) == f"{SUPPORTED} by our threshold"


def test_measurements_of_other_weights_or_broken_files_are_not_used(tmp_path: Path) -> None:
    good = measurement(recipe(), 0, [1.0] * 5)
    (one,) = written(tmp_path / "m", good)
    told = runs(recipe(), [1.0], weights_sha256="1" * 64)[0] | {"key": one.key, "family": one.family}
    claims_of = page(stored(tmp_path / "r", told), [one])
    assert claims_of.measurements == [] and "other weights" in claims_of.problems[0]
    broken: dict[str, Any] = {
        "a": "{",
        "b": json.dumps(good | {"key": "b", "format": 9}),
        "c": json.dumps(good),
        "d": json.dumps(good | {"key": "d", "translation": {"shifts": [0, 1], "errors": [[1], [2]]}}),
        "e": json.dumps(good | {"key": "e", "maps": {"share": "many"}}),
        "f": json.dumps({"format": 1, "key": "f"}),
        "g": "[" * 100_000,
    }
    for name, text in broken.items():
        (tmp_path / "m" / f"{name}.json").write_text(text)
    found, problems = measurements.read_all(tmp_path / "m")
    assert [run.key for run in found] == [one.key] and len(problems) == len(broken)


def test_single_layers_are_judged_by_their_numbers() -> None:
    assert page([]).one_function().verdict.word == SUPPORTED
    assert page([]).convex().verdict.word == SUPPORTED
    wrong = json.loads(json.dumps(LAYERS))
    wrong["forms"][0]["differences"][1] = 1e-6
    wrong["fits"]["bowl"]["maxout"]["errors"] = [0.5] * 3  # the control fails: so it may be the fitting
    assert page([], layers=wrong).one_function().verdict.word == NOT_SUPPORTED
    assert page([], layers=wrong).convex().verdict.word == NOT_SUPPORTED


def cost(kind: str, parameters: int, dataset: str = "mnist", **times: list[float]) -> Cost:
    """What ten epochs of 60,000 images take; `times`: images a second of runs, by machine."""
    names = (f"{dataset}/{kind}",)
    return Cost(names, dataset, kind, "gap", parameters, 10, False, 10, False, 1e15, 60_000, times)


def test_longer_training_is_judged_on_one_machine_only() -> None:
    def judged(nin: Cost, other: Cost) -> str:
        return judge_cost([nin, other]).verdict.word

    nin = cost("nin", 100, a=[200.0] * 3)
    assert judged(nin, cost("maxout", 200, a=[300.0] * 3)) == SUPPORTED
    assert judged(nin, cost("maxout", 50, a=[300.0] * 3)) == NOT_SUPPORTED
    assert judged(nin, cost("maxout", 50, b=[300.0] * 3)) == NOT_SUPPORTED  # whatever takes how long
    assert judged(nin, cost("maxout", 200, a=[100.0] * 3)) == NOT_SUPPORTED
    assert judged(nin, cost("maxout", 200, b=[300.0] * 3)) == NOT_ENOUGH
    assert judged(nin, cost("maxout", 200, a=[300.0] * 2)) == NOT_ENOUGH


def test_in_short_the_cost_says_what_was_timed_and_how_it_came_out() -> None:
    def short(*speeds: float | None) -> str:  # of a maxout network on each data set; None: not timed
        costs = [cost("cnn", 50, "d0")]
        for i, speed in enumerate(speeds):
            costs.append(cost("nin", 100, f"d{i}", a=[200.0] * 3))
            costs.append(cost("maxout", 200, f"d{i}", **{"a": [speed] * 3} if speed else {}))
        return judge_cost(costs).verdict.short

    start, end = "more parameters than the CNN, fewer parameters", " than maxout; 1 pair not timed yet"
    assert short(None) == start + end
    assert short(100, None) == start + " and less time to train" + end
    assert short(100, 50, None) == start + " and less time to train" + end
    assert short(300, None) == start + " and more time to train" + end
    assert short(100, 300, None) == start + end  # less than one, more than the other


def test_what_a_whole_training_takes(tmp_path: Path) -> None:
    """Of an open length: runs to the end; with a parent: its time too."""
    names = ("table4/nin", "table4/maxout", "table4/maxout_first", "table3/maxout", "table3/maxout_first")
    configs = {name: command_module.load([f"experiment={name}"]) for name in names}
    values = []
    for name, config in configs.items():
        for seed in range(3):
            more: dict[str, Any] = {"recipe": command_module.recipe(config)}
            more["family"] = command_module.family(config)
            more |= {"seconds": 100.0 + seed, "images_per_second": 1000.0, "device": "a CPU"}
            values.append(record(name, seed, **more))
            values.append(record(name, seed + 5, budget="short", **more | {"seconds": 1.0}))
    found = {cost.experiments: cost for cost in command_module.costs(configs, stored(tmp_path, *values))}
    assert [*found] == [("table4/nin",), ("table4/maxout",), ("table3/maxout",)]
    nin, maxout, svhn = found.values()
    assert nin.seconds("a CPU") == 101 and maxout.seconds("a CPU") == 202 and nin.seconds("another") is None
    assert svhn.parent is not None and (svhn.length, maxout.length) == ("9 after 142", "at most 600 after at most 600")
    images = svhn.epochs * svhn.epoch_images + svhn.parent.epochs * svhn.parent.epoch_images
    assert svhn.seconds("a CPU") == pytest.approx(images / 1000)
    assert svhn.work == svhn.flops + svhn.parent.flops


def test_times_are_compared_in_one_precision(tmp_path: Path) -> None:
    names = ("table1/nin", "table1/maxout")
    configs = {name: command_module.load([f"experiment={name}"]) for name in names}

    def judged(folder: str, precision: str) -> tuple[str, str]:
        values = []
        for name, speed in zip(names, (100.0, 900.0), strict=True):
            for seed in range(3):
                of = command_module.recipe(configs[name]) | {"precision": "bf16" if "nin" in name else precision}
                family = digest(f"{name} {precision}")
                values.append(record(name, seed, recipe=of, family=family, images_per_second=speed, device="a CPU"))
        found = command_module.costs(configs, stored(tmp_path / folder, *values))
        claim = judge_cost(found)
        machines = [row[7] for row in claim.tables[0][2]]
        assert machines == ["a CPU, bf16", "a CPU" if precision == "fp32" else "a CPU, bf16"]
        return claim.verdict.word, claim.verdict.text

    assert judged("a", "fp32")[0] == NOT_ENOUGH
    word, why = judged("b", "bf16")
    assert word == SUPPORTED and "on a CPU, bf16" in why


def test_arms_that_differ_in_the_scale_of_dropout_or_in_precision_have_names_of_their_own(tmp_path: Path) -> None:
    without, with_ = [14.4, 14.5, 14.6], [10.3, 10.4, 10.5]
    fast = {"precision": "bf16"}
    values = [*runs(recipe(0.0), without), *runs(recipe(), with_), *runs(recipe(convention="inverted"), with_)]
    values += [*runs(recipe(0.0) | fast, without), *runs(recipe() | fast, with_)]
    shown = page(stored(tmp_path, *values), bases={"table5/gap": recipe()})
    claim = shown.dropout()
    name = "cifar10 nin, with dropout between blocks"
    assert claim.verdict.word == SUPPORTED and "3 of 3 support it" in claim.verdict.text
    labels = [f"{one}, 260 epochs, GAP, n=3" for one in (name, f"{name} (inverted)", f"{name}, bf16")]
    assert all(one in claim.verdict.text for one in labels)
    assert sorted(row[0] for row in claim.tables[0][2]) == [name, f"{name} (inverted)", f"{name}, bf16"]
    assert {row[2] for row in claim.tables[0][2]} == {"table5/gap", "table5/gap precision=bf16"}
    # Where the experiment is not known, nothing is usual; without dropout, nothing is scaled.
    found_arms = arms.arms_of(shown.records, lambda one: (one.test_error,))
    assert {arms.kind(arm, {}) for arm in found_arms} == {
        *(f"{name} (released)", f"{name} (inverted)", f"{name} (released), bf16"),
        *("cifar10 nin, no dropout between blocks", "cifar10 nin, no dropout between blocks, bf16"),
    }


def test_the_page_states_the_rule_before_the_numbers_and_hostile_words_do_no_harm(tmp_path: Path) -> None:
    hostile = "a|b<script>`x`"
    values = [*runs(recipe(0.0), [14.4, 14.5, 14.6]), *runs(recipe(0.5), [10.3, 10.4, 10.5])]
    values = [one | {"recipe": one["recipe"] | {"optimizer": {"lr": hostile}}} for one in values]
    shown = page(stored(tmp_path, *values), folder=tmp_path, bases={"table5/gap": recipe()}, problems=[hostile])
    text = claim_page.markdown(shown.claims(), shown.problems)
    assert hostile not in text and "<script>" not in text
    assert text.index("How a verdict is reached") < text.index("## Verdicts") < text.index("must fall by more than")
    assert text.index("must fall by more than") < text.index("14.50 ± 0.10")
    words = [SUPPORTED, UNDECIDED, NOT_SUPPORTED, NOT_ENOUGH]
    assert sum(text.count(f"| **{word}** |") for word in words) == len(shown.claims()) == 8
    assert f"[{digest(values[0]['family'] + ' 0')}](table5/gap/" in text


# --- the command -----------------------------------------------------------------------------------------------------


def test_a_run_is_measured_once_and_its_error_is_the_records(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = trained.parents[1] / "data"
    command_module.measure([trained], tmp_path, None, data, "cpu")
    told = json.loads((trained / "result.json").read_text())
    ((one,), problems) = measurements.read_all(tmp_path)
    assert problems == [] and (one.key, one.images) == (told["key"], 359)
    assert one.curve[0] == pytest.approx(told["test_error"], abs=0.3)
    assert one.maps is not None and sum(one.maps["class_images"]) == 359
    assert "already measured" not in capsys.readouterr().out
    command_module.measure([trained], tmp_path, None, data, "cpu")
    assert "already measured on 359 images" in capsys.readouterr().out
    command_module.measure([trained], tmp_path, 50, data, "cpu")  # of fewer images less is known
    assert measurements.read_all(tmp_path)[0][0].images == 359
    command_module.measure([trained], tmp_path / "few", 50, data, "cpu")
    assert measurements.read_all(tmp_path / "few")[0][0].images == 50
    command_module.measure([trained], tmp_path / "few", None, data, "cpu")
    assert measurements.read_all(tmp_path / "few")[0][0].images == 359


@pytest.mark.parametrize(
    ("precision", "instructions", "bf16", "said"),
    [
        ("bf16", True, True, None),
        ("bf16", None, True, None),
        ("bf16", False, False, "fp32"),
        ("tf32", True, False, "fp32"),
        ("fp32", False, False, None),
    ],
)
def test_a_network_is_computed_in_fp32_where_the_cpu_has_nothing_for_its_precision(
    precision: Any,
    instructions: bool | None,
    bf16: bool,
    said: str | None,
    trained: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cpu, "bf16_instructions", lambda: instructions)
    config, record = finished.open_finished(trained, "--measure")
    data = str(trained.parents[1] / "data")
    config = dataclasses.replace(config, precision=precision, device="cpu", data_dir=data)
    network, *_ = finished.rebuilt(config, finished.final_weights(trained, record))
    assert network.bf16 is bf16
    assert command_module.measured(trained, config, record, 9)["measured_by"].get("precision") == said
    assert (f"in fp32: this CPU has no instructions for {precision}" in capsys.readouterr().out) is (said is not None)


def test_how_a_run_was_trained_does_not_bind_who_measures_it(trained: Path) -> None:
    config, _ = finished.open_finished(trained, "--measure")
    there = dataclasses.replace(config, threads=64, processes=2, together=3)
    assert finished.computable(there) == dataclasses.replace(config, threads=None)


@pytest.mark.parametrize("device", ["foo", "0", "cuda:x", ""])
def test_a_device_to_measure_on_is_one(device: str, trained: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"--device {device} is not a device: choose auto, cpu"):
        command_module.measure([trained], tmp_path, None, None, device)


def test_an_error_that_is_not_the_records_is_refused(trained: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    told = read_json(copy / "result.json")
    write_json(copy / "result.json", told | {"test_error": told["test_error"] - 5})
    with pytest.raises(UsageError, match="data or code are not those of the run"):
        command_module.measure([copy], tmp_path / "out", None, trained.parents[1] / "data", "cpu")
    assert not (tmp_path / "out").exists()


def test_what_is_no_finished_run_is_refused_before_anything_is_measured(
    command: Command, trained: Path, tmp_path: Path
) -> None:
    done = command("claims", "--measure", str(trained), "nowhere")
    assert done.returncode == 2 and not (tmp_path / "results").exists()
    assert done.stderr.startswith("error: --measure nowhere: no finished run") and done.stderr.count("\n") == 1
    with pytest.raises(UsageError, match="--images 0"):
        command_module.measure([trained], tmp_path / "out", 0, None, "cpu")
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    (copy / "checkpoint.pt").unlink()
    with pytest.raises(UsageError, match=r"checkpoint\.pt is missing"):
        command_module.measure([copy], tmp_path / "out", None, None, "cpu")
    assert not (tmp_path / "out").exists()


def test_a_dead_run_is_counted_without_numbers(trained: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    write_json(copy / "result.json", read_json(copy / "result.json") | {"status": "dead"})
    command_module.measure([copy], tmp_path / "out", None, None, "cpu")
    ((one,), _) = measurements.read_all(tmp_path / "out")
    assert (one.status, one.translation, one.alive) == ("dead", None, False)


def test_the_page_needs_no_torch_once_layers_are_kept(tmp_path: Path) -> None:
    out = tmp_path / "results" / "claims"
    out.mkdir(parents=True)
    (tmp_path / "results" / "records").mkdir()
    (out / "layers.json").write_text(json.dumps({"format": command_module.LAYERS} | LAYERS))
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.modules['torch'] = None; from nin_repro.claims import main; main()"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(NOT_ENOUGH) == 5 and f"   {SUPPORTED}: " in done.stdout
    names = sorted(path.name for path in out.iterdir())
    assert names == ["claims.md", "fits.png", "fits.svg", "layers.json"]  # no translation: there is nothing to draw
    assert "table5/gap,table5/fc,table5/fc_dropout" in (out / "claims.md").read_text()


def test_curves_differ_without_colour_and_have_bands_over_seeds(tmp_path: Path) -> None:
    values = [measurement(recipe(head="gap"), seed, [1.0 + seed] * 5) for seed in range(3)]
    values += [measurement(recipe(head="fc"), seed, [2.0 + seed] * 5) for seed in range(3)]
    values += [measurement(recipe(head="fc", head_dropout=0.5), seed, [3.0] * 5) for seed in range(3)]
    axes = draw_translation(page([], written(tmp_path, *values)).moved_arms(), {}).axes[0]
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert set(lines) == {"GAP, 3 seeds", "FC, 3 seeds", "FC + dropout, 3 seeds"}
    assert len({(line.get_linestyle(), line.get_marker()) for line in lines.values()}) == 3
    assert list(np.asarray(lines["GAP, 3 seeds"].get_ydata())) == [2.0] * 5
    heights = np.asarray(axes.collections[0].get_paths()[0].vertices)[:, 1]
    assert (heights.min(), heights.max()) == (1.0, 3.0)


def test_longer_on_one_machine_and_shorter_on_another_is_undecided() -> None:
    nin = cost("nin", 100, a=[200.0, 200.0, 20.0], b=[400.0] * 3)
    assert nin.epoch_seconds("a") == 300  # of the median
    assert judge_cost([nin, cost("maxout", 200, a=[300.0] * 3, b=[300.0] * 3)]).verdict.word == UNDECIDED


def test_a_network_that_learned_nothing_is_no_sample_of_a_claim(tmp_path: Path) -> None:
    found = stored(tmp_path / "r", *runs(recipe(), [90.0], train=90.0))
    assert not found[0].alive
    measured = written(tmp_path / "m", measurement(recipe(), 0, [90.0] * 5))
    assert measured[0].key == found[0].key and measured[0].alive
    (arm,) = page(found, measured).moved_arms()
    assert (arm.n, arm.dead) == (0, 1)


def test_some_images_are_spread_over_all(trained: Path) -> None:
    config, of = finished.open_finished(trained, "--measure")
    network, inputs, labels, _ = finished.rebuilt(config, finished.final_weights(trained, of))
    wrong = 100.0 * (network(inputs.permute(0, 3, 1, 2)).argmax(1) != labels)
    count = next(n for n in range(20, 200) if wrong[[i * 359 // n for i in range(n)]].mean() != wrong[:n].mean())
    told = command_module.measured(trained, config, of, count)["translation"]["errors"][0][0]
    assert told == pytest.approx(wrong[[i * 359 // count for i in range(count)]].mean().item(), abs=1e-3)
