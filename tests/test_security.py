"""What comes from elsewhere runs nothing and stays text; nothing secret is written; nothing listens."""

import contextlib
import hashlib
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from fake_records import digest, record, stored

from nin_repro import claims
from nin_repro.data import preprocess
from nin_repro.data.archive import load
from nin_repro.files import UsageError, read_json
from nin_repro.finished import open_finished
from nin_repro.results import ablations, analysis, claim_page, export, readme, records, render, tables
from nin_repro.results.arms import arms_of, label
from nin_repro.results.curves import Comparison, Runs
from nin_repro.results.figures import draw_figure3, save
from nin_repro.training import checkpoint

QUICK = ["experiment=quickstart", "budget.max_steps=12", "restarts=0", "threads=1", "record=always"]


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


# --- pickles ----------------------------------------------------------------------------------------------------------


def signed(path: Path, payload: bytes) -> None:
    """A checkpoint with a right checksum."""
    path.write_bytes(checkpoint.MAGIC + hashlib.sha256(payload).digest() + payload)


def saved(state: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def test_a_pickle_in_a_checkpoint_never_runs(tmp_path: Path) -> None:
    mark, path = tmp_path / "mark", tmp_path / "checkpoint.pt"
    for payload in (saved({"weights": Evil(mark)}), pickle.dumps(Evil(mark)), saved([1.0]), b"", b"PK\x03\x04"):
        signed(path, payload)
        with pytest.raises(checkpoint.DamagedCheckpoint) as caught:
            checkpoint.load(path)
        assert "\n" not in str(caught.value) and "weights_only" not in str(caught.value)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Evil(mark)))
    assert mark.exists(), "it would have, had anyone unpickled it"


def test_a_run_with_a_pickle_for_a_checkpoint_starts_from_the_beginning(
    command: Callable[..., subprocess.CompletedProcess[str]], trained: Path, tmp_path: Path
) -> None:
    """And one with the state of another version of this program is refused, for its work is not ours to lose."""
    run = shutil.copytree(trained, tmp_path / "runs" / trained.name)
    before = json.loads((run / "result.json").read_text())
    state = checkpoint.load(run / "checkpoint.pt")
    assert state is not None
    words = ["experiment=quickstart", "budget.max_steps=12", "restarts=0", "wandb.mode=disabled"]
    (run / "result.json").unlink()
    state["progress"]["colour"] = state.pop("window")
    checkpoint.save(run / "checkpoint.pt", state)
    done = command("train", *words)
    assert done.returncode == 1 and "Traceback" not in done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("failed: ")]
    assert "another version of nin_repro (unknown: progress.colour; missing: window)" in line
    assert checkpoint.load(run / "checkpoint.pt") is not None, "left alone"
    signed(run / "checkpoint.pt", saved({"weights": Evil(tmp_path / "mark")}))
    done = command("train", *words)
    assert done.returncode == 0 and not (tmp_path / "mark").exists()
    assert "holds other things than tensors and plain values: this run starts from the beginning" in done.stdout
    assert json.loads((run / "result.json").read_text())["weights_sha256"] == before["weights_sha256"]


