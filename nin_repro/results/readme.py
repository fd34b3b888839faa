"""The results as README.md opens with them: Table 1, and of the other tables what was measured."""

from pathlib import Path

from nin_repro.results.export import write_page
from nin_repro.results.render import PICTURE, PICTURED, code, error, grid, link, plain, spread
from nin_repro.results.tables import Report, Table

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


def brief(report: Report, folder: Path, tables: Path) -> str:
    """The picture, Table 1 in six columns, and of the others what was measured, for a page in `folder`.

    Args:
        tables: where the picture is.
    """
    picture = f"!{link(PICTURED, tables / PICTURE, folder)}"
    return f"{picture}\n\n{_six_columns(report.tables[0], folder)}{_others(report, folder)}"


def _six_columns(table: Table, folder: Path) -> str:
    """What is printed, what we measured, and the verdict."""
    lines = []
    for row in table.rows:
        method = f"**{plain(row.paper.method)}**" if row.paper.own else plain(row.paper.method)
        head = [method, error(row.paper.value)]
        for result in row.results:
            ours, verdict = "no runs yet", ""
            if result.records:
                ours, verdict = spread(result.stats), "; ".join([result.verdict.text, *result.reservations])
            seeds = ", ".join(link(f"{record.seed}", record.path, folder) for record in result.records)
            lines.append([*head, code(result.cell.experiment), ours, seeds, plain(verdict)])
            head = ["", ""]
        if not row.results:
            lines.append([*head, "", "cited", "", ""])
    return "\n".join(grid("Method|Paper|Experiment|Ours|Seeds|Verdict", "lrlrll", lines)) + "\n"


def _others(report: Report, folder: Path) -> str:
    """The rows of the paper's own systems that have runs, but for those of Table 1, in a line each."""
    lines = []
    for table in report.tables[1:]:
        for row in table.rows:
            for result in row.results:
                if row.paper.own and result.records:
                    where, _, _ = table.paper.heading.partition(". ")
                    told = "; ".join([result.verdict.text, *result.reservations])
                    seeds = ", ".join(link(f"{record.seed}", record.path, folder) for record in result.records)
                    lines.append(
                        f"- {plain(where)}, {plain(row.paper.method)}, paper {error(row.paper.value)}: "
                        f"{code(result.cell.experiment)} {spread(result.stats)} (seeds {seeds}): {plain(told)}"
                    )
    return "\n".join(["", "The authors' rows in the other tables that have runs:", "", *lines]) + "\n" if lines else ""
