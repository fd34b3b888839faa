"""What a reader sees: the terminal text and the files, also where names are hostile."""

import csv
import io
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_records import digest, record, stored

from nin_repro.results import export, records, render, tables
from nin_repro.results.tables import Cell, Report

NAMES = [name for table in tables.paper.TABLES for row in table.rows for name in row.experiments]
COSTS: dict[str, Any] = {"parameters": 966_986, "multiply_adds": 222_486_528}
CELLS = {
    name: Cell(name, digest(f"{name} paper"), f"python -m x experiment={name}", "5 x 2 h", **COSTS) for name in NAMES
}
HOSTILE = "a|b`c<script>alert(1)</script>\n# d\r\t[e](f) *g* \\h \x1b[31m{i} $j$ %k &l #m ~n ^o _p \u202e\ud800"


@pytest.fixture
def report(tmp_path: Path) -> Report:
    died = [{"attempt": 0, "died": "network", "epoch": 1, "step": 327}]
    nin = [record(seed=seed, error=10.4 + seed / 10) for seed in range(3)]
    nin.append(record(seed=3, status="dead", error=None, attempts=died))
    runs = stored(tmp_path / "records", *nin, record("table5/fc"), record(budget="short", epochs=26, error=18.5))
    cells = CELLS | {"table1/nin": replace(CELLS["table1/nin"], deviations=("clipped at 1",))}
    return tables.build(runs, cells, ["broken.json: not used: it is broken"])


@pytest.fixture
def hostile(tmp_path: Path) -> Report:
    texts: dict[str, Any] = {"device": HOSTILE, "commit": HOSTILE, "command": HOSTILE, "deviations": [HOSTILE]}
    before = {"commit": HOSTILE, "dirty": True, "device": HOSTILE, "versions": {"torch": HOSTILE}}
    texts["environment"] = {"before": [before], "since": [1, 2]}
    (run,) = stored(tmp_path / "records", record())
    run = replace(run, path=tmp_path / "rec ords)[|" / run.path.name, **texts)
    other = replace(run, key=digest("x"), experiment=HOSTILE, family=digest("x"), budget=HOSTILE)
    short = replace(run, key=digest("y"), family=digest("y"), budget=HOSTILE)
    cells = {name: replace(cell, command=HOSTILE, cost=HOSTILE, deviations=(HOSTILE,)) for name, cell in CELLS.items()}
    return tables.build([run, other, short], cells, [HOSTILE])


def test_text_fits_the_terminal_and_shows_each_value(report: Report) -> None:
    text = render.text(report)
    assert all(len(line) <= 120 for line in text.splitlines())
    for table in tables.paper.TABLES:
        for row in table.rows:
            assert re.search(rf"^{re.escape(row.method)}.* {render.error(row.value)}\b", text, re.MULTILINE)
    (line,) = re.findall(r"^  table1/nin .*", text, re.MULTILINE)
    costs = ["0.967", "M", "222", "M", "28", "s", "2.0", "h"]
    assert line.split() == ["table1/nin", *costs, "10.50", "±", "0.10", "3", "1", "10.40", "10.60", "+0.09"]
    words = "reproduced: +0.09, limit 0.60; clipped at 1; data: official; 1 start died (whole network: 1)"
    words += "; times on a GPU"
    assert words in " ".join(text.split())
    assert "broken.json" in text and tables.RULE.split()[5] in text


def test_text_of_a_cell_without_runs_is_the_command_that_fills_it(report: Report) -> None:
    text = render.text(report)
    assert re.search(
        r"table3/nin +0.967 M +222 M +no runs yet\n +\$ python -m x experiment=table3/nin   # 5 x 2 h\n", text
    )
    assert "experiment=table1/nin " not in text  # that cell has what it needs


