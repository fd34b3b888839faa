"""`python -m nin_repro.train key=value ...` trains one network; `-m` sweeps over comma-separated values."""

import contextlib
import os
import shlex
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nin_repro.command import Lossy, fail, settle_output
from nin_repro.config.arguments import OPTIONS, SWEEP, expand, in_order, require_run
from nin_repro.config.compose import checked, experiments, load, load_with_text, offer_own, refuse_early, to_yaml
from nin_repro.config.conf import CONF, help_text
from nin_repro.config.known import composing, explain, require_known
from nin_repro.config.recipe import directory
from nin_repro.files import UsageError, told, write_json
from nin_repro.outcome import ENDED, Outcome, Request
from nin_repro.run import attempt
from nin_repro.training.rundir import RunDirectory
from nin_repro.training.stop import STOP, interruption, listen, signal_of

if TYPE_CHECKING:
    from hydra.conf import HydraConf
    from omegaconf import DictConfig

    from nin_repro.sweep import Family, Member

# Hydra, and `sweep`, which needs it, are imported only when help and refusals are out of the way.
exit_code = 0  # of this process; Hydra's main function drops what its task returns


def task(composed: "DictConfig") -> None:
    """One member of a sweep, or the only run."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from nin_repro import selection, sweep

    global exit_code
    settings = HydraConfig.get()
    overrides = list(settings.overrides.task)
    several = settings.mode == RunMode.MULTIRUN
    later = any(word.startswith(("together=", "processes=")) for word in overrides)
    if several and not later:
        print(f"\n{settings.job.num + 1}. {swept(overrides)}", flush=True)
    experiment, select = settings.runtime.choices.get("experiment"), False
    try:
        if several and not sweep.here(settings.launcher):
            sweep.go_to(settings.runtime.cwd)
        config, words = checked(composed, overrides), overrides
        select = config.select
        sweep.require_here(config, settings.launcher if several else None)
        if config.together > 1 or config.processes > 1:
            words = alone(words)
        if several and not sweep.here(settings.launcher):  # a parent that several members have is trained by one
            config = replace(config, wait=True)
        if select:
            selection.require_search(config.protocol, (settings.sweeper.params or {}) if several else None, overrides)
            words = [*words, "select=false"]  # of the command that repeats this run alone
        request = Request(config, words, experiment, to_yaml(composed))
        if config.together > 1 or config.processes > 1:
            sweep.this.waiting.append(sweep.Waiting(settings.job.num, overrides, select, request))
            return
    except UsageError as error:
        outcome = Outcome("refused", fail(error), str(error))
    else:
        outcome = attempt(request)
    exit_code = outcome.code
    if several:
        conclude(settings, sweep.Member(overrides, experiment, select, outcome))


def conclude(settings: "HydraConf", member: "Member") -> None:
    """Leave the outcome of a member, and end its process if it was to stop, though the member may have ended first.

    Raises:
        SystemExit: it was. Of a job that ends otherwise submitit thinks that it is done.
    """
    from nin_repro import sweep
    from nin_repro.training.stop import ignore_warnings

    folder, number, here = Path(settings.sweep.dir), settings.job.num, sweep.here(settings.launcher)
    sweep.leave(folder, number, member)
    if here and stopped(member.outcome):
        assert sweep.this.begun is not None
        sweep.close(sweep.this.begun)
        print(goes_on())
    if member.outcome.state == "interrupted":
        sweep.pass_on(folder, number, member)
        raise SystemExit(member.outcome.code)
    if here and STOP.signal is not None:
        raise SystemExit(128 + STOP.signal)
    if not here:
        ignore_warnings()


def stopped(outcome: Outcome) -> bool:
    """Whether what comes after a run is not begun: it was interrupted, or ended before it could heed a signal."""
    return outcome.state == "interrupted" or STOP.signal is not None


def alone(words: list[str]) -> list[str]:
    """The words that repeat alone what is trained at the same time as others, whoever says so: they or a file."""
    left = [word for word in words if not word.startswith(("together=", "processes="))]
    config = load(left)
    return [*left, *(f"{name}=1" for name in ("together", "processes") if getattr(config, name) > 1)]


def swept(overrides: list[str]) -> str:
    """The words of a member that the command line, where they are lists, does not have as they are."""
    given = [word.lower() for word in sys.argv]  # Hydra writes False for false
    return " ".join(word for word in overrides if word.lower() not in given) or " ".join(overrides)


def command_line() -> str:
    """The command that this process was started with."""
    return shlex.join(["python", "-m", "nin_repro.train", *sys.argv[1:]])


def goes_on() -> str:
    """What to do about a sweep that is not at its end."""
    return f"the same command goes on from there:\n  {command_line()}"


def search_goes_on() -> str:
    """The same of a search whose choice is not trained to its end."""
    return f"the search goes on with\n  {command_line()}"


def train_choice() -> int:
    """Train the best choice of the sweep that just ended with protocol=final, for the seeds it has; the exit code.

    Raises:
        UsageError: there is nothing to choose.
    """
    from nin_repro import selection, sweep

    left = [member.outcome.state for member in sweep.this.members if member.outcome.state not in ENDED]
    if left:
        print(f"\nno choice yet: {sweep.this.so_many(left)}; ", end="")
        print("leave out what is refused, or put it right" if "refused" in left else goes_on())
        return sweep.this.worst_code
    found = selection.choices(sweep.this.members)
    chosen = selection.best(found)
    selection.show(found, chosen)
    told = selection.summary(found, chosen, command_line())
    write_json(sweep.this.folder / "selection.json", told)
    requests = {
        f"seed {seed}": final_request(member, told) for seed, member in zip(chosen.seeds, chosen.members, strict=True)
    }
    begun = sweep.this.begun
    if begun is not None and not sweep.here(begun.hydra.launcher):  # this may be no place to train at all
        for request in requests.values():  # whichever process trains it will know what chose it
            RunDirectory(directory(request.config)).write_selection(told)
        print(f"\nchosen by validation error: {chosen.name}; to train and test it:\n  {finals_there(chosen)}")
        return sweep.this.worst_code
    if STOP.signal is not None:  # it came as the last member ended
        print(search_goes_on())
        return 128 + STOP.signal
    outcomes = train_finals(requests)
    code = max(outcome.code for outcome in outcomes)
    if len(outcomes) < len(requests) or any(outcome.state in sweep.OPEN for outcome in outcomes):
        print(search_goes_on())
        return code if STOP.signal is None else 128 + STOP.signal
    print(f"\nchosen by validation error, then trained with protocol=final: {chosen.name}")
    sweep.show([*requests], outcomes)
    return code


def finals_there(chosen: "Family") -> str:
    """The command that trains the choice on all training images and tests it, by the launcher of the search."""
    from nin_repro import sweep

    assert sweep.this.begun is not None
    launcher = [word for word in sweep.this.begun.hydra.overrides.hydra if not word.startswith("hydra.mode=")]
    words = chosen.members[0].without("protocol", "select", "seed")
    words += ["protocol=final", "select=false", f"seed={','.join(map(str, chosen.seeds))}"]
    return shlex.join(["python", "-m", "nin_repro.train", "-m", *launcher, *words])


def final_request(member: "Member", told: dict[str, Any]) -> Request:
    """To train what a member of the chosen ones tried on all training images, and to test it.

    Raises:
        UsageError: its recipe is none for that.
    """
    end = ["protocol=final", "select=false"]
    config, text = load_with_text([*member.without("protocol", "select"), *end])
    words = [*alone(member.without("protocol", "select")), *end]
    return Request(config, words, member.experiment, text, told)


def train_finals(requests: dict[str, Request]) -> list[Outcome]:
    """Train them as the members of the search were, at the same time or in turn; in turn, up to an interruption."""
    from nin_repro import sweep

    config = next(iter(requests.values())).config
    if config.together > 1 or config.processes > 1:
        return sweep.train_at_once(requests, sweep.this.folder / "final")
    outcomes: list[Outcome] = []
    for request in requests.values():
        print(f"\nfinal run: {swept(request.overrides)}", flush=True)
        outcomes.append(attempt(request))
        if stopped(outcomes[-1]):
            break
    return outcomes


def main() -> int:
    """Run the command line; its exit code.

    0 done, 1 failed, 2 refused, 75 busy elsewhere, 128 + the signal (130, 143, 129) interrupted.
    """
    settle_output()
    with contextlib.redirect_stdout(Lossy(sys.stdout)):
        return _main()


def _main() -> int:
    listen()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions come here instead of being printed over many lines
    try:
        if not {"-sc", "--shell-completion"} & set(sys.argv):  # its words look like overrides
            sys.argv[1:] = expand(in_order(sys.argv[1:], OPTIONS))
            known = [word for word in sys.argv[1:] if "=" in word and not word.startswith("-")]
            require_known(known, sweep=sys.argv[1] in SWEEP)
            if shown_help():
                return 0
            require_run(sys.argv[1:])
            refuse_early(sys.argv[1:])
        return composed_and_run()
    except (Exception, KeyboardInterrupt) as error:
        stop = interruption(error)
        if stop is not None:  # before a run listens for it, or once more after one has heard it
            what, then = ("stopped", "goes on") if STOP.signal else ("stopped before training began", "starts again")
            print(f"{what}; the same command {then}", flush=True)
            return 128 + signal_of(stop)
        if isinstance(error, UsageError):
            return fail(of_its_file(error, sys.argv[1:]))
        if isinstance(error, OSError) and error.errno:  # Hydra makes one of a choice that is not there, without it
            return fail(UsageError(told(error)))
        # Values of Hydra's own keys it need not have checked, and of its options which go together.
        hydras = any(word.lstrip("+~").startswith("hydra") for word in sys.argv[1:])
        hydras |= any(word.startswith("-") and word not in SWEEP for word in sys.argv[1:])
        if isinstance(error, Exception) and (hydras or composing(error)):
            return fail(UsageError(explain(error)))
        raise


def of_its_file(error: UsageError, words: list[str]) -> UsageError:
    """What is wrong with the experiment's own file, if that is what was refused; it names the file."""
    for word in words:
        if word.startswith("experiment=") and word.partition("=")[2] in experiments():
            try:
                load([word])
            except UsageError as own:
                return own
    return error


