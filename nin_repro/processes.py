"""Members of a sweep in processes of their own, several at a time on this machine, and a table of how far each is.

A member that is killed, by the system for want of memory or by anybody, takes no other with it, and is started again
from its checkpoint. Processes are forked from one that has torch imported: a member starts in no time.
"""

import contextlib
import os
import select
import signal
import sys
import threading
import time
from dataclasses import dataclass
from itertools import takewhile
from multiprocessing import connection, forkserver, get_context, resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from nin_repro.config.compose import parents
from nin_repro.config.recipe import directory
from nin_repro.files import UsageError
from nin_repro.outcome import Outcome, Request
from nin_repro.progress import Row, Table
from nin_repro.run import attempt, kept_from
from nin_repro.training.rundir import RunDirectory
from nin_repro.training.stop import STOP, listen, signal_of

TRIES = 3  # starts of a member that is killed each time before it gets to another checkpoint


@dataclass
class Member:
    """A member of the sweep, and the process that has it, if one does."""

    name: str
    request: Request
    output: Path  # where what it prints goes
    process: BaseProcess | None = None
    pipe: Any = None
    slot: int = 0
    checkpoint: float | None = None  # when its checkpoint was written, as the process started
    tries: int = 0  # starts since then
    outcome: Outcome | None = None

    @property
    def run(self) -> RunDirectory:
        return RunDirectory(directory(self.request.config))

    def saved(self) -> float | None:
        """When its last checkpoint was written, or that of a parent which it trains first."""
        config = self.request.config
        runs, found = [config], []
        with contextlib.suppress(UsageError):  # the member's process will say so
            runs += parents(config, self.request.overrides).values()
        for one in runs:
            with contextlib.suppress(OSError):
                found.append(RunDirectory(directory(one)).checkpoint.stat().st_mtime)
        return max(found, default=None)


def train(requests: dict[str, Request], at_once: int, folder: Path) -> list[Outcome]:
    """Bring the runs to their ends, so many processes at a time; their outcomes in order. A signal stops them all.

    `folder`: of the sweep; each member's output goes into a file there. Of N processes, number i has GPU i modulo the
    number of GPUs to itself or, if there are fewer GPUs than processes, shares it; without a GPU each has its part of
    the cores.
    """
    members = [Member(name, one, folder / f"{number}.log") for number, (name, one) in enumerate(requests.items())]
    folder.mkdir(parents=True, exist_ok=True)
    print(f"what the runs print is in {folder}/0.log to {len(members) - 1}.log", flush=True)
    table = Table([member.name for member in members])
    context = get_context("forkserver")
    context.set_forkserver_preload(["nin_repro.build"])
    _serve_forks()
    forwarded = None
    with STOP.listening():
        while any(member.outcome is None for member in members):
            try:
                _start(members, at_once, context)
                running = [member for member in members if member.process is not None]
                if STOP.signal is not None and forwarded is None:
                    forwarded = STOP.signal
                    _pass_on(running, forwarded)
                connection.wait([member.process.sentinel for member in running if member.process], timeout=0.5)
                for member in running:
                    if member.process is not None and not member.process.is_alive():
                        _collect(member, table)
                table.show([_row(member) for member in members])
            except KeyboardInterrupt:  # asked twice: no member finishes its update either
                _pass_on([member for member in members if member.process is not None], signal.SIGINT)
        table.show([_row(member) for member in members], last=True)
    return [member.outcome for member in members if member.outcome is not None]


