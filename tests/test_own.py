"""Networks, heads and data sets of the user's own: README's examples as they stand there, and what is refused."""

import dataclasses
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.core.config_store import ConfigStore

from nin_repro import build, describe, train
from nin_repro.config import compose, known, origins
from nin_repro.config.check import convert
from nin_repro.config.recipe import key, recipe
from nin_repro.data import sources
from nin_repro.data.sources import DATASETS
from nin_repro.data.splits import open_split
from nin_repro.files import UsageError
from nin_repro.models import spec, trial
from nin_repro.models.shape import Shape
from nin_repro.schema import NETWORKS, Config, Own

ROOT = Path(__file__).parents[1]
SECTION = (ROOT / "README.md").read_text().split("## Your own network, head or data set\n")[1].split("\n## ")[0]
EXPERIMENT, PERCEPTRON, GLOBAL_MAX, STRIPES = SECTION.split("<details>")[1:]


def apply(example: str, folder: Path) -> None:
    """Do to a folder what README says: blocks that open with the name of a file are that file, or lines in it."""
    for head, body in re.findall(r"^```\w+\n# ([^\n]+)\n(.*?)^```$", example, flags=re.M | re.S):
        name, _, registry = head.partition(", in ")
        path = folder / name
        if registry:
            opening = re.search(rf"^{registry} = {{.*\n", path.read_text(), flags=re.M)
            assert opening and body.count("\n") == 1, f"{registry} of {name} is not there, or takes more than a line"
            body = path.read_text().replace(opening[0], opening[0] + body)
        else:
            assert not path.exists()
        path.write_text(body)


def entry(example: str) -> str:
    """The line that an example adds to a registry."""
    (line,) = re.findall(r"^```python\n# [^\n]+, in [A-Z]+\n {4}([^\n]+)\n```$", example, flags=re.M)
    return line


def code(example: str, name: str) -> str:
    """The file of this name in an example."""
    return example.split(f"# {name}\n")[1].split("```")[0]


# --- the examples as a user follows them ----------------------------------------------------------------------------