def test_text_on_a_narrow_terminal_tells_in_words_what_has_no_column(report: Report) -> None:
    text = render.text(report, 80)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert render.text(report, 40) == text and "mult-adds" not in render.text(report, 119)
    for row in (row for table in tables.paper.TABLES for row in table.rows):
        assert re.search(rf"^{re.escape(row.method)}.* {render.error(row.value)}\b", text, re.MULTILINE)
    (line,) = re.findall(r"^  table1/nin .*", text, re.MULTILINE)
    assert line.split() == ["table1/nin", "10.50", "±", "0.10", "3"]
    words = " ".join(text.split())
    assert (
        "0.967 M parameters; 222 M multiply-adds; 28 s an epoch; 2.0 h a run; 1 left out; best 10.40; worst 10.60"
        in words
    )
    assert "26 epochs; 277 s an epoch" in words


def test_how_a_run_ended_in_words(tmp_path: Path) -> None:
    died = [{"attempt": i, "died": how, "epoch": 1, "step": 9} for i, how in enumerate(("network", "diverged"))]
    lived = {"attempt": 1, "died": None, "epoch": 2, "step": 9}
    runs = stored(
        tmp_path,
        record(seed=0),
        record(seed=1, attempts=[died[0], lived]),
        record(seed=2, dead_classes=[3, 7]),
        record(seed=3, status="dead", error=None, dead_classes=list(range(10)), attempts=died),
    )
    states = ["done", "done; 1 start died", "done; dead classes: 3, 7", "dead; 2 starts died"]
    assert [render.state(run) for run in runs] == states
    text = " ".join(render.text(tables.build(runs, CELLS)).split())
    assert "3 starts died (whole network: 2, diverged: 1)" in text
    assert all(f"| {state} |" in render.markdown(tables.build(runs, CELLS), tmp_path) for state in states)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, ""), (0.24, "0.2 s"), (206.3, "206 s"), (2418, "40 min"), (52_920, "14.7 h"), (1.3e6, "361.1 h")],
)
def test_measured_times_in_words(seconds: float | None, words: str) -> None:
    assert render.span(seconds) == words


def test_counts_in_words() -> None:
    found = [render.millions(count) for count in (None, 349_674, 16_247_830, 222_486_528, 2_156_727_192)]
    assert found == ["", "0.350 M", "16.2 M", "222 M", "2,157 M"]


def test_every_machine_is_named(tmp_path: Path) -> None:
    runs = [record(seed=seed) for seed in range(2)] + [record(seed=2, device="1 x CPU", seconds=93_600.0)]
    report = tables.build(stored(tmp_path, *runs), CELLS)
    words = "times on a GPU; 360 s an epoch and 26.0 h a run on 1 x CPU (1 of the runs)"
    assert words in " ".join(render.text(report).split())
    assert words in render.markdown(report, tmp_path)
    assert "times on a GPU" in export.latex(report.tables[0])


def test_text_keeps_reduced_budgets_apart(report: Report) -> None:
    text = render.text(report)
    before, after = text.split("Reduced budgets (not comparable with the paper)")
    assert "18.50" not in before and "18.50" in after


def test_a_difference_of_nothing_has_no_minus() -> None:
    assert render.difference(-0.001) == "0.00"
    assert render.difference(-0.126) == "-0.13"


def test_markdown_numbers_link_to_existing_records(report: Report, tmp_path: Path) -> None:
    folder = tmp_path / "tables"
    page = render.markdown(report, folder)
    links = re.findall(r"(?<!!)\[[^]]*\]\(([^)#][^)]*)\)", page)
    assert {(folder / link).resolve() for link in links} == {path.resolve() for path in tmp_path.rglob("*.json")}
    anchors = set(re.findall(r"\]\(#([^)]*)\)", page)) - {"how-a-verdict-is-reached"}
    assert anchors == set(re.findall(r'<a id="([^"]*)">', page)) == {"table1-table1-nin-runs", "table5-table5-fc-runs"}
    assert "## How a verdict is reached" in page and "prediction interval" in page


