"""A real Slurm of one node in a directory of its own: munged, slurmctld and slurmd from Debian's packages.

`apt-get install slurm-wlm munge`, and root. It has its own ports, keys and states, says so to the commands of Slurm
by SLURM_CONF, and ends what it started and nothing else.
"""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={controller}
SlurmdPort={daemon}
AuthType=auth/munge
# A job that is queued again waits as long as credentials live: 120 s, unless that is said here.
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SchedulerType=sched/builtin
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/completed.txt
KillWait=15
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why there can be no such Slurm on this machine; empty if there can."""
    absent = [name for name in (*DAEMONS, "sbatch", "srun") if not shutil.which(name)]
    if absent:
        return f"no {', '.join(absent)}: apt-get install slurm-wlm munge"
    return "" if os.getuid() == 0 else "slurmd needs root"


@contextlib.contextmanager
def slurm(folder: Path, cpus: int = 2) -> Iterator[None]:
    """Inside, Slurm runs and this process's environment names it. `folder` is made, and keeps logs and states."""
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir(parents=True)
    host = socket.gethostname().partition(".")[0]
    ports = dict(zip(("controller", "daemon"), _free_ports(2), strict=True))
    conf = folder / "slurm.conf"
    conf.write_text(CONF.format(folder=folder, host=host, cpus=cpus, **ports))
    started: list[subprocess.Popen[bytes]] = []
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(conf)
    try:
        started.append(_munged(folder / "munge"))
        _wait_for(lambda: (folder / "munge/socket").exists(), started, folder)
        for name in ("slurmctld", "slurmd"):
            started.append(_daemon(folder / f"{name}.out", [name, "-D"]))
        _wait_for(lambda: "idle" in _said("sinfo", "--noheader", "--format=%T"), started, folder)
        yield
    finally:
        subprocess.run(["scancel", "--me"], capture_output=True, timeout=30)
        with contextlib.suppress(TimeoutError):
            _wait_for(lambda: not _said("squeue", "--noheader"), started, folder)
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        os.environ.pop("SLURM_CONF")
        if before is not None:
            os.environ["SLURM_CONF"] = before


def _munged(folder: Path) -> subprocess.Popen[bytes]:
    """munged insists on a user of its own and on directories that nobody else can write to."""
    user = pwd.getpwnam("munge")
    key = folder / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    for path in (folder, key):
        os.chown(path, user.pw_uid, user.pw_gid)
    folder.chmod(0o755)
    words = ["munged", "--foreground", "--force"]  # --force: a directory above may be anybody's to write, as /tmp is
    words += [f"--{name}-file={folder / name}" for name in ("key", "log", "pid", "seed")]
    words += [f"--socket={folder / 'socket'}"]
    return _daemon(folder / "out", words, user=user.pw_uid, group=user.pw_gid)


def _daemon(out: Path, words: list[str], user: int | None = None, group: int | None = None) -> subprocess.Popen[bytes]:
    with open(out, "wb") as file:
        return subprocess.Popen(words, stdout=file, stderr=file, start_new_session=True, user=user, group=group)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=30).stdout.strip()


def _wait_for(condition: Callable[[], bool], started: list[subprocess.Popen[bytes]], folder: Path) -> None:
    """Wait for a minute at most.

    Raises:
        TimeoutError: in vain; tells where the daemons say why.
    """
    deadline = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline or any(process.poll() is not None for process in started):
            raise TimeoutError(f"Slurm does not run; see the logs in {folder}")
        time.sleep(0.2)
