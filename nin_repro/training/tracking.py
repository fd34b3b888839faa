"""A mirror of a training run in Weights & Biases. The files of the run directory are the record; this is a copy.

W&B runs in a process of its own, fed through a socket that never blocks. So nothing of it reaches the training: no
server that hangs, no thread, exit hook, prompt or changed `sys.exit`, not even a crash. The trainer never imports it.

Offline runs are uploaded with `wandb sync <run directory>/wandb/offline-run-*`. A training that was stopped and resumed
has several such folders with one W&B id; given together they become one run, joined in the order of their start.
"""

import contextlib
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ENOUGH = 256 << 10  # free bytes under which a disk counts as full


class Tracker:
    """Mirrors one run. Nothing here raises or waits because of W&B; only `finish` waits, at most `timeout` seconds.

    Whatever goes wrong, `warn` is called once, with one line, and the training goes on. A `run_id` seen before
    continues that W&B run. Files are written under `directory`/wandb only. Without a server or a key, "online" keeps
    the run offline; "disabled" does nothing at all.
    """

    def __init__(
        self,
        *,
        mode: str,
        project: str,
        entity: str | None,
        group: str | None,
        tags: Sequence[str],
        name: str,
        run_id: str,
        directory: Path,
        config: Mapping[str, Any],
        warn: Callable[[str], None],
        timeout: float = 20.0,
    ) -> None:
        self._warn, self._warned, self._timeout = warn, False, timeout
        self._process: subprocess.Popen[bytes] | None = None
        if mode == "disabled":
            return
        self._socket, other = socket.socketpair()
        self._socket.setblocking(False)
        package = str(Path(__file__).parents[2])
        environment = {key: value for key, value in os.environ.items() if key != "WANDB_SERVICE"}  # not someone else's
        environment["PYTHONPATH"] = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
        environment["WANDB_ERROR_REPORTING"] = "false"  # it would call home
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-W", "ignore", "-m", "nin_repro.training.tracking"],
                stdin=other.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,  # Ctrl-C is for the trainer; without a terminal nobody is asked for a key
            )
        except OSError as error:
            self._tell(f"cannot start: {error}")
            self._socket.close()
        other.close()
        run = {"project": project, "entity": entity, "group": group, "tags": list(tags), "name": name, "id": run_id}
        folder = str(Path(directory).absolute())
        self._send({"mode": mode, "timeout": timeout, "run": {**run, "dir": folder, "config": dict(config)}})

    def log(self, values: Mapping[str, float], epoch: int, row: int | None = None) -> None:
        """Mirror the numbers of one epoch. Returns at once.

        `row` counts the epochs of all starts of a run (else `epoch` is taken for it): W&B drops what goes back in it.
        """
        self._send({"log": {**values, "epoch": epoch}, "row": epoch if row is None else row})

    def finish(self, *, failed: bool, summary: Mapping[str, Any]) -> None:
        """Mirror the summary and close the run as failed or finished, giving up after `timeout` seconds."""
        self._send({"summary": dict(summary), "exit_code": int(failed)})
        if self._process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(self._timeout)
            self._close(f"gave up after {self._timeout:g} s")

    def _send(self, message: dict[str, Any]) -> None:
        if not self._process:
            return
        self._relay()
        try:
            self._socket.sendall(json.dumps(message, default=_plain).encode() + b"\n")
        except ConnectionError:
            self._close("its process died")
        except BlockingIOError:
            self._close("its process does not keep up")
        except Exception as error:  # whatever it is given, a mirror does not stop a training
            self._close(str(error))

    def _close(self, reason: str) -> None:
        """Let go of the process. Unless it ended by itself and well, pass on its last words, or else `reason`."""
        assert self._process
        self._process.kill()
        ended_well = self._process.wait() == 0
        self._relay()
        if not ended_well:
            self._tell(reason)
        self._socket.close()
        self._process = None

    def _relay(self) -> None:
        with contextlib.suppress(OSError):  # BlockingIOError: it has said nothing
            if words := self._socket.recv(4096).decode():
                self._tell(words.splitlines()[0])

    def _tell(self, reason: str) -> None:
        if not self._warned:
            self._warned = True
            self._warn(f"W&B mirror: {reason}. The training and its own files are not affected.")


