"""Sweeps on Slurm. submitit makes the jobs; this waits for all of them, whatever becomes of one."""

import contextlib
import io
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from hydra_plugins.hydra_submitit_launcher import submitit_launcher

from nin_repro.files import UsageError

PAUSE = 1.0, 30.0  # seconds between looks at the queue: at first, and at most
# States that a job does not leave. A preempted one that is queued again is pending.
ENDED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "GONE"}
ENDED |= {"NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"}
BASE = {
    "timeout_min",
    "cpus_per_task",
    "gpus_per_node",
    "tasks_per_node",
    "mem_gb",
    "nodes",
    "name",
    "stderr_to_stdout",
}


class Launcher(submitit_launcher.SlurmLauncher):
    """The plugin's launcher gives up the sweep with the first job that ends without a result.

    It also hears of such an end by `sacct` alone, which knows nothing where Slurm keeps no accounts, and waits forever.
    """

    ends: ClassVar[dict[int, str]] = {}  # how the jobs of this process's sweep ended, by the number of the member

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Submit the members as one array and wait until none is in the queue. Their outcomes are in their own files.

        Raises:
            UsageError: Slurm refuses the jobs.
            KeyboardInterrupt: the user stopped waiting; the jobs go on.
        """
        numbers = range(initial_job_idx, initial_job_idx + len(job_overrides))
        jobs = self._submit(job_overrides, numbers)
        array = jobs[0].job_id.partition("_")[0]
        print(
            f"{len(jobs)} jobs in Slurm, array {array}; what they print is in {jobs[0].paths.folder.parent}", flush=True
        )
        try:
            last = _wait(array, [job.job_id for job in jobs])
        except KeyboardInterrupt:
            print(f"no longer waiting; the jobs go on: squeue --job {array} shows them, scancel {array} ends them")
            raise
        for number, job in zip(numbers, jobs, strict=True):
            self.ends[number] = f"its job {job.job_id} is {last[job.job_id]}"
        return [JobReturn(status=JobStatus.COMPLETED) for _ in jobs]

    def _submit(self, job_overrides: Sequence[Sequence[str]], numbers: range) -> list[Any]:
        import submitit

        settings = dict(self.params)
        folder, timeouts = settings.pop("submitit_folder"), settings.pop("max_num_timeout")
        settings = {name if name in BASE else f"slurm_{name}": value for name, value in settings.items()}
        state = Singleton.get_state()
        calls = [
            (list(words), "hydra.sweep.dir", number, str(number), state)
            for words, number in zip(job_overrides, numbers, strict=True)
        ]
        try:
            executor = submitit.AutoExecutor(folder=folder, cluster="slurm", slurm_max_num_timeout=timeouts)
            executor.update_parameters(**settings)
            with contextlib.redirect_stderr(io.StringIO()):  # where submitit shows what it raises as well
                jobs: list[Any] = executor.map_array(self, *zip(*calls, strict=True))
        except Exception as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            said = next((line for line in lines if "error:" in line), lines[0] if lines else type(error).__name__)
            hint = "hydra.launcher.gpus_per_node=null without GPUs; all settings: conf/hydra/launcher/slurm.yaml"
            raise UsageError(f"Slurm takes no jobs: {said}; {hint}") from error
        return jobs


def _wait(array: str, jobs: list[str]) -> dict[str, str]:
    """The last states of jobs, once all have ended. Shows how many there are of each state when that changes."""
    states = dict.fromkeys(jobs, "UNKNOWN")
    shown, pause = "", PAUSE[0]
    while not ENDED.issuperset(states.values()):
        time.sleep(pause)
        pause = min(1.2 * pause, PAUSE[1])
        states = _states(array, states)
        told = ", ".join(f"{count} {state.lower()}" for state, count in Counter(states.values()).items())
        if told != shown:
            shown = told
            print(f"{time.strftime('%H:%M:%S')}  {told}", flush=True)
    return states


def _states(array: str, before: dict[str, str]) -> dict[str, str]:
    """The states of jobs now. The queue forgets those that ended some minutes ago."""
    command = ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T", f"--jobs={array}"]
    asked = subprocess.run(command, capture_output=True, text=True)
    if asked.returncode and "Invalid job id" not in asked.stderr:
        return before  # Slurm is out of reach for now
    found = dict(line.strip().split("|") for line in asked.stdout.splitlines())
    return {job: found.get(job, state if state in ENDED else "GONE") for job, state in before.items()}


def install() -> dict[int, str]:
    """Let Hydra take this launcher for the plugin's: by name it takes none from outside of its own namespace.

    Returns what will tell how each member's job ended.
    """
    plugin = submitit_launcher.SlurmLauncher
    Launcher.ends.clear()
    Plugins.instance().class_name_to_class[f"{plugin.__module__}.{plugin.__name__}"] = Launcher
    return Launcher.ends
