"""Downloading a data set's official files: from mirrors, with retries, going on where it was cut, checked by MD5.

What knows HTTP is imported when there is something to download.
"""

import errno
import hashlib
import os
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from nin_repro.files import UsageError

ATTEMPTS = 4  # rounds over the mirrors before a download is given up
BACKOFF = 1.0  # seconds before the second round, doubled before each further one
TIMEOUT = 30.0  # seconds without a byte before a connection counts as lost
PROGRESS = 5.0  # seconds between progress lines
OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS}


class Remote(NamedTuple):
    urls: list[str]
    path: Path  # where torchvision's class looks for the file
    md5: str


def official_files(kind: Any, folder: Path) -> list[Remote]:
    """The official files of a torchvision data set, from what its class says of them."""
    if hasattr(kind, "tgz_md5"):
        return [Remote([kind.url], folder / kind.filename, kind.tgz_md5)]
    if hasattr(kind, "split_list"):
        return [Remote([url], folder / file, md5) for url, file, md5 in kind.split_list.values()]
    raw = folder / kind.__name__ / "raw"
    return [Remote([mirror + file for mirror in kind.mirrors], raw / file, md5) for file, md5 in kind.resources]


def download(files: list[Remote]) -> None:
    """Bring the files to their places, each verified against its MD5; what an earlier try left is carried on with."""
    missing = [file for file in files if not (file.path.exists() and _md5(file.path) == file.md5)]
    for i, file in enumerate(missing):
        file.path.parent.mkdir(parents=True, exist_ok=True)
        problem = _download_one(file)
        if problem:
            wanted = ", ".join(remote.urls[0] for remote in missing[i:])
            lies = " and the file that lies there is not it (wrong MD5)" if file.path.exists() else ""
            raise UsageError(
                f"cannot download {file.path.name} ({problem}){lies}: without a network, fetch {wanted} elsewhere, "
                f"put into {file.path.parent} and run this again"
            )


def _download_one(file: Remote) -> str:
    """Try all mirrors several times; returns what was wrong the last time, "" for success."""
    from http.client import HTTPException

    part, problem = file.path.with_name(file.path.name + ".part"), ""
    for attempt in range(ATTEMPTS):
        for url in file.urls:
            try:
                _fetch(url, part)
            except (OSError, HTTPException) as error:
                if isinstance(error, OSError) and error.errno in OF_THE_DISK:
                    raise  # no other try and no other mirror helps
                problem = " ".join(str(error).split()) or type(error).__name__
                continue
            if _md5(part) == file.md5:
                os.replace(part, file.path)
                return ""
            part.unlink()
            problem = f"wrong MD5 from {url}"
        if attempt < ATTEMPTS - 1:
            pause = BACKOFF * 2**attempt
            say(f"{file.path.name}: {problem}; try {attempt + 2} of {ATTEMPTS} in {pause:g} s")
            time.sleep(pause)
    return problem


def _fetch(url: str, part: Path) -> None:
    """Bring `part` to its full length, going on where it ends. Raises OSError if the connection fails or is cut."""
    import urllib.error
    import urllib.request
    from http import HTTPStatus

    done = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if done and error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # there is nothing after what we have: the checksum decides
        raise
    with response:
        if response.status != HTTPStatus.PARTIAL_CONTENT:
            done = 0  # the server sends the file from its start
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else None
        of = f" of {total / 1e6:.1f}" if total else ""
        said = time.monotonic()
        with open(part, "ab" if done else "wb") as out:
            while block := response.read1(1 << 20):
                out.write(block)
                done += len(block)
                if time.monotonic() - said > PROGRESS:
                    said = time.monotonic()
                    say(f"{url}: {done / 1e6:.1f}{of} MB")
    if total is not None and done < total:  # http.client does not tell when it is asked for blocks
        raise ConnectionError(f"the connection was cut after {done:,} of {total:,} bytes")
    say(f"{url}: {done / 1e6:.1f} MB, complete")


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
