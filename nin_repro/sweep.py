"""The members of a sweep: how they are started, and what became of them."""

import importlib
import os
import socket
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from nin_repro.command import fail
from nin_repro.config.compose import load
from nin_repro.files import UsageError, read_json, told, write_json
from nin_repro.outcome import ENDED, Outcome, Request
from nin_repro.results.records import answers, judged
from nin_repro.results.tables import Stats
from nin_repro.run import outcome_so_far
from nin_repro.schema import Config
from nin_repro.training.rundir import RunDirectory
from nin_repro.training.stop import STOP
from nin_repro.words import counted

CHOOSES_BY = "select=true chooses by validation error and leaves the test images alone: set protocol=validate"
OPEN = ("interrupted", "lost", "running", "not begun")  # what the same command only has to go on with


@dataclass(frozen=True)
class Member:
    overrides: list[str]
    experiment: str | None
    select: bool  # whether it asked for a choice among the members
    outcome: Outcome

    def without(self, *keys: str) -> list[str]:
        """Its overrides but for those of some keys."""
        return [word for word in self.overrides if word.partition("=")[0] not in keys]


@dataclass(frozen=True)
class Family:
    """Members whose recipes differ in nothing but the seed. `name`: the words that tell it from other families."""

    name: str
    members: tuple[Member, ...]
    records: tuple[dict[str, Any], ...]  # of each, as JSON

    @property
    def seeds(self) -> list[int]:
        return [record["seed"] for record in self.records]

    @property
    def judged_on(self) -> str:
        """What images their errors are of."""
        return judged(self.records[0])[0]

    @property
    def stats(self) -> Stats:
        """Of the errors (%) of those of which every class answers."""
        alive = [record for record in self.records if answers(record)]
        errors, seeds = (tuple(judged(one)[1] for one in alive), tuple(one["seed"] for one in alive))
        return Stats(errors, seeds, dead=len(self.records) - len(alive))


@dataclass(frozen=True)
class Waiting:
    """A member that is to be trained at the same time as others (together=N, processes=N)."""

    number: int
    overrides: list[str]
    select: bool
    request: Request


@dataclass
class Sweep:
    """The sweep that this process started, if it did: Hydra gives a callback no way to return anything."""

    begun: DictConfig | None = None  # its configuration
    ends: dict[int, str] = field(default_factory=dict)  # what its launcher says of how members ended, by their numbers
    broke: Exception | None = None  # what kept it from coming to its end
    waiting: list[Waiting] = field(default_factory=list)  # for the end of Hydra's loop, which calls one after the other
    folder: Path = Path()  # this and the members are set when it ends
    members: list[Member] = field(default_factory=list)

    @property
    def worst_code(self) -> int:
        """The highest exit code among the members."""
        return max((member.outcome.code for member in self.members), default=0)

    def so_many(self, states: Sequence[str]) -> str:
        """How many of the members are in these states, one for each that is, in words."""
        return f"{len(states)} of {len(self.members)} runs are {', '.join(dict.fromkeys(states))}"


this = Sweep()


def forget() -> None:
    """Know of no sweep: what this process knew was of an earlier command."""
    global this
    this = Sweep()


def leave(folder: Path, number: int, member: Member) -> None:
    """Leave a member's outcome where the process that started the sweep finds it, whichever process ran the member."""
    write_json(folder / "outcomes" / f"{number}.json", member.__dict__ | {"outcome": member.outcome.__dict__})


def pass_on(folder: Path, number: int, member: Member) -> None:
    """Let a batch system have the signal that stopped a member, if it waits for it: it may queue the member again.

    Raises:
        SystemExit: it has.
    """
    try:
        STOP.pass_on()
    except Exception as refusal:  # it has done so as often as it may
        words = f"{member.outcome.words}; {' '.join(str(refusal).split())}"
        outcome = replace(member.outcome, words=words)
        leave(folder, number, replace(member, outcome=outcome))


def read(folder: Path) -> dict[int, Member]:
    """The members that `leave` left, by their numbers."""
    left = {int(path.stem): read_json(path) for path in _outcomes(folder)}
    return {number: Member(**one | {"outcome": Outcome(**one["outcome"])}) for number, one in left.items()}


def _outcomes(folder: Path) -> list[Path]:
    return [path for path in (folder / "outcomes").glob("*.json") if path.stem.isdecimal()]


