"""The analysis as a page: what reproduced, how many starts die, which other choices matter, what would change that.

Its numbers, and which of its sentences stand, are decided by the records; nothing is concluded from fewer runs than
the rules of `tables` and `arms` ask for.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from nin_repro.results import clipping, figure3_points
from nin_repro.results.ablations import QUICKSTART, Choice
from nin_repro.results.changes import FP32, precision
from nin_repro.results.claim_page import in_short
from nin_repro.results.claim_texts import TITLE, Claim
from nin_repro.results.contradictions import CONTRADICTIONS, Contradiction
from nin_repro.results.lottery import Lottery, lottery, percent, versus
from nin_repro.results.luck import hold, luck_of_run
from nin_repro.results.paper import VALUES
from nin_repro.results.records import Record
from nin_repro.results.render import DEVIATE, code, difference, error, grid, how, plain, reservations, spread
from nin_repro.results.tables import (
    AVX2,
    AVX512,
    FEWEST_RUNS,
    H200,
    PAPER_BUDGET,
    WANTED_RUNS,
    Cell,
    Report,
    Result,
    Row,
    verdict_counts,
)
from nin_repro.words import counted


def markdown(
    report: Report,
    compared: Sequence[Choice],
    claims: Sequence[Claim],
    records: Sequence[Record],
    bases: Mapping[str, Mapping[str, Any]],
) -> str:
    """The whole page, to lie in results/."""
    starts = lottery(records, bases)
    own = [
        Own(row, one, table.paper.test_set_size)
        for table in report.tables
        for row in table.rows
        for one in row.results
        if row.paper.own
    ]
    lines = [
        "# Analysis",
        "",
        "What the runs on record say of the paper, how sure that is, and what would change it. Written by "
        "`python -m nin_repro.tables`: every number and every conclusion is computed from "
        "[the records](records), and for the claims beside the tables from measurements of their networks and of "
        "single layers. Errors are in percent, differences in points; n counts living seeds; intervals are 95 %. "
        "Rules: [of tables](tables/tables.md#how-a-verdict-is-reached), "
        "[of claims](claims/claims.md#how-a-verdict-is-reached).",
        "",
        "## In short",
        "",
        *_short(own, claims, starts, compared),
        *_not_used(report),
        *_reproduced(own),
        *figure3_points.lines(records, bases),
        *_claims(claims),
        *_starts(starts),
        *clipping.lines(records, bases),
        *_choices(compared),
        *_contradictions(compared, own),
        *_change(own, compared, starts),
        "",
        *_missing(report, own),
    ]
    return "\n".join(lines) + "\n"


class Own(NamedTuple):
    """A cell of the paper's own systems, and how many images it is tested on."""

    row: Row
    result: Result
    images: int


def _not_used(report: Report) -> list[str]:
    if not report.problems:
        return []
    return [
        f"- **Not used** of the files among the records, and why: [{len(report.problems)}](tables/tables.md#not-used)."
    ]


def _short(
    own: Sequence[Own], claims: Sequence[Claim], starts: Sequence[Lottery], compared: Sequence[Choice]
) -> list[str]:
    run = [one for _, one, _ in own if one.records]
    told = verdict_counts(run) or "none of them has run"
    recipes = len({one.cell.family for one in run})
    same = f" They rest on {counted(recipes, 'recipe')}: what two cells ask for is run once." * (recipes < len(run))
    values = len({id(one.row) for one in own})
    lines = [
        f"- Values that the paper gives of its own systems: {values}, run by {len(own)} cells, as some can be read in "
        f"more than one way; with runs at the paper's budget: {len(run)}: {told}.{same}"
    ]
    few = [one for one in own if one.result.verdict.wide]
    if few:
        names = ", ".join(f"{code(one.result.cell.experiment)} (n={one.result.stats.n})" for one in few)
        lines.append(
            "- Reproduced only because our own seeds scatter, and farther off than the test images alone would allow: "
            f"{names}."
        )
    if claims:
        verdicts = Counter(claim.verdict.word for claim in claims)
        told = ", ".join(f"{count} {word}" for word, count in verdicts.most_common())
        lines.append(f"- Claims beside the tables: {told}.")
    ours = [one for one in starts if one.about.experiment in VALUES]
    whole = [one for one in ours if one.about.budget == PAPER_BUDGET and not one.about.changes]
    if whole:
        losing = [one for one in whole if one.share.count]
        safe = sum(one.share.of for one in whole) - sum(one.share.of for one in losing)
        told = ", ".join(f"{one.share.count} of {one.share.of} of {code(one.about.experiment)}" for one in losing)
        lines.append(
            f"- Starts that died, of the tables' experiments as they are and at their full length: {told or 'none'}; "
            f"of the other {len(whole) - len(losing)} with runs of their own none of {safe}. What changes that stands "
            "[below](#the-seed-lottery)."
        )
    tested = [one for one in compared if one.unclaimed]
    if tested:
        found = [one for one in tested if one.sign]
        kinds = len({one.changed for one in tested})
        lines.append(
            f"- [Other choices](#which-other-choices-matter) tried: {kinds}, in "
            f"{counted(len(tested), 'comparison')}; with an effect on the error larger than its limit: {len(found)}, "
            f"of which at the full length of a network of the paper: {sum(map(_whole, found))}." + _corrected(compared)
        )
    return [*lines, ""]


