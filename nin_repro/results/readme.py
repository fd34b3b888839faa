"""The results as README.md opens with them: Table 1, and of the other tables what was measured."""

from collections.abc import Sequence
from pathlib import Path

from nin_repro.results.claim_texts import Claim
from nin_repro.results.export import write_page
from nin_repro.results.render import PICTURE, PICTURED, code, error, grid, link, plain, reservations, spread
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
    lines = [f"!{link(PICTURED, tables / PICTURE, folder)}", "", *_table_1(first, folder)]
    if others:
        lines += ["", "The authors' rows in the other tables that have runs:", "", *_others(others, folder)]
    rule = link("the limit", tables / "tables.md", folder).replace(".md", ".md#how-a-verdict-is-reached")
    lines += ["", f"*Reproduced* says that no difference beyond {rule} was seen, not that there is none."]
    if claims:
        judged = link("All of them, their rules and numbers", tables.parent / "claims" / "claims.md", folder)
        lines += ["", "What the paper says besides:", ""]
        rows = [[plain(one.text.title), f"**{one.verdict.word}**"] for one in claims]
        lines += [*grid("Claim|Verdict", "ll", rows), "", f"{judged}."]
    measured = [result for row in first.rows for result in row.results if result.records]
    told = reservations(measured + [result for *_, result in others])
    if told:
        sources = link("Where each value is from, and which are assumed", tables.parent / "fidelity.md", folder)
        summary = "<summary>What these runs have that the paper does not say, or says otherwise</summary>"
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
    if died:
        verdict += f"; {died} of {sum(len(record.attempts) for record in result.records)} starts died"
    return [code(result.cell.experiment), spread(result.stats), seeds, plain(verdict)]
