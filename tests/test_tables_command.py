"""`python -m nin_repro.tables` and the pages that it writes: from which records, where to, and the committed ones."""

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from fake_records import record, stored
from test_tables import CELLS

from nin_repro import tables as main
from nin_repro.config.compose import experiments, load
from nin_repro.config.conf import CONF
from nin_repro.config.origins import active, provenance
from nin_repro.results import tables
from nin_repro.results.readme import brief, renew
from nin_repro.results.records import read_all

ROOT = Path(__file__).parents[1]
Command = Callable[..., subprocess.CompletedProcess[str]]


def test_the_readme_shows_table_1_as_the_records_have_it(tmp_path: Path) -> None:
    """After new records: python -m nin_repro.tables"""
    copy = tmp_path / "README.md"
    copy.write_text((ROOT / "README.md").read_text())
    found, problems = read_all(ROOT / "results" / "records")
    configs = {name: load([f"experiment={name}"]) for name in experiments()}
    facts = {name: active(provenance(CONF, name, config), config) for name, config in configs.items()}
    claims = ROOT / main.RESULTS / "claims"
    judged = main.gather(found, problems, configs, main.kept_numbers(claims / main.LAYER_FILE) or {}, claims).claims()
    report = tables.build(found, main.cells(configs, facts), problems)
    links = brief(report, ROOT, ROOT / "results/tables", judged)
    assert renew(copy, links) and copy.read_text() == (ROOT / "README.md").read_text()
    assert "| **NIN + Dropout** | 10.41 |" in links and "| Text | NIN without dropout | 14.51 |" in links
    assert links.count("gradient norm clipped at 1") == 1 and "- assumed values: 3 of `table1/nin`, " in links
    assert "| Global average pooling is more robust to translations" in links
    assert not renew(tmp_path / "nowhere.md", links)


@pytest.mark.parametrize("name", ["tables", "claims", "figures"])
def test_pages_are_not_made_of_records_that_are_not_there(name: str, tmp_path: Path, command: Command) -> None:
    (tmp_path / "README.md").write_text((ROOT / "README.md").read_text())
    for words in ([], ["--records", "README.md"]):
        done = command(name, *words)
        assert done.returncode == 2 and done.stdout == ""
        assert done.stderr.count("\n") == 1 and "no directory: name one of records" in done.stderr
    assert "unrecognized arguments: --record" in command(name, "--record", "x").stderr
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_elsewhere_than_in_results_the_readme_stays_and_all_pages_lie_together(
    tmp_path: Path, command: Command
) -> None:
    before = (ROOT / "README.md").read_text()
    (tmp_path / "README.md").write_text(before)
    stored(tmp_path / "mine", *(record("table1/nin", seed, 9.0 + seed / 10) for seed in range(3)))
    done = command("tables", "--records", "mine", "--out", "pages")
    assert done.returncode == 0 and done.stderr == ""
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", "mine", "pages"}
    assert {"tables", "fidelity.md", "analysis.md", "report.html"} == {
        path.name for path in (tmp_path / "pages").iterdir()
    }
    assert (tmp_path / "README.md").read_text() == before


def test_records_that_are_not_used_are_told_of_everywhere_and_end_it_with_1(tmp_path: Path, command: Command) -> None:
    stored(tmp_path / "mine", *(record("table1/nin", seed, 9.0 + seed / 10) for seed in range(3)))
    first = next((tmp_path / "mine").rglob("*.json"))
    first.write_text(first.read_text()[:-20])
    done = command("tables", "--records", "mine", "--out", "pages")
    assert done.returncode == 1
    warning, problem = done.stderr.splitlines()
    assert warning.startswith("warning: 1 of the records in mine are not used") and first.name in problem
    assert first.name in (tmp_path / "pages/tables/tables.md").read_text()
    assert "**Not used**" in (tmp_path / "pages/analysis.md").read_text()
    assert "warning: 1 of" in command("figures", "--records", "mine", "--out", "pages").stderr


def test_the_readme_is_not_made_of_a_part_of_the_records(tmp_path: Path, command: Command) -> None:
    before = (ROOT / "README.md").read_text()
    (tmp_path / "README.md").write_text(before)
    stored(tmp_path / "results/records", *(record("table1/nin", seed, 9.0) for seed in range(3)))
    next((tmp_path / "results/records").rglob("*.json")).write_text("{")
    done = command("tables")
    assert done.returncode == 1 and done.stderr.splitlines()[-1] == "so README.md is left as it is"
    assert (tmp_path / "README.md").read_text() == before


