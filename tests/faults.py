"""Tools that cause faults of the machine for real: small disks, places that are read-only, system calls that fail."""

import contextlib
import ctypes
import functools
import os
import platform
import random
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


def damages(raw: bytes, seed: int, flips: int) -> Iterator[bytes]:
    """What a bad disk makes of a file: cut, zeroed, and single bits flipped all over it."""
    draw = random.Random(seed)
    yield b""
    yield raw[: draw.randrange(1, len(raw) - 2)]
    yield bytes(len(raw))
    start = draw.randrange(len(raw) - 16)
    yield raw[:start] + bytes(16) + raw[start + 16 :]
    for _ in range(flips):
        place = draw.randrange(len(raw))
        yield raw[:place] + bytes([raw[place] ^ 1 << draw.randrange(8)]) + raw[place + 1 :]


# --- file systems ----------------------------------------------------------------------------------------------------


def mounting(test: Callable[..., None]) -> Callable[..., None]:
    """For a test that mounts: where that is not permitted, it runs in a namespace of its own in which it is."""

    @functools.wraps(test)
    def call(**fixtures: Any) -> None:
        if os.geteuid() == 0 and _succeeds("unshare", "-m", "true"):
            test(**fixtures)
        elif _succeeds("unshare", "-rm", "true"):
            node = os.environ["PYTEST_CURRENT_TEST"].rpartition(" ")[0]
            inside = ["unshare", "-rm", sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", node]
            done = subprocess.run(inside, cwd=ROOT, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout
        else:
            pytest.skip("this machine permits neither mount nor unshare -rm")

    return call


def _succeeds(*words: str) -> bool:
    try:
        return subprocess.run(words, capture_output=True).returncode == 0
    except OSError:
        return False


@contextlib.contextmanager
def mounted(folder: Path, kilobytes: int = 1024) -> Iterator[Path]:
    """A file system of its own, in memory."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextlib.contextmanager
def full(folder: Path, but: int) -> Iterator[None]:
    """Inside, the file system has so many bytes left."""
    ballast = folder / "ballast"
    ballast.write_bytes(bytes(max(0, os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize - but)))
    try:
        yield
    finally:
        ballast.unlink()


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Inside, nobody can write to what `mounted` made, root neither."""
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)


# --- system calls ----------------------------------------------------------------------------------------------------

FLOCK = {"x86_64": 73, "aarch64": 32}


def without_locks() -> None:
    """Make flock fail with ENOLCK in this process from now on, by a filter (seccomp) that the kernel applies."""
    load, equal, answer = 0x20, 0x15, 0x06
    fails, allowed = 0x00050000 | 37, 0x7FFF0000
    number = FLOCK[platform.machine()]
    steps = [(load, 0, 0, 0), (equal, 0, 1, number), (answer, 0, 0, fails), (answer, 0, 0, allowed)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code)))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    no_new_privileges, seccomp, mode_filter = 38, 22, 2
    if prctl(no_new_privileges, 1, 0, 0, 0) or prctl(seccomp, mode_filter, program, 0, 0):
        raise OSError(ctypes.get_errno(), "the kernel takes no filter")
