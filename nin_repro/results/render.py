"""A report as terminal text and as Markdown. The same records give the same characters: no times, no machine paths.

Texts from records and cells may hold anything; `clean` and an escape for the format stand between them and the output.
"""

import os
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from nin_repro.results.changes import FP32
from nin_repro.results.records import Record, commit_of
from nin_repro.results.tables import RULE, Group, Report, Result, Row, Stats, Table, Timing, assumed, reserved
from nin_repro.words import counted

WIDTH = 120  # columns of the terminal text, at most
NARROW = 80  # and at least
PICTURE = "overview.svg"  # the file beside the tables that shows all of it (overview.py)
PICTURED = "Our test errors relative to the paper's"
KINDS = {"network": "whole network", "classes": "some classes", "diverged": "diverged"}  # as `Attempt.died` has them

COSTS = (
    "weights and biases, and multiply-adds of one image forward, are counted; the time of an epoch and of a run is the "
    "median wall time of our runs, with evaluations and starts that died, on the machine named beside, whatever else "
    "ran there. 2 x: on two threads. In brackets are a CPU's instructions, which the earliest runs did not record. "
    "A row without runs has its epoch from runs of the same recipe at a reduced budget."
)


# Numbers and names -----------------------------------------------------------------------------------------------


def clean(text: str) -> str:
    """One line of printable characters: no line breaks, terminal escapes, direction marks or broken surrogates."""
    return "".join(char if char.isprintable() else "\ufffd" for char in " ".join(text.split()))


