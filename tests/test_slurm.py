"""A sweep on a real Slurm, preempted, timed out and cancelled: `python -m pytest --slurm`. Some ten minutes.

It needs root and Debian's packages slurm-wlm and munge, starts daemons of its own and ends them. When all went well it
writes results/slurm.md.
"""

import re
import subprocess
import threading
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import engines
import pytest
import slurm_node
from engines import COUNT, ROOT, Sweep, wait_until

LAUNCHER = [
    "hydra/launcher=slurm",
    "hydra.launcher.gpus_per_node=null",
    "hydra.launcher.cpus_per_task=1",
    "hydra.launcher.timeout_min=1",  # Slurm counts in minutes,
    "hydra.launcher.signal_delay_s=10",  # and warns a job up to 30 s earlier than it is told
]
LENGTHS = 15, 75  # epochs; the longer ones take more than a minute
OPENING = """A sweep of six runs on a Slurm of one node with two CPUs, started for it by `tests/slurm_node.py`.
A job may take one minute, of which three members need more. `python -m pytest --slurm` does all this again and writes
this page, if the results are those of the same sweep undisturbed, in one process."""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Path]:
    why = slurm_node.missing()
    if why:
        pytest.fail(why)
    for path in (tmp_path, *tmp_path.parents[:2]):
        path.chmod(0o755)  # munged has a user of its own
    with slurm_node.slurm(tmp_path / "slurm"):
        yield tmp_path / "slurm"


def log_of(sweep: Sweep, number: int) -> str:
    """What a member's jobs printed, over both commands."""
    return "".join(path.read_text() for path in sorted(sweep.folder.glob(f"runs/sweeps/*/jobs/*_{number}/*_log.out")))


def watch(sweep: Sweep, over: threading.Event) -> None:
    """Note every change of a job's state, as squeue tells it."""
    states: dict[str, str] = {}
    command = ["squeue", "--noheader", "--array", "--states=all", "--format=%F_%K|%K|%T"]
    while not over.wait(0.5):
        said = subprocess.run(command, capture_output=True, text=True).stdout
        for job, number, state in (line.strip().split("|") for line in said.splitlines()):
            if states.get(job) != state:
                states[job] = state
                if state != "COMPLETING":
                    sweep.note(f"{sweep.names[int(number)]}: {state.lower()}")


def test_a_sweep_that_is_preempted_timed_out_and_cancelled_ends_as_one_that_was_not(node: Path, tmp_path: Path) -> None:
    expected = engines.undisturbed(tmp_path / "undisturbed", LENGTHS)
    sweep = Sweep(tmp_path / "on_slurm", LENGTHS, *LAUNCHER)
    preempted, cancelled = 0, 2

    def disturb(number: int, *command: str) -> None:
        wait_until(lambda: sweep.epochs(number) >= 5, process)
        sweep.note(f"**{' '.join(command)}** ({sweep.names[number]}, after {sweep.epochs(number)} epochs)")
        subprocess.run(command, check=True)

    over = threading.Event()
    watching = threading.Thread(target=watch, args=(sweep, over))
    watching.start()
    try:
        sweep.note("**the command is given**")
        process = sweep.start()
        disturb(preempted, "scontrol", "requeue", f"1_{preempted}")
        disturb(cancelled, "scancel", f"1_{cancelled}")
        code = sweep.end(process)
        shown = "\n".join(sweep.lines)
        sweep.note(f"the command ends with exit code {code}: {sweep.table()[cancelled]}")
        assert code == 143 and "Traceback" not in shown, shown
        assert all((" done " in row) == (n != cancelled) for n, row in enumerate(sweep.table())), shown
        assert "its job 1_2 is CANCELLED" in sweep.table()[cancelled] and "the same command goes on" in shown
        subprocess.run(["scancel", "--me"], check=True)  # nothing of the first command is left to help the second
        sweep.note("**the same command is given again**")
        code = sweep.end(sweep.start())
        sweep.note(f"the command ends with exit code {code}")
        assert code == 0, "\n".join(sweep.lines)
    finally:
        over.set()
        watching.join()
    engines.require_equal(sweep, expected)

    logs = [log_of(sweep, number) for number in range(COUNT)]
    timed_out = [number for number, log in enumerate(logs) if "this job is timed-out" in log]
    assert timed_out, "no member took long enough for its time limit: give them more epochs"
    for number in (preempted, cancelled, *timed_out):
        assert "going on after epoch" in logs[number]
    assert all("Requeued job" in logs[number] for number in timed_out)
    done_to = dict.fromkeys(timed_out, "stopped by its time limit, queued again by itself")
    done_to |= {preempted: "preempted: `scontrol requeue`", cancelled: "cancelled: `scancel`; the same command again"}
    for number in done_to:
        stops = re.findall(r"^stopped by (\w+) at epoch \d+, (step \d+)", logs[number], re.MULTILINE)
        assert stops, logs[number]
        done_to[number] += f" ({', '.join(f'{name} after {step}' for name, step in stops)})"
    version = subprocess.run(["slurmctld", "-V"], capture_output=True, text=True).stdout.strip()
    plugins = [f"{name} {metadata.version(name)}" for name in ("hydra-submitit-launcher", "submitit")]
    told = engines.page(sweep, expected, "A sweep on Slurm", OPENING, done_to, [version, *plugins])
    (ROOT / "results/slurm.md").write_text(told)
