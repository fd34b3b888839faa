"""What computes a run: source, versions, machine. No torch here."""

import hashlib
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from nin_repro.cpu import processor
from nin_repro.files import read_json

PACKAGES = ("torch", "torchvision", "numpy", "hydra-core", "omegaconf", "wandb")
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
    try:
        noted = read_json(ROOT / PACKED)
        return noted["commit"], noted["source"] != source_digest(ROOT)
    except (OSError, ValueError, LookupError):
        pass  # not packed

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "conf/train.yaml")  # in another project's repository this tree is not its
        # Records and tables are made by runs: they do not change what a run does.
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "nin_repro", "conf")
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
