"""Estimates of cost: they come out as what was measured, for every kind of network."""

import re
from pathlib import Path

import pytest

from nin_repro.config.compose import experiments, load, parents
from nin_repro.cost import bf16_pays, images_seen, images_tested, in_words, seconds
from nin_repro.results.tables import AVX2, AVX512
from nin_repro.tables import cells
from nin_repro.training.schedule import plan


def hours(words: str, machine: str) -> float:
    found = re.search(rf"([\d.]+) (s|min|h) on {re.escape(machine)}", words)
    assert found, words
    return float(found[1]) / {"s": 3600, "min": 60, "h": 1}[found[2]]


@pytest.mark.parametrize(
    ("name", "machine", "images_per_second"),
    [
        ("table1/nin", AVX2, 87),
        ("table1/nin", AVX512, 174),
        ("table1/nin precision=bf16", AVX512, 292),
        ("table1/nin", "1 H200", 15_720),  # results/benchmarks/nvidia-h200.md
        ("table1/nin precision=tf32", "1 H200", 40_483),
        ("table1/nin precision=bf16", "1 H200", 141_610),
        ("table4/nin precision=bf16", "1 H200", 298_990),
        ("table4/nin", AVX2, 387),
        ("table4/nin", AVX512, 742),
        ("table4/nin precision=bf16", AVX512, 1_111),
        ("table4/maxout", AVX2, 1_149),
        ("table4/maxout", AVX512, 1_885),
        ("table4/maxout precision=bf16", AVX512, 1_543),
        ("table1/maxout", AVX2, 92),
        ("table1/maxout", AVX512, 143),
        ("table1/maxout precision=bf16", AVX512, 104),
        ("text/cnn_fc", AVX2, 575),
        ("text/cnn_fc", AVX512, 931),
        ("text/cnn_fc precision=bf16", AVX512, 1_060),
    ],
)
def test_estimates_are_what_was_measured(name: str, machine: str, images_per_second: float) -> None:
    config = load(f"experiment={name} eval_every=0".split())
    measured = images_seen(config) / images_per_second / 3600
    assert hours(in_words(config), machine) == pytest.approx(measured, rel=0.1)


def test_experiments_say_what_they_cost() -> None:
    """Where an experiment's file opens with times of a CPU, they are what `describe` says."""
    number = r"([\d.]+)"
    form = rf"{number} (hours|minutes) of one core with AVX2 (?:a seed|an (epoch) of MNIST), {number} with AVX-512"
    told = 0
    for name in experiments():
        header = Path(f"conf/experiment/{name}.yaml").read_text().partition("# Cost: ")[2].partition("\n")[0]
        if "core" not in header or name == "quickstart":
            continue
        found = re.search(form + rf"(?:, {number} in bf16)?", header)
        assert found, header
        fp32, unit, epoch, wide, bf16 = found.groups()
        for precision, machine, words in (("fp32", AVX2, fp32), ("fp32", AVX512, wide), ("bf16", AVX512, bf16)):
            config = load([f"experiment={name}", f"precision={precision}"])
            whole = seconds(config)[machine] / (3600 if unit == "hours" else 60)
            epochs = plan(config.optimizer.schedule, config.budget)[0] if epoch else 1
            assert words is None or float(words) == pytest.approx(whole / epochs, rel=0.05), header
        told += 1
    assert told >= 20


def test_on_a_cpu_bf16_pays_but_for_large_kernels() -> None:
    pays = {name: bf16_pays(load([f"experiment={name}"])) for name in ("table1/nin", "text/cnn_fc", "table1/maxout")}
    assert pays == {"table1/nin": True, "text/cnn_fc": True, "table1/maxout": False}
    assert not bf16_pays(load(["experiment=table4/maxout"]))


def test_a_short_run_is_mostly_evaluation() -> None:
    words = ["experiment=table1/nin", "budget=smoke"]
    without, once = (seconds(load([*words, f"eval_every={every}"]))[AVX2] for every in (0, 1))
    config = load(words)
    assert images_tested(config) == 2 * 10_000 + 10_000 + 512  # after both epochs and at the end
    assert without > 10_000 * 222e6 / 57e9 and once - without == pytest.approx(20_000 * 222e6 / 57e9, rel=0.01)


def test_every_experiment_has_an_estimate() -> None:
    for name in experiments():
        assert hours(in_words(load([f"experiment={name}"])), AVX2) > 0


def test_maps_of_one_pixel_cost_something() -> None:
    words = ["mlpconv1.kernel=8", *(f"mlpconv{i}.kernel=1" for i in (2, 3))]
    words += [f"mlpconv{i}.{rest}" for i in (1, 2, 3) for rest in ("pad=0", "pool=none")]
    config = load(["experiment=quickstart", *(f"architecture.blocks.{word}" for word in words)])
    assert seconds(config)[AVX2] > 0


def test_long_estimates_have_no_decimals() -> None:
    assert "and 127 h on 1 core (AVX2), 81.9 h on 1 core (AVX-512) a seed in fp32" in in_words(
        load(["experiment=table1/maxout"])
    )


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
    found = {name: cell.seconds[AVX2] for name, cell in cells({words[0][11:]: config}).items()}
    both = seconds(config)[AVX2] + seconds(load(["experiment=table3/maxout_first"]))[AVX2]
    assert found == {"table3/maxout": pytest.approx(both)}


def test_a_parent_that_is_a_cell_of_its_own_is_told_of_and_counted_there() -> None:
    config = load(["experiment=extra/staged/v1"])
    found = cells({"extra/staged/v1": config})["extra/staged/v1"]
    assert found.seconds == pytest.approx(seconds(config)) and "after extra/staged/v0 (" in found.cost
