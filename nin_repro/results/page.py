"""The report as one HTML page that needs nothing else: tables, curves, ablations, costs, and what is missing.

No network, no library, no script but one that opens what is folded before printing. Everything that comes from records
is escaped here, at the one place where text becomes HTML: `_Markup`.
"""

import base64
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from nin_repro.results.ablations import Alike, Choice
from nin_repro.results.changes import precision
from nin_repro.results.claim_texts import TITLE, Claim
from nin_repro.results.curves import last_attempt
from nin_repro.results.lottery import Lottery, lottery, percent, versus
from nin_repro.results.overview import svg
from nin_repro.results.records import Record, commit_of
from nin_repro.results.render import DEVIATE, clean, difference, error, how, remarks, span, spread, state
from nin_repro.results.tables import RULE, WANTED_RUNS, Cell, Group, Report, Result, Row, Table, assumed, reserved
from nin_repro.words import counted

LARGEST = 3_000_000  # bytes of the page; figures that would not fit are linked instead
WIDE, HIGH, POINTS = 520, 200, 130  # of a curve: pixels, and points of each line at most
LINES = {"test_error": "test error", "validation_error": "validation error", "train_error_running": "training error"}

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #59636e; --paper: #fff; --line: #d1d9e0; --band: #f4f6f8;
  --a: #0550ae; --b: #bc4c00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9aa4af; --paper: #0d1117; --line: #3d444d;
  --band: #161b22; --a: #79b8ff; --b: #ffa657; } }
