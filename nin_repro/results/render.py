"""A report as terminal text and as Markdown. The same records give the same characters: no times, no machine paths.

Texts from records and cells may hold anything; `clean` and an escape for the format stand between them and the output.
"""

import os
import re
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

from nin_repro.results.records import Record
from nin_repro.results.tables import RULE, Group, Report, Result, Row, Stats, Table

WIDTH = 120  # columns of the terminal text


# Numbers and names -----------------------------------------------------------------------------------------------


def clean(text: str) -> str:
    """One line of printable characters: no line breaks, terminal escapes, direction marks or broken surrogates."""
    return "".join(char if char.isprintable() else "\ufffd" for char in " ".join(text.split()))


def error(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def spread(stats: Stats) -> str:
    if stats.mean is None:
        return "all died" if stats.dead else "no runs yet"
    return f"{stats.mean:.2f}" + ("" if stats.std is None else f" ± {stats.std:.2f}")


def difference(value: float | None) -> str:
    return "" if value is None else f"{round(value, 2) + 0.0:+.2f}"  # + 0.0: never "-0.00"


def _starts(stats: Stats) -> str:
    """How many starts died and how; empty if none did."""
    kinds = {"whole network": stats.starts_network, "single classes": stats.starts_classes}
    kinds = {kind: count for kind, count in kinds.items() if count}
    total = sum(kinds.values())
    how = ", ".join(f"{count} {kind}" for kind, count in kinds.items()) if len(kinds) > 1 else "".join(kinds)
    return f"{total} start{'s' if total > 1 else ''} died ({how})" if total else ""


def remarks(result: Result) -> list[str]:
    """What a reader must know beside the numbers: deviations, deaths, and runs whose code or data is in doubt."""
    modified = sum(record.dirty for record in result.records)
    files = {str(record.data.get("digest")) for record in result.records}
    notes = [*result.deviations, _starts(result.stats)]
    notes.append(f"{modified} of {len(result.records)} runs from modified code" if modified else "")
    origins = sorted({str(record.data.get("provenance", "")) for record in result.records} - {"official files", ""})
    notes += [f"data: {origin}" for origin in origins]
    notes.append(f"runs on {len(files)} different copies of the data" if len(files) > 1 else "")
    return [note for note in notes if note]


def _method(row: Row) -> str:
    number = (row.paper.reference or "").partition(" ")[0]
    return f"{row.paper.method} {number}".strip()


def _apart(report: Report) -> list[tuple[str, tuple[Group, ...]]]:
    """The sections of runs that fill no cell."""
    sections = [("Reduced budgets (not comparable with the paper)", report.reduced), ("Other runs", report.other)]
    return [(heading, groups) for heading, groups in sections if groups]


def _wanting(result: Result) -> bool:
    """Whether more runs are needed, so that the reader should see the command."""
    return result.verdict.word in ("no runs", "too few")


# Terminal --------------------------------------------------------------------------------------------------------

_COLUMNS = (("", 52), ("paper", 6), ("ours", 14), ("n", 3), ("dead", 4), ("best", 6), ("worst", 6), ("diff", 6))


def text(report: Report) -> str:
    """The whole report for a terminal of WIDTH columns, ending with a newline."""
    lines: list[str] = []
    for table in report.tables:
        size = f"test error in %, {table.paper.test_set_size:,} test images"
        lines += ["", f"{table.paper.heading} - {size}", *_header(name for name, _ in _COLUMNS)]
        for row in table.rows:
            lines += _text_row(row)
        lines += [_line(note, "  Note: ", 8) for note in table.paper.notes]
    for heading, groups in _apart(report):
        names = ["experiment", "paper", "error", "n", "dead", "best", "worst", "epochs"]
        lines += ["", heading, *_header(names), *(line for group in groups for line in _text_group(group))]
    if report.problems:
        lines += ["", f"Not used ({len(report.problems)})", *(_line(problem, "  ", 4) for problem in report.problems)]
    lines += ["", _line(RULE, "Verdicts. ", 0), "", _line(report.summary, "", 0)]
    return "\n".join(lines).lstrip("\n") + "\n"


def _line(content: str, lead: str, indent: int) -> str:
    """`content` after `lead`, wrapped to WIDTH with a hanging indent."""
    indents = {"initial_indent": lead, "subsequent_indent": " " * indent}
    return textwrap.fill(clean(content), WIDTH, break_on_hyphens=False, **indents)  # type: ignore[arg-type]


def _header(names: Iterable[str]) -> list[str]:
    return [_cells(*names), "─" * (sum(size for _, size in _COLUMNS) + 2 * (len(_COLUMNS) - 1))]


def _cells(name: str, *numbers: str, indent: int = 0) -> str:
    width = _COLUMNS[0][1] - indent
    name = clean(name)
    name = name if len(name) <= width else name[: width - 1] + "…"
    columns = (number.rjust(size) for number, (_, size) in zip(numbers, _COLUMNS[1:], strict=True))
    return "  ".join([" " * indent + name.ljust(width), *columns]).rstrip()


def _text_row(row: Row) -> list[str]:
    mark = "" if row.paper.own else "cited"
    lines = [_cells(_method(row), error(row.paper.value), mark, "", "", "", "", "")]
    for result in row.results:
        numbers = ["", *_numbers(result.stats), difference(result.difference)]
        lines.append(_cells(result.cell.experiment, *numbers, indent=2))
        if result.stats.n or result.stats.dead:
            lines.append(_line("; ".join([result.verdict.text, *remarks(result)]), "      ", 8))
        if _wanting(result):
            lines += _text_command(result)
    return lines


def _numbers(stats: Stats) -> list[str]:
    counts = [str(stats.n), str(stats.dead)] if stats.n or stats.dead else ["", ""]
    return [spread(stats), *counts, error(stats.best), error(stats.worst)]


def _text_command(result: Result) -> list[str]:
    """The command is never wrapped: it is there to be copied."""
    command, cost = f"      $ {clean(result.cell.command)}", clean(result.cell.cost)
    return [f"{command}   # {cost}"] if len(command) + len(cost) + 5 <= WIDTH else [command, f"        # {cost}"]


def _text_group(group: Group) -> list[str]:
    name = f"{group.experiment}, {group.budget}"
    detail = f"      {group.why}; {group.steps} steps; recipe {group.family}"
    return [_cells(name, error(group.paper), *_numbers(group.stats), group.epochs), detail]


# Markdown --------------------------------------------------------------------------------------------------------


def markdown(report: Report, folder: Path) -> str:
    """The whole report as one Markdown page to lie in `folder`; its numbers link to the records behind them."""
    lines = ["# The paper's tables, measured again", "", report.summary, ""]
    lines += [
        "Test errors in percent; *ours* is mean ± standard deviation over *n* seeds and links to the runs behind it, "
        "*best* and *worst* link to their records. Written by `python -m nin_repro.tables`; the rule behind the "
        "verdicts stands [at the end](#how-a-verdict-is-reached).",
    ]
    for table in report.tables:
        lines += _md_table(table, folder)
    for heading, groups in _apart(report):
        names = "Experiment|Budget|Epochs|Steps|Error|n|Dead|Best|Worst|Paper, for orientation|Recipe|What|Records"
        rows = (_md_group(group, folder) for group in groups)
        lines += ["", f"## {heading}", "", *grid(names, "llrrrrrrrrlll", rows)]
    lines += ["", "## How a verdict is reached", "", plain(RULE)]
    if report.problems:
        lines += ["", "## Not used", "", *(f"- {plain(problem)}" for problem in report.problems)]
    return "\n".join(lines) + "\n"


def _md_table(table: Table, folder: Path) -> list[str]:
    results = [result for row in table.rows for result in row.results]
    rows = [line for row in table.rows for line in _md_row(table, row, folder)]
    names = "Method|Reference|Paper|Experiment|Ours|n|Dead|Best|Worst|Difference|Verdict|Remarks"
    lines = ["", f"## {plain(table.paper.heading)}", "", f"{table.paper.test_set_size:,} test images.", ""]
    lines += [*grid(names, "llrlrrrrrrll", rows), "", *(f"- {plain(note)}" for note in table.paper.notes)]
    wanting = [result for result in results if _wanting(result)]
    if wanting:
        lines += ["", "To fill:", ""]
        costs = (f" ({plain(result.cell.cost)})" if result.cell.cost else "" for result in wanting)
        lines += [f"- {_code(result.cell.command)}{cost}" for result, cost in zip(wanting, costs, strict=True)]
    for result in results:
        if result.records:
            lines += ["", f'<a id="{_anchor(table, result)}"></a>Runs of {_code(result.cell.experiment)}:', ""]
            names = "Seed|Test error|Train error|State|Record|Commit|Device|Hours|Command"
            lines += grid(names, "rrrllllrl", (_md_record(record, folder) for record in result.records))
    return lines


def _md_row(table: Table, row: Row, folder: Path) -> list[list[str]]:
    method = f"**{plain(row.paper.method)}**" if row.paper.own else plain(row.paper.method)
    head = [method, plain(row.paper.reference or "this paper"), error(row.paper.value)]
    if not row.results:
        return [[*head, "", "cited" if not row.paper.own else "no experiment", *[""] * 7]]
    lines = []
    for result in row.results:
        ours = spread(result.stats)
        if result.records:
            ours = f"[{ours}](#{_anchor(table, result)})"
        elif not row.paper.own:
            ours = "cited; no re-run yet"
        _, n, dead, _, _ = _numbers(result.stats)
        verdict = result.verdict.text if result.records else ""
        line = [*head, _code(result.cell.experiment), ours, n, dead, *_extremes(result.records, result.stats, folder)]
        lines.append([*line, difference(result.difference), plain(verdict), plain("; ".join(remarks(result)))])
        head = ["", "", ""]
    return lines


def _extremes(records: Sequence[Record], stats: Stats, folder: Path) -> list[str]:
    """The best and the worst error, each with a link to (the first) record that has it."""
    cells = []
    for value in (stats.best, stats.worst):
        found = next((_link(error(value), one, folder) for one in records if one.alive and one.error == value), "")
        cells.append(found)
    return cells


def _md_record(record: Record, folder: Path) -> list[str]:
    state = record.status
    if record.dead_classes and record.status != "dead":
        state += f", dead classes {', '.join(map(str, record.dead_classes))}"
    died = sum(attempt.died is not None for attempt in record.attempts)
    state += f", {died} start{'s' if died > 1 else ''} died" if died else ""
    commit = _code(record.commit[:12]) + (" (modified)" if record.dirty else "")
    numbers = [str(record.seed), error(record.error), error(record.train_error)]
    hours = f"{record.seconds / 3600:.1f}"
    file = _link(record.key, record, folder)
    return [*numbers, state, file, commit, plain(record.device), hours, _code(record.command)]


def _md_group(group: Group, folder: Path) -> list[str]:
    links = " ".join(_link(f"seed {record.seed}", record, folder) for record in group.records)
    names = [_code(group.experiment), _code(group.budget), group.epochs, group.steps]
    return [*names, *_numbers(group.stats), error(group.paper), _code(group.family), plain(group.why), links]


def _anchor(table: Table, result: Result) -> str:
    return f"{table.paper.id}-{re.sub('[^a-z0-9]+', '-', result.cell.experiment.lower())}-runs"


def _link(label: str, record: Record, folder: Path) -> str:
    return link(label, record.path, folder)


def link(label: str, path: Path, folder: Path) -> str:
    """A Markdown link to a file, for a page that lies in `folder`."""
    relative = os.path.relpath(path, folder)
    return f"[{plain(label)}]({quote(os.fsencode(relative))})"


def grid(names: str, align: str, rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table; `names` parted by "|", `align` one of l, r per column."""
    marks = "|".join({"l": " --- ", "r": " ---: "}[side] for side in align)
    return [f"| {' | '.join(names.split('|'))} |", f"|{marks}|", *(f"| {' | '.join(row)} |" for row in rows)]


_MD = {char: f"&#{ord(char)};" for char in "&<>|`\\"} | {char: f"\\{char}" for char in "*_[]#~$"}


def plain(content: str) -> str:
    """Plain text for Markdown: nothing in it becomes a tag, a table cell, code, emphasis or a link."""
    return "".join(_MD.get(char, char) for char in clean(content))


def _code(content: str) -> str:
    """A code span, or escaped text where the content could end the span or the table cell."""
    content = clean(content)
    return f"`{content}`" if content and not re.search(r"[`|<>\\&]", content) else plain(content)