def columns(page: str) -> list[set[int]]:
    """The numbers of cells in the lines of each Markdown table; a sound table has one."""
    blocks = re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE)
    return [{line.count("|") for line in block.splitlines()} for block in blocks]


def test_hostile_names_stay_text_in_markdown(hostile: Report, tmp_path: Path) -> None:
    page = render.markdown(hostile, tmp_path / "tables")
    assert "<script" not in page and "\x1b" not in page and "\u202e" not in page
    assert page.count("<") == page.count("<a id=") + page.count("</a>")
    assert all(len(counts) == 1 for counts in columns(page))
    headings = [line for line in page.splitlines() if line.startswith("#")]
    assert len(headings) == 1 + len(tables.paper.TABLES) + 4
    assert "[e](f)" not in page and "c&#60;script" in page
    assert re.search(r"\]\(\.\./rec%20ords%29%5B%7C/[0-9a-f]{12}\.json\)", page)


def test_hostile_names_do_not_reach_the_terminal(hostile: Report) -> None:
    text = render.text(hostile)
    assert all(char.isprintable() or char == "\n" for char in text + render.text(hostile, 80))
    commands = [line for line in text.splitlines() if len(line) > 120]
    assert all(line.lstrip().startswith(("$", "#")) for line in commands)  # to be copied whole