body { margin: 0 auto; max-width: 72rem; padding: 1rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.5 system-ui, sans-serif; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; border-top: 1px solid var(--line); padding-top: 1rem; }
a { color: var(--a); } a:focus-visible, summary:focus-visible, .wide:focus-visible { outline: 3px solid var(--b); }
nav ul { display: flex; flex-wrap: wrap; gap: .3rem 1rem; padding: 0; list-style: none; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding-bottom: .4rem; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
thead th { background: var(--band); } .n { text-align: right; white-space: nowrap; } .own th { font-weight: 700; }
.wide table { min-width: 40rem; } .wide td:last-child:not(.n) { min-width: 16rem; }
.wide svg.ov { min-width: 52rem; } tbody th { font-weight: 400; }
details { margin: .5rem 0; } details details { margin-left: 1rem; } summary { cursor: pointer; }
code { overflow-wrap: anywhere; font-size: .9em; } .command { display: inline-block; min-width: 20rem; }
.soft { color: var(--soft); } figure { margin: 1rem 0; }
.skip:not(:focus) { position: absolute; left: -100rem; }
@media (min-width: 56rem) { .narrow { display: none; } }
.curves { display: flex; flex-wrap: wrap; gap: 1rem; } .curves figure { margin: 0; flex: 0 1 22rem; }
svg { width: 100%; height: auto; } svg text { fill: var(--soft); font-size: 12px; }
img { max-width: 100%; background: #fff; }
.grid { stroke: var(--line); } .a { stroke: var(--a); } .b { stroke: var(--b); stroke-dasharray: 5 3; }
polyline { fill: none; stroke-width: 1.5; } figcaption { color: var(--soft); font-size: .9rem; }
@media print { body { max-width: none; } nav { display: none; } .wide { overflow: visible; }
  h2 { break-after: avoid; } .narrow, .skip { display: none; } }
"""
# What a figure shows, by the beginning of its file's name: for those who do not see it.
SHOWN = {
    "figure3": "Training and testing error of NIN on CIFAR-10 over epochs, with and without dropout: the paper's "
    "curves dotted, ours as the mean of several seeds with a band from the lowest to the highest",
    "figure4": "The ten confidence maps of the last mlpconv layer for test images, a row each, the true class's marked",
}
SCRIPT = "addEventListener('beforeprint', () => document.querySelectorAll('details').forEach(one => one.open = true))"


@dataclass(frozen=True)
class Prices:
    """What machines cost, USD an hour: a stated assumption, so that readers can put in their own."""

    gpu: float
    core: float

    def of(self, record: Record) -> float:
        """USD of one run: its threads of a CPU, or its part of a GPU if it was recorded that others shared it."""
        threads, sharing = re.match(r"(\d+) x ", record.device), re.search(r", (\d+) at once$", record.device)
        an_hour = self.core * int(threads[1]) if threads else self.gpu / int(sharing[1] if sharing else 1)
        return record.seconds / 3600 * an_hour


class _Markup(str):
    """Text that is HTML already; all other text is escaped where it is put into a page."""


def _text(value: object) -> _Markup:
    if isinstance(value, _Markup):
        return value
    return _Markup(escape("".join(char if char.isprintable() else "\ufffd" for char in str(value))))


def _tag(name: str, *inner: object, **attributes: str) -> _Markup:
    words = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items())
    return _Markup(f"<{name}{words}>{''.join(map(_text, inner))}</{name}>")


def html(
    report: Report,
    compared: Sequence[Choice],
    claims: Sequence[Claim],
    figures: Sequence[Path],
    records: Sequence[Record],
    bases: Mapping[str, Mapping[str, Any]],
    prices: Prices,
) -> str:
    """The page.

    Args:
        claims: as judged; none: they have not been.
        figures: PNG files to show.
        records: all there are, for what they cost.
        bases: the recipe of each experiment as its file has it now, to tell what runs have changed.
    """
    parts = [_overview(report), *(_table(table) for table in report.tables)]
    parts += [_claims(claims), _ablations(compared), _lottery(lottery(records, bases))]
    parts += [_groups(report.reduced + report.other), _figures(figures)]
    parts += [_costs(records, prices), _missing(report, prices), _rule(report)]
    names = {"overview": "At a glance"}
    names |= {table.paper.id: table.paper.name for table in report.tables}
    names |= {
        "extra": "Other NIN systems",
        "claims": "Claims",
        "ablations": "Single choices",
        "lottery": "Dead starts",
        "apart": "Other runs",
        "figures": "Figures",
        "costs": "Costs",
        "missing": "Missing",
        "rule": "How it is judged",
    }
    links = [_tag("li", _tag("a", name, href=f"#{anchor}")) for anchor, name in names.items()]
    head = _Markup(
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Network In Network, measured again</title><style>{STYLE}</style>"
    )
    lead = (
        "Lin, Chen, Yan, arXiv 1312.4400. Test errors in percent; ours: mean ± standard deviation over n seeds. Open a "
        "row's runs for seeds, commits, commands and curves. Written by python -m nin_repro.tables from the records."
    )
    body = [
        _tag("a", "Skip to the results", href="#overview", class_="skip"),
        _tag("h1", "Network In Network, measured again"),
        _tag("p", lead),
        _tag("p", "The picture and the tables are wider than this screen and scroll sideways.", class_="soft narrow"),
        _tag("nav", _tag("ul", *links), aria_label="Contents"),
        _tag("main", *parts),
        _Markup(f"<script>{SCRIPT}</script>"),
    ]
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{"".join(body)}</body></html>\n'


def _section(anchor: str, title: str, *inner: object) -> _Markup:
    return _tag("section", _tag("h2", title, id=anchor), *inner, aria_labelledby=anchor)


def _grid(caption: str, names: Sequence[str], rows: Iterable[_Markup], label: str = "") -> _Markup:
    """A table that scrolls by itself where the screen is narrow. Names that end in "|" are of numbers.

    `label` tells the region from others, where the caption does not.
    """
    head = [
        _tag("th", name.rstrip("|"), scope="col", class_="n") if name.endswith("|") else _tag("th", name, scope="col")
        for name in names
    ]
    table = _tag("table", _tag("caption", caption), _tag("thead", _tag("tr", *head)), _tag("tbody", *rows))
    return _tag("div", table, class_="wide", tabindex="0", role="region", aria_label=label or caption)


def _line(name: object, *cells: object, numbers: Sequence[int] = (), own: bool = False) -> _Markup:
    found = [_tag("td", cell, class_="n") if i in numbers else _tag("td", cell) for i, cell in enumerate(cells)]
    return _tag("tr", _tag("th", name, scope="row"), *found, class_="own" if own else "cited")


def _overview(report: Report) -> _Markup:
    """The picture, which scrolls by itself where the screen is narrow."""
    title = "At a glance"
    picture = _tag("div", _Markup(svg(report)), class_="wide", tabindex="0", role="region", aria_label=title)
    return _section("overview", title, _tag("p", report.summary), picture)


def _table(table: Table) -> _Markup:
    names = ("Method", "Paper|", "Ours|", "n|", "Left out|", "Difference|", "Verdict")
    rows = [line for row in table.rows for line in _rows(row)]
    size = f"Test error in %, {table.paper.test_set_size:,} test images"
    notes = [_tag("li", note) for note in table.paper.notes]
    results = [result for row in table.rows for result in row.results if result.records]
    return _section(
        table.paper.id,
        table.paper.heading,
        _grid(size, names, rows, f"{table.paper.heading}: results"),
        _tag("ul", *notes) if notes else "",
        *_reservations(results),
        *(_runs(result.cell.experiment, result.records, remarks(result)) for result in results),
    )


def _reservations(results: Sequence[Result]) -> tuple[_Markup, ...]:
    """What the numbers of a table hang on."""
    items = [
        _tag("li", f"{words}: ", _Markup(", ".join(_tag("code", name) for name in names)))
        for words, names in reserved(results).items()
    ]
    if counts := assumed(results):
        each = (_Markup(f"{count} of {_tag('code', name)}") for name, count in counts.items())
        items.append(_tag("li", "assumed values: ", _Markup(", ".join(each))))
    if not items:
        return ()
    return _tag("p", f"{DEVIATE}:"), _tag("ul", *items)


def _rows(row: Row) -> list[_Markup]:
    who = "" if row.paper.own else f" {row.paper.reference or ''}"
    value, own = error(row.paper.value), row.paper.own
    if not row.results:
        return [_line(f"{row.paper.method}{who}", value, "cited", "", "", "", "", numbers=(0, 1), own=own)]
    lines = []
    for result in row.results:
        stats, verdict = result.stats, ""
        if result.records:
            verdict = result.verdict.text
        name = _Markup(f"{_text(row.paper.method + who)} {_tag('code', result.cell.experiment)}")
        counts = (str(stats.n), str(stats.dead)) if result.records else ("", "")
        ours = spread(stats) if result.records else "no runs yet"
        cells = (value, ours, *counts, difference(result.difference), verdict)
        lines.append(_line(name, *cells, numbers=range(5), own=own))
    return lines


def _runs(name: str, records: Sequence[Record], notes: Sequence[str] = ()) -> _Markup:
    """The runs of a cell, folded: each with its curve, and what it takes to repeat it."""
    names = ("Seed", "Error|", "Training|", "State", "Time|", "Machine", "Commit", "Command")
    lines = [
        _line(
            str(one.seed),
            error(one.error),
            error(one.train_error),
            state(one),
            span(one.seconds),
            one.device,
            _commit(one),
            _tag("code", one.command, class_="command"),
            numbers=(0, 1, 3),
        )
        for one in records
    ]
    notes_ = _tag("ul", *(_tag("li", note) for note in notes)) if notes else ""
    curves = _tag("div", *map(_curve, records), class_="curves")
    count = counted(len(records), "run")
    inner = (notes_, _grid(f"Runs of {name}", names, lines), curves)
    return _tag("details", _tag("summary", f"{name}: {count}"), *inner)


def _commit(record: Record) -> _Markup:
    last = _tag("code", commit_of(record.commit, record.dirty))
    return _tag("span", last, *(f"; {words}" for words in record.earlier)) if record.earlier else last


def _curve(record: Record) -> _Markup:
    """Errors over epochs, drawn: 0 to 100 % or less, each line thinned to POINTS."""
    lines = [(title, sorted(last_attempt(record, name).items())) for name, title in LINES.items()]
    lines = [(title, points) for title, points in lines if len(points) > 1]
    if not lines:
        return _Markup("")
    last = max(x for _, points in lines for x, _ in points)
    top = next(size for size in (1, 2, 5, 10, 20, 50, 100) if size >= min(100, _typical(lines)))

    def place(x: float, y: float) -> str:
        return f"{40 + (WIDE - 50) * (x - 1) / max(last - 1, 1):.1f},{10 + (HIGH - 40) * (1 - min(y, top) / top):.1f}"

    drawn = []
    for mark in (0, 0.5, 1):
        y = place(1, mark * top).partition(",")[2]
        drawn.append(f'<line class="grid" x1="40" x2="{WIDE - 10}" y1="{y}" y2="{y}"/>')
        drawn.append(f'<text x="34" y="{float(y) + 4:.0f}" text-anchor="end">{mark * top:g}</text>')
    for (_, points), kind in zip(lines, "ab", strict=False):
        thin = points[:: max(1, len(points) // POINTS)] + points[-1:]
        drawn.append(f'<polyline class="{kind}" points="{" ".join(place(x, y) for x, y in thin)}"/>')
    drawn.append(f'<text x="40" y="{HIGH - 8}">epoch 1</text>')
    drawn.append(f'<text x="{WIDE - 10}" y="{HIGH - 8}" text-anchor="end">{last}</text>')
    legend = " and ".join(f"{title} ({how})" for (title, _), how in zip(lines, ("solid", "dashed"), strict=False))
    words = f"{clean(record.experiment or '')} seed {record.seed}: {legend} in %, {last:g} epochs"
    svg = f'<svg viewBox="0 0 {WIDE} {HIGH}" role="img" aria-label="{escape(words)}">{"".join(drawn)}</svg>'
    return _tag("figure", _Markup(svg), _tag("figcaption", f"Seed {record.seed}: {legend}, %"))


def _typical(lines: list[tuple[str, list[tuple[int, float]]]]) -> float:
    """An error that three quarters of the epochs are below: the first ones would flatten all else."""
    found = sorted(y for _, points in lines for _, y in points)
    return found[3 * len(found) // 4] * 1.2


def _groups(groups: Sequence[Group]) -> _Markup:
    title, names = "Runs that fill no cell", ("Experiment", "Error|", "n|", "Left out|", "Budget", "Epochs|", "What")

    rows = []
    for one in groups:
        cells = (spread(one.stats), str(one.stats.n), str(one.stats.dead), one.budget, one.epochs, one.why)
        rows.append(_line(one.experiment, *cells, numbers=(0, 1, 2, 4)))
    folded = [
        _runs(f"{one.experiment}, {one.budget}, {counted(one.epochs, 'epoch')}, {one.why}", one.records)
        for one in groups
    ]
    note = "At a reduced budget, under another protocol, or of another recipe than a row of the paper; never in a cell."
    if not rows:
        return _section("apart", title, _tag("p", note), "None.")
    inside = _tag("details", _tag("summary", "Seeds, commits, commands and curves of these runs"), *folded)
    return _section("apart", title, _tag("p", note), _grid("Means", names, rows), inside)


def _where(about: Alike, epochs: object) -> str:
    return f"{about.experiment}, {about.conditions}, {counted(epochs, 'epoch')}"


def _claims(claims: Sequence[Claim]) -> _Markup:
    rows = [
        _line(
            one.text.title,
            ": ".join(filter(None, (one.verdict.word, one.verdict.short))),
            one.verdict.text,
            one.text.where,
        )
        for one in claims
    ]
    note = "Each judged by its own rule, which stands with all numbers in "
    if not rows:
        return _section("claims", TITLE, _tag("p", "Not judged yet: ", _tag("code", "python -m nin_repro.claims")))
    page = _tag("a", "claims/claims.md", href="claims/claims.md")
    return _section(
        "claims", TITLE, _tag("p", note, page, "."), _grid(TITLE, ("Claim", "Verdict", "Why", "Where"), rows)
    )


def _ablations(compared: Sequence[Choice]) -> _Markup:
    names = ("Choice", "Error|", "n|", "Effect|", "Limit|", "Seen")
    rows = []
    for one in compared:
        name = one.changed or f"{_where(one.about, one.epochs)}, {one.name}"
        cells = (spread(one.stats), str(one.stats.n), difference(one.effect), error(one.limit), one.seen)
        rows.append(_line(name, *cells, numbers=range(4), own=not one.changed))
    title = "What single choices do"
    note = (
        "Runs that differ from an experiment in a few keys, beside that experiment's own runs at the same budget and "
        "in the same precision. An effect counts if it is larger than its 95 % limit."
    )
    return _section("ablations", title, _tag("p", note), _grid(title, names, rows) if rows else "No such runs yet.")


def _lottery(starts: Sequence[Lottery]) -> _Markup:
    names = ("Recipe", "Starts that died|", "Count|", "How", "Beside the experiment as it is", "Runs lost|")
    rows = []
    for one in starts:
        about = one.about
        name = f"{_where(about, one.epochs)}: {about.changed or 'as it is'}"
        cells = (percent(one.share), f"{one.share.count} of {one.share.of}", how(one.died), versus(one, starts))
        if one.share.count:
            rows.append(_line(name, *cells, f"{one.lost} of {one.runs}", numbers=(0, 1, 4), own=not about.changes))
    title = "Starts that died"
    note = f"Recipes of which a start died, in brackets the 95 % interval. {len(starts) - len(rows)} others lost none."
    return _section("lottery", title, _tag("p", note), _grid(title, names, rows) if rows else "")


def _figures(paths: Sequence[Path]) -> _Markup:
    drawn, room = [], LARGEST - 1_000_000
    for path in paths:
        content = path.read_bytes()
        if 4 * len(content) // 3 > room:
            drawn.append(_tag("p", "Too large to show here: ", _tag("code", path.name)))
            continue
        room -= 4 * len(content) // 3
        source = f"data:image/png;base64,{base64.b64encode(content).decode()}"
        figure, *of = path.stem.replace("figure", "Figure ").split("-")
        name = f"{figure} ({', '.join(of)})" if of else figure
        alt = f"{name}. {SHOWN.get(path.stem[:7], '')}"
        drawn.append(_Markup(f'<figure><img src="{source}" alt="{escape(alt)}">{_tag("figcaption", alt)}</figure>'))
    if not drawn:
        drawn.append(_tag("p", "None drawn yet: ", _tag("code", "python -m nin_repro.figures")))
    note = "Figure 4 shows images. Those of the paper's data sets are not ours to publish. "
    if any(path.stem.startswith("figure4-digits") for path in paths):
        note += "Those here are of the digits that quickstart trains on (E. Alpaydin and C. Kaynak, UCI Machine "
        note += "Learning Repository, CC BY 4.0). "
    how = _tag("p", note, _tag("code", "python -m nin_repro.figures --run runs/..."), " draws that of any trained run.")
    return _section("figures", "Figures", *drawn, how)


def _costs(records: Iterable[Record], prices: Prices) -> _Markup:
    machines: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        machines[record.device].append(record)
    rows = []
    for device, runs in sorted(machines.items()):
        hours, dollars = sum(run.seconds for run in runs) / 3600, sum(map(prices.of, runs))
        rows.append(_line(device, str(len(runs)), f"{hours:,.1f}", f"{dollars:,.2f}", numbers=range(3)))
    note = (
        "Wall time of all runs on record, whatever else ran on the machine; where its name says that several were "
        "trained at once, each costs its part. At assumed prices of "
        f"{prices.gpu:.2f} USD an hour of a GPU and {prices.core:.2f} of a CPU core (--gpu-hour, --core-hour)."
    )
    names = ("Machine", "Runs|", "Hours|", "USD|")
    return _section("costs", "What it cost", _tag("p", note), _grid("Costs", names, rows))


def _missing(report: Report, prices: Prices) -> _Markup:
    rows = []
    for cell in report.empty:
        rows.append(
            _line(cell.experiment, _tag("code", cell.command, class_="command"), cell.cost, _least(cell, prices))
        )
    all_ = _tag("p", "All of them, most useful first: ", _tag("code", "python scripts/reproduce.py"))
    names = ("Experiment", "Command", "Cost", f"USD of {WANTED_RUNS} seeds, at the least")
    return _section(
        "missing", "What is missing", all_, _grid("Cells without runs", names, rows) if rows else "Nothing."
    )


def _least(cell: Cell, prices: Prices) -> str:
    """What its seeds cost where they cost least: such as "0.38 (1 H200, bf16)"; empty where nothing was measured."""
    found = [
        (taken / 3600 * (prices.core * int(place.split()[0]) if "core" in place else prices.gpu), place, one)
        for one in (cell, *cell.stand_ins)
        for place, taken in one.seconds.items()
    ]
    if not found:
        return ""
    dollars, place, one = min(found, key=lambda each: each[0])
    return f"{WANTED_RUNS * dollars:,.2f} ({place}, {precision(one.recipe)})"


def _rule(report: Report) -> _Markup:
    problems = [_tag("li", problem) for problem in report.problems]
    unused = [_tag("h3", "Not used"), _tag("ul", *problems)] if problems else []
    fidelity, analysis = (_tag("a", name, href=name) for name in ("fidelity.md", "analysis.md"))
    more = _tag(
        "p", "Where each number is from, and what is assumed: ", fidelity, ". What follows from it: ", analysis, "."
    )
    return _section("rule", "How it is judged", _tag("p", RULE), more, *unused)
