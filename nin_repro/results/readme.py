"""The results as README.md opens with them: Table 1, and of the other tables what was measured."""

from collections.abc import Sequence
from pathlib import Path

from nin_repro.results.claim_page import verdicts
from nin_repro.results.claim_texts import TITLE, Claim
from nin_repro.results.export import write_page
from nin_repro.results.render import DEVIATE, PICTURE, PICTURED, code, error, grid, link, plain, reservations, spread
from nin_repro.results.tables import Report, Result, Row, Table

MARKS = "<!-- table 1: python -m nin_repro.tables -->", "<!-- end of table 1 -->"


def renew(page: Path, table: str) -> bool:
    """Put a table in the place of the one between the marks of a page; False if the page or its marks are not there."""
    try:
        before, _, rest = page.read_text("utf-8").partition(MARKS[0])
    except FileNotFoundError:
        return False
    _, mark, after = rest.partition(MARKS[1])
    if not mark:
        return False
    write_page(page, f"{before}{MARKS[0]}\n\n{table}\n{MARKS[1]}{after}")
    return True


def brief(report: Report, folder: Path, tables: Path, claims: Sequence[Claim] = ()) -> str:
    """The picture, Table 1, what was measured of the others, the claims with their verdicts, and, folded, what the
    numbers hang on, for a page in `folder`.

    Args:
        tables: where the picture is.
    """
    first, *rest = report.tables
    others = [
        (table, row, result)
        for table in rest
        for row in table.rows
        for result in row.results
        if row.paper.own and result.records
    ]
    lines = [report.summary, "", f"!{link(PICTURED, tables / PICTURE, folder)}", "", *_table_1(first, folder)]
    if others:
        lines += [
            "",
            "Other results of the authors' own that have runs (*Text*: stated in the paper's text only):",
            "",
            *_others(others, folder),
        ]
    rule = link("the limit", tables / "tables.md", folder).replace(".md", ".md#how-a-verdict-is-reached")
    lines += [
        "",
        "*Ours* is the test error in percent of the final weights, mean ± sample standard deviation over seeds; the "
        "numbers of the seeds lead to their records. *Reproduced*: our mean differs from the paper's value by at most "
        f"{rule}, the larger of the 95 % prediction interval for one more of our runs and the 95 % binomial interval "
        "of the test set; where our mean lies beyond one of the two, that one stands in brackets. That no difference "
        "was seen does not prove that there is none. *Also within the limit*: other values of the same table that "
        "these runs cannot be told from either, *nearer* where our mean is nearer to them. *k of n starts died*: so "
        "many initialisations failed to train and were replaced ([how](#networks-that-die)).",
    ]
    if claims:
        judged = link("The rules and numbers behind these verdicts", tables.parent / "claims" / "claims.md", folder)
        lines += ["", f"{TITLE}:", ""]
        lines += [*verdicts(claims), "", f"{judged}."]
    measured = [result for row in first.rows for result in row.results if result.records]
    told = reservations(measured + [result for *_, result in others])
    if told:
        sources = link("Where each value is from, and which are assumed", tables.parent / "fidelity.md", folder)
        summary = f"<summary>{DEVIATE}</summary>"
        lines += ["", "<details>", summary, "", *told, "", f"{sources}.", "", "</details>"]
    return "\n".join(lines) + "\n"


def _table_1(table: Table, folder: Path) -> list[str]:
    """All rows: what is printed, what we measured, and the verdict."""
    lines = []
    for row in table.rows:
        method = f"**{plain(row.paper.method)}**" if row.paper.own else plain(row.paper.method)
        head = [method, error(row.paper.value)]
        for result in row.results:
            lines.append([*head, *_measured(result, folder)])
            head = ["", ""]
        if not row.results:
            lines.append([*head, "", "cited", "", ""])
    return grid("Method|Paper|Experiment|Ours|Seeds|Verdict", "lrlrll", lines)


def _others(rows: Sequence[tuple[Table, Row, Result]], folder: Path) -> list[str]:
    """The same columns, and before them which table it is."""
    lines = [
        [plain(table.paper.name), plain(row.paper.method), error(row.paper.value), *_measured(result, folder)]
        for table, row, result in rows
    ]
    return grid("Table|Method|Paper|Experiment|Ours|Seeds|Verdict", "llrlrll", lines)


def _measured(result: Result, folder: Path) -> list[str]:
    """An experiment, its error, the seeds, and the verdict."""
    seeds = ", ".join(link(f"{record.seed}", record.path, folder) for record in result.records)
    died, verdict = result.stats.died.total(), result.verdict.text if result.records else ""
    if result.near:
        verdict += f"; also within the limit: {', '.join(result.near)}"
    if died:
        verdict += f"; {died} of {sum(len(record.attempts) for record in result.records)} starts died"
    return [code(result.cell.experiment), spread(result.stats), seeds, plain(verdict)]
