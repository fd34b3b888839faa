"""scripts/bundle and scripts/unbundle: a run without a network, and what is refused before anything is extracted."""

import importlib.machinery
import importlib.util
import io
import json
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import ROOT

from nin_repro.config.compose import load
from nin_repro.data.preprocess import preprocess
from nin_repro.data.splits import open_split
from nin_repro.files import UsageError, read_json, write_json
from nin_repro.records import merge
from nin_repro.training import environment

WORDS = [
    "experiment=quickstart",
    "budget.max_steps=12",
    "restarts=0",
    "threads=1",
    "wandb.mode=disabled",
    "record=always",
]


def script(name: str) -> ModuleType:
    loader = importlib.machinery.SourceFileLoader(name, str(ROOT / "scripts" / name))
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    sys.dont_write_bytecode = before
    return module


bundle, unbundle = script("bundle"), script("unbundle")


def here(*command: Any, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, timeout=120, **options)


@pytest.fixture(scope="session")
def made(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a sweep of two short runs, without wheels."""
    folder = tmp_path_factory.mktemp("bundle")
    words = ["python", "-m", "nin_repro.train", "-m", *WORDS, "seed=0,1", "data_dir=elsewhere"]
    script = checkout / "scripts" / "bundle"
    done = here(sys.executable, script, "made", "--no-wheels", "--part-size", "100K", "--", *words, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "2 runs, 2 of which leave a record" in done.stdout
    return folder / "made"


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "b")


def opened(bundle: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """What unbundle says, run by the interpreter without this environment's packages."""
    return here(sys.executable, "-I", "-S", bundle / "unbundle", "--python", sys.executable, *words, cwd=bundle.parent)


def test_parts_are_below_the_size_and_the_manifest_tells_of_them(made: Path, checkout: Path) -> None:
    manifest = json.loads((made / "manifest.json").read_text())
    parts = {one["name"]: one for one in manifest["parts"]}
    assert {path.name for path in made.iterdir()} == {*parts, "manifest.json", "unbundle"}
    assert len(parts) > 3 and all(
        (made / name).stat().st_size == one["size"] <= 100 << 10 for name, one in parts.items()
    )
    assert manifest["words"] == ["-m", *WORDS, "seed=0,1"], "paths of this machine stay here"
    names = [one["path"] for one in manifest["files"]]
    assert "project/data/digits.npz" in names and not any(name.startswith("project/results/") for name in names)
    content = b"".join((made / name).read_bytes() for name in sorted(parts))
    for place in (str(ROOT), str(checkout), str(made.parent)):
        assert place.encode() not in content + (made / "manifest.json").read_bytes(), "a place of this machine"


def test_it_runs_without_a_network_and_brings_records_back(copied: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-I", "-S", copied / "unbundle", "--python", sys.executable, "--checkpoints"]
    alone = ["unshare", "--map-root-user", "--net"]
    if here(*alone, "true", cwd=tmp_path).returncode == 0:  # else this system forbids it
        command = [*alone, *command]
    done = here(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (packed,) = tmp_path.glob("records-*.tar.gz")
    with tarfile.open(packed) as archive:
        names = archive.getnames()
    assert sum(name.endswith("/checkpoint.pt") for name in names) == 2
    merged = merge(packed, tmp_path / "store")
    assert len(merged.new) == 2 and not merged.conflicts and not merged.unsound
    record = json.loads(merged.new[0].read_text())
    manifest = json.loads((copied / "manifest.json").read_text())
    assert (record["commit"], record["dirty"]) == (manifest["commit"], False)
    (copied / "part.000").unlink()  # set up, it needs the bundle no more
    again = opened(copied)
    assert again.returncode == 0 and again.stdout.count("already done") == 2
    with tarfile.open(packed) as archive:
        assert not any(name.endswith("checkpoint.pt") for name in archive.getnames())
    changed = tmp_path / "b-work" / "files" / "project" / "nin_repro" / "rng.py"
    changed.write_text(changed.read_text() + "\n")
    code = "from nin_repro.training.environment import source_commit; print(source_commit()[1])"
    assert here(sys.executable, "-c", code, cwd=changed.parents[1]).stdout == "True\n", "an altered source is told"


def test_the_commit_is_that_of_the_projects_own_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*words: str) -> str:
        own = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.invalid", *words]
        return subprocess.run(own, check=True, capture_output=True, text=True).stdout.strip()

    copied = tmp_path / "copied"
    for name in ("conf/train.yaml", "nin_repro/rng.py"):
        (copied / name).parent.mkdir(parents=True)
        (copied / name).write_text("a: 1\n")
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "of another project")
    monkeypatch.setattr(environment, "ROOT", copied)
    assert environment.source_commit() == ("unknown", True)
    git("add", "copied")
    git("commit", "-q", "-m", "its own")
    assert environment.source_commit() == (git("rev-parse", "HEAD"), False)
    for name in ("conf/train.yaml", "nin_repro/rng.py"):
        (copied / name).write_text("a: 2\n")
        assert environment.source_commit() == (git("rev-parse", "HEAD"), True)
        git("checkout", "-q", ".")


def test_a_signal_saves_and_the_same_command_goes_on(copied: Path, tmp_path: Path) -> None:
    path = copied / "manifest.json"
    words = ["experiment=quickstart", "budget.max_steps=4000", "threads=1", "wandb.mode=disabled"]
    write_json(path, read_json(path) | {"words": words})
    command = [sys.executable, "b/unbundle", "--python", sys.executable]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            if line.startswith("epoch 1/"):
                process.send_signal(signal.SIGTERM)
                break
        told = process.stdout.read()
    assert process.returncode == 143 and "stopped by SIGTERM" in told and "no record" in told
    (run,) = (tmp_path / "b-work" / "files" / "project" / "runs").iterdir()
    assert json.loads((run / "status.json").read_text())["state"] == "interrupted" and (run / "checkpoint.pt").exists()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "part missing": ("part.001", Path.unlink, "error: missing in"),
    "part cut": ("part.001", cut, "error: altered in"),
    "bit flipped": ("part.001", flip, "error: altered in"),
    "manifest missing": ("manifest.json", Path.unlink, "the bundle is not complete"),
    "manifest cut": ("manifest.json", cut, "is damaged"),
    "manifest of something else": ("manifest.json", lambda path: path.write_text("[]"), "is damaged"),
    "manifest of another seed": (
        "manifest.json",
        lambda path: path.write_text(path.read_text().replace("0,1", "0,2")),
        "is damaged",
    ),
    "newer": ("manifest.json", lambda path: path.write_text('{"format": 2}'), "has format 2"),
}


