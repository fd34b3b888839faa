"""Composition and refusals."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from nin_repro import train
from nin_repro.config import arguments, compose, conf, known
from nin_repro.files import UsageError
from nin_repro.models.own import own_kinds
from nin_repro.training.stop import STOP

ROOT = Path(__file__).parents[1]

BAD_OVERRIDES = {
    # unknown groups, choices and keys, with the word that the refusal must offer
    "optimzer=sgd": "optimizer",
    "dataset=cifar": "cifar10",
    "dataset=imagenet": "cifar100",
    "dataset=CIFAR100": "did you mean 'cifar100'",
    "dataset=null": "dataset=null is not a choice: cifar10",
    "architecture=ninn": "nin",
    "regularizer=gapdropout": "gap_dropout",
    "regularizer=fc_dropout": "fc_head_dropout",
    "budget=papr": "paper",
    "experiment=table1/nim": "table1/nin",
    "experiment=nin": "did you mean 'table1/nin' or 'table2/nin' or 'table3/nin' or 'table4/nin'?",
    "experiment=Table5/GAP": "did you mean 'table5/gap'",
    "optimizer.lrr=0.1": "optimizer.lr",
    "lr=0.1": "optimizer.lr",
    "+optimizer.nesterov=true": "optimizer",
    "+foo=1": "key",
    "~seed": "seed",
    "optimizer.schedule.epoch=3": "optimizer.schedule.epochs",
    "architecture.blocks.mlpconv1.kernal=3": "architecture.blocks.mlpconv1.kernel",
    "architecture.blocks.mlpconv9.kernel=3": "did you mean 'architecture.blocks.mlpconv3'",
    "parent.fill=fresh": "parent is empty",
    "hydra.launcher.partition=gpu": "add hydra/launcher=slurm",
    "wandb.mod=online": "wandb.mode",
    "model=nin": "did you mean 'architecture'",
    "dataset.augment.padding=4": "dataset.augment.pad",
    # wrong types
    "seed=one": "whole number",
    "seed=1.5": "whole number",
    "seed=0-2": "seed=0,1,2",
    "seed=[0,1]": "seed=0,1,2",
    "optimizer.lr=fast": "number",
    "optimizer.lr=null": "number",
    "optimizer.clip_norm=none": "optimizer.clip_norm=null",
    "optimizer.schedule.drops=200": "list",
    "dataset.augment.flip=3": "true or false",
    "optimizer=0.1": "sgd",
    "architecture.blocks=3": "group",
    # what is not to be set
    "++optimizer.lr=0.2": "optimizer.lr=0.2",
    "about.claim=mine": "an experiment's file",
    # impossible values
    "seed=-1": "at least 0 and less than 2,147,483,648;",
    "regularizer.dropout=1.5": "less than 1",
    "regularizer.dropout=-0.1": "at least 0",
    "optimizer.batch_size=0": "at least 1",
    "optimizer.lr=0": "more than 0",
    "optimizer.lr=nan": "finite",
    "optimizer.momentum=1": "less than 1",
    "optimizer.weight_decay=-1e-4": "at least 0",
    "optimizer.clip_norm=0": "more than 0",
    "wandb.mode=on": "online",
    "protocol=test": "final",
    "restarts=-1": "at least 0",
    "device=tpu": "cuda",
    "device=0": "cuda",
    "device=cuda:²": "cuda",
    "threads=0": "at least 1",
    "dataset.augment.pad=40": "at most 16",
    "budget.train_images=50000": "cifar10 has 50,000 of them",
    "optimizer.batch_size=50001": "cifar10 has 50,000 images",
    "runs_dir=": "runs_dir is empty",
    "data_dir=": "data_dir is empty",
    # fine one by one, no sense together
    "optimizer.schedule.epochs=100": "budget.epochs",
    "optimizer.schedule.drops=[230,200]": "ascending",
    "optimizer.schedule.drops=[300]": "epochs=260",
    "budget.epochs=1000": "optimizer.schedule.epochs",
    "regularizer.head_dropout=0.5": "fc_head_dropout",
    "architecture.blocks.mlpconv3.widths=[192,192,64]": "classes",
    "architecture.blocks.mlpconv1.std=[0.05]": "std",
    "architecture=cnn": "choose regularizer=gap, fc or fc_head_dropout",  # it has no dropout between blocks
    "architecture=maxout_cifar10": "regularizer=maxout",  # it has a fully connected head
    "optimizer.schedule.kind=linear": "optimizer.schedule.decay_epochs",
    "optimizer.schedule.kind=exponential": "the momentum, 0.9: give at least 0.9",  # of each update, not of a drop
    "architecture.kind=cnn": "architecture.",
    "architecture.kind=resnet": "nin, cnn",
    "architecture.blocks.mlpconv3.kernel=11": "mlpconv3",
    "dataset.preprocessing.mean=pixel": "zca",
    "dataset.preprocessing.gcn_std_bias=10": "set one of them to null",
    "dataset.name=cifar100": "choose dataset=cifar100",  # the preprocessing would stay that of cifar10
    # without effect beside the others, but part of the recipe
    "regularizer.fc_std=0.1": "leave it out, or choose a fully connected head",
    "regularizer.fc_lr_factor=1": "regularizer=fc",
    "optimizer.schedule.patience=3": "kind=plateau",
    "optimizer.schedule.stop_patience=3": "stop=validation",
    "optimizer.schedule.momentum_final=0.95": "momentum_epochs",
    "architecture.blocks.mlpconv3.pool_size=2": "pool=max",
    # not of the form key=value
    "optimizer.schedule.drops=[1": "key=value",
    "seed=1,2": "python -m nin_repro.train -m seed=1,2",
    "seed=1,2,": "write seed=1,2",
    "quickstart": "experiment=quickstart",
    "table1/nim": "experiment=table1/nin",
    "--hepl": "--help",
    "--seed": "no dashes: seed=...",
    "--multirun=3": "there is no option --multirun=3",
    "--cfg": "--cfg needs job or hydra or all after it",
    "--cfg=jab": "--cfg needs job or hydra or all after it",
    "=3": "=3 is not of the form",
    "+": "+ is not of the form",
    "learning_rate=0.1": "did you mean 'optimizer.lr'?",
    "runs_dir=my runs/\u00fcber": "is quoted twice, 'runs_dir=\"my runs/\u00fcber\"'",
    "--experiment": "experiment=...",
    "--experiment=table1/nin": "no dashes: experiment=table1/nin",
    "experiment=glob(table9/*)": "table1/nin",
    # nothing that could be meant
    "experiment=null": "table1/nin",
    "architecture.blocks={}": "changes nothing",
    "architecture.blocks.mlpconv1.pad=500": "at most 4",
    "architecture.blocks.mlpconv3.widths=[9,clases]": "did you mean 'classes'?",
    "hydra.job.chdir=true": "leave it out",
}


def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The line with which the command refuses these words."""
    monkeypatch.setattr(sys, "argv", ["train", *words])
    assert train.main() == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("error: "), (out, err)
    return err


