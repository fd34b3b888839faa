"""The directory of a run, and what is known of the machine it runs on. No torch here: a finished run answers fast."""

import contextlib
import hashlib
import json
import os
import platform
import re
import socket
import subprocess
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from nin_repro.files import UsageError, atomic, locked, read_json, told, write_json
from nin_repro.results import records

PACKAGES = ("torch", "torchvision", "numpy", "hydra-core", "omegaconf", "wandb")
UNTOLD = "its status.json does not say how it ended; its checkpoint is there"  # of a run that is lost


@dataclass(frozen=True)
class RunDirectory:
    """Paths of a run, named by its key.

    config.yaml, environment.json: what was asked and where; metrics.jsonl: one line per epoch; checkpoint.pt: all that
    is needed to go on, in the end the final weights; status.json: running, interrupted, failed, done or dead;
    train.log: what was shown; selection.json: where its settings were chosen, if in a search; result.json: the record.
    """

    path: Path

    @property
    def lock(self) -> Path:
        return self.path / "lock"

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint.pt"

    @property
    def log(self) -> Path:
        return self.path / "train.log"

    def parts(self) -> list[Path]:
        """What killed processes were writing, or a living one is: only who holds the lock may remove it."""
        return list(self.path.glob(".*.part"))

    def remove_parts(self) -> None:
        for part in self.parts():
            part.unlink(missing_ok=True)

    def result(self) -> dict[str, Any] | None:
        """The record of the finished run; None if it is not finished, or its result is not as it was written.

        Raises:
            UsageError: nobody could say, because of what is there in its place, or another version of this program
                wrote it.
        """
        path = self.path / "result.json"
        try:
            found = read_json(path)
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None
        except OSError as error:
            raise UsageError(
                f"no run can be here: {told(error)}; move what is in the way, or name another place"
            ) from None
        if found.get("status") not in ("done", "dead"):
            return None
        try:
            records.require_format(found.get("format", records.FORMAT))
        except records.OtherFormat as error:
            raise UsageError(f"{path}: {error}, or move it away to train the run again") from None
        return found

    def write_result(self, record: dict[str, Any]) -> None:
        write_json(self.path / "result.json", record)

    def write_status(self, state: str, **more: Any) -> None:
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        write_json(
            self.path / "status.json",
            {"state": state, "time": now, "host": socket.gethostname(), "pid": os.getpid(), **more},
        )

    def status(self) -> dict[str, Any]:
        """What `write_status` wrote last; nothing if there is none that can be read."""
        try:
            found = read_json(self.path / "status.json")
        except (OSError, ValueError):
            return {}
        return found if isinstance(found.get("state"), str) else {}

    def state(self) -> str:
        """done, dead, running, interrupted or failed; lost: its process ended without a word; or not begun.

        Raises:
            UsageError: nobody could say, because of what is there in place of its result.
        """
        record, status = self.result(), self.status()
        if record is not None:
            return str(record["status"])
        state = str(status.get("state", "lost" if self.checkpoint.exists() else "not begun"))
        if not self.lock.exists():
            return "lost" if state == "running" else state
        with contextlib.suppress(OSError), locked(self.lock, wait=False) as free:
            if not free:
                return "running"
        return "lost" if state in ("running", "done", "dead") else state  # done without a result: that was altered

    def write_config(self, text: str, command: str) -> None:
        with atomic(self.path / "config.yaml") as file:
            file.write(f"# {command}\n{text}")

    def write_environment(self, found: dict[str, Any], since: list[int]) -> dict[str, Any]:
        """Note what computes the run from here on, `since` [start, update], and what computed it before.

        What was done before and not kept is forgotten, and so is what cannot be read.

        Returns:
            `found`; of a run whose parts differ with `since`, and `before`: a list of the other parts, each likewise.
        """
        path = self.path / "environment.json"
        try:
            last = read_json(path)
            noted = filter(records.is_part, [*last.pop("before", []), last])
            parts = [part for part in noted if part.get("since", [0, 0]) < since]
        except (OSError, ValueError, TypeError):
            parts = []
        whole = found | {"since": since}
        if parts and {name: value for name, value in parts[-1].items() if name != "since"} == found:
            whole = parts.pop()
        if parts:
            whole["before"] = parts
        else:
            whole.pop("since", None)
        write_json(path, whole)
        return whole

    def write_selection(self, found: dict[str, Any] | None) -> None:
        """Note the choice that asked for this run. One that asked before stays if now nobody did."""
        if found is not None:
            write_json(self.path / "selection.json", found)

    def selection(self) -> dict[str, Any]:
        """{"selection": what was noted}, or nothing.

        Raises:
            UsageError: it is damaged.
        """
        path = self.path / "selection.json"
        try:
            return {"selection": read_json(path)} if path.exists() else {}
        except ValueError as damage:
            raise UsageError(f"{path}: {damage}; repeat the search that wrote it, or delete it") from None

    def rewrite_metrics(self, rows: list[dict[str, Any]]) -> None:
        """Make metrics.jsonl say what the checkpoint says: rows after it are trained again."""
        with atomic(self.path / "metrics.jsonl") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)

    def append_metrics(self, row: dict[str, Any]) -> None:
        with open(self.path / "metrics.jsonl", "a") as file:
            file.write(json.dumps(row) + "\n")


