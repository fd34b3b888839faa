"""The page results/fidelity.md: which number of which experiment is from where, and how contradictions were decided.

What it says of numbers comes from the comments of conf/ (config/origins.py), what it says of contradictions from
`contradictions`, and which side of each an experiment takes from its composed configuration.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from nin_repro.results.contradictions import CONTRADICTIONS, Contradiction, Side
from nin_repro.results.paper import TABLES
from nin_repro.results.render import error, grid, plain
from nin_repro.schema import Config

SOURCES = {
    "PAPER": 'M. Lin, Q. Chen, S. Yan, "Network In Network", arXiv 1312.4400v3, 2014; the number is the section',
    "MAV": "the authors' released code, repository mavenlin/cuda-convnet: folder NIN (definition and parameter files), "
    "README, data providers, kernels",
    "CAFFE": 'the authors\' later model of the Caffe model zoo, "NIN for CIFAR-10": solver and train_val.prototxt',
    "PURINE": "the first author's later framework, repository purine/purine2, examples/nin_cifar10, 2015",
    "MAXOUT": 'I. Goodfellow, D. Warde-Farley, M. Mirza, A. Courville, Y. Bengio, "Maxout Networks", ICML 2013, '
    "arXiv 1302.4389",
    "PYL": "the code of MAXOUT, repository lisa-lab/pylearn2, pylearn2/scripts/papers/maxout",
    "HINTON": 'G. Hinton et al., "Improving neural networks by preventing co-adaptation of feature detectors", 2012, '
    "arXiv 1207.0580; the letter is the appendix",
    "CC": "A. Krizhevsky's own configurations of cuda-convnet, repository dnouri/cuda-convnet, example-layers: that of "
    "18 % on CIFAR-10, for local and fully connected layers that of 13 %",
    "D2L": 'A. Zhang et al., "Dive into Deep Learning", d2l.ai, chapter "Network in Network", repository d2l-ai/d2l-en',
    "NOTES": "unpublished notes on NiN, without author or title: the networks of `extra/nin_224` and `extra/staged`",
    "assumed": "no source says it; the words after it say by what it was chosen",
    "deviates": "a source says otherwise, as the words after it tell",
}
PER_CELL = 4  # experiments that a cell names before it counts them


def source_of(origin: str) -> str:
    """The word that an origin opens with."""
    return (re.match(r"\w+", origin) or [""])[0]


@dataclass(frozen=True)
class Choice:
    """A choice of a group, and what an experiment says of why it takes it; may be empty."""

    name: str
    why: str


@dataclass(frozen=True)
class Fact:
    """A value of an experiment's configuration and its origin, which opens with a name of SOURCES or is empty."""

    key: str
    value: Any
    origin: str
    by_experiment: bool = False  # set by the experiment's own file

    def source(self, choices: Mapping[str, Choice]) -> str:
        """Who says so: what an experiment says of its choices goes before what their files say, where they know."""
        word, choice = source_of(self.origin), choices.get(self.key.partition(".")[0])
        if self.by_experiment or word in ("assumed", "deviates", "") or choice is None or not choice.why:
            return word
        return source_of(choice.why)


@dataclass(frozen=True)
class Provenance:
    choices: Mapping[str, Choice]  # by group
    facts: tuple[Fact, ...]


class Row(NamedTuple):
    """Facts of the same key in all blocks that have it, with the same origin."""

    keys: str
    values: str
    origin: str
    here: bool  # set by the experiment's own file


# Contradictions ---------------------------------------------------------------------------------------------------


def value_at(config: Config, key: str) -> Any:
    """The value of a dotted key; None where there is no such key."""
    found: Any = config
    for name in key.split("."):
        found = found.get(name) if isinstance(found, dict) else getattr(found, name, None)
    return found


def concerned(contradiction: Contradiction, configs: Mapping[str, Config]) -> list[str]:
    """The experiments that a contradiction is about."""
    return [name for name in configs if contradiction.concerns(name)]


def taken(side: Side, config: Config) -> bool:
    """Whether a configuration takes this side."""
    return bool(side.keys) and all(value_at(config, key) == value for key, value in side.keys.items())


def words(side: Side) -> str:
    """What to say on the command line for this side."""
    if side.words is not None:
        return side.words
    return " ".join(f"{key}={_shown(value)}".replace(" ", "") for key, value in side.keys.items())


