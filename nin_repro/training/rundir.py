"""The directory of a run. No torch here: a finished run answers fast."""

import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nin_repro.files import UsageError, atomic, read_json, taken, told, write_json
from nin_repro.results import records

TIME = "%Y-%m-%dT%H:%M:%S%z"


def why(state: str, told: Mapping[str, Any]) -> str:
    """What kept a run that is not finished, of this state and status.json, from going on; empty if nothing did."""
    if state != "lost":
        return str(told.get("why", ""))
    if told.get("state") in ("done", "dead"):
        return "its result.json is gone, or not as it was written"
    if told.get("state") != "running":
        return "its status.json does not say how it ended"
    return f"its process {told.get('pid')} on {told.get('host')} ended without a word"


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
        now = time.strftime(TIME)
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

    def look(self) -> tuple[str, dict[str, Any], dict[str, Any] | None]:
        """(state, `status()`, `result()`). States: done, dead, running, interrupted or failed; lost: its process ended
        without a word; or not begun.

        Raises:
            UsageError: nobody could say, because of what is there in place of its result.
        """
        record, status = self.result(), self.status()
        if record is not None:
            return str(record["status"]), status, record
        state = str(status.get("state", "lost" if self.checkpoint.exists() else "not begun"))
        try:
            held = taken(self.lock)
        except FileNotFoundError:
            return "lost" if state == "running" else state, status, None
        except OSError:  # nobody can say
            held = state == "running"
        if held:
            return "running", status, None
        # done without a result: that was altered
        return "lost" if state in ("running", "done", "dead") else state, status, None

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