@pytest.mark.parametrize(("name", "damage", "said"), DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_bundle_is_refused(copied: Path, name: str, damage: Callable[[Path], Any], said: str) -> None:
    damage(copied / name)
    done = opened(copied)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1
    assert name in done.stderr
    assert not (copied.parent / "b-work" / "files").exists()


def hostile(**changes: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo("project/evil")
    for name, value in changes.items():
        setattr(info, name, value)
    return info


HOSTILE = {
    "leaves": hostile(name="project/../../evil"),
    "absolute": hostile(name="/tmp/nin_repro-evil"),
    "symbolic link": hostile(type=tarfile.SYMTYPE, linkname="/etc"),
    "hard link": hostile(type=tarfile.LNKTYPE, linkname="project/README.md"),
    "device": hostile(type=tarfile.CHRTYPE),
    "pipe": hostile(type=tarfile.FIFOTYPE),
    "folder": hostile(type=tarfile.DIRTYPE),
    "unknown to the manifest": hostile(name="project/other"),
    "another size": hostile(size=4),
    "twice": None,
}


@pytest.mark.parametrize("member", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_archive_is_refused_before_anything_is_extracted(
    tmp_path: Path, member: tarfile.TarInfo | None
) -> None:
    """With right checksums: whoever made it also made the manifest."""
    made, good = tmp_path / "b", hostile(name="project/good", size=1)
    made.mkdir()
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for info in (good, member or good):
            archive.addfile(info, io.BytesIO(b"x" * info.size))
    (made / "part.000").write_bytes(content.getvalue())
    digest = unbundle.digest(made / "part.000")
    listed = [
        {"path": info.name, "size": 0 if info.size == 4 else info.size, "sha256": "0"}
        for info in (good, member or good)
        if info.name != "project/other"
    ]
    manifest = {"format": 1, "commit": "c", "words": ["seed=0"], "requires": [], "python": "3"}
    manifest |= {"parts": [{"name": "part.000", "size": len(content.getvalue()), "sha256": digest}], "files": listed}
    write_json(made / "manifest.json", manifest)
    with pytest.raises(unbundle.Refused) as caught:
        unbundle.extract(made, unbundle.read_manifest(made), tmp_path / "work" / "files")
    assert (member or good).name in str(caught.value) and "nothing was extracted" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    manifest["parts"] = [{"name": "../part.000", "size": 1, "sha256": digest}]
    write_json(made / "manifest.json", manifest)
    with pytest.raises(unbundle.Refused, match="damaged"):
        unbundle.read_manifest(made)


REFUSED = {
    "no such key": (["sed=0"], "there is no key"),
    "no such choice in a sweep": (["-m", "dataset=digits,nothing"], "dataset=nothing is not a choice"),
    "an option": (["--cfg", "job"], "--cfg"),
    "no data": (["experiment=quickstart", "dataset=stripes"], "dataset=stripes is not a choice"),
}


@pytest.mark.parametrize(("words", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_words_are_checked_before_anything_is_packed(words: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        bundle.configurations(words)


def test_all_members_and_what_they_start_from_are_packed() -> None:
    found = bundle.configurations(["-m", "experiment=search/cifar10", "seed=0,1", "budget=smoke"])
    assert len(found) == 48, "12 choices by 2 seeds, and each as it would be trained in the end"
    assert {config.protocol for config in found.values()} == {"validate", "final"}
    assert len(bundle.configurations(["experiment=extra/staged/v2"])) == 3
    sets = bundle.configurations(["-m", "experiment=glob(table5/*)", "dataset=digits,mnist", "architecture=nin_small"])
    assert sorted(config.dataset.name for config in sets.values()) == ["digits"] * 3 + ["mnist"] * 3


def test_images_go_along_as_they_are_whitened(data: str, tmp_path: Path) -> None:
    """So that no machine without a network whitens them again."""
    (tmp_path / "digits.npz").symlink_to(Path(data.partition("=")[2]) / "digits.npz")
    config = load([*WORDS, f"data_dir={tmp_path}", "dataset.preprocessing.gcn=5"])
    split, how = open_split("digits", tmp_path, "final"), config.dataset.preprocessing
    preprocess(split.fit_images, split.wanted(None), how, tmp_path / "cache", split.digest)
    found = bundle.data_files({"one": config})
    assert "digits.npz" in found and sum(name.startswith("cache/") for name in found) >= 2
    assert all(path.is_file() for path in found.values())


def test_two_bundles_do_not_share_a_directory(copied: Path, tmp_path: Path) -> None:
    other = tmp_path / "work" / "files"
    other.mkdir(parents=True)
    write_json(other / "manifest.json", {"format": 1})
    done = opened(copied, "--into", str(other.parent))
    assert done.returncode == 2 and "holds another bundle: name another directory with --into" in done.stderr


def test_what_is_carried_back_needs_its_place(tmp_path: Path) -> None:
    with pytest.raises(unbundle.Refused, match=r"cannot be written .* --out"):
        unbundle.carry_back(tmp_path, False, tmp_path / "nowhere" / "out.tar.gz")


def test_what_is_not_committed_is_refused(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = shutil.copytree(checkout, tmp_path / "tree")
    monkeypatch.setattr(bundle, "ROOT", tree)
    assert len(bundle.source(tmp_path / "first")) == 40
    (tree / "nin_repro" / "new.py").touch()
    with pytest.raises(UsageError, match=r"1 files are not as committed, such as nin_repro/new\.py"):
        bundle.source(tmp_path / "second")
    shutil.rmtree(tree / ".git")
    with pytest.raises(UsageError, match="made of a git checkout"):
        bundle.source(tmp_path / "third")


def wheel(folder: Path, name: str, version: str, *needs: str) -> None:
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        info = f"{name}-{version}.dist-info"
        lines = [f"Requires-Dist: {need}" for need in needs]
        metadata = "\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines])
        files = {f"{name}.py": f"version = {version!r}\n", f"{info}/METADATA": metadata + "\n"}
        files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        for path, text in files.items():
            archive.writestr(path, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"]))


def test_an_environment_that_is_there_gets_only_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheels, below = tmp_path / "wheels", tmp_path / "below"
    wheels.mkdir()
    for name, version, *needs in (("plot_x", "1.0", "fonts-x>=2"), ("fonts_x", "2.1"), ("torch_x", "3.0")):
        wheel(wheels, name, version, *needs)
    shutil.copy(next(bundle.pip_wheels()), wheels)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", below], check=True)
    (place,) = below.glob("lib/python*/site-packages")
    wheel(tmp_path, "torch_x", "2.5")  # would do; fonts would not
    wheel(tmp_path, "fonts_x", "1.0")
    for path in tmp_path.glob("*.whl"):
        zipfile.ZipFile(path).extractall(place)
    before = sorted(path for path in place.rglob("*") if "__pycache__" not in str(path))
    elsewhere = tmp_path / "elsewhere"  # on the path of whoever gives the command, and not of the run
    zipfile.ZipFile(wheels / "fonts_x-2.1-py3-none-any.whl").extractall(elsewhere)
    monkeypatch.setenv("PYTHONPATH", str(elsewhere))
    manifest = {"python": unbundle.asked(Path(sys.executable), unbundle.KIND)[0]}
    manifest |= {"requires": ["torch-x>=2", "plot-x"]}
    python = unbundle.environment(wheels, manifest, below / "bin" / "python", tmp_path / "venv")
    code = "import torch_x, fonts_x, plot_x; print(torch_x.version, fonts_x.version, plot_x.version)"
    assert unbundle.asked(python, code)[0] == "2.5 2.1 1.0"
    after = sorted(path for path in place.rglob("*") if "__pycache__" not in str(path))
    assert after == before, "that environment is not changed"
    python = unbundle.environment(wheels, manifest, None, tmp_path / "venv")
    assert unbundle.asked(python, code)[0] == "3.0 2.1 1.0", "without one, exactly the wheels"
    with pytest.raises(unbundle.Refused, match=r"No matching distribution found for torch-x>=9"):
        unbundle.environment(wheels, manifest | {"requires": ["torch-x>=9"]}, python, tmp_path / "other")
    with pytest.raises(unbundle.Refused, match=r"its wheels are for Python 3 0 x, and "):
        unbundle.environment(wheels, manifest | {"python": "Python 3 0 x"}, python, tmp_path / "other")