def _whole(one: Choice) -> bool:
    """Whether it is about a network of the paper at its full length."""
    return one.about.budget == PAPER_BUDGET and one.about.experiment in VALUES


def _at_lengths(compared: Sequence[Choice]) -> list[list[str]]:
    """Choices that were judged after few epochs and after more or at full length, each length a row, shortest first."""
    found: dict[tuple[str, tuple[str, ...]], list[Choice]] = {}
    for one in _judged(compared):
        if one.about.experiment in VALUES:
            found.setdefault((one.about.experiment, one.about.changes), []).append(one)
    rows = []
    for (experiment, changed), some in found.items():
        if len({(_whole(one), one.epochs) for one in some}) > 1:
            some.sort(key=lambda one: (_whole(one), int(one.epochs.partition("-")[0].replace(",", ""))))
            for one in some:
                length = ["all" if _whole(one) else one.epochs, one.about.precision, str(one.stats.n)]
                rows.append([code(experiment), code(" ".join(changed)), *length, difference(one.effect), one.share])
    return rows


def _where(one: Choice) -> str:
    """The experiment, and for how long: an effect after a few epochs need not be one after all."""
    return f"{plain(one.about.experiment)}, {one.epochs} epochs"


def _judged(compared: Sequence[Choice]) -> list[Choice]:
    """The choices that have a verdict; those too scattered for one have none."""
    return [one for one in compared if one.changed and one.sign is not None and not (one.sign == 0 and one.scattered)]


def _corrected(compared: Sequence[Choice]) -> str:
    """Which effects are left if it is reckoned with that so many choices were tried; empty if there are none at all."""
    measured = [one for one in compared if one.changed and one.chance is not None]
    if not any(one.sign for one in measured):
        return ""
    holding = hold([one.chance or 0.0 for one in measured])
    kept = [one for one, holds in zip(measured, holding, strict=True) if holds]
    names = ", ".join(f"{code(one.changed)} ({_where(one)})" for one in kept) or "none"
    return (
        f" Of all {len([one for one in compared if one.changed])} comparisons, with those of dropout and the last "
        f"layer, {len(measured)} have runs enough to say how likely luck alone is ([p](tables/ablations.md)); "
        f"corrected for so many (Holm, 5 %), these effects are left: {names}."
    )


def _reproduced(own: Sequence[Own]) -> list[str]:
    rows = []
    for row, one, _ in own:
        if one.records:
            training = [run.train_error for run in one.records if run.alive and run.train_error is not None]
            mean = error(sum(training) / len(training)) if training else ""
            cells = [code(one.cell.experiment), plain(row.paper.method), error(row.paper.value)]
            cells += [spread(one.stats), str(one.stats.n), difference(one.difference), error(one.verdict.limit), mean]
            cells += map(plain, (one.verdict.text, ", ".join(one.near)))
            rows.append(cells)
    lines = ["## What reproduced and what did not", ""]
    if rows:
        names = "Experiment|Method|Paper|Ours|n|Difference|Limit|Training error|Verdict|Also within the limit"
        lines += [
            "A difference within the limit may be luck: *reproduced* says that none beyond it was seen, not that "
            "there is none. *Also within the limit* are other values of the same table, from which these runs cannot "
            "be told either, *nearer* those that our mean is nearer to than to its own; how rows of ours differ from "
            "each other is judged by narrower limits, among the [claims](#claims-beside-the-tables). The training "
            "error is that of the final weights without dropout.",
            "",
            *grid(names, "llrrrrrrll", rows),
            "",
            f"{DEVIATE} ([which values are assumed](fidelity.md#experiments)):",
            "",
            *reservations(one.result for one in own if one.result.records),
            "",
        ]
    missing = [one.cell.experiment for _, one, _ in own if not one.records]
    if missing:
        lines += [f"Nothing is said of {', '.join(map(code, missing))}: no runs at the paper's budget yet.", ""]
    return lines