def _serve_forks() -> None:
    """Start the process that members are forked from, deaf to Ctrl-C: it has the terminal in common with this one, and
    would end while it imports torch. Here the signal waits meanwhile."""
    resource_tracker.ensure_running()  # which would let it through
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _start(members: list[Member], at_once: int, context: Any) -> None:
    """Start waiting members while there is room; none after a signal."""
    for member in members:
        if member.outcome is not None or member.process is not None:
            continue
        if STOP.signal is not None:
            member.outcome = kept_from(member.request.config, STOP.signal)
            continue
        taken = {other.slot for other in members if other.process is not None}
        if len(taken) >= at_once:
            return
        member.slot = next(slot for slot in range(at_once) if slot not in taken)
        saved = member.saved()
        if saved != member.checkpoint:  # it got further than when it was started before
            member.checkpoint, member.tries = saved, 0
        member.tries += 1
        ours, theirs = context.Pipe(duplex=False)
        arguments = theirs, member.request, member.output, _gpu(member)
        process = context.Process(target=_member, args=arguments, name=member.name)
        process.start()  # a second Ctrl-C may break it off: then this member has no process
        theirs.close()
        member.process, member.pipe = process, ours


def _gpu(member: Member) -> str | None:
    """The GPU that a member's process sees; None: as it is."""
    if member.request.config.device not in ("auto", "cuda"):
        return None
    found = gpus()
    return found[member.slot % len(found)] if found else None


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them. Does not import torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = [name.strip() for name in visible.split(",")]
        return [*takewhile(lambda name: name and not name.startswith("-"), names)]  # CUDA ignores all from there on
    devices = [*Path("/dev").glob("nvidia[0-9]*")] or [*Path("/proc/driver/nvidia/gpus").glob("*")]
    return [str(number) for number in range(len(devices))]


def _pass_on(members: list[Member], number: int) -> None:
    for member in members:
        if member.process is not None and member.process.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(member.process.pid, number)


def _collect(member: Member, table: Table) -> None:
    """Take what an ended process left: its outcome or, if it was killed, nothing, and then it is started again."""
    process, pipe = member.process, member.pipe
    assert process is not None
    process.join()
    with pipe, contextlib.suppress(EOFError, OSError):
        if pipe.poll():
            member.outcome = pipe.recv()
    code = process.exitcode or 0
    member.process = member.pipe = None
    process.close()
    if member.outcome is None:
        why = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        if STOP.signal is not None:
            member.outcome = Outcome("interrupted", 128 + STOP.signal, why, path=str(member.run.path))
        elif member.tries >= TRIES and member.saved() == member.checkpoint:
            why += f", {TRIES} times without getting further (out of memory?); what it printed: {member.output}"
            with contextlib.suppress(OSError):
                member.run.write_status("failed", why=why)
            member.outcome = Outcome("failed", 1, why, path=str(member.run.path))
        else:
            table.line(f"{member.name}: {why}, starts again from its checkpoint")
            return
    table.line(f"{member.name}: {member.outcome.state}, {member.outcome.words}")


def _row(member: Member) -> Row:
    """What the table says of a member."""
    if member.outcome is not None:
        return Row(member.name, member.outcome.state, words=member.outcome.words)
    if member.process is None:
        return Row(member.name, "waiting")
    told = member.run.status()
    figures = told if told.get("pid") == member.process.pid else {}
    return Row.of(member.name, "running", figures)


def _member(pipe: Any, request: Request, output: Path, gpu: str | None) -> None:
    """What a member's process does: the run, its output into a file, its outcome into the pipe."""
    os.setsid()  # Ctrl-C in the terminal is for the parent, which passes it on once
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    with open(output, "a", buffering=1, errors="backslashreplace") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.stdout = sys.stderr = file
        print(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {request.command}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):  # asked once more, as all is saved
            try:
                _end_with_sweep(pipe)
                # Blocked where this was forked from: one that was passed on meanwhile comes now.
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
                outcome = attempt(request, where=True)
            except KeyboardInterrupt as stop:
                outcome = Outcome("interrupted", 128 + signal_of(stop), "stopped before training began")
            with contextlib.suppress(BrokenPipeError):  # of a sweep that was killed; the run's directory tells the next
                pipe.send(outcome)


def _end_with_sweep(pipe: Any) -> None:
    """Have this process stopped, by SIGTERM, when the sweep that holds the other end of its pipe is killed."""
    listen()

    def watch() -> None:
        end = select.poll()
        end.register(pipe.fileno(), 0)  # that nobody can read any more is told all the same
        end.poll()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
