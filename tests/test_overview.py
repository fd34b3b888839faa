"""The picture of all results: what it draws stands where the numbers say."""

import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from fake_records import record, stored
from test_tables import CELLS

from nin_repro.results import luck, overview, tables
from nin_repro.results.overview import LEFT, REACH, RIGHT, svg

MIDDLE, PER_PERCENT = (LEFT + RIGHT) / 2, (RIGHT - LEFT) / (2 * REACH)


def drawn(folder: Path, *records: dict) -> ET.Element:
    """The picture of some runs, parsed; it is well-formed, or this fails."""
    return ET.fromstring(svg(tables.build(stored(folder, *records), CELLS)))


def kind(picture: ET.Element, name: str) -> list[ET.Element]:
    return [one for one in picture.iter() if one.get("class") == name]


def test_seeds_mean_spread_and_luck_stand_where_the_numbers_say(tmp_path: Path) -> None:
    picture = drawn(tmp_path, *(record("table4/nin", seed, error) for seed, error in enumerate((0.40, 0.47, 0.54))))
    places = [float(one.get("cx", "")) for one in kind(picture, "seed")]
    step = 100 * 0.07 / 0.47 * PER_PERCENT
    assert places == pytest.approx([MIDDLE - step, MIDDLE, MIDDLE + step], abs=0.06)
    (mean,), (bar,) = kind(picture, "mean"), kind(picture, "bar")
    assert float(mean.get("cx", "")) == pytest.approx(MIDDLE)
    assert float(bar.get("x2", "")) - float(bar.get("x1", "")) == pytest.approx(2 * step, abs=0.11)
    words = "".join(picture.itertext())
    assert "0.47 ± 0.07, n = 3" in words and "1 of " in picture.get("aria-label", "")
    # the band is the limit of the verdict: here the prediction interval of three runs, wider than the picture
    widths = {float(one.get("width", "")) for one in kind(picture, "luck")}
    assert RIGHT - LEFT in widths


def test_a_row_without_runs_shows_what_its_test_images_could_tell(tmp_path: Path) -> None:
    picture = drawn(tmp_path)
    first = kind(picture, "luck")[0]  # 10.41 % of 10,000 images
    width = 2 * 100 * luck.luck_of_images(10.41, 10_000) / 10.41 * PER_PERCENT
    assert float(first.get("width", "")) == pytest.approx(width, abs=0.06)
    own = sum(len(row.results) for table in tables.build([], CELLS).tables for row in table.rows if row.paper.own)
    assert len(kind(picture, "luck")) == own == "".join(picture.itertext()).count("no runs yet")
    assert not kind(picture, "mean") and not kind(picture, "seed")


def test_what_is_too_far_is_an_arrow_and_what_died_is_counted(tmp_path: Path) -> None:
    died = [{"attempt": 0, "died": "network", "epoch": 1, "step": 300}]
    runs = [record("table4/nin", seed, 3.0) for seed in range(3)]
    runs.append(record("table4/nin", 3, 90.0, status="dead", attempts=died))
    runs += [record("table1/nin_aug", 0, 1.0)]
    picture = drawn(tmp_path, *runs)
    right, left = sorted(kind(picture, "mean"), key=lambda one: one.get("points", ""), reverse=True)
    assert right.get("points", "").startswith(f"{RIGHT},") and left.get("points", "").startswith(f"{LEFT},")
    assert "n = 3, 1 dead" in "".join(picture.itertext()) and not kind(picture, "seed")


def test_a_verdict_that_is_too_long_is_shortened(tmp_path: Path) -> None:
    runs = [record(seed=seed, error=error) for seed, error in enumerate((9.5, 10.0, 10.9))]
    words = "|".join(drawn(tmp_path, *runs).itertext())
    assert "|too scattered to judge|" in words and "one more run could lie" not in words


def test_words_that_are_not_ours_stay_words(tmp_path: Path) -> None:
    report = tables.build(stored(tmp_path, record()), CELLS)
    table = report.tables[0]
    row = next(row for row in table.rows if row.results and row.paper.own)
    cell = replace(row.results[0].cell, experiment='"></text><script>alert(1)</script>\x1b')
    hostile = replace(row, results=(replace(row.results[0], cell=cell),))
    text = overview.svg(replace(report, tables=(replace(table, rows=(hostile,)),)))
    assert "<script" not in text and "\x1b" not in text and ET.fromstring(text) is not None
