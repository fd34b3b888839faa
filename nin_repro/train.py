"""`python -m nin_repro.train key=value ...` trains one network; `-m` sweeps over comma-separated values."""

import os
import signal
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from nin_repro import sweep
from nin_repro.config.compose import CONF, checked, expand, explain, offer_own, require_known, to_yaml
from nin_repro.files import UsageError
from nin_repro.run import Outcome, Request, Terminated, execute, fail, signal_of

exit_code = 0  # of this process; Hydra's main function drops what its task returns


@hydra.main(config_path=str(CONF), config_name="train", version_base="1.3")
def task(composed: DictConfig) -> None:
    """One member of a sweep, or the only run."""
    global exit_code
    settings = HydraConfig.get()
    overrides = list(settings.overrides.task)
    try:
        experiment = settings.runtime.choices.get("experiment")
        config = checked(composed, overrides)
        outcome = execute(Request(config, overrides, experiment, to_yaml(composed)))
    except UsageError as error:
        outcome = Outcome("refused", fail(error), str(error))
    exit_code = outcome.code
    if settings.mode == RunMode.MULTIRUN:
        sweep.leave(Path(settings.sweep.dir), settings.job.num, overrides, outcome)
        if outcome.state == "interrupted":
            raise SystemExit(outcome.code)


def terminate(_number: int, _frame: object) -> None:
    """Handle SIGTERM while nothing is trained; while something is, the trainer has handlers of its own."""
    raise Terminated


def main() -> int:
    """Run the command line; the exit code: 0 done, 1 failed, 2 refused, 75 busy elsewhere, 130 and 143 interrupted."""
    signal.signal(signal.SIGTERM, terminate)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions come here instead of being printed over many lines
    try:
        if not {"-sc", "--shell-completion"} & set(sys.argv):  # its words look like overrides
            sys.argv[1:] = expand(sys.argv[1:])
            require_known([word for word in sys.argv[1:] if "=" in word and not word.startswith("-")])
        offer_own()
        task()
    except UsageError as error:
        return fail(error)
    except KeyboardInterrupt as stop:
        print("stopped before training began; the same command starts again", flush=True)
        return 128 + signal_of(stop)
    except Exception as error:
        return fail(UsageError(explain(error)))
    return max(exit_code, sweep.worst_code)


def command() -> None:
    """Entry point of the `nin-train` script."""
    sys.exit(main())


if __name__ == "__main__":
    command()