def _missing(report: Report, own: Sequence[Own]) -> list[str]:
    few = {one.cell.family: one for _, one, _ in own if one.records and one.stats.n < WANTED_RUNS}
    named = ", ".join(f"{code(one.cell.experiment)} ({one.stats.n})" for one in few.values())
    told = f"Cells with fewer than the {WANTED_RUNS} living seeds that are wanted, and how many they have: {named}."
    if not few and not report.empty:
        return []
    lines = ["## What is missing", "", *([told, ""] if few else [])]
    if not report.empty:
        return lines
    return [
        *lines,
        "Cells without runs at the paper's budget, each recipe once, what fills each, and minutes of one seed: all "
        "epochs that its schedule may take, an evaluation after each, at rates measured on a machine that did nothing "
        "else: on one core of a CPU with AVX2, or with AVX-512 and instructions for bf16 (no figure: nothing of its "
        "kind was measured there). On a CPU it is a third to two thirds more beside "
        "another training, on a GPU a fifth less for each of five at once. Runs in another `precision` than fp32 fill "
        "the cell too. `python scripts/reproduce.py --plan` says what each takes on its own machine; without `--plan` "
        "it trains them, most useful first.",
        "",
        *grid(
            "Cell|Command|Minutes: AVX2, fp32|AVX-512, fp32|AVX-512, bf16|H200, bf16",
            "llrrrr",
            map(_empty, report.empty),
        ),
        "",
    ]


def _empty(cell: Cell) -> list[str]:
    """Its experiment, what fills it, and minutes of one seed."""
    places = ((FP32, AVX2), (FP32, AVX512), ("bf16", AVX512), ("bf16", H200))
    by_precision = {precision(one.recipe): one.seconds for one in (cell, *cell.stand_ins)}
    taken = [by_precision.get(kind, {}).get(machine) for kind, machine in places]
    minutes = ["" if seconds is None else f"{seconds / 60:,.{0 if seconds > 600 else 1}f}" for seconds in taken]
    return [code(cell.experiment), code(cell.command), *minutes]


def _claims(claims: Sequence[Claim]) -> list[str]:
    lines = [f"## {TITLE}", ""]
    if not claims:
        return [*lines, "Not judged yet: `python -m nin_repro.claims`.", ""]
    rows = [[plain(one.text.title), plain(one.text.where), in_short(one), plain(one.verdict.text)] for one in claims]
    return [
        *lines,
        "Each by its own rule, stated with its numbers in [claims.md](claims/claims.md). A verdict at a reduced budget "
        "is about networks that were trained briefly; runs at the paper's budget replace it.",
        "",
        *grid("Claim|Where|Verdict|Why", "llll", rows),
        "",
    ]


def _starts(starts: Sequence[Lottery]) -> list[str]:
    lines = ["## The seed lottery", ""]
    if not starts:
        return [*lines, "No starts on record yet.", ""]
    shown = [one for one in starts if one.share.count]
    rows = []
    for one in shown:
        about = one.about
        choice = code(about.changed) or "as the experiment"
        cells = [code(about.experiment), plain(about.conditions), str(one.epochs), choice]
        cells += [percent(one.share), f"{one.share.count} of {one.share.of}", how(one.died), versus(one, starts)]
        rows.append([*cells, f"{one.lost} of {one.runs}"])
    names = "Experiment|Budget|Epochs|Choice|Starts that died|Count|How|Beside the experiment's own|Runs lost"
    safe = sum(one.share.of for one in starts) - sum(one.share.of for one in shown)
    others = f"The other recipes, {len(starts) - len(shown)}, lost none of their {counted(safe, 'start')}."
    others += " Runs that validate are not counted."
    lines += [
        "A start dies when its output no longer depends on the input (the whole network), when the last ReLU holds a "
        "class's map at zero for every image (some classes), or when its loss or gradient is not finite (diverged). "
        "A dead start is followed by a fresh one as often as `restarts` says; where some classes died, at the budget "
        "`paper` only (an experiment's full length), as after a few epochs they may yet begin to learn. A run is lost "
        "when its last start died. In brackets: Wilson's interval. Where runs start anew until one lives, the share "
        "comes out somewhat too low. The last column but one compares with the experiment as it is (another reading of "
        "a row of the paper with the first), at the same budget and in the same precision, by Newcombe's interval of "
        "the difference, in points of the share; where it depends on starts of which some classes died, it says so. "
        "Each row is judged by itself: nothing is corrected for how many there are.",
        "",
        *(grid(names, "llrlrrllr", rows) if rows else []),
        *([""] * bool(rows)),
        others,
        "",
    ]
    return lines