def _contradiction(contradiction: Contradiction, configs: Mapping[str, Config]) -> list[str]:
    names = concerned(contradiction, configs)
    rows = []
    for side in contradiction.sides:
        ours = [name for name in names if taken(side, configs[name])]
        many = f"{len(ours)} of {len(names)}: {_listed(names, ours)}" if len(ours) > PER_CELL else _listed(ours, ours)
        offered = f"`{words(side)}`" if words(side) else "not offered"
        rows.append([plain(side.what), plain(side.by), many or "no experiment", offered])
    lines = [f"### {contradiction.id}. {plain(contradiction.title)}", ""]
    if names:
        lines += grid("Reading|Said by|Taken by|To take it", "llll", rows)
    else:
        lines += grid("Reading|Said by", "ll", [row[:2] for row in rows])
    return [*lines, "", plain(contradiction.why), ""]


def _listed(names: list[str], ours: list[str]) -> str:
    """The experiments by name, or where that is shorter, all but which."""
    others = [name for name in names if name not in ours]
    if len(ours) > PER_CELL and len(others) <= PER_CELL:
        return "all" + (f" but {_listed(others, others)}" if others else "")
    return ", ".join(f"`{name}`" for name in ours)


# Tables -----------------------------------------------------------------------------------------------------------


def _shown(value: Any) -> str:
    """A value as the command line takes it."""
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def rows(provenance: Provenance) -> list[Row]:
    """The facts for a table; those of blocks together, with `*` for all blocks that have such a key."""
    groups: dict[tuple[str, str, bool], list[Fact]] = {}
    blocks: Counter[str] = Counter()
    for fact in provenance.facts:
        parts = fact.key.split(".")
        pattern = ".".join([*parts[:2], "*", *parts[3:]]) if parts[1:2] in (["blocks"], ["full"]) else fact.key
        blocks[pattern] += 1
        groups.setdefault((pattern, fact.origin, fact.by_experiment), []).append(fact)
    found = []
    for (pattern, origin, here), facts in groups.items():
        which = ",".join(fact.key.split(".")[2] for fact in facts) if "*" in pattern else ""
        whole = len(facts) == blocks[pattern] and len(facts) > 1
        key = pattern if whole else pattern.replace("*", f"{{{which}}}" if "," in which else which)
        shown = list(dict.fromkeys(_shown(fact.value) for fact in facts))
        values = shown[0] if len(shown) == 1 else " / ".join(_shown(fact.value) for fact in facts)
        found.append(Row(key, values, origin, here))
    return found


def _table(found: Iterable[Row]) -> list[str]:
    cells = [[f"`{row.keys}`", plain(row.values) + " (set here)" * row.here, _origin(row.origin)] for row in found]
    return grid("Key|Value|Source", "lll", cells)


def _origin(text: str) -> str:
    if not text:
        return "**no source given**"
    word = source_of(text)
    mark = {"assumed": "*", "deviates": "**"}.get(word, "")
    return f"{mark}{word}{mark}" + plain(text).removeprefix(word)


def _experiment(found: Provenance, config: Config, told: Iterable[str]) -> list[str]:
    """What an experiment re-runs, its choices, and what it says in words, but for what was `told` before."""
    choices = found.choices.items()
    lines = [plain(config.about.claim or ""), "", f"`{' '.join(f'{group}={one.name}' for group, one in choices)}`", ""]
    notes = [f"`{group}={choice.name}`: {_origin(choice.why)}" for group, choice in choices if choice.why]
    notes += [f"*assumed*: {plain(text)}" for text in config.about.assumptions if text not in told]
    notes += [f"**deviates**: {plain(text)}" for text in config.about.deviations if text not in told]
    return [*lines, *(f"- {note}" for note in notes), *[""] * bool(notes)]


def _differences(own: list[Row], base: str, theirs: list[Row]) -> list[str]:
    changed = [row for row in own if row not in theirs]
    labels = {row.keys for row in own}
    gone = ", ".join(f"`{row.keys}`" for row in theirs if row.keys not in labels)
    lines = [f"As `{base}`" + (", but for:" if changed else f", without {gone}." if gone else " in all keys."), ""]
    lines += [*_table(changed), ""] if changed else []
    return [*lines, f"And without {gone}.", ""] if gone and changed else lines


