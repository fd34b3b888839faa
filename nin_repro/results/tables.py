"""The paper's tables filled from records: statistics over seeds, a verdict by one stated rule, and what stays apart.

A table is a query: it holds nothing that the records and `paper` do not. `render` and `export` make it readable.
"""

import statistics as standard
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from nin_repro.results import paper
from nin_repro.results.changes import FP32, all_changes, precision
from nin_repro.results.luck import luck_of_images, luck_of_run
from nin_repro.results.records import Record
from nin_repro.words import counted

PAPER_BUDGET = "paper"
AVX2, AVX512, H200 = "1 core (AVX2)", "1 core (AVX-512)", "1 H200"  # machines that costs are told of
FEWEST_RUNS = 3  # a standard deviation from two runs says next to nothing: t(0.975, 1) = 12.7
WANTED_RUNS = 5  # living seeds of a cell: t(0.975, 4) = 2.8, where that of three is 4.3

RULE = (
    "Let d be our mean minus the paper's value, which is a single run. d counts as a difference only if it is larger "
    "than two kinds of luck: (a) of the run: t(0.975, n-1) * s * sqrt(1 + 1/n), the 95% prediction interval for one "
    "more run, with s the standard deviation over our n seeds; (b) of the test images: 1.96 * sqrt(p (100 - p) / N), "
    "the 95% binomial interval of the paper's value p on its N test images. The larger of the two is the limit. Both "
    "sides are tested on the same images, so (b) is more than luck alone would part them by: it is how finely a test "
    "set of N images tells two methods apart. A d over one of them but not over the other is called reproduced, and "
    "the one that it is over stands in brackets. 'Reproduced' says that no difference was seen, not that there is "
    "none; other rows of the table that lie within the limit of our mean are named, as these runs cannot be told from "
    "them either. If d lies within (a) but (a) is more than twice (b), the runs scatter too much to judge; so "
    "'reproduced' always means at most twice (b) away. Fewer than 3 runs are not judged. Runs that died, ended with a "
    "dead class, or tell the training images apart no better than by guessing, are counted (left out) but kept out of "
    "mean and spread. (a) takes the errors of seeds to be normally distributed, which so few cannot show. Seeds were "
    "added, up to five, while verdicts were shown already: no number of them was fixed beforehand."
)


@dataclass(frozen=True)
class Cell:
    """An experiment that fills a row: the family its records must have, how to get them, and what its network costs."""

    experiment: str
    family: str
    command: str
    cost: str = ""  # in words: "17 PFLOP and 44.6 h on 1 core (AVX2) a seed in fp32"
    deviations: tuple[str, ...] = ()  # from the paper or the released recipe
    assumed: int = 0  # values that no source gives, as the page of fidelity counts them
    parameters: int | None = None
    multiply_adds: int | None = None  # of one image, forward
    recipe: Mapping[str, Any] = field(default_factory=dict)
    # Of one run and of parents that no cell shows, estimated, by machine: such as AVX2.
    seconds: Mapping[str, float] = field(default_factory=dict)
    # The same in other precisions: they fill the row while the cell's own has too few runs to be judged.
    stand_ins: tuple["Cell", ...] = ()