def _choices(compared: Sequence[Choice]) -> list[str]:
    rows = [
        [
            *(code(one.about.experiment), f"{plain(one.about.conditions)}, {one.epochs}", code(one.changed)),
            *(spread(one.stats), str(one.stats.n), difference(one.effect), error(one.limit), one.seen, _said_by(one)),
        ]
        for one in sorted(compared, key=lambda one: (not one.sign, -abs(one.effect or 0), one.about))
        if one.unclaimed
    ]
    lines = ["## Which other choices matter", ""]
    if not rows:
        return [*lines, "No runs of other choices yet.", ""]
    return [
        *lines,
        "Each choice beside the experiment's own runs at the same budget and in the same precision, those with an "
        f"effect first. {QUICKSTART} *Said by*: the [source](fidelity.md#sources) that has it so where sources differ; "
        "the others are nobody's, or undo a deviation. Dropout and the last layer, which the paper compares itself, "
        "stand among the claims ([all](tables/ablations.md)). What a choice does after a few epochs need not be "
        "what it does after all of them.",
        "",
        *grid("Experiment|Budget, epochs|Choice|Error|n|Effect|Limit|Seen|Said by", "lllrrrrll", rows),
        "",
        *_lengths(compared),
    ]


def _lengths(compared: Sequence[Choice]) -> list[str]:
    rows = _at_lengths(compared)
    if not rows:
        return []
    return [
        "Choices that were judged at several lengths, those among the claims too; effect and limit also in percent of "
        "the error without the choice:",
        "",
        *grid("Experiment|Choice|Epochs|Precision|n|Effect|In percent", "llrlrrr", rows),
        "",
    ]


def _said_by(choice: Choice) -> str:
    """Who has a choice so, and in which contradiction: also of an experiment that none of them is about."""
    sides = [(one, side) for one in CONTRADICTIONS for side in one.sides if side.holds(choice.about.changes)]
    concerned = [pair for pair in sides if pair[0].concerns(choice.about.experiment)] or sides
    return plain("; ".join(f"{side.by} ({one.id})" for one, side in concerned))


def _contradictions(compared: Sequence[Choice], own: Sequence[Own]) -> list[str]:
    rows = [
        [
            f"{one.id}. {plain(one.title)}",
            plain(" / ".join(side.what for side in one.sides)),
            _measured(one, compared, own),
        ]
        for one in CONTRADICTIONS
    ]
    return [
        "## Where the paper and its own code differ",
        "",
        "Who says what, and which experiment takes which side, is in [fidelity.md](fidelity.md#contradictions-between-"
        "sources). What the runs of those experiments say of it, at full length first; `quickstart`, which runs no row "
        "of the paper, stands in the table above only, and may say otherwise:",
        "",
        *grid("Matter|Readings|Measured", "lll", rows),
        "",
    ]


def _measured(one: Contradiction, compared: Sequence[Choice], own: Sequence[Own]) -> str:
    """The effects of choices that take one side of a contradiction and change nothing else.

    Where each side is an experiment of its own: the errors of both, once one has runs.
    """
    sides = [side for side in one.sides if side.keys]
    if len(sides) < 2:
        return "one reading cannot be run" if sides else "nothing to run"
    cells = {f"experiment={result.cell.experiment}": result.stats for _, result, _ in own if result.records}
    found = [f"{side.words}: {spread(cells[side.words])}" for side in sides if side.words in cells]
    found += [f"{side.words}: not yet" for side in sides if found and side.words not in cells]
    for choice in sorted(compared, key=lambda choice: not _whole(choice)):
        about = choice.about
        if about.changes and one.concerns(about.experiment) and any(side.holds(about.changes) for side in one.sides):
            length = f"{about.conditions}, {choice.epochs} epochs" + " only" * (about.budget != PAPER_BUDGET)
            what = f"{about.experiment}, {length}, {about.changed}"
            limit = f"limit {error(choice.limit)}" if choice.limit is not None else f"n={choice.stats.n}: {choice.seen}"
            effect = (
                difference(choice.effect) or f"{spread(choice.stats)} %, where no run of the experiment itself lives"
            )
            found.append(f"{what}: {f'{effect}, {limit}' if choice.stats.n else choice.seen}")
    return plain("; ".join(found)) or "not yet"


