"""Sweeps on Slurm, with programs in place of its own that keep jobs in files: what a queue tells, and what is lost.

On a real Slurm: test_slurm.py.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nin_repro import slurm

RATES = "optimizer.lr=0.05,0.06,0.07"
# Starts each job of the array at once; the last one is lost with its node.
SBATCH = """#!{python}
import os, re, subprocess, sys
from pathlib import Path

first, last = map(int, re.search(r"--array=(\\d+)-(\\d+)", Path(sys.argv[-1]).read_text()).groups())
for number in range(first, last + 1):
    state = Path("{jobs}") / f"7_{{number}}"
    if number == last:
        state.write_text("NODE_FAIL")
        continue
    state.write_text("RUNNING")
    about = {{"JOB_ID": 8 + number, "ARRAY_JOB_ID": 7, "ARRAY_TASK_ID": number, "JOB_NUM_NODES": 1, "NTASKS": 1}}
    about |= {{"LOCALID": 0, "PROCID": 0, "NODEID": 0, "JOB_NODELIST": "node"}}
    job = f"bash {{sys.argv[-1]}}; rm {{state}}"  # the queue forgets it
    where = os.environ | {{f"SLURM_{{name}}": str(value) for name, value in about.items()}}
    subprocess.Popen(["sh", "-c", job], env=where, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print("Submitted batch job 7")
"""
SQUEUE = """#!/bin/sh
if [ ! -f {jobs}/asked ]; then
    touch {jobs}/asked
    echo "slurm_load_jobs error: Unable to contact slurm controller" >&2
    exit 1
fi
for job in {jobs}/7_*; do state=$(cat $job 2>/dev/null) && echo "$(basename $job)|$state"; done
exit 0
"""
SRUN = """#!/bin/sh
shift 3 # --unbuffered --output FILE --error FILE
exec "$@"
"""


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Slurm's commands, first in the PATH."""
    programs, jobs = tmp_path / "bin", tmp_path / "jobs"
    programs.mkdir()
    jobs.mkdir()
    for name, text in (("sbatch", SBATCH.format(python=sys.executable, jobs=jobs)), ("srun", SRUN)):
        (programs / name).write_text(text)
    (programs / "squeue").write_text(SQUEUE.format(jobs=jobs))
    for program in programs.iterdir():
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")


def test_a_sweep_ends_when_its_jobs_have_whatever_became_of_them(
    queue: None, command: Callable[..., subprocess.CompletedProcess[str]], data: str, tmp_path: Path
) -> None:
    """Two members have one parent; the third is lost with its node."""
    parent = "parent={experiment:quickstart,fill:0,biases:true}"
    shared = ["experiment=quickstart", "budget.max_steps=20", "restarts=0", "threads=1", "wandb.mode=disabled", data]
    done = command("train", "-m", "hydra/launcher=slurm", "hydra.launcher.gpus_per_node=null", *shared, parent, RATES)
    assert done.returncode == 1, done.stdout + done.stderr
    table = done.stdout[done.stdout.index("3 runs in this sweep") :]
    first, second, third = table.splitlines()[1:4]
    assert first.split()[:2] == ["optimizer.lr=0.05", "done"] and second.split()[:2] == ["optimizer.lr=0.06", "done"]
    assert third.split()[:3] == ["optimizer.lr=0.07", "not", "begun"] and "its job 7_2 is NODE_FAIL" in third
    assert "1 of 3 runs are not begun; the same command goes on from there" in table


@pytest.mark.parametrize(
    "said, errors, code, expected",
    [
        ("7_0|RUNNING\n7_1|COMPLETED\n", "", 0, {"7_0": "RUNNING", "7_1": "COMPLETED"}),
        ("7_1|OUT_OF_MEMORY\n", "", 0, {"7_0": "GONE", "7_1": "OUT_OF_MEMORY"}),
        ("", "slurm_load_jobs error: Invalid job id specified", 1, {"7_0": "GONE", "7_1": "TIMEOUT"}),
        ("", "slurm_load_jobs error: Unable to contact slurm controller", 1, {"7_0": "PENDING", "7_1": "TIMEOUT"}),
    ],
)
def test_the_queue_forgets_jobs_and_may_be_out_of_reach(
    said: str, errors: str, code: int, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = subprocess.CompletedProcess([], code, said, errors)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answer)
    assert slurm._states("7", {"7_0": "PENDING", "7_1": "TIMEOUT"}) == expected


def test_waiting_ends_with_the_last_job(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = [{"7_0": "PENDING"}, {"7_0": "PREEMPTED"}]
    monkeypatch.setattr(slurm, "PAUSE", (0.0, 0.0))
    monkeypatch.setattr(slurm, "_states", lambda array, before: found.pop(0))
    assert slurm._wait("7", ["7_0"]) == {"7_0": "PREEMPTED"} and not found
    assert [line.split("  ")[1] for line in capsys.readouterr().out.splitlines()] == ["1 pending", "1 preempted"]