@dataclass(frozen=True)
class Stats:
    """Statistics of runs of one recipe, errors in percent. `dead` runs are in no other number but `died`."""

    errors: tuple[float, ...] = ()  # of the living runs, in the order of their seeds
    seeds: tuple[int, ...] = ()
    dead: int = 0
    died: Counter[str] = field(default_factory=Counter)  # starts by how they died, as `Attempt.died` has it
    # No run lives, and one only guesses, or had some classes dead at a reduced budget, which may yet begin to learn.
    unlearned: bool = False

    @property
    def n(self) -> int:
        return len(self.errors)

    @property
    def mean(self) -> float | None:
        return standard.fmean(self.errors) if self.errors else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation (n - 1), None for fewer than two runs."""
        return standard.stdev(self.errors) if self.n > 1 else None

    @property
    def best(self) -> float | None:
        return min(self.errors, default=None)

    @property
    def worst(self) -> float | None:
        return max(self.errors, default=None)


@dataclass(frozen=True)
class Timing:
    """What runs took on one machine: medians over those that were trained to their end, in seconds of wall time.

    Evaluations after epochs and starts that died are in them; what else ran on the machine is not known.
    """

    device: str
    runs: int
    epoch: float | None  # None if no run got through an epoch
    run: float | None  # None where only runs of a reduced budget are known
    precision: str = FP32


@dataclass(frozen=True)
class Verdict:
    """`word` for counting and columns, `text` for readers, `limit` in points where the rule was applied."""

    word: str  # of a cell one of WORDS, of a claim one of results/arms.py
    text: str
    limit: float | None = None
    short: str = ""  # where there is little room: of a cell instead of the text, of a claim what belongs to the word
    wide: bool = False  # of what is reproduced: farther off than (b) of the rule, not than (a)


NO_RUNS = Verdict("no runs", "no runs yet")
UNPUBLISHED = Verdict("unpublished", "nothing was published to compare with")


@dataclass(frozen=True)
class Result:
    """What our runs say about one row."""

    cell: Cell
    records: tuple[Record, ...]
    stats: Stats
    difference: float | None  # our mean minus the paper's value, in points
    verdict: Verdict
    timings: tuple[Timing, ...] = ()  # of `records`; without any, of the same recipe at a reduced budget
    near: tuple[str, ...] = ()  # other rows of the table whose values lie within the verdict's limit of our mean, too

    @property
    def reservations(self) -> tuple[str, ...]:
        """What the number hangs on, in words: which deviations, what copy of the data."""
        origins = sorted({str(record.data.get("provenance", "")) for record in self.records} - {"official files", ""})
        return (*self.cell.deviations, *(f"data: {origin}" for origin in origins))


def reserved(results: Iterable[Result]) -> dict[str, list[str]]:
    """Each of their reservations once, and of which experiments it is."""
    found: dict[str, list[str]] = {}
    for result in results:
        for words in result.reservations:
            names = found.setdefault(words, [])
            names += [result.cell.experiment] * (result.cell.experiment not in names)
    return found


def assumed(results: Iterable[Result]) -> dict[str, int]:
    """How many values each experiment assumes, of those that do."""
    return {one.cell.experiment: one.cell.assumed for one in results if one.cell.assumed}


@dataclass(frozen=True)
class Row:
    paper: paper.Row
    results: tuple[Result, ...]


@dataclass(frozen=True)
class Table:
    paper: paper.Table
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Group:
    """Runs of one recipe that fill no cell. `paper`: the value of the row they are about, for orientation."""

    experiment: str
    budget: str
    protocol: str
    why: str  # they fill none, and in what they differ from the experiment
    family: str
    records: tuple[Record, ...]
    stats: Stats
    paper: float | None
    timings: tuple[Timing, ...]

    @property
    def epochs(self) -> str:
        return spanned([one.epochs for one in self.records])

    @property
    def steps(self) -> str:
        return spanned([one.steps for one in self.records])


_Groups = dict[tuple[str, str, str, str, str], list[Record]]  # by the first five fields of a Group


def spanned(values: Sequence[int]) -> str:
    """Such as "60" or "53-70"."""
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,}-{high:,}"


@dataclass(frozen=True)
class Report:
    tables: tuple[Table, ...]
    reduced: tuple[Group, ...] = ()
    other: tuple[Group, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def empty(self) -> tuple[Cell, ...]:
        """The cells without runs, each recipe once."""
        results = [one for table in self.tables for row in table.rows for one in row.results]
        found: dict[str, Cell] = {}
        for one in results:
            if not one.records:
                found.setdefault(one.cell.family, one.cell)
        return tuple(found.values())

    @property
    def summary(self) -> str:
        """One sentence: how many of the rows' cells are filled, and what the verdicts are, the authors' own first."""
        cells: dict[bool, list[Result]] = {True: [], False: []}
        for row in (row for table in self.tables for row in table.rows):
            cells[row.paper.own] += row.results
        told = []
        for whose, found in (("Of the authors' own systems", cells[True]), ("of other systems", cells[False])):
            told.append(f"{whose} {counted(len(found), 'cell')} to measure: {verdict_counts(found) or 'none'}")
        return "; ".join(told) + "."


WORDS = {"reproduced": "reproduced"}
WORDS |= {word: f"not reproduced ({word} than the paper)" for word in ("better", "worse")}
WORDS |= {"too scattered": "too scattered to judge", "too few": "with too few runs", "died": "with dead runs only"}
WORDS |= {"no runs": "without runs", "unpublished": "with nothing to compare"}


def verdict_counts(results: Iterable[Result]) -> str:
    """Verdicts by their words: such as "6 reproduced (5 recipes; 1 only as ...), 2 with too few runs"."""
    by_word: dict[str, list[Result]] = defaultdict(list)
    for one in results:
        by_word[one.verdict.word].append(one)
    told = [f"{len(by_word[word])} {name}" for word, name in WORDS.items() if word in by_word]
    if same := by_word.get("reproduced"):
        recipes, wide = len({one.cell.family for one in same}), sum(one.verdict.wide for one in same)
        notes = [counted(recipes, "recipe")] * (recipes < len(same))
        notes += [f"{wide} only because our own seeds scatter"] * bool(wide)
        told[0] += f" ({'; '.join(notes)})" if notes else ""
    return ", ".join(told)


def statistics(records: Iterable[Record]) -> Stats:
    """Statistics of `record.error` (the test error, or the validation error under that protocol), in any order."""
    records = sorted(records, key=lambda record: (record.seed, record.key))
    alive = [(record.error, record.seed) for record in records if record.alive and record.error is not None]
    died = (attempt.died for record in records for attempt in record.attempts)
    return Stats(
        errors=tuple(error for error, _ in alive),
        seeds=tuple(seed for _, seed in alive),
        dead=len(records) - len(alive),
        died=Counter(how for how in died if how is not None),
        unlearned=not alive and any(map(_unlearned, records)),
    )


def _unlearned(record: Record) -> bool:
    """Whether a run did not die, and yet is no sample of an error."""
    died = record.attempts[-1].died
    return not record.learned if died is None else died == "classes" and record.budget != PAPER_BUDGET


def epoch_seconds(record: Record) -> float | None:
    """Seconds of one epoch of a run, over all its starts; None if it did not get through one."""
    steps = sum(attempt.step for attempt in record.attempts)
    return record.seconds * record.steps / record.epochs / steps if record.epochs and steps else None


def timings(records: Iterable[Record]) -> tuple[Timing, ...]:
    """One for each machine and precision, that of the most runs first. Runs that went on elsewhere are of neither."""
    machines: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in records:
        parts = record.environment.get("before", [])
        if record.status == "done" and all(part["device"] == record.environment.get("device") for part in parts):
            machines[record.device, precision(record.recipe)].append(record)
    found = []
    for (device, used), runs in sorted(machines.items(), key=lambda item: (-len(item[1]), item[0])):
        epochs = [seconds for seconds in map(epoch_seconds, runs) if seconds is not None]
        epoch = standard.median(epochs) if epochs else None
        found.append(Timing(device, len(runs), epoch, standard.median(run.seconds for run in runs), used))
    return tuple(found)


def _whole_epochs(record: Record, cell: Cell) -> bool:
    """Whether a run is the cell's but for the number of its epochs, so that one of them takes as long."""
    budget = record.recipe.get("budget") or {}
    cut = budget.get("train_images") is not None or budget.get("max_steps") is not None
    ours, theirs = (
        {k: v for k, v in one.items() if k not in ("seed", "budget", "parent")} for one in (record.recipe, cell.recipe)
    )
    return bool(theirs) and ours == theirs and not cut


