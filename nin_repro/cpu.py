"""The CPU: how many cores, what it is called, what it has instructions for. No torch here."""

import os
import platform
import re
from pathlib import Path


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
