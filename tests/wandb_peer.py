"""The other end of W&B for the tests: reading its offline files, and just enough of its server."""

import gzip
import json
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


def records(file: Path) -> list[Any]:
    """The records of a .wandb file: LevelDB's log format after 7 bytes of header, each record a protobuf message."""
    from wandb.proto import wandb_internal_pb2 as messages

    data, place, part, found = file.read_bytes(), 7, b"", []
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        size, kind = struct.unpack("<HB", data[place + 4 : place + 7])
        part += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # a whole record, or its last part
            found.append(messages.Record.FromString(part))  # type: ignore[attr-defined]
            part = b""
    return found


def runs(directory: Path) -> list[Path]:
    """The files of the offline runs, oldest first."""
    return sorted(directory.glob("wandb/offline-run-*/*.wandb"))


def history(file: Path) -> dict[int, dict[str, float]]:
    """{step: logged values}, without W&B's own."""
    rows = [
        {(item.key or item.nested_key[0]): json.loads(item.value_json) for item in record.history.item}
        for record in records(file)
        if record.HasField("history")
    ]
    return {int(row["_step"]): {k: v for k, v in row.items() if not k.startswith("_")} for row in rows}


def exit_code(file: Path) -> int | None:
    return next((record.exit.exit_code for record in records(file) if record.HasField("exit")), None)


class Server(ThreadingHTTPServer):
    """Just enough of a W&B server to take in a run, or (with `broken`) one that answers every request with 500."""

    daemon_threads = True

    def __init__(self, broken: bool) -> None:
        self.broken, self.requests = broken, 0
        self.history: dict[int, dict[str, Any]] = {}  # by line
        self.exit_codes: list[int] = []
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests += 1
        if self.server.broken:
            self.send_error(500)
            return
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        answer: dict[str, Any] = {}
        if self.path == "/graphql":
            answer = {"data": self.query(json.loads(body))}
        elif self.path.endswith("/file_stream"):
            stream = json.loads(body)
            chunk = (stream.get("files") or {}).get("wandb-history.jsonl", {"offset": 0, "content": []})
            for line, text in enumerate(chunk["content"], chunk["offset"]):
                self.server.history[line] = json.loads(text)
            if stream.get("complete"):
                self.server.exit_codes.append(stream["exitcode"])
        answer_bytes = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer_bytes)))
        self.end_headers()
        self.wfile.write(answer_bytes)

    do_GET = do_PUT = do_POST

    def query(self, question: dict[str, Any]) -> dict[str, Any]:
        lines, known = self.server.history, question["variables"]
        project = {"id": "2", "name": "p", "entity": {"id": "3", "name": "someone"}}
        run: dict[str, Any] = {
            "id": "1",
            "name": "key-1",
            "displayName": "n",
            "config": "{}",
            "project": project,
            "sweepName": None,
        }
        run |= {"historyLineCount": len(lines), "eventsLineCount": 0, "logLineCount": 0, "eventsTail": "[]", "tags": []}
        run |= {"historyTail": json.dumps([json.dumps(lines[max(lines)])] if lines else []), "wandbConfig": "{}"}
        run |= {"summaryMetrics": json.dumps({"_step": lines[max(lines)]["_step"]} if lines else {})}
        if question["operationName"] == "RunResumeStatus":
            return {"model": {**project, "bucket": run if lines else None}}
        if question["operationName"] == "UpsertBucket":
            return {"upsertBucket": {"bucket": run, "inserted": not lines}}
        if question["operationName"] == "CreateRunFiles":
            host = f"http://{self.headers['Host']}/"
            files = [{"name": name, "uploadUrl": host + name} for name in known["files"]]
            return {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": files}}
        return {}