def _seeds_change(one: Own) -> str:
    """What of the seeds, their mean being what it is, would lead to another verdict, in words."""
    stats, difference = one.result.stats, one.result.difference or 0.0
    if one.result.verdict.wide:
        need = next((n for n in range(stats.n + 1, 100) if abs(difference) > luck_of_run(n, stats.std or 0.0)), None)
        word = "worse" if difference > 0 else "better"
        if need:
            return f"more seeds: {need} with this mean and this scatter would make it *{word}*"
    return "seeds that scatter otherwise"


def _change(own: Sequence[Own], compared: Sequence[Choice], starts: Sequence[Lottery]) -> list[str]:
    """What would overturn what stands above."""
    lines = ["## What would change these conclusions", ""]
    for cell in own:
        row, one, images = cell
        name, mean, value, limit = code(one.cell.experiment), one.stats.mean, row.paper.value, one.verdict.limit
        if limit is not None and mean is not None and value is not None:
            side = "outside" if abs(mean - value) <= limit else "inside"
            away = abs(abs(mean - value) - limit)
            lines.append(
                f"- {name} is *{one.verdict.word}* with a mean of {mean:.2f} over {one.stats.n} seeds: another "
                f"verdict needs a mean {side} {value - limit:.2f} to {value + limit:.2f}, which ours is {away:.2f} "
                f"from ({away / 100 * images:.0f} of the {images:,} test images), or "
                f"{_seeds_change(cell)}."
            )
        elif one.records:
            lines.append(f"- {name} has {counted(one.stats.n, 'living run')}: {FEWEST_RUNS} are judged.")
    cells = len({one.cell.family for _, one, _ in own if one.verdict.limit is not None})
    if cells:
        lines.append("- Each of the paper's values is of one run, whose luck is not known.")
        lines.append(
            f"- Recipes judged beside the paper's values: {cells}, each by itself and at 95 % or more, and so is each "
            "claim: nothing is corrected for how many they are."
        )
    compared = [one for one in compared if one.changed]
    tested = sum(one.sign is not None for one in compared)
    if tested:
        lines.append(
            f"- {tested} of [{len(compared)} comparisons of choices](tables/ablations.md) have runs enough, each "
            f"tested at 95 %: of so many without any effect, {tested / 20:.1f} would be expected to show one by luck "
            "alone. Those that share the experiment's own runs share their luck."
        )
    short = [one for one in compared if one.sign is None]
    wide = [one for one in compared if one.sign == 0]
    if wide:
        finest = min(wide, key=lambda one: one.limit or 0.0)
        lines.append(
            "- Where no effect of a choice was seen, one smaller than its limit may exist; the finest of these limits "
            f"is {error(finest.limit)} points ({code(finest.changed)} of {plain(finest.about.experiment)}), and four "
            "times the seeds would at least halve it, if they scatter alike."
        )
    dead = sum(not one.stats.n for one in short)
    if len(short) > dead:
        lines.append(
            f"- Comparisons with too few living runs to be judged: {len(short) - dead}; each wants {FEWEST_RUNS}."
        )
    if dead:
        lines.append(
            f"- In {counted(dead, 'comparison')} no run lives or has learned: nothing is known of the errors they "
            "lead to."
        )
    if starts:
        few = sum(one.share.of < 10 for one in starts)
        lines.append(
            f"- Shares of dead starts: {few} of {len(starts)} recipes have fewer than 10 starts, so that even none "
            "dead leaves room for a quarter or more."
        )
    lines.append(
        "- All runs on a data set are tested on the same images, and on the machines and versions that their records "
        "name; other hardware rounds differently and gives other runs of the same distribution."
    )
    return lines