def error(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def spread(stats: Stats) -> str:
    if stats.mean is None:
        return "none learned" if stats.unlearned else "all died" if stats.dead else "no runs yet"
    return f"{stats.mean:.2f}" + ("" if stats.std is None else f" ± {stats.std:.2f}")


def difference(value: float | None) -> str:
    return "" if value is None else f"{value:+.2f}" if round(value, 2) else "0.00"


def millions(count: int | None) -> str:
    """Such as "0.967 M" or "2,157 M"."""
    if count is None:
        return ""
    value = count / 1e6
    return f"{value:,.0f} M" if value >= 100 else f"{value:#.3g} M"


def span(seconds: float | None) -> str:
    """Such as "0.2 s", "206 s", "40 min" or "14.7 h": a measured time, three digits at most."""
    if seconds is None:
        return ""
    if seconds < 1000:
        return f"{seconds:.{1 if seconds < 10 else 0}f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:,.1f} h"


def first(timings: Sequence[Timing]) -> tuple[str, str, str]:
    """Time of an epoch, of a run, and the machine: of that with the most runs. Unless it is fp32, the precision too."""
    if not timings:
        return "", "", ""
    most = timings[0]
    epoch, run = (
        span(taken) + f", {most.precision}" * (bool(span(taken)) and most.precision != FP32)
        for taken in (most.epoch, most.run)
    )
    return epoch, run, clean(most.device)


def _machines(timings: Sequence[Timing]) -> list[str]:
    """Where the times of `first` are from, and what other machines took."""
    if not timings:
        return []
    most, *others = timings
    notes = [f"times on {most.device}" if most.run is not None else f"epoch at a reduced budget, on {most.device}"]
    for other in others:
        taken = [f"{span(other.epoch)} an epoch"] * (other.epoch is not None)
        taken += [f"{span(other.run)} a run"] * (other.run is not None)
        notes.append(f"{' and '.join(taken) or 'no epoch'} on {other.device} ({other.runs} of the runs)")
    return notes


def how(died: Mapping[str, int]) -> str:
    """How starts died: such as "whole network: 4, some classes: 3"."""
    return ", ".join(f"{words}: {died[kind]}" for kind, words in KINDS.items() if died.get(kind))


def _starts(count: int) -> str:
    return f"{counted(count, 'start')} died"


def state(record: Record) -> str:
    """How a run ended, which classes are dead where not all are, and how many of its starts died."""
    parts = [record.status]
    if record.dead_classes and record.status != "dead":
        parts.append(f"dead classes: {', '.join(map(str, record.dead_classes))}")
    died = sum(attempt.died is not None for attempt in record.attempts)
    return "; ".join(parts + [_starts(died)] * bool(died))


def remarks(result: Result) -> list[str]:
    """What a reader must know beside the numbers: what they hang on, deaths, code in doubt, the machines."""
    modified = sum(record.dirty for record in result.records)
    files = {str(record.data.get("digest")) for record in result.records}
    died, count = result.stats.died, result.cell.assumed
    notes = [f"also within the limit: {', '.join(result.near)}" if result.near else "", *result.reservations]
    notes.append(f"{count} assumed values" if count else "")
    notes += [f"{_starts(died.total())} ({how(died)})" if died else ""]
    notes.append(f"{modified} of {len(result.records)} runs from modified code" if modified else "")
    notes.append(f"runs on {len(files)} different copies of the data" if len(files) > 1 else "")
    notes += _machines(result.timings)
    return [note for note in notes if note]


DEVIATE = "Where these runs deviate from the paper or go beyond it"


def reservations(results: Iterable[Result]) -> list[str]:
    """What numbers hang on, as a Markdown list."""
    results = list(results)
    lines = [f"- {plain(words)}: {', '.join(map(code, names))}" for words, names in reserved(results).items()]
    counts = ", ".join(f"{count} of {code(name)}" for name, count in assumed(results).items())
    return lines + [f"- assumed values: {counts}"] * bool(counts)


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

# Columns and their widths, the name first. What a narrow terminal has no column for it is told in words.
_WIDE = {"": 22, "params": 7, "mult-adds": 9, "epoch": 8, "run": 7, "paper": 6, "ours": 14, "n": 2, "dead": 4}
_WIDE |= {"best": 6, "worst": 6, "diff": 6}
_NARROW = {"": 50, "paper": 6, "ours": 14, "n": 2}
_WORDS = {"params": "{} parameters", "mult-adds": "{} multiply-adds", "epoch": "{} an epoch", "run": "{} a run"}
_WORDS |= {
    "dead": "{} left out",
    "best": "best {}",
    "worst": "worst {}",
    "diff": "difference {}",
    "epochs": "{} epochs",
}

_UNKNOWN = {"params": "", "mult-adds": ""}  # of groups


class _Page:
    """A terminal of so many columns."""

    def __init__(self, width: int) -> None:
        self.width = max(NARROW, min(width, WIDTH))
        self.columns = _WIDE if self.width == WIDTH else _NARROW

    def line(self, content: str, lead: str, indent: int) -> str:
        """`content` after `lead`, wrapped with a hanging indent."""
        indents = {"initial_indent": lead, "subsequent_indent": " " * indent}
        return textwrap.fill(clean(content), self.width, break_on_hyphens=False, **indents)  # type: ignore[arg-type]

    def header(self, name: str, renamed: Mapping[str, str] | None = None) -> list[str]:
        """The columns' names, `renamed` where they differ, and a rule below."""
        names = {column: (renamed or {}).get(column, column) for column in self.columns if column}
        return [self.cells(name, names), "─" * (sum(self.columns.values()) + 2 * (len(self.columns) - 1))]

    def cells(self, name: str, values: Mapping[str, str], indent: int = 0) -> str:
        """One line of the table; the name runs on over columns that are empty."""
        (_, room), *columns = self.columns.items()
        while columns and not values.get(columns[0][0]):
            room += columns.pop(0)[1] + 2
        room -= indent
        name = clean(name)
        name = name if len(name) <= room else name[: room - 1] + "…"
        numbers = (values.get(column, "").rjust(size) for column, size in columns)
        return "  ".join([" " * indent + name.ljust(room), *numbers]).rstrip()

    def left_out(self, values: Mapping[str, str]) -> list[str]:
        """The values that have no column here, in words; zeros are not worth one."""
        told = {name: value for name, value in values.items() if name not in self.columns and value not in ("", "0")}
        return [_WORDS[name].format(value) for name, value in told.items()]


def text(report: Report, width: int = WIDTH) -> str:
    """The whole report for a terminal of so many columns (80 to 120), ending with a newline."""
    page = _Page(width)
    lines: list[str] = []
    for table in report.tables:
        size = f"test error in %, {table.paper.test_set_size:,} test images"
        lines += ["", page.line(f"{table.paper.heading} - {size}", "", 0), *page.header("")]
        for row in table.rows:
            lines += _text_row(page, row)
        lines += [page.line(note, "  Note: ", 8) for note in table.paper.notes]
    for heading, groups in _apart(report):
        lines += ["", heading, *page.header("experiment", {"ours": "error", "diff": "epochs"} | _UNKNOWN)]
        lines += [line for group in groups for line in _text_group(page, group)]
    if report.problems:
        problems = (page.line(problem, "  ", 4) for problem in report.problems)
        lines += ["", f"Not used ({len(report.problems)})", *problems]
    lines += ["", page.line(COSTS, "Costs: ", 0), "", page.line(RULE, "Verdicts. ", 0)]
    lines += ["", page.line(report.summary, "", 0)]
    return "\n".join(lines).lstrip("\n") + "\n"


def _text_row(page: _Page, row: Row) -> list[str]:
    mark = "" if row.paper.own else "cited"
    lines = [page.cells(_method(row), {"paper": error(row.paper.value), "ours": mark})]
    for result in row.results:
        epoch, run, _ = first(result.timings)
        values = {"params": millions(result.cell.parameters), "mult-adds": millions(result.cell.multiply_adds)}
        values |= {"epoch": epoch, "run": run, **_named(result.stats), "diff": difference(result.difference)}
        lines.append(page.cells(result.cell.experiment, values, indent=2))
        ran = bool(result.stats.n or result.stats.dead)
        told = (
            [result.verdict.text] * ran
            + page.left_out(values)
            + (remarks(result) if ran else _machines(result.timings))
        )
        if told:
            lines.append(page.line("; ".join(told), "      ", 8))
        if _wanting(result):
            lines += _text_command(page, result)
    return lines


def _numbers(stats: Stats) -> list[str]:
    counts = [str(stats.n), str(stats.dead)] if stats.n or stats.dead else ["", ""]
    return [spread(stats), *counts, error(stats.best), error(stats.worst)]


def _named(stats: Stats) -> dict[str, str]:
    return dict(zip(("ours", "n", "dead", "best", "worst"), _numbers(stats), strict=True))


def _text_command(page: _Page, result: Result) -> list[str]:
    """The command is never wrapped: it is there to be copied."""
    command, cost = f"      $ {clean(result.cell.command)}", clean(result.cell.cost)
    if len(command) + len(cost) + 5 <= page.width:
        return [f"{command}   # {cost}"]
    return [command, page.line(cost, "        # ", 10)]


def _text_group(page: _Page, group: Group) -> list[str]:
    epoch, run, machine = first(group.timings)
    values = {"epoch": epoch, "run": run, "paper": error(group.paper), **_named(group.stats), "diff": group.epochs}
    told = [group.why, f"{group.steps} steps", f"recipe {group.family}"]
    told += [_WORDS["epochs"].format(group.epochs)] * ("diff" not in page.columns)
    told += page.left_out({name: value for name, value in values.items() if name != "diff"})
    told += [f"times on {machine}"] * bool(machine)
    return [page.cells(f"{group.experiment}, {group.budget}", values), page.line("; ".join(told), "      ", 8)]


# Markdown --------------------------------------------------------------------------------------------------------


def markdown(report: Report, folder: Path) -> str:
    """The whole report as one Markdown page to lie in `folder`; its numbers link to the records behind them."""
    lines = ["# The paper's tables, measured again", "", report.summary, "", f"![{PICTURED}]({PICTURE})", ""]
    lines += [
        "Test errors in percent; *ours* is mean ± standard deviation over *n* seeds and links to the runs behind it, "
        "*best* and *worst* link to their records. Written by `python -m nin_repro.tables`; the rule behind the "
        "verdicts stands [at the end](#how-a-verdict-is-reached).",
        "",
        f"Costs: {COSTS}",
    ]
    for table in report.tables:
        lines += _md_table(table, folder)
    for heading, groups in _apart(report):
        names = (
            "Experiment|Budget|Epochs|Steps|Error|n|Left out|Best|Worst|Paper, for orientation|An epoch|A run|Times on"
        )
        rows = (_md_group(group, folder) for group in groups)
        lines += ["", f"## {heading}", "", *grid(f"{names}|Recipe|What|Records", "llrrrrrrrrrrllll", rows)]
    lines += ["", "## How a verdict is reached", "", plain(RULE)]
    if report.problems:
        lines += ["", "## Not used", "", *(f"- {plain(problem)}" for problem in report.problems)]
    return "\n".join(lines) + "\n"


def _md_table(table: Table, folder: Path) -> list[str]:
    results = [result for row in table.rows for result in row.results]
    rows = [line for row in table.rows for line in _md_row(table, row, folder)]
    source = "Paper" if any(row.paper.own for row in table.rows) else "Source"
    names = f"Method|Reference|{source}|Experiment|Ours|n|Left out|Best|Worst|Difference|Verdict"
    names += "|Parameters|Multiply-adds|An epoch|A run"
    lines = ["", f"## {plain(table.paper.heading)}", "", f"{table.paper.test_set_size:,} test images.", ""]
    lines += [*grid(names, "llrlrrrrrrlrrrr", rows), "", *(f"- {plain(note)}" for note in table.paper.notes)]
    told = ((result.cell.experiment, "; ".join(remarks(result))) for result in results)
    lines += [f"- {code(name)}: {plain(words)}" for name, words in told if words]
    wanting = [result for result in results if _wanting(result)]
    if wanting:
        lines += ["", "To fill:", ""]
        costs = (f" ({plain(result.cell.cost)})" if result.cell.cost else "" for result in wanting)
        lines += [f"- {code(result.cell.command)}{cost}" for result, cost in zip(wanting, costs, strict=True)]
    for result in results:
        if result.records:
            lines += ["", f'<a id="{_anchor(table, result)}"></a>Runs of {code(result.cell.experiment)}:', ""]
            names = "Seed|Test error|Train error|State|Record|Commit|Device|Time|Command"
            lines += grid(names, "rrrllllrl", (_md_record(record, folder) for record in result.records))
    return lines


def _md_row(table: Table, row: Row, folder: Path) -> list[list[str]]:
    method = f"**{plain(row.paper.method)}**" if row.paper.own else plain(row.paper.method)
    head = [method, plain(row.paper.reference or "this paper"), error(row.paper.value)]
    if not row.results:
        return [[*head, "", "cited" if not row.paper.own else "no experiment", *[""] * 10]]
    lines = []
    for result in row.results:
        ours = spread(result.stats)
        if result.records:
            ours = f"[{ours}](#{_anchor(table, result)})"
        _, n, dead, _, _ = _numbers(result.stats)
        verdict = result.verdict.text if result.records else ""
        line = [*head, code(result.cell.experiment), ours, n, dead, *_extremes(result.records, result.stats, folder)]
        epoch, run, _ = first(result.timings)
        costs = [millions(result.cell.parameters), millions(result.cell.multiply_adds), epoch, run]
        lines.append([*line, difference(result.difference), plain(verdict), *costs])
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
    commit = code(commit_of(record.commit, record.dirty))
    commit += "".join(f"; {plain(words)}" for words in record.earlier)
    numbers = [str(record.seed), error(record.error), error(record.train_error)]
    file = _link(record.key, record, folder)
    return [*numbers, state(record), file, commit, plain(record.device), span(record.seconds), code(record.command)]


def _md_group(group: Group, folder: Path) -> list[str]:
    links = " ".join(_link(f"seed {record.seed}", record, folder) for record in group.records)
    names = [code(group.experiment), code(group.budget), group.epochs, group.steps]
    epoch, run, machine = first(group.timings)
    costs = [epoch, run, plain(machine)]
    return [*names, *_numbers(group.stats), error(group.paper), *costs, code(group.family), plain(group.why), links]


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


def code(content: str) -> str:
    """A code span, or escaped text where the content could end the span or the table cell."""
    content = clean(content)
    return f"`{content}`" if content and not re.search(r"[`|<>\\&]", content) else plain(content)