class Outcomes(Callback):
    """Hydra calls this when a sweep begins and ends."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Refuse, before any member runs, what cannot come to an end."""
        try:  # Hydra makes a warning of any exception but SystemExit, and goes on
            if config.get("select") is True and config.get("protocol") != "validate":
                raise UsageError(CHOOSES_BY)
            batch = config.hydra.sweeper.get("max_batch_size")
            if batch is not None and batch < 1:
                raise UsageError(f"hydra.sweeper.max_batch_size={batch}: 1 or more members at a time, or null for all")
            this.ends = _prepare_launcher(str(config.hydra.launcher._target_))
            for path in _outcomes(Path(config.hydra.sweep.dir)):  # an earlier sweep's, which had the same folder
                path.unlink()
            this.begun = config
            _refuse_members(config)
        except OSError as error:
            raise SystemExit(fail(UsageError(told(error)))) from None
        except UsageError as error:
            raise SystemExit(fail(error)) from None
        except Exception:
            traceback.print_exc()
            raise SystemExit(1) from None

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Show a table of the members, and keep them for the process."""
        try:
            _train_waiting(Path(config.hydra.sweep.dir))
            close(config)
        except Exception as error:  # Hydra would make a warning of it
            this.broke = error


def _refuse_members(config: DictConfig) -> None:
    """Name the members that will be refused: now, not when days have gone into those before them.

    Raises:
        UsageError: all of them will be, or they leave what they leave in several places.
    """
    planned, refused, places = _planned(config), dict[int, str](), set[str]()
    for number, words in enumerate(planned, start=1):
        try:
            member = load(words)
            require_here(member, config.hydra.launcher)
            places.add(member.runs_dir)
        except UsageError as error:
            refused[number] = str(error)
    if len(places) > 1:
        raise UsageError(f"runs_dir is of a sweep, whose outcomes lie there, and not of a member: {', '.join(places)}")
    if refused and len(refused) == len(planned):
        others = f" (and so are the other {len(planned) - 1} of this sweep refused)" if len(planned) > 1 else ""
        raise UsageError(f"{refused[1]}{others}")
    for number, why in refused.items():
        print(f"{number}. will be refused: {why}", flush=True)


def require_here(member: Config, launcher: DictConfig | None) -> None:
    """Refuse both together=N and processes=N, and one of them of what is no member of a sweep (its launcher is None),
    or of one that a launcher has.

    Raises:
        UsageError: that is so.
    """
    if member.together > 1 and member.processes > 1:
        raise UsageError("together= is for members in one process, processes= for one in each: leave one out")
    name = "together" if member.together > 1 else "processes"
    if max(member.together, member.processes) == 1:
        return
    if launcher is None:
        raise UsageError(f"{name}= trains several members of a sweep at the same time: add -m, or leave it out")
    if not here(launcher):
        raise UsageError(f"{name}= trains members on this machine, and a launcher was chosen for them: leave one out")


def _prepare_launcher(target: str) -> dict[int, str]:
    """Have the launcher of this class ready; where it will say how members ended.

    Raises:
        UsageError: its package is not installed.
    """
    module = target.rpartition(".")[0]
    try:
        importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[1].replace("_", "-")
        how = "in an environment of its own: pip install -e '.[ray]'" if "_ray_" in module else f"pip install {package}"
        raise UsageError(f"this launcher is in the package {package}, which cannot be used ({error}): {how}") from None
    if target.endswith(".SlurmLauncher"):
        from nin_repro import slurm

        return slurm.install()
    return {}


def close(config: DictConfig) -> None:
    """Show a table of the members of a sweep that is at its end, and keep them for the process."""
    this.folder = Path(config.hydra.sweep.dir)
    left = read(this.folder)
    for number, words in enumerate(_planned(config)):
        if number not in left:
            left[number] = _without_outcome(words)
        outcome = left[number].outcome
        if number in this.ends and outcome.state not in ENDED:
            outcome = replace(outcome, words=f"{outcome.words}; {this.ends[number]}")
            left[number] = replace(left[number], outcome=outcome)
    this.members = members = [left[number] for number in sorted(left)]
    print(f"\n{counted(len(members), 'run')} in this sweep:")
    show(apart([member.overrides for member in members]), [member.outcome for member in members])
    for line in averages(members):
        print(line)


def averages(members: Sequence[Member]) -> list[str]:
    """A line for each recipe of which several seeds live: the mean of their errors, and how far they scatter."""
    found = families([member for member in members if member.outcome.state in ENDED])
    lines = []
    for family in found:
        stats = family.stats
        if stats.mean is not None and stats.std is not None:
            lead = f"{family.name}: " if family.name and len(found) > 1 else ""
            spread = f"{family.judged_on} error {stats.mean:.2f} ± {stats.std:.2f} %"
            lines.append(f"  {lead}{spread}, mean and standard deviation over {stats.n} seeds")
    return lines


def families(members: Sequence[Member]) -> list[Family]:
    """The members that have a result, by their recipes but for the seed; a run that several ask for counts once."""
    found: dict[str, dict[str, tuple[Member, dict[str, Any]]]] = {}
    for member in members:
        record = RunDirectory(Path(member.outcome.path)).result()
        if record is not None:
            found.setdefault(record["family"], {}).setdefault(record["key"], (member, record))
    pairs = [tuple(family.values()) for family in found.values()]
    names = apart([family[0][0].without("seed") for family in pairs])
    return [Family(name, *map(tuple, zip(*family, strict=True))) for name, family in zip(names, pairs, strict=True)]


def broken_off(error: BaseException) -> bool:
    """Close a sweep whose launcher did not bring it to its end; False if it had none to bring there.

    What the user can put right, and what does not compose, comes before any member.

    Raises:
        UsageError: there is no place for what the sweep leaves.
    """
    if this.begun is None or isinstance(error, (UsageError, HydraException, OmegaConfBaseException)):
        return False
    if isinstance(error, OSError) and here(this.begun.hydra.launcher):
        raise UsageError(f"no sweep can be kept here: {told(error)}; free the place, or choose another runs_dir")
    close(this.begun)
    if not isinstance(error, KeyboardInterrupt):
        said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        print(f"error: the launcher gave up: {type(error).__name__}: {said}", file=sys.stderr)
    return True


def here(launcher: DictConfig) -> bool:
    """Whether this launcher runs the members in the process that the user started."""
    return str(launcher._target_).endswith(".BasicLauncher")


def go_to(folder: str) -> None:
    """Work where the command was given: relative paths mean that place, wherever an engine began this process.

    Raises:
        UsageError: it is not there.
    """
    try:
        os.chdir(folder)
    except OSError as error:
        raise UsageError(
            f"this node ({socket.gethostname()}) has no {folder}, where the command was given ({error.strerror}): "
            "give it in a directory that all nodes share"
        ) from None


def _planned(config: DictConfig) -> list[list[str]]:
    """The words of each member, in order; of another sweeper than Hydra's own nothing is known."""
    if not config.hydra.sweeper._target_.endswith(".BasicSweeper"):
        return []
    return combined(config.hydra.sweeper.params, config.hydra.overrides.task)


