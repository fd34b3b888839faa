"""Estimates of cost: they come out as what was measured, for every kind of network."""

import re

import pytest

from nin_repro.config.compose import experiments, load, parents
from nin_repro.cost import images_seen, images_tested, in_words, seconds
from nin_repro.tables import cells


def hours(words: str, machine: str) -> float:
    found = re.search(rf"([\d.]+) (s|min|h) on {machine}", words)
    assert found, words
    return float(found[1]) / {"s": 3600, "min": 60, "h": 1}[found[2]]


@pytest.mark.parametrize(
    ("name", "machine", "images_per_second"),
    [
        ("table1/nin", "1 CPU core", 87),
        ("table1/nin", "2 CPU cores", 127),  # results/benchmarks/cpu-amd-epyc-avx2-2.md
        ("table1/nin precision=bf16", "2 CPU cores", 547),  # cpu-amd-epyc-avx-512-bf16-2.md
        ("table1/nin precision=bf16", "1 CPU core", 292),
        ("table1/nin", "1 H200", 15_720),  # results/benchmarks/nvidia-h200.md
        ("table1/nin precision=tf32", "1 H200", 40_483),
        ("table1/nin precision=bf16", "1 H200", 141_610),
        ("table4/nin precision=bf16", "1 H200", 298_990),
        ("table4/nin", "1 CPU core", 387),
        ("table4/nin precision=bf16", "1 CPU core", 1_111),
        ("table4/maxout", "1 CPU core", 1_149),
        ("table4/maxout precision=bf16", "1 CPU core", 1_543),
        ("table1/maxout", "1 CPU core", 92),
        ("table1/maxout precision=bf16", "1 CPU core", 104),
        ("text/cnn_fc", "1 CPU core", 575),
        ("text/cnn_fc precision=bf16", "1 CPU core", 1_060),
    ],
)
def test_estimates_are_what_was_measured(name: str, machine: str, images_per_second: float) -> None:
    config = load(f"experiment={name} eval_every=0".split())
    measured = images_seen(config) / images_per_second / 3600
    assert hours(in_words(config), machine) == pytest.approx(measured, rel=0.1)


def test_a_short_run_is_mostly_evaluation() -> None:
    words = ["experiment=table1/nin", "budget=smoke"]
    without, once = (seconds(load([*words, f"eval_every={every}"]))["1 CPU core"] for every in (0, 1))
    config = load(words)
    assert images_tested(config) == 2 * 10_000 + 10_000 + 512  # after both epochs and at the end
    assert without > 10_000 * 222e6 / 57e9 and once - without == pytest.approx(20_000 * 222e6 / 57e9, rel=0.01)


def test_every_experiment_has_an_estimate() -> None:
    for name in experiments():
        assert hours(in_words(load([f"experiment={name}"])), "1 CPU core") > 0


def test_long_estimates_have_no_decimals() -> None:
    assert "and 127 h on 1 CPU core a seed in fp32" in in_words(load(["experiment=table1/maxout"]))


def test_what_another_precision_takes_is_told_after_it() -> None:
    config, fast = load(["experiment=table1/nin"]), load(["experiment=table1/nin", "precision=bf16"])
    words = in_words(config, others=[fast])
    assert words.startswith(in_words(config) + "; ") and words.endswith(" on 1 H200 in bf16")
    assert in_words(fast).endswith(" in bf16")
    assert cells({"table1/nin": config})["table1/nin"].cost == words


def test_a_run_with_a_parent_costs_what_both_take() -> None:
    words = ["experiment=table3/maxout"]
    config = load(words)
    told = in_words(config, parents(config, words))
    own, first = (in_words(load([f"experiment={name}"])) for name in ("table3/maxout", "table3/maxout_first"))
    assert told == f"{own}, after table3/maxout_first ({first.removesuffix(' a seed in fp32')})"
    found = {name: cell.seconds["1 CPU core"] for name, cell in cells({words[0][11:]: config}).items()}
    both = seconds(config)["1 CPU core"] + seconds(load(["experiment=table3/maxout_first"]))["1 CPU core"]
    assert found == {"table3/maxout": pytest.approx(both)}


def test_a_parent_that_is_a_cell_of_its_own_is_told_of_and_counted_there() -> None:
    config = load(["experiment=extra/staged/v1"])
    found = cells({"extra/staged/v1": config})["extra/staged/v1"]
    assert found.seconds == pytest.approx(seconds(config)) and "after extra/staged/v0 (" in found.cost