@pytest.mark.parametrize("word", BAD_OVERRIDES)
def test_bad_override_is_one_line_with_the_way_out(
    word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [word] if word.startswith(arguments.RUN) else [word, "experiment=table1/nin"]
    line = refusal(monkeypatch, capsys, *words)
    assert BAD_OVERRIDES[word] in line.removeprefix("error: ").replace(f"key {word}", "")
    monkeypatch.setattr(conf, "word", lambda text: None)  # so that Hydra reads it
    assert refusal(monkeypatch, capsys, *words) == line
    assert list(tmp_path.iterdir()) == []


def test_a_command_line_without_a_word_trains_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "no run is named: experiment=quickstart" in refusal(monkeypatch, capsys)
    assert "no run is named: experiment=quickstart" in refusal(monkeypatch, capsys, "-m")
    assert "no run is named: experiment=quickstart" in refusal(monkeypatch, capsys, "seed=3", "budget=smoke")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("heard", "said"), [(None, "stopped before training began"), (signal.SIGINT, "stopped; ")])
def test_a_late_ctrl_c_does_not_say_that_nothing_was_trained(
    heard: int | None, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def impatient() -> int:
        STOP.signal = heard
        try:
            raise KeyboardInterrupt
        finally:
            int("what code that is interrupted leaves broken")

    monkeypatch.setattr(train, "composed_and_run", impatient)
    monkeypatch.setattr(STOP, "signal", None)
    monkeypatch.setattr(sys, "argv", ["train", "experiment=quickstart"])
    assert train.main() == 130 and capsys.readouterr().out.startswith(said)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("seed=0..2", "'seed=range(3)'"),
        ("seed=0,0", "0 more than once"),
        ("seed=0,1,0", "0 more than once"),
        ("seed=range(3,0)", "no values"),
        ("hydra.sweep.dir=", "name a folder"),
        ("optimizer.lr=interval(0,1)", "list the values"),
    ],
)
def test_a_sweep_that_cannot_be_meant_is_refused_before_any_member(
    words: str, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert expected in refusal(monkeypatch, capsys, "-m", "experiment=quickstart", *words.split())
    assert list(tmp_path.iterdir()) == []


def test_a_launcher_that_is_not_installed_is_one_readable_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    line = refusal(monkeypatch, capsys, "hydra/launcher=dask", "experiment=quickstart")
    assert "Could not find 'hydra/launcher/dask'" in line and "basic ray slurm" in line and "\\n" not in line


def test_the_word_for_a_sweep_may_stand_anywhere() -> None:
    words = ["threads=1", "-m", "experiment=quickstart", "seed=0,1"]
    assert arguments.in_order(words) == ["-m", "threads=1", "experiment=quickstart", "seed=0,1"]
    others = ["--cfg", "job", "seed=1", "+a=1", "~b"]
    assert arguments.in_order(others, arguments.OPTIONS) == others


@pytest.mark.parametrize(
    ("words", "code", "without"),
    [
        ("seed=-1", 2, "hydra omegaconf torch wandb"),
        ("optimzer=sgd", 2, "hydra omegaconf torch wandb"),
        ("experiment=table1/nin nosuchkey=3", 2, "hydra omegaconf torch wandb"),
        ("regularizer.head_dropout=0.5", 2, "hydra omegaconf torch wandb"),
        ("+foo=1", 2, "torch wandb"),
        ("--help", 0, "hydra omegaconf torch wandb"),
    ],
)
def test_help_and_refusals_import_nothing_heavy(words: str, code: int, without: str, tmp_path: Path) -> None:
    program = "import sys; from nin_repro.train import main; c = main(); print(c, *sys.modules, file=sys.stderr)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program, *words.split()], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    ended, *modules = done.stderr.splitlines()[-1].split()
    assert ended == str(code) and not set(without.split()) & set(modules), done.stderr
    assert list(tmp_path.iterdir()) == []


# --- conf/ read without Hydra ----------------------------------------------------------------------------------------

CHOICES = [f"{group}={name}" for group, names in compose.choices().items() for name in names]
PLAIN = [
    "",
    *CHOICES,
    "experiment=table1/nin dataset=mnist",  # the command line has the last word
    "experiment=search/mnist optimizer=caffe",
    "seed=3 optimizer.lr=1e-2 threads=2 wait=true data_dir=/tmp/x.y budget.epochs=null optimizer.clip_norm=-1.50",
    "experiment=table1/nin_aug dataset.augment.pad=0 architecture.blocks.mlpconv1.widths=3 parent=null",
]


def hydras(words: str, folder: Path = conf.CONF) -> Any:
    """What Hydra composes."""
    with initialize_config_dir(str(folder), version_base="1.3"):
        return OmegaConf.to_container(hydra.compose("train", words.split()), resolve=True)


@pytest.mark.parametrize("words", PLAIN)
def test_what_is_composed_without_hydra_is_what_hydra_composes(words: str) -> None:
    assert repr(conf.composed(words.split())) == repr(hydras(words))  # types and order too


def test_threads_may_compose_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    initialize = hydra.initialize_config_dir

    def later(*words: Any, **settings: Any) -> Any:
        time.sleep(0.02)  # so that without a lock they would meet
        return initialize(*words, **settings)

    monkeypatch.setattr(hydra, "initialize_config_dir", later)
    words = [["experiment=extra/staged/v0", f"seed={seed}"] for seed in range(4000, 4006)]
    with ThreadPoolExecutor(6) as threads:
        found = threads.map(compose.load_with_text, words)
    assert [config.seed for config, _ in found] == [*range(4000, 4006)]


def test_an_experiment_may_build_on_another_and_override_its_choices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    (tmp_path / "conf/experiment/mine.yaml").write_text(
        "# @package _global_\ndefaults:\n- /experiment/table1/nin\n- _self_\n- override /dataset: mnist\nrestarts: 7\n"
    )
    monkeypatch.setattr(conf, "CONF", tmp_path / "conf")
    monkeypatch.setitem(compose.choices(), "experiment", [*compose.experiments(), "mine"])
    expected = hydras("experiment=mine", tmp_path / "conf")
    assert repr(conf.composed(["experiment=mine"])) == repr(expected)
    assert (expected["dataset"]["name"], expected["optimizer"]["clip_norm"], expected["restarts"]) == ("mnist", 1, 7)


NUMBERS = st.from_regex(r"-?[0-9]{1,3}([._]?[0-9]{1,2})?([eE][-+]?[0-9])?", fullmatch=True)
ODD_VALUES = st.sampled_from(["null", "Null", "true", "TRUE", "nan", "-inf", "inf", "None", "e5", "1.", "a-b", "../x"])
VALUES = st.one_of(NUMBERS, ODD_VALUES, st.text("aZ019_/.-:,?$+*[(' ", max_size=6))
SYMBOLS = st.text("aB1_.-+~@/", min_size=1, max_size=5)
NAMES = st.one_of(st.sampled_from(["seed", "optimizer.lr", "a/b", "_x1"]), SYMBOLS)


@settings(max_examples=150, deadline=None)
@given(NAMES, VALUES)
def test_what_is_read_without_hydra_is_what_hydra_reads(name: str, value: str) -> None:
    found = conf.word(f"{name}={value}")
    if found is not None:
        override = OverridesParser.create().parse_override(f"{name}={value}")
        assert override.type == OverrideType.CHANGE and not override.is_sweep_override() and override.package is None
        assert repr(found) == repr((override.key_or_group, override.value()))


@pytest.mark.parametrize(
    "word", ["seed=3", "optimizer.lr=1e-2", "data_dir=/tmp/a-b.c", "dataset=mnist", "wait=false", "threads=null"]
)
def test_usual_words_need_no_hydra(word: str) -> None:
    assert conf.word(word) is not None


def swap(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new)


DOUBTFUL: dict[str, tuple[str, str]] = {
    "reference": ("lr: 0.1 ", "lr: ${seed} "),
    "required": ("lr: 0.1 ", "lr: ??? "),
    "twice": ("lr: 0.1 ", "lr: 0.1\nlr: 0.2 "),
    "a number to one of them": ("lr: 0.1 ", "lr: 1_0e10 "),
    "a date": ("lr: 0.1 ", "lr: 2001-01-01 "),
    "a key that is a number": ("lr: 0.1 ", "1: 0.1 "),
    "another package": ("kind: sgd", "# @package _global_\nkind: sgd"),
    "another group": ("kind: sgd", "defaults: [/dataset: mnist]\nkind: sgd"),
    "not yaml": ("kind: sgd", "kind: [sgd"),
}


@pytest.mark.parametrize("name", DOUBTFUL)
def test_what_a_file_leaves_in_doubt_is_left_to_hydra(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    path = tmp_path / "conf/optimizer/sgd.yaml"
    monkeypatch.setattr(conf, "CONF", tmp_path / "conf")
    assert conf.composed([]) is not None
    path.write_text(swap(path.read_text(), *DOUBTFUL[name]))
    assert conf.composed([]) is None


@pytest.mark.parametrize(
    "words",
    [
        "seed=1 seed=2",
        "hydra.verbose=true",
        "optimizer=null",
        "architecture.blocks=3",
        "seed.x=1",
        "-m",
        "architecture=x",
    ],
)
def test_what_words_leave_in_doubt_is_left_to_hydra(words: str) -> None:
    assert conf.composed(words.split()) is None


@pytest.mark.parametrize("words", ["", "experiment=table1/nin_aug optimizer.weight_decay=1e-5 wandb.entity=someone"])
def test_help_is_hydras(words: str, command: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    shown = command("train", "--help", *words.split())
    expected = command("train", "--help", *words.split(), "hydra.verbose=false")
    assert shown.returncode == expected.returncode == 0 and shown.stdout == expected.stdout


@pytest.mark.parametrize("name", compose.experiments())
def test_experiment_file_composes_and_opens_with_claim_command_and_cost(name: str) -> None:
    config = compose.load([f"experiment={name}"])
    clips = "clipped" in " ".join(config.about.deviations)
    assert clips == (config.optimizer.clip_norm is not None), "what the paper does not do is said"
    lines = (ROOT / "conf/experiment" / f"{name}.yaml").read_text().splitlines()
    for line, start in zip(lines[1:], ("# Claim: ", "# Command: ", "# Cost: "), strict=False):
        assert line.startswith(start)
    assert f"experiment={name}" in lines[2]
    for number in (word for word in lines[1].split() if word.rstrip("%.,").replace(".", "").isdigit() and "." in word):
        assert number.rstrip(".,") in (config.about.claim or "")
    for path in re.findall(r"\[([^]]*)\]\"$", "\n".join(lines), re.MULTILINE):
        assert known.is_key(path), f"a deviation is about {path}, which is no key"


def test_all_groups_combine() -> None:
    choices = compose.choices()
    small = {("digits", "maxout_mnist")}  # whose second window is larger than what is left
    small |= {(name, "nin_alexnet") for name in choices["dataset"] if not name.endswith("224")}
    for dataset in ("cifar10", "mnist", "fashion_mnist_224", "svhn", "digits"):  # one for each shape
        for architecture in choices["architecture"]:
            if architecture in own_kinds():
                continue  # has its own rules
            head = "fc" if architecture == "cnn" else "maxout" if "maxout" in architecture else "gap_dropout"
            words = [f"dataset={dataset}", f"architecture={architecture}", f"regularizer={head}"]
            if (dataset, architecture) in small:
                with pytest.raises(UsageError, match=r"smaller (window|kernel)"):
                    compose.load(words)
            else:
                compose.load(words)
    for dataset in choices["dataset"]:
        compose.load([f"dataset={dataset}"])
    for regularizer in choices["regularizer"]:
        compose.load([f"regularizer={regularizer}"])
    for optimizer in choices["optimizer"]:
        for budget in choices["budget"]:
            if (optimizer, budget) != ("sgd_plain", "short"):  # which is longer than its ten epochs
                compose.load([f"optimizer={optimizer}", f"budget={budget}"])


def test_table_5_reads_off_the_names() -> None:
    def regularizer(name: str) -> tuple[float, str, float]:
        found = compose.load([f"regularizer={name}"]).regularizer
        return found.dropout, found.head, found.head_dropout

    assert regularizer("gap") == (0, "gap", 0) and regularizer("gap_dropout") == (0.5, "gap", 0)
    assert regularizer("fc") == (0, "fc", 0) and regularizer("fc_inner_dropout") == (0.5, "fc", 0)
    assert regularizer("fc_head_dropout") == (0, "fc", 0.5) and regularizer("fc_both_dropout") == (0.5, "fc", 0.5)
    for experiment, name in (("gap", "gap_dropout"), ("fc", "fc_inner_dropout"), ("fc_dropout", "fc_both_dropout")):
        assert (
            compose.load([f"experiment=table5/{experiment}"]).regularizer
            == compose.load([f"regularizer={name}"]).regularizer
        )


def test_nested_choices_may_be_written_as_groups() -> None:
    assert arguments.expand(["experiment/table5=fc,gap", "seed=1"]) == ["experiment=table5/fc,table5/gap", "seed=1"]
    assert arguments.expand(["experiment/extra/staged=v1,v2"]) == ["experiment=extra/staged/v1,extra/staged/v2"]


def test_an_experiment_that_somebody_is_writing_is_in_nobodys_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(compose.choices(), "experiment", ["quickstart", "nin\u00fc"])
    lines: list[str] = []
    assert [*compose.load_all(warn=lines.append)] == ["quickstart"]
    assert len(lines) == 1 and lines[0].startswith("conf/experiment/nin\u00fc.yaml is left out: ")
    with pytest.raises(UsageError):
        compose.load_all(["nin\u00fc"])


def test_glob_takes_all_matching_experiments() -> None:
    assert arguments.expand(["experiment=glob(table5/*)"]) == ["experiment=table5/fc,table5/fc_dropout,table5/gap"]


def test_a_fault_of_the_program_is_not_called_one_of_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty() -> int:
        raise KeyError("outcomes")

    monkeypatch.setattr(sys, "argv", ["train", "experiment=quickstart"])
    monkeypatch.setattr(train, "composed_and_run", faulty)
    with pytest.raises(KeyError):
        train.main()