def test_hostile_names_stay_text_in_latex(hostile: Report) -> None:
    for table in hostile.tables:
        source = export.latex(table)
        assert source.isascii()
        body = re.sub(r"\\textbackslash\{\}|\\[{}$&#_%]", "", source.split("\n", 1)[1])
        assert body.count("{") == body.count("}")
        assert not re.search(r"[#%~^]", body)
        assert re.sub(r"\\usepackage|\\[a-z]+", "", body).count("_") == 0
        rows = [line for line in body.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
        assert {line.count("&") for line in rows} == {9}
    source = export.latex(hostile.tables[0])
    assert (
        r"\textbackslash{}h" in source
        and r"\{i\} \$j\$ \%k \&l \#m \textasciitilde{}n \textasciicircum{}o \_p" in source
    )


def test_latex_holds_the_values(report: Report) -> None:
    source = export.latex(report.tables[0])
    assert source.count(r"\begin{tabular}") == source.count(r"\end{tabular}") == source.count(r"\toprule") == 1
    assert r"\quad \texttt{table1/nin} &  & 10.50 $\pm$ 0.10 & 3 & $+0.09$ & reproduced & 0.967 M & " in source
    assert r"reproduced & 0.967 M & 222 M & 28 s & 2.0 h \\" in source
    assert r"Stochastic Pooling [11] & 15.13 & cited & & & & & & & \\" in source
    assert r"\textbf{NIN + Dropout} & 10.41" in source


def lines(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_csv_holds_unrounded_values(report: Report) -> None:
    rows = lines(export.csv_table(report.tables[0]))
    assert [row["paper_error"] for row in rows if row["own"] == "cited"] == [
        "15.13",
        "14.98",
        "11.68",
        "9.5",
        "9.38",
        "9.32",
    ]
    (row,) = [row for row in rows if row["experiment"] == "table1/nin"]
    assert float(row["mean"]) == pytest.approx(10.5) and float(row["std"]) == pytest.approx(0.1)
    assert (row["n"], row["dead_runs"], row["seeds"]) == ("3", "1", "0 1 2")
    assert row["keys"].split() == [record(seed=seed)["key"] for seed in (0, 1, 2)]  # none of the dead
    assert [row[f"starts_died_{how}"] for how in ("network", "classes", "diverged")] == ["1", "0", "0"]
    assert [float(error) for error in row["errors"].split()] == pytest.approx([10.4, 10.5, 10.6])
    assert (row["verdict"], row["deviations"], row["cost"]) == ("reproduced", "clipped at 1", "5 x 2 h")
    assert (row["parameters"], row["multiply_adds"]) == ("966986", "222486528")
    assert float(row["seconds_per_epoch"]) == pytest.approx(7200 / 260) and row["seconds_per_run"] == "7200.0"
    assert (row["machine"], row["timed_runs"]) == ("a GPU", "3")
    (short,) = lines(export.csv_groups(report.reduced))
    assert (short["mean"], short["seconds_per_run"], short["machine"]) == ("18.5", "7200.0", "a GPU")


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", "\r@", " ="])
def test_csv_texts_are_never_formulas(report: Report, start: str) -> None:
    cells = {name: replace(cell, command=f"{start}cmd()") for name, cell in CELLS.items()}
    rows = lines(export.csv_table(tables.build([], cells).tables[0]))
    commands = {row["command"] for row in rows if row["experiment"]}
    assert commands == {f"'{start.strip()}cmd()"}


def test_csv_numbers_stay_numbers(tmp_path: Path) -> None:
    runs = stored(tmp_path, record(error=10.0))
    (row,) = [row for row in lines(export.csv_table(tables.build(runs, CELLS).tables[0])) if row["n"] == "1"]
    assert float(row["difference"]) == pytest.approx(-0.41)


def test_csv_of_hostile_names_keeps_its_columns(hostile: Report) -> None:
    for text in [export.csv_table(hostile.tables[0]), export.csv_groups(hostile.reduced + hostile.other)]:
        table = list(csv.reader(io.StringIO(text)))
        assert len({len(row) for row in table}) == 1
        assert all(cell.isprintable() for row in table for cell in row)


def test_the_same_records_give_the_same_files(tmp_path: Path) -> None:
    values = [record(seed=seed, error=10 + seed / 7) for seed in range(4)] + [record("table5/fc", budget="short")]
    written = []
    for name, order in (("one", values), ("two", values[::-1])):
        runs = stored(tmp_path / name / "records", *order)
        folder = tmp_path / name / "tables"
        paths = export.write_all(tables.build(runs if name == "one" else runs[::-1], CELLS), [], folder)
        assert sorted(paths) == sorted(folder.iterdir())
        written.append({path.name: path.read_bytes() for path in paths})
    assert written[0] == written[1]
    expected = {"tables.md", "overview.svg", "apart.csv", "ablations.md"}
    expected |= {f"{table.id}.{kind}" for table in tables.paper.TABLES for kind in ("csv", "tex")}
    assert set(written[0]) == expected


def test_links_do_not_depend_on_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records.write(tmp_path / "records", record())
    pages = []
    for where, root in ((tmp_path, Path(".")), (tmp_path / "records", tmp_path)):
        monkeypatch.chdir(where)
        runs, _ = records.read_all(root / "records")
        pages.append(render.markdown(tables.build(runs, CELLS), root / "tables"))
    assert pages[0] == pages[1]


def test_doubtful_code_and_data_are_remarked(tmp_path: Path) -> None:
    runs = stored(tmp_path, record(seed=0, dirty=True), record(seed=1, data={"digest": "another"}))
    text = " ".join(render.text(tables.build(runs, CELLS)).split())
    assert "1 of 2 runs from modified code" in text and "2 different copies of the data" in text


def test_data_that_are_not_the_official_files_are_remarked(tmp_path: Path) -> None:
    (run,) = stored(tmp_path, record(data={"digest": "x", "provenance": "some copy of it"}))
    assert "data: some copy of it" in " ".join(render.text(tables.build([run], CELLS)).split())
    (run,) = stored(tmp_path / "official", record(data={"digest": "x", "provenance": "official files"}))
    assert "official files" not in render.text(tables.build([run], CELLS))


def test_reading_and_rendering_need_nothing_heavy() -> None:
    code = "import sys, nin_repro.results.export; print(*{'numpy', 'torch', 'hydra'} & set(sys.modules))"
    root = Path(__file__).parents[1]
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""