def shown_help() -> bool:
    """Print the help, where the command line asks for it and it takes no Hydra to know it."""
    words = [word for word in sys.argv[1:] if word not in ("-h", "--help")]
    text = help_text(words) if len(words) < len(sys.argv[1:]) else None
    if text is not None:
        print(text)
    return text is not None


def composed_and_run() -> int:
    """Hand the command line to Hydra, which calls `task` for each run; the exit code."""
    import warnings

    import hydra

    from nin_repro import sweep

    offer_own()
    warnings.filterwarnings(
        "ignore", r"\s*'hydra/launcher/ray' is validated against"
    )  # its plugin has a file of that name
    global exit_code
    exit_code = code = 0
    sweep.forget()
    try:
        hydra.main(config_path=str(CONF), config_name="train", version_base="1.3")(task)()
        if sweep.this.broke is not None:
            raise sweep.this.broke
    except (Exception, KeyboardInterrupt) as raised:
        error = interruption(raised) or raised
        if not sweep.broken_off(error):
            raise
        code = 128 + signal_of(error) if isinstance(error, KeyboardInterrupt) else 1
    left = [member.outcome.state for member in sweep.this.members if member.outcome.state in sweep.OPEN]
    if code or left:
        print(f"{sweep.this.so_many(left)}; {goes_on()}" if left else goes_on())
        return code or sweep.this.worst_code
    code = 0
    if any(member.select for member in sweep.this.members):
        try:
            code = train_choice()
        except (Exception, KeyboardInterrupt) as raised:
            stop = interruption(raised)
            if stop is None:
                raise
            print(search_goes_on())  # what came between two of its final runs
            return 128 + signal_of(stop)
    return max(exit_code, sweep.this.worst_code, code)


def command() -> None:
    """Entry point of the `nin-train` script."""
    code = main()
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # all is saved and said: an impatient Ctrl-C would only make a traceback
    sys.exit(code)


if __name__ == "__main__":
    command()