def judge(stats: Stats, value: float | None, images: int) -> Verdict:
    """Apply RULE to our runs and the paper's `value` (%) on a test set of `images`."""
    if value is None and stats.n:
        return UNPUBLISHED
    if stats.mean is None or stats.std is None or stats.n < FEWEST_RUNS:
        if stats.n:
            return Verdict("too few", f"too few runs to judge ({stats.n} of at least {FEWEST_RUNS})")
        return Verdict("died", f"no usable run: all {stats.dead} died or learned nothing") if stats.dead else NO_RUNS
    assert value is not None
    run, images_limit = luck_of_run(stats.n, stats.std), luck_of_images(value, images)
    limit, difference = max(run, images_limit), stats.mean - value
    if abs(difference) > limit:
        word = "worse" if difference > 0 else "better"
        return Verdict(word, f"not reproduced: {word} by {abs(difference):.2f}, limit {limit:.2f}", limit)
    if run > 2 * images_limit:
        short = "too scattered to judge"
        return Verdict("too scattered", f"{short}: one more run could lie {run:.2f} from our mean", limit, short)
    short = f"reproduced: {difference:+.2f}, limit {limit:.2f}"
    beyond = ""
    if abs(difference) > run:
        beyond = f" (scatter of seeds alone: {run:.2f})"
    elif abs(difference) > images_limit:
        beyond = f" (test images alone: {images_limit:.2f})"
    return Verdict("reproduced", short + beyond, limit, short, wide=abs(difference) > images_limit)