def combined(params: Mapping[str, Any] | None, words: Sequence[str]) -> list[list[str]]:
    """The words of each member of a sweep, in order, as Hydra's own sweeper makes them; of a key the last counts.

    Args:
        params: what the configuration sweeps over (hydra.sweeper.params).
        words: the command line's.
    """
    given = [f"{name}={value}" for name, value in (params or {}).items()]
    (batch,) = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides([*given, *words]), None)
    return [[*member] for member in batch]


def _without_outcome(words: list[str]) -> Member:
    """What is known of a member that left no outcome: its process was ended from outside, or never began."""
    experiment = next((word.partition("=")[2] for word in words if word.startswith("experiment=")), None)
    try:
        config = load(words)
    except UsageError as error:
        return Member(words, experiment, False, Outcome("refused", 2, str(error)))
    return Member(words, experiment, config.select, outcome_so_far(config))


def _train_waiting(folder: Path) -> None:
    """Train the members that wait."""
    waiting = this.waiting
    if not waiting:
        return
    names = apart([one.overrides for one in waiting])
    outcomes = train_at_once({name: one.request for name, one in zip(names, waiting, strict=True)}, folder)
    for one, outcome in zip(waiting, outcomes, strict=True):
        leave(folder, one.number, Member(one.overrides, one.request.experiment, one.select, outcome))
    waiting.clear()


def train_at_once(requests: dict[str, Request], folder: Path) -> list[Outcome]:
    """Train several at the same time, as they ask for it; their outcomes in order. `folder`: for what they print."""
    count, asked = len(requests), {}
    for name, request in requests.items():
        config = request.config  # no more share the machine than there are
        config = replace(config, together=min(config.together, count), processes=min(config.processes, count))
        # A parent that several of them have is trained by one, and waited for by the others.
        asked[name] = replace(request, config=replace(config, wait=True))
    configs = [request.config for request in requests.values()]
    if configs[0].together > 1:
        from nin_repro import together

        return together.train(asked, max(config.together for config in configs))
    from nin_repro import processes

    return processes.train(asked, max(config.processes for config in configs), folder)


def apart(overrides: list[list[str]]) -> list[str]:
    """A name for each list of words: those that not all of them have."""
    shared = set.intersection(*map(set, overrides)) if len(overrides) > 1 else set()
    return [" ".join(word for word in words if word not in shared) for words in overrides]


def show(names: list[str], outcomes: list[Outcome]) -> None:
    width = max(map(len, names), default=0)
    for name, outcome in zip(names, outcomes, strict=True):
        state = outcome.state + (" before" if outcome.already else "")
        print(f"  {name:{width}}  {state:12}  {outcome.words}")
