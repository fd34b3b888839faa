"""The data sets' official file formats, in small, and a server of files that fails as it is told to."""

import gzip
import hashlib
import io
import pickle
import struct
import tarfile
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

NOWHERE = "http://127.0.0.1:1/"
Arrays = dict[str, np.ndarray]
# The files to serve, and from their URL the attributes that torchvision's class is to have.
Official = tuple[dict[str, bytes], Callable[[str], dict[str, Any]]]


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def old_pickle(value: Any) -> bytes:
    """As the numpy of 2009 wrote it: the flags of a dtype are integers."""
    return pickle.dumps(value, protocol=2).replace(b"\x89\x88\x87", b"K\x00K\x01\x87")


def cifar(name: str, arrays: Arrays) -> Official:
    from torchvision.datasets import CIFAR10, CIFAR100

    kind, key = (CIFAR10, "labels") if name == "cifar10" else (CIFAR100, "fine_labels")
    members, lists = {kind.meta["filename"]: old_pickle({kind.meta["key"]: ["a", "b"]})}, {}
    for part, listed in (("train", kind.train_list), ("test", kind.test_list)):
        images, labels = arrays[f"{part}_images"].transpose(0, 3, 1, 2), arrays[f"{part}_labels"]
        for i, (file, _) in enumerate(listed):
            rows = np.array_split(np.arange(len(labels)), len(listed))[i]
            members[file] = old_pickle({"data": images[rows].reshape(len(rows), -1), key: labels[rows].tolist()})
        lists[f"{part}_list"] = [[file, md5(members[file])] for file, _ in listed]
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for file, content in members.items():
            info = tarfile.TarInfo(f"{kind.base_folder}/{file}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    meta = {**kind.meta, "md5": md5(members[kind.meta["filename"]])}
    known = {"tgz_md5": md5(archive.getvalue()), "meta": meta}
    return {kind.filename: archive.getvalue()}, lambda url: {"url": url + kind.filename, **lists, **known}


def mnist(name: str, arrays: Arrays) -> Official:
    files = {}
    for part, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = arrays[f"{part}_images"][..., 0], arrays[f"{part}_labels"].astype(np.uint8)
        idx3 = struct.pack(">4I", 0x803, *images.shape) + images.tobytes()
        files[f"{prefix}-images-idx3-ubyte.gz"] = gzip.compress(idx3)
        files[f"{prefix}-labels-idx1-ubyte.gz"] = gzip.compress(
            struct.pack(">2I", 0x801, len(labels)) + labels.tobytes()
        )
    return files, lambda url: {
        "mirrors": [NOWHERE, url],  # the next one is tried
        "resources": [(file, md5(content)) for file, content in files.items()],
    }


def svhn(name: str, arrays: Arrays) -> Official:
    from scipy.io import savemat

    files = {}
    for part in ("train", "test", "extra"):
        labels = np.where(arrays[f"{part}_labels"] == 0, 10, arrays[f"{part}_labels"])[:, None].astype(np.uint8)
        savemat(mat := io.BytesIO(), {"X": arrays[f"{part}_images"].transpose(1, 2, 3, 0), "y": labels})
        files[f"{part}_32x32.mat"] = mat.getvalue()
    return files, lambda url: {
        "split_list": {file[:-10]: [url + file, file, md5(content)] for file, content in files.items()}
    }


FORMATS = {"cifar10": cifar, "cifar100": cifar, "mnist": mnist, "fashion_mnist": mnist, "svhn": svhn}


class Server(ThreadingHTTPServer):
    """Serves `files`. `faults` are for the next requests: an HTTP code, or "cut", "whole" (no ranges) or "hold"."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.faults: list[Any] = []
        self.log: list[tuple[str, str | None]] = []  # file and Range header
        self.asked, self.release = threading.Event(), threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        file, wanted = self.path.rpartition("/")[2], self.headers["Range"]
        self.server.log.append((file, wanted))
        fault = self.server.faults.pop(0) if self.server.faults else None
        content = self.server.files.get(file, b"")
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and fault != "whole" else 0
        if isinstance(fault, int) or file not in self.server.files:
            self.send_error(fault or 404)
            return
        if wanted and start >= len(content):
            self.send_error(416)
            return
        if fault == "hold":
            self.server.asked.set()
            self.server.release.wait(60)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:] if fault != "cut" else content[start : (start + len(content)) // 2])

    def log_message(self, *arguments: Any) -> None:
        pass