def _near(printed: paper.Row, table: paper.Table, mean: float | None, limit: float | None) -> tuple[str, ...]:
    """`Result.near` of one row: such as "Stochastic Pooling (0.47)", and of those that our mean is nearer to than to
    its own value "Conv. maxout + Dropout (0.45, nearer)".
    """
    if mean is None or limit is None or printed.value is None:
        return ()
    others = [(one.method, one.value, abs(one.value - mean)) for one in table.rows if one.value is not None]
    own = abs(printed.value - mean)
    return tuple(
        f"{method} ({value:.2f}{', nearer' * (away < own)})"
        for method, value, away in others
        if away <= limit and (method, value) != (printed.method, printed.value)
    )


def filled_by(living: Sequence[int]) -> int:
    """Which of several precisions fills a cell: the first, its own, unless it has too few runs and another has more.

    Args:
        living: how many runs of each live, -1 where it has none at all.
    """
    return max(range(len(living)), key=lambda place: min(living[place], FEWEST_RUNS))  # of equals the first


def _why(reason: str, record: Record, cell: Cell | None) -> str:
    """The reason why a run fills no cell, and in what it differs from its experiment, where that is known."""
    words = all_changes(record.recipe, cell.recipe) if cell is not None and cell.recipe else []
    return "; ".join([reason, " ".join(words)] if words else [reason])


def build(records: Iterable[Record], cells: Mapping[str, Cell], problems: Iterable[str] = ()) -> Report:
    """Fill the paper's tables. `cells` maps the experiments that exist to their cells; others are not shown.

    A record fills a cell if it has the cell's family, the paper's budget and the final protocol; under which
    experiment it ran does not matter. All other records are listed apart, none is dropped.
    """
    records = sorted(records, key=lambda record: (record.seed, record.key))
    full = [record for record in records if record.budget == PAPER_BUDGET and record.protocol == "final"]
    shown = {name: cells[name] for name in paper.VALUES if name in cells}
    living = {family: 0 for family in {record.family for record in full}}
    living |= Counter(record.family for record in full if record.alive)
    chosen = {}
    for name, cell in shown.items():
        offered = (cell, *cell.stand_ins)
        chosen[name] = offered[filled_by([living.get(one.family, -1) for one in offered])]

    def result(name: str, printed: paper.Row, table: paper.Table) -> Result:
        cell = chosen[name]
        runs = tuple(record for record in full if record.family == cell.family)
        stats = statistics(runs)
        difference = None if stats.mean is None or printed.value is None else stats.mean - printed.value
        taken = timings(runs)
        if not taken:
            reduced = timings(record for record in records if _whole_epochs(record, cell))
            taken = tuple(replace(timing, run=None) for timing in reduced)
        verdict = judge(stats, printed.value, table.test_set_size)
        return Result(cell, runs, stats, difference, verdict, taken, _near(printed, table, stats.mean, verdict.limit))

    def row(printed: paper.Row, table: paper.Table) -> Row:
        return Row(printed, tuple(result(name, printed, table) for name in printed.experiments if name in shown))

    tables = tuple(Table(one, tuple(row(printed, one) for printed in one.rows)) for one in paper.TABLES)
    used = {cell.family for cell in chosen.values()}
    reduced: _Groups = defaultdict(list)
    other: _Groups = defaultdict(list)
    for record in records:
        name = record.experiment or ""
        place = other
        if record.protocol != "final":
            reason = "error on the validation split"
        elif record.budget == PAPER_BUDGET and record.family in used:
            continue
        elif name not in shown:
            reason = "no row of the paper"
        elif record.budget == PAPER_BUDGET:
            reason = f"not of the recipe that fills {name}"
        else:
            place, reason = reduced, "reduced budget"
        why = _why(reason, record, cells.get(name))
        place[name or "(no experiment)", record.budget, record.protocol, why, record.family].append(record)

    def groups(found: _Groups) -> tuple[Group, ...]:
        return tuple(
            Group(*about, tuple(runs), statistics(runs), paper.VALUES.get(about[0]), timings(runs))
            for about, runs in sorted(found.items())
        )

    return Report(tables, groups(reduced), groups(other), tuple(problems))