def _plain(value: Any) -> Any:
    """What JSON has no word for: a number if it is one (NumPy's, a tensor's), else its text."""
    return float(value) if hasattr(value, "__float__") else str(value)


def _mirror() -> None:
    """The other process: repeat to W&B what the trainer sends, and answer with one line when something goes wrong."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # a trainer that is told to stop still has its last words to say
    trainer = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # W&B starts a process too: the socket is not for that one
    messages: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(trainer, messages), daemon=True).start()
    first = messages.get()
    try:
        run = _start(trainer, first["mode"], first["timeout"], first["run"])
        while "log" in (message := messages.get()):
            run.log(message["log"], step=message["row"])
            if shutil.disk_usage(first["run"]["dir"]).free < ENOUGH:  # W&B itself says nothing when it cannot write
                trainer.sendall(b"the disk is full, so the mirror may lack numbers\n")
        run.summary.update(message["summary"])
        run.finish(exit_code=message["exit_code"])
    except Exception as error:
        trainer.sendall(_line(error))
        sys.exit(1)


def _receive(trainer: socket.socket, messages: "queue.SimpleQueue[dict[str, Any]]") -> None:
    """Empty the socket while W&B is busy. Once the trainer is gone, leave after its timeout whatever W&B does."""
    timeout = 0.0
    for line in trainer.makefile():
        message = json.loads(line)
        timeout = message.get("timeout", timeout)
        messages.put(message)
    messages.put({"summary": {}, "exit_code": 1})  # counts only if the trainer died before it said how it ended
    time.sleep(timeout)
    os._exit(1)


def _start(trainer: socket.socket, mode: Any, timeout: float, run: dict[str, Any]) -> Any:
    """Start the W&B run. It gets what it is given: no code, git state, package list, host or machine load."""
    Path(run["dir"], "wandb").mkdir(parents=True, exist_ok=True)  # raises; W&B would quietly write to /tmp instead
    import wandb

    wanted: dict[str, Any] = {
        "init_timeout": timeout / 2,  # even a short run has time left to be written offline
        "finish_timeout": timeout / 2,  # and what cannot be uploaded is on disk before the trainer loses patience
        "finish_timeout_raises": True,
        "x_transaction_log_flush_interval": 1.0,  # seconds; what a killed run may lose
        "silent": True,
        "console": "off",
        "host": "",
        "save_code": False,
        "disable_code": True,
        "disable_git": True,
        "disable_job_creation": True,
        "x_disable_meta": True,
        "x_disable_machine_info": True,
        "x_disable_stats": True,
        "x_save_requirements": False,
    }
    known = wandb.Settings.model_fields  # these names come and go with the versions of W&B, which refuses others
    settings = wandb.Settings(**{name: value for name, value in wanted.items() if name in known})
    try:
        started = wandb.init(mode=mode, resume="allow", reinit="create_new", settings=settings, **run)
    except Exception as error:
        if mode == "offline":
            raise
        trainer.sendall(_line(error, " (kept offline: `wandb sync` can upload it)"))
        wandb.teardown()  # its process still holds the run's id
        return _start(trainer, "offline", timeout, run)
    started.define_metric("*", step_metric="epoch")  # where resumed runs overlap W&B shifts its steps, not the epochs
    return started


def _line(error: Exception, more: str = "") -> bytes:
    """What the trainer is told of an error: one line, however long and broken W&B's is."""
    return (" ".join(str(error).split())[:160].rstrip(".") + more + "\n").encode()


if __name__ == "__main__":
    _mirror()