def test_a_readme_without_a_place_for_the_tables_is_left_and_that_is_said(tmp_path: Path, command: Command) -> None:
    (tmp_path / "README.md").write_text("<!-- table 1: python -m nin_repro.tables -->\n")
    stored(tmp_path / "results/records", record("table1/nin"))
    done = command("tables")
    assert done.returncode == 0 and done.stderr.count("\n") == 1
    assert "README.md is left as it is: it has no lines <!-- table 1" in done.stderr
    assert (tmp_path / "README.md").read_text().count("\n") == 1


@pytest.mark.parametrize("name", ["tables", "claims", "figures"])
def test_other_records_do_not_take_the_place_of_the_projects_own(name: str, tmp_path: Path, command: Command) -> None:
    stored(tmp_path / "mine", record("table1/nin"))
    done = command(name, "--records", "mine")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "name another place with --out" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_pages_of_other_records_carry_their_own_claims_however_few_these_are(tmp_path: Path, command: Command) -> None:
    """One seed of each head, of the committed records, and a record of an unknown recipe."""
    for name in ("table1/nin", "table5/fc"):
        found = sorted((ROOT / "results/records" / name).iterdir())
        one = next(path for path in found if '"budget": "paper"' in path.read_text())
        shutil.copytree(one.parent, tmp_path / "mine" / name, ignore=lambda _, names, one=one: {*names} - {one.name})
    stored(tmp_path / "other", record("text/cnn_fc"))
    shutil.copytree(tmp_path / "other", tmp_path / "mine", dirs_exist_ok=True)
    for name in ("claims", "figures"):
        shutil.copytree(ROOT / "results" / name, tmp_path / "results" / name)
    assert command("tables", "--records", "mine", "--out", "pages").returncode == 0
    analysis, report = (tmp_path / "pages" / name for name in ("analysis.md", "report.html"))
    assert "Not judged yet" in analysis.read_text() and "data:image/png" not in report.read_text()
    (tmp_path / "pages/claims").mkdir()
    shutil.copy(ROOT / "results/claims/layers.json", tmp_path / "pages/claims")
    done = command("tables", "--records", "mine", "--out", str(tmp_path / "pages"))
    assert done.returncode == 0, done.stderr
    assert "not enough runs" in (tmp_path / "pages/claims/claims.md").read_text()


@pytest.mark.parametrize(
    "words",
    [
        ["tables", "--out", "/proc/pages"],
        ["figures", "--out", "/proc/pages"],
        ["claims", "--out", "/proc/pages"],
        ["claims", "--out", "/proc/pages", "--measure", "run"],
    ],
)
def test_a_place_that_is_none_is_refused_before_any_work(words: list[str], tmp_path: Path, command: Command) -> None:
    (tmp_path / "results/records").mkdir(parents=True)
    done = command(*words)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and words[2] in done.stderr


@pytest.mark.parametrize("price", ["nan", "-3", "inf", "three"])
def test_a_price_is_a_number(price: str, command: Command) -> None:
    done = command("tables", "--gpu-hour", price)
    assert done.returncode == 2 and "--gpu-hour" in done.stderr.splitlines()[-1]


def test_rows_of_other_tables_are_told_of_where_table_1_stands(tmp_path: Path) -> None:
    runs = stored(tmp_path, *(record("table4/nin", seed, 0.4 + seed / 100) for seed in range(3)))
    cells = CELLS | {"table4/nin": replace(CELLS["table4/nin"], deviations=("clipped",))}
    text = brief(tables.build(runs, cells), tmp_path, tmp_path)
    (row,) = [line for line in text.splitlines() if line.startswith("| Table 4 | NIN + Dropout | 0.47 |")]
    assert "| `table4/nin` | 0.41 ± 0.01 | [0](table4/nin/" in row
    near = "2-Layer CNN + 2-Layer NN (0.53), Stochastic Pooling (0.47), Conv. maxout + Dropout (0.45, nearer)"
    assert row.endswith(
        f"| reproduced: -0.06, limit 0.13 (scatter of seeds alone: 0.05); also within the limit: {near} |"
    )
    told = [line for line in text.splitlines() if line.startswith("- ")]
    assert told == ["- clipped: `table4/nin`", "- data: official: `table4/nin`"]
    assert "\n- " not in brief(tables.build([], CELLS), tmp_path, tmp_path)


def test_committed_pages_are_those_of_the_committed_records(tmp_path: Path, command: Command) -> None:
    """After new records: python -m nin_repro.claims, then python -m nin_repro.tables"""
    for name in ("records", "figures", "claims"):
        shutil.copytree(ROOT / "results" / name, tmp_path / "results" / name)
    assert command("claims").returncode == command("tables").returncode == 0
    kinds = (".md", ".csv", ".tex", ".html")
    made = [path for path in (tmp_path / "results").rglob("*") if path.suffix in kinds or path.name == "overview.svg"]
    assert len(made) > 15
    for path in made:
        assert path.read_bytes() == (ROOT / path.relative_to(tmp_path)).read_bytes(), path.name