ROOT = Path(__file__).resolve().parents[2]  # of the source tree
PACKED = "packed.json"  # what scripts/bundle notes there of a tree that it packs: {"commit": ..., "source": ...}


def source_digest(root: Path) -> str:
    """SHA-256 of what a run is computed by: names and bytes of the files below nin_repro and conf, but for bytecode."""
    total = hashlib.sha256()
    paths = [path for name in ("nin_repro", "conf") for path in (root / name).rglob("*") if path.is_file()]
    for path in sorted(path for path in paths if path.suffix != ".pyc"):
        total.update(f"{path.relative_to(root)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def source_commit() -> tuple[str, bool]:
    """(commit, whether files differ from it) of the source tree; ("unknown", True) outside of git and of a bundle."""
    here = Path(__file__).resolve().parent
    try:
        noted = read_json(ROOT / PACKED)
        return noted["commit"], noted["source"] != source_digest(ROOT)
    except (OSError, ValueError, LookupError):
        pass  # not packed

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(here), *words], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        # Records and tables are made by runs: they do not change what a run does.
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/nin_repro", ":/conf")
        return git("rev-parse", "HEAD"), bool(changed)
    except (OSError, subprocess.SubprocessError):
        return "unknown", True


def environment(device: str, threads: int) -> dict[str, Any]:
    """Versions, hardware and commit, as JSON values. `device` is in words."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "absent"
    commit, dirty = source_commit()
    return {
        "commit": commit,
        "dirty": dirty,
        "device": device,
        "threads": threads,
        "processor": processor(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "versions": versions,
    }


CPUINFO = Path("/proc/cpuinfo")


def processor() -> str:
    """The CPU's name and its widest vectors, as well as the system knows them: "AMD EPYC (AVX-512, bf16)".

    Virtual machines give one name to CPUs of which one is twice as fast as another, for its vectors.
    """
    told = _cpuinfo()
    found, flags = re.search(r"^model name\s*: *(.*?) *$", told, flags=re.M), set(told.split())
    name = found[1] if found else platform.processor() or platform.machine()
    vectors = next((word for flag, word in (("avx512f", "AVX-512"), ("avx2", "AVX2")) if flag in flags), None)
    speed = ", ".join(filter(None, (vectors, "bf16" if bf16_instructions() else None)))
    return f"{name} ({speed})" if speed else name


def _cpuinfo() -> str:
    try:
        return CPUINFO.read_text()
    except OSError:
        return ""


def bf16_instructions() -> bool | None:
    """Whether the CPU has instructions for bf16, without which it is slower than fp32; None where that is not known."""
    flags = set(_cpuinfo().split())
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"}) if flags else None


def lacks(device: str, precision: str) -> bool:
    """Whether a device, "cpu" or "cuda:1", has no instructions for a precision: no CPU for TF32, not all for bf16."""
    return device == "cpu" and (precision == "tf32" or (precision == "bf16" and bf16_instructions() is False))