def finished(folder: Path, example: str, epochs: int) -> tuple[str, dict[str, Any]]:
    """What the commands of an example say before they train, and the record of what they train, for so many epochs."""
    for name in ("nin_repro", "conf"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    apply(example, folder)
    said = ""
    for line in re.findall(r"^ {4}python (.+)$", example, flags=re.M):
        train = "nin_repro.train" in line
        done = subprocess.run(
            [sys.executable, *shlex.split(line), *["wandb.mode=disabled", f"budget.epochs={epochs}"] * train],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        said += done.stdout * (not train)
    (result,) = folder.glob("runs/*/result.json")
    record: dict[str, Any] = json.loads(result.read_text())
    assert record["status"] == "done"
    return said, record


def test_readmes_experiment_is_described_and_trained(tmp_path: Path) -> None:
    said, record = finished(tmp_path, EXPERIMENT, epochs=2)
    assert "digits-nin-seed0" in said and record["experiment"] == "mine" and record["budget"] != "paper"
    assert record["recipe"]["optimizer"]["clip_norm"] == 1


def test_readmes_network_is_described_and_trained(tmp_path: Path) -> None:
    said, record = finished(tmp_path, PERCEPTRON, epochs=10)
    assert f"{64 * (64 + 1) + 10 * (64 + 1):,}" in said and f"{64 * 64 + 10 * 64:,}" in said  # of all its layers
    assert record["recipe"]["architecture"] == {"kind": "perceptron", "units": 32, "std": 0.1}  # defaults included
    written = (tmp_path / "nin_repro/models/perceptron.py").read_bytes()
    assert record["recipe"]["code"] == {
        "nin_repro.models.perceptron.Perceptron": hashlib.sha256(written).hexdigest()[:12]
    }
    assert record["test_error"] < 20


def test_readmes_head_is_described_and_trained(tmp_path: Path) -> None:
    said, record = finished(tmp_path, GLOBAL_MAX, epochs=4)
    assert "GlobalMaxPooling" in said and record["recipe"]["regularizer"]["head"] == "max"
    assert record["test_error"] < 50


def test_readmes_data_set_is_described_and_trained(tmp_path: Path) -> None:
    _, record = finished(tmp_path, STRIPES, epochs=10)
    assert record["test_error"] < 10
    assert record["data"]["digest"][:16] in record["data"]["provenance"]


# --- networks and heads: what is refused ----------------------------------------------------------------------------


@pytest.fixture
def offer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Put a file of README's network, or what a test makes of it, where NETWORKS finds it."""

    def put(source: str) -> None:
        (tmp_path / "perceptron.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setitem(NETWORKS, "perceptron", "perceptron.Perceptron")

    def forget() -> None:
        compose.choices.cache_clear()
        known._all_keys.cache_clear()
        sys.modules.pop("perceptron", None)

    forget()
    yield put
    ConfigStore.instance().repo.pop("architecture", None)
    forget()


WORDS = ["dataset=digits", "architecture=perceptron", "optimizer=sgd_plain"]
HEAD = "__import__('torch').nn.Sequential(__import__('torch').nn.Linear(64, 10))"
STARTS = '[Start(self.hidden, Fill("normal", self.std))]'
REFUSED = {
    "unknown key": ("", "", ["regularizer=fc", "architecture.unit=3"], "architecture.units"),
    "out of range": ("", "", ["regularizer=fc", "architecture.units=0"], "at least 1"),
    "dropout that it lacks": ("", "", ["regularizer=fc_inner_dropout"], "regularizer.dropout=0"),
    "a head that wants maps": ("", "", ["regularizer=gap"], "choose another head"),
    "a slip": ("F.relu(self.hidden", "Fx.relu(self.hidden", ["regularizer=fc"], "'Fx' is not defined, in "),
    "a head of torch": (
        "make_head(Shape(architecture.units, 1, 1), classes, regularizer, 1, self.clock)",
        HEAD,
        [],
        "or a Head",
    ),
    "no head": ("", "", ["regularizer=fc", "regularizer.head=gab"], "did you mean 'gap'?"),
    "not python": ("(Network):", "(Network:", ["regularizer=fc"], "SyntaxError"),
    "no settings": ("    settings = Settings\n", "", ["regularizer=fc"], "`settings`"),
    "no default": ("units: Count = 64", "units: Count", ["regularizer=fc"], "architecture.units"),
    "weights forgotten": (STARTS, "[]", ["regularizer=fc"], "hidden.weight"),
    "weights that nothing hangs on": (
        "F.relu(self.hidden(x.flatten(1)))",
        "F.relu(self.hidden(x.flatten(1)).detach())",
        ["regularizer=fc"],
        "no logit hangs on hidden.weight, hidden.bias",
    ),
    "no weights that anything hangs on": (
        "F.relu(self.hidden(x.flatten(1)))",
        "self.hidden(x.flatten(1)).detach()[:, :10, None, None]",
        ["regularizer=gap"],
        "no logit hangs on hidden.weight, hidden.bias",
    ),
    "weights twice": (STARTS, f"2 * {STARTS}", ["regularizer=fc"], "names hidden more than once"),
    "no such start": ('Fill("normal"', 'Fill("norml"', ["regularizer=fc"], "one of normal, uniform"),
    "no starts": (STARTS, "[self.hidden]", ["regularizer=fc"], "a list of Start"),
    "starts of nothing": (STARTS, "[Start(self.hiden, Fill())]", ["regularizer=fc"], "no attribute 'hiden'"),
    "nothing to start": (STARTS, "None", ["regularizer=fc"], "a list of Start"),
    "no bias": (".size, architecture.units)", ".size, architecture.units, False)", ["regularizer=fc"], "its bias"),
    "wrong head": ("Shape(architecture.units,", "Shape(7,", ["regularizer=fc"], "for 1x8x8 images (RuntimeError"),
    "not the classes": (
        "return F.relu(self.hidden(x.flatten(1)))",
        "return self.hidden(x.flatten(1))[..., None, None]",
        ["regularizer=gap"],
        "give [64] values for an image, not one for each of 10 classes",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_refused_in_one_line(name: str, offer: Callable[[str], None]) -> None:
    old, new, words, expected = REFUSED[name]
    source = code(PERCEPTRON, "nin_repro/models/perceptron.py")
    assert not old or source.count(old) == 1
    offer(source.replace(old, new))
    with pytest.raises(UsageError) as refusal:
        compose.load([*WORDS, *words])
    assert expected in str(refusal.value) and "\n" not in str(refusal.value)


def test_settings_are_keys_and_all_of_them_are_recipe(offer: Callable[[str], None]) -> None:
    offer(code(PERCEPTRON, "nin_repro/models/perceptron.py"))
    config = compose.load([*WORDS, "regularizer=fc", "architecture.std=0.2"])
    assert recipe(config)["architecture"] == {"kind": "perceptron", "units": 64, "std": 0.2}
    assert key(config) != key(compose.load([*WORDS, "regularizer=fc"]))
    assert config.architecture == convert(Config, dataclasses.asdict(config), "").architecture


def test_an_experiment_of_ones_own_network_is_told_with_its_origins(
    offer: Callable[[str], None], tmp_path: Path
) -> None:
    offer(code(PERCEPTRON, "nin_repro/models/perceptron.py"))
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    words = EXPERIMENT.split("# conf/experiment/mine.yaml\n")[1].split("```")[0].replace("nin_small", "perceptron")
    (tmp_path / "conf/experiment/mine.yaml").write_text(words + "  lr: 0.3  # assumed: it learns\n")
    told = origins.provenance(tmp_path / "conf", "mine", compose.load([*WORDS, "regularizer=fc", "optimizer.lr=0.3"]))
    assert told.choices["architecture"].name == "perceptron"
    facts = {fact.key: fact.origin for fact in told.facts}
    assert facts["optimizer.lr"].startswith("assumed") and facts["architecture.units"] == ""


def test_another_code_of_a_network_makes_another_run(offer: Callable[[str], None]) -> None:
    source = code(PERCEPTRON, "nin_repro/models/perceptron.py")
    keys = []
    for text in (source, source.replace("F.relu(", "F.gelu("), source):
        offer(text)
        config = compose.load([*WORDS, "regularizer=fc"])
        keys.append(key(config))
    assert keys[0] == keys[2] != keys[1]
    assert "code" not in recipe(compose.load(["experiment=quickstart"]))


def test_names_in_settings_of_ones_own_are_recipe() -> None:
    @dataclasses.dataclass(frozen=True)
    class Settings(Own):
        rates: dict[str, float]

    config = compose.load(["experiment=quickstart"])
    one, other = (
        dataclasses.replace(config, architecture=Settings("nin", rates=rates))
        for rates in ({"encoder": 1.0, "decoder": 2.0}, {"decoder": 1.0, "encoder": 2.0})
    )
    assert recipe(one)["architecture"]["rates"] == {"encoder": 1.0, "decoder": 2.0} and key(one) != key(other)


def test_statistics_of_batches_that_a_start_left_do_not_outlive_it(offer: Callable[[str], None]) -> None:
    source = code(PERCEPTRON, "nin_repro/models/perceptron.py")
    for old, new in {
        "architecture.std\n": "architecture.std\n        self.norm = nn.BatchNorm1d(architecture.units)\n",
        "self.hidden(x.flatten(1))": "self.norm(self.hidden(x.flatten(1)))",
        "return [Start(": 'return [Start(self.norm, Fill("constant", 1.0)), Start(',
    }.items():
        assert source.count(old) == 1
        source = source.replace(old, new)
    offer(source)
    config = compose.load([*WORDS, "regularizer=fc"])
    assert any(line.split()[:2] == ["norm", "BatchNorm1d"] for line in describe.layer_table(config).splitlines())
    net: Any = build.network(config)
    net.initialise(0, 0)
    net.train()(torch.full((4, 1, 8, 8), torch.inf))  # as in a start that diverged
    assert not net.norm.running_mean.isfinite().any()
    net.initialise(0, 1)
    assert net.norm.running_mean.tolist() == [0] * 64 and net.norm.running_var.tolist() == [1] * 64
    assert net.norm.num_batches_tracked == 0


def test_a_broken_network_is_one_line_of_the_command_and_in_nobody_elses_way(
    offer: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    offer("raise RuntimeError('half written')")
    compose.load(["architecture=nin_small", "dataset=digits"])  # imports no file of others
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train", "architecture=perceptron"])
    assert train.main() == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith("error: perceptron.Perceptron, ") and "half written" in err
    assert err.count("\n") == 1


# --- data sets ------------------------------------------------------------------------------------------------------


@pytest.fixture
def stripes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for README's data set, which is known and not there."""
    for name, facts in eval(f"{{{entry(STRIPES)}}}", vars(sources)).items():
        monkeypatch.setitem(DATASETS, name, facts)
    return tmp_path


def test_a_data_set_that_is_not_there_is_one_line_that_says_what_to_make(stripes: Path) -> None:
    with pytest.raises(UsageError) as refusal:
        open_split("stripes", stripes, "final")
    said = str(refusal.value)
    assert f"{stripes}/stripes.npz" in said and "\n" not in said and list(stripes.iterdir()) == []
    assert "train_images uint8 [240, 8, 8, 1], train_labels int64 [240]" in said and "labels from 0 to 1" in said


@pytest.fixture
def made(stripes: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(stripes)
    exec(code(STRIPES, "make_stripes.py"), {})
    return stripes / "data"


def test_the_digest_is_that_of_the_images_not_of_the_file(made: Path) -> None:
    split = open_split("stripes", made, "validate")
    assert (len(split.train_labels), len(split.eval_labels), split.eval_name) == (180, 60, "validation")
    first = open_split("stripes", made, "final")
    assert (len(first.train_labels), len(first.eval_labels), first.eval_name) == (240, 60, "test")
    with np.load(made / "stripes.npz") as archive:
        arrays = dict(archive)
    np.savez_compressed(made / "stripes.npz", **arrays)
    assert open_split("stripes", made, "final").digest == first.digest
    arrays["train_images"][0, 0, 0, 0] ^= 1
    np.savez(made / "stripes.npz", **arrays)
    assert open_split("stripes", made, "final").digest != first.digest


@pytest.mark.parametrize("count", [-5, 0, 240, 600])
def test_images_for_validation_are_some_and_not_all(made: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setitem(DATASETS, "stripes", dataclasses.replace(DATASETS["stripes"], validation=count))
    with pytest.raises(UsageError, match="choose final, or give it 1 to 239"):
        open_split("stripes", made, "validate")


@pytest.mark.parametrize("shape, sizes", [((8, 8), {"train": 9, "test": 3}), ((8, 8, 1), {"train": 9})])
def test_facts_that_lack_something_are_refused(shape: Any, sizes: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="wants height, width and channels"):
        sources.Facts(2, shape, sizes, 3)


def test_only_svhns_rule_needs_no_number_of_images_for_validation() -> None:
    with pytest.raises(UsageError, match="wants how many of the last training images validate"):
        sources.Facts(2, (8, 8, 1), {"train": 9, "test": 3}, None)
    with pytest.raises(UsageError, match="no part but train and test"):
        sources.Facts(2, (8, 8, 1), {"train": 9, "extra": 9, "test": 3}, 3)
    with pytest.raises(UsageError, match="only SVHN has another rule"):
        sources.Facts(2, (8, 8, 1), {"train": 9, "extra": 9, "test": 3}, None)


def test_a_file_of_words_is_no_file_of_arrays(made: Path) -> None:
    (made / "stripes.npz").write_text("stripes")
    with pytest.raises(UsageError, match=r"damaged or not the data set stripes \(it is no file of arrays\)"):
        open_split("stripes", made, "final")


def test_wrong_or_damaged_arrays_are_refused(made: Path) -> None:
    path = made / "stripes.npz"
    with np.load(path) as archive:
        arrays = dict(archive)
    whole = path.read_bytes()
    wrong = {
        "train_labels": arrays["train_labels"] + 1,
        "train_images": arrays["train_images"][1:],
        "test_images": arrays["test_images"].astype(float),
    }
    for name, array in wrong.items():
        np.savez(path, **(arrays | {name: array}))
        with pytest.raises(UsageError, match=f"{name} is damaged or not.*DATASETS in .* labels from 0 to 1$"):
            open_split("stripes", made, "final")
    np.savez(path, train_images=arrays["train_images"])
    with pytest.raises(UsageError, match="train_labels"):
        open_split("stripes", made, "final")
    path.write_bytes(whole[:4000] + bytes([whole[4000] ^ 1]) + whole[4001:])
    with pytest.raises(UsageError, match="train_images is damaged"):
        open_split("stripes", made, "final")


def test_without_images_for_validation_there_is_none(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DATASETS, "stripes", dataclasses.replace(DATASETS["stripes"], validation=0))
    assert len(open_split("stripes", made, "final").train_labels) == 240
    with pytest.raises(UsageError, match="protocol=validate"):
        open_split("stripes", made, "validate")


def test_an_unknown_data_set_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"dataset\.name=minst is not a choice \(did you mean 'mnist'\?\)"):
        compose.load(["dataset=mnist", "dataset.name=minst"])


# --- what is tried out ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["dataset=cifar100", "architecture=nin_cifar100"],
        ["architecture=nin_caffe"],
        ["architecture=cnn", "regularizer=fc_head_dropout"],
    ],
)
def test_what_is_tried_out_is_what_arithmetic_says(words: list[str]) -> None:
    config = compose.load(words)
    facts = DATASETS[config.dataset.name]
    height, width, channels = facts.shape
    tried = trial.layers(Shape(channels, height, width), facts.classes, config.architecture, config.regularizer)
    known = spec.layers(config.dataset, config.architecture, config.regularizer)
    for name in ("parameters", "multiply_adds"):
        counts = [[value for layer in found if (value := getattr(layer, name))] for found in (tried, known)]
        assert counts[0] == counts[1]
    assert tried[-1].output.channels == facts.classes