def _experiments(found: Mapping[str, Provenance], configs: Mapping[str, Config]) -> Iterator[str]:
    """Each as its differences from the nearest before it, or in full if these are more."""
    shown: dict[str, list[Row]] = {}
    for name, provenance in found.items():
        own = rows(provenance)
        base = min(shown, key=lambda other: len(set(own) ^ set(shown[other])), default=None)
        if base is not None and len(set(own) ^ set(shown[base])) > len(own):
            base = None
        about = [] if base is None else [*configs[base].about.assumptions, *configs[base].about.deviations]
        yield from (f"### {name}", "", *_experiment(provenance, configs[name], about))
        yield from [*_table(own), ""] if base is None else _differences(own, base, shown[base])
        shown[name] = own


def ordered(names: Iterable[str]) -> list[str]:
    """Experiments in the order of the paper's rows, first those of its own method; then all others.

    Not quickstart, which is nobody's, nor the searches, which are sweeps over experiments that are shown.
    """
    own = [name for table in TABLES for row in table.rows if row.own for name in row.experiments]
    cited = [name for table in TABLES for row in table.rows if not row.own for name in row.experiments]
    known = [*own, *cited]
    present = set(names)
    left_out = {name for name in present if name == "quickstart" or name.startswith("search/")}
    others = sorted(present - set(known) - left_out, key=lambda name: (name.startswith("extra"), name))
    return [*(name for name in known if name in present), *others]


def counts(provenance: Provenance) -> Counter[str]:
    """How many values each source gives."""
    return Counter(fact.source(provenance.choices) for fact in provenance.facts)


def _summary(found: Mapping[str, Provenance]) -> list[str]:
    per = {name: counts(provenance) for name, provenance in found.items()}
    columns = [source for source in SOURCES if any(one[source] for one in per.values())]
    feeds = {name: error(row.value) for table in TABLES for row in table.rows for name in row.experiments}
    lines = [
        [f"`{name}`", feeds.get(name, ""), str(one.total()), *(str(one[column] or "") for column in columns)]
        for name, one in per.items()
    ]
    return grid("|".join(["Experiment", "Paper, %", "Values", *columns]), "l" + "r" * (len(columns) + 2), lines)


def page(provenances: Mapping[str, Provenance], configs: Mapping[str, Config]) -> str:
    """The whole page, of facts that do something. Both mappings are by the name of the experiment."""
    found = {name: provenances[name] for name in ordered(provenances)}
    cells = {name for table in TABLES for row in table.rows for name in row.experiments}
    total = sum((counts(one) for name, one in found.items() if name in cells), Counter[str]())
    published = {source: total[source] for source in SOURCES if source not in ("assumed", "deviates") and total[source]}
    by = ", ".join(f"{count} by {source}" for source, count in sorted(published.items(), key=lambda item: -item[1]))
    lines = [
        "# Where the numbers come from",
        "",
        f"The {sum(name in cells for name in found)} experiments that re-run a row of the tables have {total.total()} "
        f"values that do something: {sum(published.values())} stand in a source ({by}), {total['assumed']} are "
        f"assumed, and {total['deviates']} deviate from the source that speaks of that row. Where the paper and its "
        "code differ and one of them is followed, a value counts for that one; lines marked **deviates** below name "
        "these, too. First stages, at the end of the table, are in no count.",
        "",
        "Names of sources are explained [at the end](#sources). Written by `python -m nin_repro.tables` from the files "
        "under conf/, whose comments name the source of each value.",
        "",
        "A value is one key of the configuration; each block of a network has its own. A value counts for the source "
        "that says it holds for this very experiment: the rates of the main row are published for that row and assumed "
        "for rows about which nothing was published.",
        "",
        *_summary(found),
        "",
        "## Contradictions between sources",
        "",
        *(line for one in CONTRADICTIONS for line in _contradiction(one, {name: configs[name] for name in found})),
        "## Experiments",
        "",
        "Keys that do nothing, given the others, are left out. Lines above a table are what the experiment's file says "
        "of its choices, which goes before the sources in the table, and of itself; *set here* marks values that it "
        "sets, other than these choices have them or besides.",
        "",
        *_experiments(found, configs),
        "## Sources",
        "",
        *(f"- {name}: {text}" for name, text in SOURCES.items()),
    ]
    return "\n".join(lines) + "\n"
