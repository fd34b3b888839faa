"""Estimates of cost: they come out as what was measured, for every kind of network."""

import re

import pytest

from nin_repro.config.compose import experiments, load
from nin_repro.cost import images_seen, in_words


def hours(words: str, machine: str) -> float:
    found = re.search(rf"([\d.]+) (s|min|h) on {machine}", words)
    assert found, words
    return float(found[1]) / {"s": 3600, "min": 60, "h": 1}[found[2]]


@pytest.mark.parametrize(
    ("name", "machine", "images_per_second"),
    [
        ("table1/nin", "1 CPU core", 132),
        ("table1/nin", "2 CPU cores", 246),
        ("table4/nin", "1 CPU core", 530),
        ("table4/maxout", "1 CPU core", 60_000 / 85),
        ("text/cnn_fc", "1 CPU core", 484),  # results/records/text/cnn_fc/1d3481c521c8.json
    ],
)
def test_estimates_are_what_was_measured(name: str, machine: str, images_per_second: float) -> None:
    config = load([f"experiment={name}"])
    measured = images_seen(config) / images_per_second / 3600
    assert hours(in_words(config), machine) == pytest.approx(measured, rel=0.1)


def test_every_experiment_has_an_estimate() -> None:
    for name in experiments():
        assert hours(in_words(load([f"experiment={name}"])), "1 CPU core") > 0


def test_long_estimates_have_no_decimals() -> None:
    assert "and 362 h on 1 CPU core a seed" in in_words(load(["experiment=table1/maxout"]))
