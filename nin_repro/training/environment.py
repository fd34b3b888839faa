"""What computes a run: source, versions, machine. No torch here."""

import hashlib
import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

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


def cores() -> int:
    """How many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # elsewhere than on Linux
        return os.cpu_count() or 1


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
