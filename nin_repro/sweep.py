"""What became of the members of a sweep."""

import json
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from nin_repro.files import write_json
from nin_repro.run import Outcome

worst_code = 0  # the highest exit code among the members of the sweep that this process started


def leave(folder: Path, number: int, overrides: list[str], outcome: Outcome) -> None:
    """Leave a member's outcome where the process that started the sweep finds it, whichever process ran the member."""
    write_json(folder / "outcomes" / f"{number}.json", {"overrides": overrides, **outcome.__dict__})


class Outcomes(Callback):
    """Hydra calls this when a sweep ends: a table of its members, the worst exit code kept for the process."""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        global worst_code
        files = sorted((Path(config.hydra.sweep.dir) / "outcomes").glob("*.json"), key=lambda path: int(path.stem))
        members = [json.loads(path.read_text()) for path in files]
        worst_code = max((member["code"] for member in members), default=0)
        shared = set.intersection(*(set(member["overrides"]) for member in members)) if len(members) > 1 else set()
        names = [" ".join(word for word in member["overrides"] if word not in shared) for member in members]
        width = max(map(len, names), default=0)
        print(f"\n{len(members)} runs in this sweep:")
        for name, member in zip(names, members, strict=True):
            state = member["state"] + (" before" if member["already"] else "")
            print(f"  {name:{width}}  {state:12}  {member['words']}")