def test_arrays_of_objects_are_never_unpickled(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    objects = np.array([Evil(mark)], dtype=object)
    np.savez(tmp_path / "digits.npz", allow_pickle=True, train_images=objects, train_labels=objects)
    with pytest.raises(UsageError, match=r"digits\.npz: .* is damaged or not the data set digits") as caught:
        load("digits", tmp_path, ["train"])
    assert "\n" not in str(caught.value)
    entry = tmp_path / "cache" / "entry"
    entry.mkdir(parents=True)
    np.save(entry / "0.npy", objects, allow_pickle=True)
    sizes = {"0.npy": preprocess._size_and_crc32(entry / "0.npy")}
    (entry / preprocess.MANIFEST).write_text(json.dumps({"files": sizes}))
    assert preprocess._read(entry) is None, "as an entry that is damaged: it is made again"
    assert not mark.exists()


def test_yaml_makes_no_objects(trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    text = f"a: !!python/object/apply:os.mkdir ['{tmp_path / 'mark'}']\n"
    (run / "config.yaml").write_text((run / "config.yaml").read_text() + text)
    with pytest.raises(UsageError, match=r"config\.yaml cannot be read"):
        open_finished(run, "--run")
    assert not (tmp_path / "mark").exists()


# --- other versions ---------------------------------------------------------------------------------------------------


def test_a_run_directory_of_a_newer_version_is_told_in_one_line(trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    config, result = (run / "config.yaml").read_text(), read_json(run / "result.json")
    (run / "config.yaml").write_text(config + "colour: blue\n")
    with pytest.raises(UsageError, match=r"another version of nin_repro, .*: there is no key colour"):
        open_finished(run, "--run")
    (run / "config.yaml").write_text(config.replace("restarts: 0\n", ""))
    with pytest.raises(UsageError, match=r"another version of nin_repro, .*: the key restarts is missing"):
        open_finished(run, "--run")
    (run / "config.yaml").write_text(config)
    for version, age in ((2, "newer"), (0, "older")):
        (run / "result.json").write_text(json.dumps(result | {"format": version}))
        with pytest.raises(UsageError, match=rf"result\.json: it has format {version}, {age} than this version"):
            open_finished(run, "--run")
    (run / "checkpoint.pt").write_bytes(checkpoint.KIND + b"2\nwhatever a newer version writes")
    with pytest.raises(UsageError, match="is of format 2, and this version of nin_repro has 1"):
        checkpoint.load(run / "checkpoint.pt")


def test_train_does_not_repeat_what_a_newer_version_finished(
    command: Callable[..., subprocess.CompletedProcess[str]], trained: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(trained, tmp_path / "runs" / trained.name)
    value = read_json(run / "result.json") | {"format": 2, "errors": {"test": 3.0}}
    (run / "result.json").write_text(json.dumps({k: v for k, v in value.items() if k != "test_error"}))
    before = sorted((path, path.read_bytes()) for path in run.rglob("*") if path.is_file())
    words = ["experiment=quickstart", "budget.max_steps=12", "restarts=0"]
    for name in ("train", "describe"):
        done = command(name, *words)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1) and "format 2, newer" in done.stderr
    assert sorted((path, path.read_bytes()) for path in run.rglob("*") if path.is_file()) == before


# --- texts ------------------------------------------------------------------------------------------------------------

TEXTS = [
    "=cmd|' /C calc'!A0",
    "@SUM(1+1)*cmd|' /C calc'!A0",
    "\t=1+1",
    "<script>alert(1)</script>",
    "[a](javascript:alert(1)) ![b](http://x/y.png)",
    "a | b `c` \n\n# heading",
    r"\input{/etc/passwd} \write18{id} $x_1$ %",
    "\x1b]0;title\x07\x1b[2J\u202egnp\ud800",
    "$\\frac{1$ $$ $",
]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_texts_of_records_stay_texts(tmp_path: Path, text: str) -> None:
    """In tables as Markdown, CSV, LaTeX and on the terminal, in ablations, claims and analysis, and in a picture."""
    own: dict[str, Any] = {"device": text, "command": text, "commit": text}
    own |= {"data": {"provenance": text, "digest": text}}
    recipe: dict[str, Any] = {
        "dataset": {"name": text},
        "architecture": {"kind": text, "blocks": [text]},
        "regularizer": {"dropout": text, "head": "gap", "head_dropout": 0.0, "convention": text},
        "seed": 0,
    }
    pairs = [(recipe, 0), (recipe | {"regularizer": recipe["regularizer"] | {"head": "fc"}}, 1)]
    (plain,) = stored(tmp_path / "records", record())
    found = []
    for variant, number in pairs:
        names: dict[str, Any] = {"experiment": text, "budget": text}
        names |= {"family": digest(str(number)), "key": digest(f"{number} k")}
        found.append(replace(plain, recipe=variant, deviations=(text,), **names, **own))
    found.append(replace(plain, **own, deviations=(text,)))
    cells = {"table1/nin": tables.Cell("table1/nin", plain.family, text, text, (text,))}
    report = tables.build(found, cells, [text])
    compared = ablations.choices(found, {text: recipe})
    about = ablations.Alike(text, text, text, text, (text,))
    compared += [ablations.Choice(about, about, "1", tables.Stats(), 1, None, None)]
    page = claims.Page(found, [], {"forms": [], "fits": {}}, [], {text: recipe}, [text], tmp_path)
    judged = [page.gap_regularises(), page.dropout(), page.translation(), page.maps()]
    pages = [render.markdown(report, tmp_path), ablations.markdown(compared)]
    pages.append(claim_page.markdown(judged, page.problems))
    pages.append(analysis.markdown(report, compared, judged, found, {text: recipe}))
    pages.append(readme.brief(report, tmp_path, tmp_path))
    for one in pages:
        assert "<script" not in one and "\x1b" not in one and "\n# heading" not in one
        assert not re.search(r"(?<!\\)\]\((javascript|http)", re.sub("`[^`\n]*`", "", one)), (
            "no link that we did not make"
        )
        assert all(char.isprintable() for char in one.replace("\n", ""))
    shown = [render.text(report), ablations.text(compared), claim_page.text(judged, page.problems)]
    assert all(char.isprintable() for char in "".join(shown).replace("\n", ""))
    tex = "".join(map(export.latex, report.tables))
    assert r"\input" not in tex and r"\write" not in tex and tex.isascii()
    for sheet in (*map(export.csv_table, report.tables), export.csv_groups(report.reduced + report.other)):
        assert not [cell for cell in sheet.replace("\n", ",").split(",") if cell.lstrip('"')[:1] in tuple("=@\t\r")]
    for arm in arms_of(found[:2], lambda one: (1.0,)):
        assert label(arm, {text: recipe}).isprintable(), "titles of pictures"
    runs = {False: Runs(text), True: Runs(text, (found[2],))}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *_, **__: None)  # of glyphs that the font has not
        _, drawn = save(draw_figure3(Comparison(runs, text, {False: "a command"})), tmp_path / "figure")
    assert "<script" not in drawn.read_text("utf-8", "replace")


def test_a_refusal_is_one_line_without_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    from nin_repro.command import fail

    fail(UsageError("a\x1b[2J\nb"))
    assert capsys.readouterr().err == "error: a\\x1b[2J\\nb\n"


@pytest.mark.parametrize(
    "changes",
    [{"recipe": {"budget": 5}}, {"recipe": {"dataset": []}}, {"epochs": 10**400}, {"seed": 2**63}],
    ids=["budget", "dataset", "epochs", "seed"],
)
def test_values_that_tables_cannot_compute_with_are_unsound(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        records.require_sound(record(**changes))


# --- secrets and sockets ----------------------------------------------------------------------------------------------


def of_family(mark: str) -> list[Path]:
    """The processes that have a mark in their environment, whoever started them."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # gone, or not ours
            if mark.encode() in (path / "environ").read_bytes():
                found.append(path)
    return found


def _names(folder: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return os.listdir(folder)
    return []


def listening(processes: list[Path]) -> set[str]:
    """The addresses, as /proc/net has them, on which these processes accept TCP connections."""
    inodes = set()
    for path in processes:
        for name in _names(path / "fd"):
            with contextlib.suppress(OSError):  # closed by now
                inodes.add(os.readlink(path / "fd" / name))
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
    return {row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in inodes}


LOOPBACK = ("0100007F:", "00000000000000000000000001000000:", "0000000000000000FFFF00000100007F:")


def test_listening_sockets_are_seen() -> None:
    import socket

    with socket.create_server(("0.0.0.0", 0)) as server, socket.create_server(("127.0.0.1", 0)) as local:
        found = listening([Path("/proc/self")])
        for one, address in ((server, "00000000"), (local, "0100007F")):
            assert f"{address}:{one.getsockname()[1]:04X}" in found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_secret_is_written_and_nothing_listens(checkout: Path, tmp_path: Path) -> None:
    """A training with an offline mirror, tables and a bundle; each file that they leave is searched."""
    secrets = [uuid.uuid4().hex + uuid.uuid4().hex[:8] for _ in range(3)]
    home, mark = tmp_path / "home", uuid.uuid4().hex
    home.mkdir()
    (home / ".netrc").write_text(f"machine api.wandb.ai\n  login user\n  password {secrets[2]}\n")
    (home / ".netrc").chmod(0o600)
    own = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    own |= {"WANDB_API_KEY": secrets[0], "MY_TOKEN": secrets[1], "HOME": str(home), "TMPDIR": str(home), "MARK": mark}
    own |= {"PYTHONPATH": str(ROOT)}
    work, seen, most = tmp_path / "work", set(), 0
    (work / "results" / "records").mkdir(parents=True)

    def python(*words: str, **options: Any) -> subprocess.Popen[str]:
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen([sys.executable, *words], cwd=work, env=own | options, **pipes)

    with python("-m", "nin_repro.train", *QUICK, "wandb.mode=offline") as training:
        while training.poll() is None:
            family = of_family(mark)
            most = max(most, len(family))
            seen |= listening(family)
            time.sleep(0.02)
        told = training.stdout.read() if training.stdout else ""
    assert training.returncode == 0 and "W&B mirror" not in told, told
    assert most > 1, "the mirror's processes were looked at too"
    assert [address for address in seen if not address.startswith(LOOPBACK)] == []
    scripts = [["-m", "nin_repro.tables"], [f"{checkout}/scripts/bundle", "b", "--no-wheels", "--", *QUICK]]
    for words in scripts:
        with python(*words) as process:
            told += process.stdout.read() if process.stdout else ""
        assert process.returncode == 0, told
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".netrc"]
    names = {path.name for path in files}
    assert {"tables.md", "manifest.json", "part.000", "result.json", "train.log"} <= names
    assert any(name.endswith(".wandb") for name in names)
    for content, where in [(told.encode(), "the terminal"), *((path.read_bytes(), path) for path in files)]:
        assert not [secret for secret in secrets if secret.encode() in content], where
    left = [path for path in files if home in path.parents]
    assert not [path for path in left if b"nin_repro" in path.read_bytes()], "beside the work directory"
