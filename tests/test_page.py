"""The report as one page: well-formed, self-contained, harmless, and whole."""

import base64
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from fake_records import record, stored
from test_tables import CELLS

from nin_repro.results import ablations, page, render, tables
from nin_repro.results.claim_texts import Claim, Text
from nin_repro.results.records import Record
from nin_repro.results.tables import Verdict

ROOT = Path(__file__).parents[1]
VOID = {"meta", "img", "line", "polyline"}
HOSTILE = "</td><script>alert(1)</script><img src=http://x.y/z onerror=alert(2)> & \x1b[2J"


class Parsed(HTMLParser):
    """Tags that are open, those that were seen, and what is linked or loaded."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: Counter[str] = Counter()
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen[tag] += 1
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attributes:
            assert not name.startswith("on"), name
            if name in ("src", "href", "srcset", "action", "data"):
                self.links.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert tag in VOID or self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def curve(epochs: int) -> dict[str, list[float]]:
    errors = [90 / (i + 1) for i in range(epochs)]
    return {"epoch": [*range(1, epochs + 1)], "test_error": errors, "train_error_running": [2 * e for e in errors]}


PRICES = page.Prices(gpu=3.0, core=0.05)


def made(records: list[Record], figures: tuple[Path, ...] = (), claims: tuple[Claim, ...] = ()) -> str:
    cells = {name: replace(cell, seconds={"1 core (AVX2)": 3600.0}) for name, cell in CELLS.items()}
    report = tables.build(records, cells, ["x.json: not used: broken"])
    bases = {"table1/nin": records[0].recipe} if records else {}
    compared = ablations.choices(records, bases)
    return page.html(report, compared, claims, figures, records, bases, PRICES)


def test_the_page_holds_every_run_with_its_curve_and_what_is_missing(tmp_path: Path) -> None:
    runs = [record(seed=seed, error=10.4 + seed / 10, curve=curve(260)) for seed in range(3)]
    runs.append(record("table1/nin", seed=3, budget="short", curve=curve(16)))
    text = made(stored(tmp_path, *runs))
    found = Parsed(text)
    assert not found.open and found.seen["svg"] == 8 and len(text) < page.LARGEST
    words = " ".join(found.words)
    assert (
        "10.50 ± 0.10" in words and "reproduced" in words and "reduced budget" in words and "not used: broken" in words
    )
    assert "run table2/nin" in words and "run table1/nin " not in words  # commands of the cells that lack runs
    assert text.count("<polyline") == 14  # Table 5's third row has the runs of Table 1's
    lines = [rest.partition('"')[0].split() for rest in text.split('points="')[1:]]
    assert max(map(len, lines)) <= page.POINTS + 2 and all(line[0].startswith("40.0,") for line in lines)


def test_nothing_is_loaded_and_nothing_from_a_record_becomes_a_tag(tmp_path: Path) -> None:
    plain = record(curve=curve(3))
    names = ("command", "device", "commit")
    runs = stored(tmp_path, plain | {name: HOSTILE for name in names} | {"deviations": [HOSTILE]})
    found = Parsed(made(runs, claims=(Claim(Text(HOSTILE, HOSTILE, ""), Verdict(HOSTILE, HOSTILE)),)))
    assert found.seen["script"] == 1 and "img" not in found.seen and not found.open
    beside = {"claims/claims.md", "fidelity.md", "analysis.md"}  # files that are written with it
    assert {link for link in found.links if not link.startswith("#")} == beside
    assert "\x1b" not in "".join(found.words)
    targets = made(runs)
    assert all(f'id="{link[1:]}"' in targets for link in {*found.links} - beside)


def test_what_computed_the_first_part_of_a_run_is_told_in_both_reports(tmp_path: Path) -> None:
    before = {"commit": HOSTILE, "dirty": False, "device": "a GPU", "threads": 1, "processor": ""}
    parts = {"before": [before | {"versions": {"torch": HOSTILE}}], "since": [0, 1500]}
    records = stored(tmp_path, record(environment=parts))
    found = Parsed(made(records))
    assert not found.open and "img" not in found.seen
    told = f"; up to update 1,500 by commit {HOSTILE[:10]} on a GPU, torch "
    assert told in "".join(found.words)
    lines = render.markdown(tables.build(records, CELLS), tmp_path).splitlines()
    shown = [line for line in lines if "up to update 1,500" in line]
    assert shown and all("<" not in line and line.startswith("|") for line in shown)


def test_claims_dead_starts_and_costs_are_in_the_page(tmp_path: Path) -> None:
    died = [
        {"attempt": 0, "died": "network", "epoch": 1, "step": 300},
        {"attempt": 1, "died": None, "epoch": 9, "step": 9},
    ]
    runs = [record(seed=0, seconds=7200.0, device="2 x AMD EPYC", attempts=died), record(seed=1, seconds=7200.0)]
    runs += [record(seed=2, seconds=1800.0, device="NVIDIA H200", status="dead", dead_classes=list(range(10)))]
    claims = (Claim(Text("Maps are confident", "section 3.2", ""), Verdict("supported", "by 3 points")),)
    words = " ".join(Parsed(made(stored(tmp_path, *runs), claims=claims)).words)
    assert "Maps are confident supported by 3 points section 3.2" in " ".join(words.split())
    assert "25 % (5 to 70) 1 of 4 whole network: 1" in " ".join(words.split())
    assert "done; 1 start died" in words and "dead classes" not in words  # where all are, it goes without saying
    assert "2 x AMD EPYC 1 2.0 0.20" in words and "NVIDIA H200 1 0.5 1.50" in words  # hours, USD
    (shared,) = stored(tmp_path / "shared", record(seconds=1800.0, device="NVIDIA H200, 4 at once"))
    assert page.Prices(gpu=3.0, core=0.05).of(shared) == 1.5 / 4
    assert "run table2/nin 5 h 0.25 (1 core (AVX2), fp32)" in words  # 5 seeds of an hour


def test_what_a_cell_costs_at_the_least_is_where_it_costs_least() -> None:
    fast = replace(
        CELLS["table2/nin"], recipe={"precision": "bf16"}, seconds={"1 core (AVX2)": 36000.0, "1 H200": 60.0}
    )
    cell = replace(CELLS["table2/nin"], seconds={"2 cores (AVX2)": 36000.0}, stand_ins=(fast,))
    words = " ".join(Parsed(page.html(tables.build([], {"table2/nin": cell}), [], [], [], [], {}, PRICES)).words)
    assert "0.25 (1 H200, bf16)" in words  # 5 minutes at 3 USD an hour


def test_a_verdict_stands_with_what_it_hangs_on(tmp_path: Path) -> None:
    cells = {"table1/nin": replace(CELLS["table1/nin"], deviations=("clipped",), assumed=2)}
    runs = stored(tmp_path, *(record(seed=seed, error=10.4) for seed in range(3)))
    text = page.html(tables.build(runs, cells), [], [], [], runs, {}, PRICES)
    for words in ("clipped: ", "assumed values: 2 of "):
        assert f"<li>{words}<code>table1/nin</code></li>" in text


def test_the_curve_of_a_run_is_that_of_the_start_that_lived(tmp_path: Path) -> None:
    twice = {"attempt": [0, 0, 1, 1, 1], "epoch": [1, 2, 1, 2, 3], "test_error": [90.0, 90.0, 50.0, 30.0, 20.0]}
    text = made(stored(tmp_path, record(curve=twice)))
    assert "(solid) in %, 3 epochs" in text and "5 epochs" not in text


def test_pictures_of_the_papers_images_stay_out(command: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "results/figures").mkdir(parents=True)
    (tmp_path / "results/records").mkdir()
    for name in ("figure3", "figure3-short-2", "figure4-digits-a", "figure4-maps-c", "figure4-mnist-b"):
        (tmp_path / f"results/figures/{name}.png").write_bytes(name.encode())
    (tmp_path / "results/claims").mkdir()
    shutil.copy(ROOT / "results/claims/layers.json", tmp_path / "results/claims")
    done = command("tables")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "results/report.html").read_text()
    shown = [name for name in ("figure3", "figure4-digits-a", "figure4-mnist-b") if name in text]
    pictures = [base64.b64decode(found) for found in re.findall("base64,([A-Za-z0-9+/=]+)", text)]
    assert pictures == [b"figure3", b"figure3-short-2", b"figure4-digits-a", b"figure4-maps-c"] and shown == []
    judged = (tmp_path / "results/claims/claims.md").read_text()  # it goes with the verdicts of the report
    assert judged.startswith("# ") and "not enough runs" in judged


def test_figures_are_in_the_page_unless_they_are_too_large(tmp_path: Path) -> None:
    small, large = tmp_path / "figure3.png", tmp_path / "figure3-large.png"
    small.write_bytes(b"png")
    large.write_bytes(bytes(page.LARGEST))
    text = made([], (small, large))
    assert f"data:image/png;base64,{base64.b64encode(b'png').decode()}" in text and "Too large to show here" in text
    assert len(text) < page.LARGEST and 'alt="Figure 3. Training and testing error' in text


def test_a_browser_opens_it_without_a_word_in_its_console(tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium here")
    (tmp_path / "report.html").write_text(made(stored(tmp_path, record(curve=curve(20)))))
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    words += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--dump-dom"]
    done = subprocess.run(
        [browser, *words, (tmp_path / "report.html").as_uri()], capture_output=True, text=True, timeout=60
    )
    assert "Network In Network, measured again</h1>" in done.stdout and "CONSOLE" not in done.stderr
