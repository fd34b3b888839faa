"""One picture of it all: every number of the authors' own systems, and how far from it ours are.

An SVG that needs nothing else, in light and dark. Errors of 0.5 % and of 36 % stand in one picture because each is
shown relative to the paper's value.
"""

from collections.abc import Sequence
from html import escape

from nin_repro.results.luck import luck_of_images
from nin_repro.results.render import clean, error, spread
from nin_repro.results.tables import Report, Result, Table

REACH = 40.0  # percent of the paper's value to either side; what is farther stands at the edge, as an arrow
WIDE, HEAD, ROW, FOOT = 1000, 44, 34, 46  # pixels
LEFT, RIGHT, PAPER, OURS = 420, 690, 390, 724  # of the plot; where the paper's values end and ours begin

STYLE = """
.ov { --ink: #1b1f24; --soft: #59636e; --paper: #fff; --line: #d1d9e0; --band: #e4e9ee; --edge: #848d97;
  --mark: #0550ae; font-family: system-ui, sans-serif; background: var(--paper); }
@media (prefers-color-scheme: dark) { .ov { --ink: #e6edf3; --soft: #9aa4af; --paper: #0d1117; --line: #3d444d;
  --band: #262d36; --edge: #6b7681; --mark: #79b8ff; } }
.ov .ink { fill: var(--ink); font-size: 14px; } .ov .soft { fill: var(--soft); font-size: 12px; }
.ov .rule { stroke: var(--line); } .ov .zero { stroke: var(--ink); }
.ov .luck { fill: var(--band); stroke: var(--edge); }
.ov .bar { stroke: var(--mark); stroke-width: 2; } .ov .mean { fill: var(--mark); }
.ov .seed { fill: none; stroke: var(--mark); stroke-width: 1.2; }
"""
NOTE = (
    "Circles: our seeds; dot and bar: their mean and standard deviation. The paper's values are single runs.",
    "Grey: what may be luck, by the rule of the tables or, with too few runs, by the number of test images alone.",
)


def svg(report: Report) -> str:
    """The picture: a row for each experiment that measures a number of the authors' own systems again."""
    rows = [
        (table, row.paper.method, row.paper.value, result)
        for table in report.tables
        for row in table.rows
        if row.paper.own and row.paper.value
        for result in row.results
    ]
    height = HEAD + ROW * len(rows) + FOOT
    drawn = _scale(HEAD + ROW * len(rows))
    before = None
    for i, (table, method, value, result) in enumerate(rows):
        drawn += _row(HEAD + ROW * i, table, method, value, result, table is not before)
        before = table
    drawn += [_text(12, HEAD + ROW * len(rows) + 18 + 16 * i, line, "soft") for i, line in enumerate(NOTE)]
    measured = sum(result.stats.n > 0 for *_, result in rows)
    words = (
        f"Test errors relative to the paper's: {measured} of {len(rows)} of the authors' own are measured. The tables "
    )
    words += "have all that is drawn here."
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {height}" class="ov" role="img" '
        f'aria-label="{escape(words)}"><style>{STYLE}</style>{"".join(drawn)}</svg>\n'
    )


def _place(percent: float) -> float:
    """Where a difference from the paper's value, in percent of it, is drawn."""
    return LEFT + (RIGHT - LEFT) * (max(-REACH, min(REACH, percent)) + REACH) / (2 * REACH)


def _text(x: float, y: float, words: str, kind: str = "ink", anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(clean(words))}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _scale(bottom: float) -> list[str]:
    """What stands above the rows, and the lines that go through them."""
    drawn = [_text(12, 30, "Test error, %"), _text(PAPER, 30, "paper", anchor="end"), _text(OURS, 30, "ours")]
    for percent in (-REACH, -REACH / 2, 0, REACH / 2, REACH):
        x = _place(percent)
        drawn.append(_text(x, 30, f"{percent:+g} %" if percent else "as the paper", "soft", "middle"))
        drawn.append(_line(x, HEAD - 4, x, bottom, "rule"))
    return drawn


def _row(top: float, table: Table, method: str, value: float, result: Result, first: bool) -> list[str]:
    stats, middle = result.stats, top + ROW / 2
    drawn = [_line(12, top, WIDE - 12, top, "rule")] if first else []
    name = f"{table.paper.name}: {method}"
    drawn += [_text(12, middle - 1, name), _text(12, middle + 13, result.cell.experiment, "soft")]
    drawn.append(_text(PAPER, middle + 5, error(value), anchor="end"))
    limit = result.verdict.limit or luck_of_images(value, table.paper.test_set_size)
    low, high = _place(-100 * limit / value), _place(100 * limit / value)
    drawn.append(f'<rect class="luck" x="{low:.1f}" y="{top + 5:g}" width="{high - low:.1f}" height="{ROW - 10}"/>')
    drawn.append(_line(_place(0), top + 3, _place(0), top + ROW - 3, "zero"))
    drawn += _marks(middle, [100 * (one - value) / value for one in stats.errors], stats.mean, stats.std, value)
    if not result.records:
        return [*drawn, _text(OURS, middle + 5, "no runs yet", "soft")]
    words = f"{spread(stats)}, n = {stats.n}" + (f", {stats.dead} dead" if stats.dead else "")
    verdict = result.verdict.short or result.verdict.text
    return [*drawn, _text(OURS, middle - 1, words), _text(OURS, middle + 13, verdict, "soft")]


def _marks(y: float, percents: Sequence[float], mean: float | None, std: float | None, value: float) -> list[str]:
    """The seeds, and their mean with its bar."""
    if mean is None:
        return []
    middle, half = 100 * (mean - value) / value, 100 * (std or 0.0) / value
    drawn = [f'<circle class="seed" cx="{_place(one):.1f}" cy="{y:g}" r="4"/>' for one in percents if abs(one) <= REACH]
    if abs(middle) > REACH:
        side, x = (1, RIGHT) if middle > 0 else (-1, LEFT)
        return [*drawn, f'<polygon class="mean" points="{x},{y:g} {x - 9 * side},{y - 6:g} {x - 9 * side},{y + 6:g}"/>']
    drawn.append(_line(_place(middle - half), y, _place(middle + half), y, "bar"))
    return [*drawn, f'<circle class="mean" cx="{_place(middle):.1f}" cy="{y:g}" r="4.5"/>']
