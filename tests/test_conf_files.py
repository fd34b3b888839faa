"""What is wrong with a file of conf/ is one line that says where."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nin_repro.config import compose, conf
from nin_repro.files import UsageError

ROOT = Path(__file__).parents[1]


def swap(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new)


BAD_FILES: dict[str, tuple[str, Any, str]] = {
    "unknown key": ("optimizer/sgd.yaml", lambda text: text + "nesterov: true\n", "optimizer.nesterov"),
    "misspelt key": ("optimizer/sgd.yaml", lambda text: swap(text, "momentum:", "momentun:"), "optimizer.momentum"),
    "missing key": ("optimizer/sgd.yaml", lambda text: swap(text, "momentum: 0.9", ""), "optimizer.momentum"),
    "wrong type": ("regularizer/gap_dropout.yaml", lambda text: swap(text, "dropout: 0.5", "dropout: half"), "dropout"),
    "out of range": (
        "regularizer/gap_dropout.yaml",
        lambda text: swap(text, "dropout: 0.5", "dropout: 1"),
        "less than 1",
    ),
    "not yaml": ("optimizer/sgd.yaml", lambda text: text + "schedule: [1, 2\n", "sgd.yaml"),
    "tab": ("optimizer/sgd.yaml", lambda text: swap(text, "  kind: drops", "\tkind: drops"), "sgd.yaml"),
    "empty": ("optimizer/sgd.yaml", lambda text: "", "optimizer"),
    "a list": ("optimizer/sgd.yaml", lambda text: "- 1\n- 2\n", "optimizer"),
    "twice": ("optimizer/sgd.yaml", lambda text: text + "lr: 0.2\n", "lr"),
    "missing choice": ("train.yaml", lambda text: swap(text, "optimizer: sgd", "optimizer: adam"), "adam"),
    "missing group": ("train.yaml", lambda text: swap(text, "- dataset: cifar10", "- datasets: cifar10"), "datasets"),
    "unknown top key": ("train.yaml", lambda text: swap(text, "seed: 0 ", "seeds: 0 "), "seed"),
    "unknown reference": ("optimizer/sgd.yaml", lambda text: swap(text, "lr: 0.1 ", "lr: ${rate} "), "rate"),
    "null group": ("train.yaml", lambda text: swap(text, "- dataset: cifar10", "- dataset: null"), "dataset"),
    "unknown word": ("architecture/nin.yaml", lambda text: swap(text, "pool: none", "pool: mean"), "max, avg, none"),
    "binary": ("optimizer/sgd.yaml", lambda text: "\x00\x01", "sgd.yaml"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_file_is_one_line_that_says_where(name: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "conf", tmp_path / "code/conf")
    shutil.copytree(ROOT / "nin_repro", tmp_path / "code/nin_repro", ignore=shutil.ignore_patterns("__pycache__"))
    file, change, expected = BAD_FILES[name]
    path = tmp_path / "code/conf" / file
    path.write_text(change(path.read_text()))
    (tmp_path / "empty").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "nin_repro.train", "architecture.last_relu=true"],
        cwd=tmp_path / "empty",
        env=os.environ | {"PYTHONPATH": str(tmp_path / "code")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: ") and expected in done.stderr, done.stderr
    assert done.stdout == "" and list((tmp_path / "empty").iterdir()) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# @package _global_\ndefaults:\n  - override /dataset: mnst\n", "(did you mean 'mnist'?)"),
        ("# @package _global_\ndefaults:\n  - override /datset: mnist\n", "(did you mean 'dataset'?)"),
        ("# @package _global_\noptimizer:\n  lr: -1\n", "optimizer.lr=-1 is impossible"),
        ("# @package _global_\noptimizer:\n  lrr: 1\n", "(did you mean 'optimizer.lr'?)"),
        ("# @package _global_\noptimizer: [\n", "mine.yaml, line 3"),
        ("defaults:\n  - override /dataset: mnist\n", "its first line is missing: # @package _global_"),
    ],
)
def test_what_is_wrong_with_an_experiments_file_is_told_with_its_name(
    text: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the pages compose them, which ask for all experiments, whichever the user named."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    (tmp_path / "conf/experiment/mine.yaml").write_text(text)
    monkeypatch.setitem(compose.choices(), "experiment", [*compose.experiments(), "mine"])  # kept: of the real files
    for module in (conf, compose):
        monkeypatch.setattr(module, "CONF", tmp_path / "conf")
    with pytest.raises(UsageError) as refused:
        compose.load(["experiment=mine"])
    assert str(refused.value).startswith("conf/experiment/mine.yaml: ") and expected in str(refused.value)


def test_a_file_with_the_other_ending_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/mine.yml").write_text("# @package _global_\n")
    monkeypatch.setattr(conf, "CONF", tmp_path / "conf")
    with pytest.raises(UsageError, match=r"conf/experiment/mine\.yml is not read: rename it"):
        compose.load(["experiment=mine"])
