"""A report as files: the Markdown page, CSV for spreadsheets, LaTeX for papers. The same records, the same bytes."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from nin_repro.files import atomic
from nin_repro.results import ablations
from nin_repro.results.ablations import Choice
from nin_repro.results.overview import svg
from nin_repro.results.render import (
    KINDS,
    PICTURE,
    clean,
    difference,
    error,
    first,
    markdown,
    millions,
    remarks,
    spread,
)
from nin_repro.results.tables import Group, Report, Result, Table, Timing


def write_all(report: Report, found: list[Choice], folder: Path) -> list[Path]:
    """Write tables.md and its picture, <table>.csv and <table>.tex, apart.csv (runs in no cell) and ablations.md.

    Returns the paths.
    """
    files = {"ablations.md": ablations.markdown(found), PICTURE: svg(report)}
    files |= {"tables.md": markdown(report, folder), "apart.csv": csv_groups(report.reduced + report.other)}
    for table in report.tables:
        files |= {f"{table.paper.id}.csv": csv_table(table), f"{table.paper.id}.tex": latex(table)}
    for name, content in files.items():
        write_page(folder / name, content)
    return [folder / name for name in files]


def write_page(path: Path, content: str) -> None:
    with atomic(path, "wb") as file:  # bytes: the same on every platform and locale
        file.write(content.encode())


# CSV -------------------------------------------------------------------------------------------------------------

_TIMES = ("seconds_per_epoch", "seconds_per_run", "machine", "timed_runs")
_COSTS = ("parameters", "multiply_adds", *_TIMES)


def csv_table(table: Table) -> str:
    """One line per row and experiment, numbers unrounded; `errors` belong to `seeds` in order.

    Times are those of the machine with the most runs; a run's is empty where only reduced budgets are known.
    """
    names = "table,dataset,test_images,method,reference,location,own,paper_error,experiment,family,n,mean,std,best"
    names += f",worst,dead_runs,{','.join(f'starts_died_{kind}' for kind in KINDS)},difference,limit,verdict"
    names += ",verdict_text,deviations"
    lines: list[list[object]] = [[*names.split(","), "seeds", "errors", "keys", "command", "cost", *_COSTS]]
    for row in table.rows:
        printed = row.paper
        head: list[object] = [table.paper.id, table.paper.dataset, table.paper.test_set_size, printed.method]
        head += [printed.reference or "", printed.location, "own" if printed.own else "cited", printed.value]
        results = [_csv_result(result) for result in row.results]
        lines += [[*head, *result] for result in results] or [[*head, *[""] * (len(lines[0]) - len(head))]]
    return _csv(lines)


def _csv_result(result: Result) -> list[object]:
    stats, verdict = result.stats, result.verdict
    keys = [record.key for record in result.records if record.alive]
    numbers = [stats.n, stats.mean, stats.std, stats.best, stats.worst, stats.dead]
    numbers += [stats.died[kind] for kind in KINDS]
    return [
        *(result.cell.experiment, result.cell.family, *numbers, result.difference, verdict.limit),
        *(verdict.word, verdict.text, "; ".join(result.cell.deviations), _joined(stats.seeds), _joined(stats.errors)),
        *(" ".join(keys), result.cell.command, result.cell.cost, result.cell.parameters, result.cell.multiply_adds),
        *_times(result.timings),
    ]


def _times(timings: Sequence[Timing]) -> list[object]:
    most = timings[0] if timings else None
    return [most.epoch, most.run, most.device, most.runs] if most else [""] * len(_TIMES)


def csv_groups(groups: Iterable[Group]) -> str:
    """The runs that fill no cell, one line per recipe."""
    names = "experiment,budget,protocol,family,why,epochs,n,mean,std,best,worst,dead_runs,paper_error,seeds,errors"
    lines: list[list[object]] = [[*names.split(","), *_TIMES]]
    for group in groups:
        stats = group.stats
        head = [group.experiment, group.budget, group.protocol, group.family, group.why, group.epochs]
        numbers = [stats.n, stats.mean, stats.std, stats.best, stats.worst, stats.dead, group.paper]
        lines.append([*head, *numbers, _joined(stats.seeds), _joined(stats.errors), *_times(group.timings)])
    return _csv(lines)


def _joined(values: Iterable[object]) -> str:
    return " ".join(map(str, values))


def _csv(lines: Iterable[Iterable[object]]) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([_csv_cell(value) for value in line] for line in lines)
    return file.getvalue()


def _csv_cell(value: object) -> object:
    """Spreadsheets run a text that begins like a formula; a leading apostrophe keeps it text."""
    if not isinstance(value, str):
        return value
    value = clean(value)
    return f"'{value}" if value[:1] in ("=", "+", "-", "@") else value


# LaTeX -----------------------------------------------------------------------------------------------------------

_TEX = {char: f"\\{char}" for char in "{}$&#_%"} | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}"}
_TEX |= {"^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
_TEX |= {"±": r"$\pm$", '"': "''"}


def latex(table: Table) -> str:
    """A booktabs tabular; compiles with any engine, all characters it cannot hold shown as "?"."""
    lines = [f"% {_tex(table.paper.heading)}, test error in percent. Needs \\usepackage{{booktabs}}."]
    lines += [r"\begin{tabular}{lrrrrlrrrr}", r"\toprule"]
    lines += [
        r"Method & Paper & Ours & $n$ & Difference & Verdict & Parameters & Mult.-adds & Epoch & Run \\",
        r"\midrule",
    ]
    for row in table.rows:
        method = rf"\textbf{{{_tex(row.paper.method)}}}" if row.paper.own else _tex(row.paper.method)
        reference = "" if row.paper.own else f" {_tex((row.paper.reference or '').partition(' ')[0])}"
        mark = "" if row.paper.own else "cited"
        lines.append(rf"{method}{reference} & {error(row.paper.value)} & {mark} &" + " &" * 6 + r" \\")
        for result in row.results:
            lines += _tex_result(result)
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _tex_result(result: Result) -> list[str]:
    n = str(result.stats.n) if result.stats.n else ""
    cells = [rf"\quad \texttt{{{_tex(result.cell.experiment)}}}", "", _tex(spread(result.stats)), n]
    sign = difference(result.difference)
    verdict = result.verdict.word if result.verdict.limit is not None else ""
    cells += [f"${sign}$" if sign else "", _tex(verdict)]
    epoch, run, _ = first(result.timings)
    cells += map(_tex, (millions(result.cell.parameters), millions(result.cell.multiply_adds), epoch, run))
    notes = remarks(result) if result.timings or result.records else []
    return [" & ".join(cells) + r" \\"] + [
        rf"\multicolumn{{10}}{{l}}{{\footnotesize\qquad {_tex(note)}}} \\" for note in notes
    ]


def _tex(content: str) -> str:
    return "".join(_TEX.get(char, char if char.isascii() else "?") for char in clean(content))
