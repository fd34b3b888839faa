"""Runs that start from other runs: staged training, and the two stages of the maxout networks."""

import dataclasses
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nin_repro import build, run
from nin_repro.config import compose
from nin_repro.config.compose import load, parent_words, parents, stand_ins
from nin_repro.config.recipe import directory, family, key, recipe
from nin_repro.data.archive import obtain
from nin_repro.files import UsageError
from nin_repro.models.network import Network
from nin_repro.outcome import Outcome, Request
from nin_repro.schema import Parent
from nin_repro.training import checkpoint
from nin_repro.training.schedule import Reached
from nin_repro.training.stop import STOP

Command = Callable[..., subprocess.CompletedProcess[str]]
QUICK = ["dataset=digits", "dataset.preprocessing.divide=16", "budget.train_images=200", "budget.epochs=2"]
QUIET = ["wandb.mode=disabled", "record=always"]


def network(*words: str) -> Network:
    return build.network(load([*words, "dataset.resize=28"]))


def trained(*words: str) -> Network:
    """A network whose biases are not zero."""
    found = network(*words)
    found.initialise(0, 0)
    with torch.no_grad():
        for name, values in found.named_parameters():
            if name.endswith("bias"):
                values.normal_(0.1, 0.1)
    return found


def grown(experiment: str, parent: Network) -> Network:
    """The network of a stage at its start, its parent's weights given."""
    config = load([f"experiment={experiment}"])
    found = network(f"experiment={experiment}")
    build.inherit(config, found, build.Ancestor(parent.state_dict(), Reached(1.0, 1.0, 0.0)))
    found.initialise(1, 0)
    return found


def test_an_identity_start_is_the_function_of_the_stage_before() -> None:
    images = torch.randn(5, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    first = trained("experiment=extra/staged/identity_v0").eval()
    second = grown("extra/staged/identity_v1", first).eval()
    third = grown("extra/staged/identity_v2", second).eval()
    said = first(images)
    assert said.std() > 1e-3
    # The last block's new 1x1 follows one without a ReLU before it, so its identity adds one: nothing negative passes.
    torch.testing.assert_close(second.features(images), first.features(images).relu())
    torch.testing.assert_close(third(images), second(images))


def test_the_published_start_carries_weights_over_and_fills_the_new_ones() -> None:
    first = trained("experiment=extra/staged/v0")
    second = grown("extra/staged/v1", first)
    before, after = first.state_dict(), second.state_dict()
    new = {name for name in after if name.endswith("weight")} - before.keys()
    assert len(new) == 2 and all((after[name] == 1).all() for name in new)
    for name, values in before.items():
        assert torch.equal(after[name], values) == name.endswith("weight"), name  # biases start at 0 again
    third = grown("extra/staged/v2", second)
    filled = {name for name in third.state_dict() if name.endswith("weight")} - after.keys()
    assert len(filled) == 1 and all((third.state_dict()[name] == 0.01).all() for name in filled)


def test_layers_keep_their_places_with_dropout_between_them_and_without() -> None:
    def start(*words: str) -> tuple[Network, Network]:
        parent = trained("experiment=quickstart", "regularizer=gap", *words)
        child = network("experiment=quickstart", "regularizer=gap_dropout")
        build.inherit(HEIR, child, build.Ancestor(parent.state_dict(), Reached(1.0, 1.0, 0.0)))
        child.initialise(1, 0)
        return parent, child

    parent, child = start()
    assert [*parent.state_dict()] != [*child.state_dict()]  # dropout shifts their numbers
    for one, other in zip(parent.weighted(), child.weighted(), strict=True):
        assert torch.equal(one.layer.weight, other.layer.weight)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="have no place"):
        start("architecture.blocks.mlpconv2.widths=[16,8,8]")


def test_there_is_no_identity_of_a_window() -> None:
    parent = trained("experiment=quickstart", "regularizer=gap")
    del (weights := parent.state_dict())["blocks.2.convolutions.0.weight"]
    child = network("experiment=quickstart", "regularizer=gap")
    identity = dataclasses.replace(HEIR, parent=Parent("quickstart", "identity", False))
    with pytest.raises(UsageError, match=r"blocks.2.convolutions.0.weight .* is no 1x1 layer and has no identity"):
        build.inherit(identity, child, build.Ancestor(weights, Reached(1.0, 1.0, 0.0)))


HEIR = dataclasses.replace(load(["experiment=quickstart"]), parent=Parent("quickstart", "fresh", True))


@pytest.mark.parametrize(
    "words, most",
    [
        ("regularizer=gap", 3),
        ("regularizer=fc", 4),
        ("architecture=cnn regularizer=gap", 4),
        ("architecture=cnn regularizer=fc", 5),
        ("experiment=table1/maxout", 5),
    ],
)
def test_a_warm_up_has_a_number_for_each_block_and_what_follows_them(words: str, most: int) -> None:
    config = load([*words.split(), f"optimizer.schedule.warmup={[*range(1, most + 1)]}".replace(" ", "")])
    assert {group.warmup for group in build.optimizer(config, build.network(config)).groups} == {*range(1, most + 1)}
    with pytest.raises(UsageError, match=f"has {most + 1} numbers"):
        load([*words.split(), f"optimizer.schedule.warmup={[*range(most + 1)]}".replace(" ", "")])


def test_a_run_whose_parent_died_has_no_result(command: Command, tmp_path: Path) -> None:
    obtain("digits", tmp_path / "data")
    words = [*QUICK, *QUIET, "dataset.preprocessing.divide=1e-30", "restarts=1"]
    done = command("train", "-m", "experiment=extra/staged/v1", *words)
    assert done.returncode == 1 and "failed        the parent of this run is dead" in done.stdout
    runs = [json.loads(path.read_text())["experiment"] for path in tmp_path.glob("runs/*/result.json")]
    assert runs == ["extra/staged/v0"]


def test_a_signal_at_the_end_of_a_parent_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["experiment=extra/staged/v1", f"runs_dir={tmp_path}"]

    def trained_and_stopped(parent: Request) -> Outcome:
        monkeypatch.setattr(STOP, "signal", 15)
        return Outcome("done", 0, "")

    monkeypatch.setattr(run, "execute", trained_and_stopped)
    monkeypatch.setattr(run, "_images", lambda config: pytest.fail("it goes on"))
    found = run._execute(Request(load(words), words, "extra/staged/v1", ""))
    assert (found.state, found.code) == ("interrupted", 143)


def test_what_an_experiments_file_says_of_its_images_must_be_said_of_its_parent_too() -> None:
    parent, child = load(["experiment=extra/staged/v0"]), load(["experiment=extra/staged/v1"])
    compose._require_like(parent, child)
    compose._require_like(dataclasses.replace(parent, protocol="validate"), child)  # as that of table4/maxout
    short = dataclasses.replace(child.budget, epochs=3)
    for other, said in (
        ({"protocol": "validate"}, "protocol=validate and not final"),
        ({"seed": 5}, "seed=5 and not 0"),
        ({"budget": short}, "budget.epochs=3 and not null"),
        ({"dataset": load(["dataset=fashion_mnist"]).dataset}, "dataset=fashion_mnist and not mnist"),
    ):
        with pytest.raises(
            UsageError, match=f"this run has {said} as its parent extra/staged/v0: .*on the command line"
        ):
            compose._require_like(parent, dataclasses.replace(child, **other))


def test_a_parent_that_does_not_fit_is_refused() -> None:
    config = load(["experiment=extra/staged/v1"])
    wide = trained("experiment=extra/staged/v0", "architecture.blocks.mlpconv1.widths=[12,10]")
    with pytest.raises(UsageError, match=r"have no place in this network"):
        build.inherit(
            config, network("experiment=extra/staged/v1"), build.Ancestor(wide.state_dict(), Reached(1, 1, 0))
        )


def test_a_parent_that_does_not_fit_is_refused_before_it_is_trained(command: Command, tmp_path: Path) -> None:
    done = command("train", "experiment=extra/staged/v2", "parent.experiment=table4/nin", "budget=smoke")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "have no place in this network" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_recipe_names_its_parents_key_and_moves_with_it() -> None:
    def parent(*words: str) -> str:
        return str(recipe(load(["experiment=extra/staged/v2", *words]))["parent"]["key"])

    assert parent() == key(load(["experiment=extra/staged/v1"]))
    assert parent("seed=3", "dataset.resize=28") == key(
        load(["experiment=extra/staged/v1", "seed=3", "dataset.resize=28"])
    )
    assert parent("optimizer.lr=0.1", "runs_dir=elsewhere") == parent()
    grandparent = recipe(load(["experiment=extra/staged/v1", "seed=3"]))["parent"]["key"]
    assert grandparent == key(load(["experiment=extra/staged/v0", "seed=3"]))


def test_seeds_of_a_staged_run_are_one_family_and_other_parents_are_not() -> None:
    families = [
        family(load(["experiment=extra/staged/v2", *words])) for words in ([], ["seed=1"], ["parent.biases=true"])
    ]
    assert families[0] == families[1] != families[2]
    other = load(["experiment=extra/staged/v2", "parent.experiment=extra/staged/identity_v1"])
    assert family(other) != families[0]


def test_what_a_parent_is_told_of_the_command_line() -> None:
    parent = load(["experiment=table4/maxout"]).parent
    assert parent is not None
    words = [
        "experiment=table4/maxout",
        "seed=1",
        "dataset=mnist",
        "budget.epochs=2",
        "optimizer.lr=1",
        "protocol=final",
        "precision=bf16",
    ]
    words += ["architecture.irange=1", "data_dir=d", "parent.fill=1", "hydra.run.dir=x", "restarts=1"]
    assert parent_words(parent, words) == [
        *("experiment=table4/maxout_first", "seed=1", "dataset=mnist", "budget.epochs=2", "precision=bf16"),
        *("data_dir=d", "restarts=1"),
    ]
    assert parent_words(parent, ["protocol=validate"])[1:] == ["protocol=validate"]


@pytest.mark.parametrize("name", ["table4/maxout", "extra/staged/v2", "table1/nin"])
def test_a_cell_is_filled_by_runs_in_another_precision_whose_parents_are_of_it_too(name: str) -> None:
    words = [f"experiment={name}"]
    found = stand_ins(load(words), words)
    assert [one.precision for one in found] == ["tf32", "bf16"]
    for one in found:
        asked = load([*words, f"precision={one.precision}"])
        assert family(one) == family(asked) and key(one) == key(asked)
        assert {parent.precision for parent in parents(asked, [*words, f"precision={one.precision}"]).values()} <= {
            one.precision
        }
    back = stand_ins(found[-1], [*words, "precision=bf16"])
    assert [family(one) for one in back] == [family(load(words)), family(found[0])]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["optimizer.schedule.kind=parent"], "choose an experiment that has one"),
        (["optimizer.schedule.stop=likelihood"], "choose an experiment that has one"),
        (["optimizer.schedule.stop=validation"], "set protocol=validate and optimizer.schedule.stop_patience"),
        (["experiment=table4/maxout", "protocol=validate"], "it needs protocol=final"),
        (["experiment=table4/maxout", "parent.experiment=table4/maxot_first"], "did you mean 'table4/maxout_first'"),
        (["experiment=extra/staged/v1", "parent.fill=identty"], "parent.fill=identty"),
        (
            [
                "protocol=validate",
                *(f"optimizer.schedule.{w}" for w in ("kind=plateau", "stop=validation", "stop_patience=2")),
            ],
            "choose one of them",
        ),
        (["optimizer.schedule.warmup=[5,5]"], "2 numbers for 3 blocks: give one"),
        (["optimizer.schedule.warmup=[5,5,5,5]"], "4 numbers for 3 blocks: give one"),
        (
            ["budget=short", "optimizer.schedule.kind=exponential", "optimizer.schedule.factor=0.99"],
            "to the power of 16.25 as budget.epochs is less, .* momentum, 0.9: give at least 0.993538",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(words: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said) as refusal:
        load(words)
    assert "\n" not in str(refusal.value)


def test_one_command_trains_all_stages_and_a_second_call_none(command: Command, tmp_path: Path) -> None:
    obtain("digits", tmp_path / "data")
    words = ["experiment=extra/staged/v2", *QUICK, *QUIET]
    first = command("train", *words)
    assert first.returncode == 0, first.stdout + first.stderr
    assert first.stdout.count("its parent: ") == 2
    records = [json.loads(path.read_text()) for path in sorted((tmp_path / "results").rglob("*.json"))]
    by_key = {record["key"]: record for record in records}
    assert len(records) == 3
    last = next(record for record in records if record["experiment"] == "extra/staged/v2")
    middle = by_key[last["recipe"]["parent"]["key"]]
    assert middle["experiment"] == "extra/staged/v1"
    assert by_key[middle["recipe"]["parent"]["key"]]["experiment"] == "extra/staged/v0"
    second = command("train", *words)
    assert second.returncode == 0 and "already done" in second.stdout and "its parent" not in second.stdout


def test_a_parent_whose_weights_are_gone_is_told_in_one_line(command: Command, tmp_path: Path) -> None:
    obtain("digits", tmp_path / "data")
    words = [*QUICK, *QUIET]
    assert command("train", "experiment=extra/staged/v0", *words).returncode == 0
    run = directory(load(["experiment=extra/staged/v0", *words]))
    (tmp_path / run / "checkpoint.pt").unlink()
    found = command("train", "experiment=extra/staged/v1", *words)
    said = found.stdout.splitlines()[-1]
    assert found.returncode == 1 and "checkpoint.pt is missing" in said and f"move {run}/result.json away" in said
    (tmp_path / run / "result.json").rename(tmp_path / "away.json")
    assert command("train", "experiment=extra/staged/v0", *words).returncode == 0
    assert command("train", "experiment=extra/staged/v1", *words).returncode == 0


def test_a_run_that_stops_by_the_validation_error_ends_with_the_weights_of_its_best_epoch(
    command: Command, tmp_path: Path
) -> None:
    obtain("digits", tmp_path / "data")
    words = ["dataset=digits", "dataset.preprocessing.divide=16", "budget.epochs=12", *QUIET]
    first = ["experiment=table4/maxout_first", *words, *SMALL_MAXOUT, "optimizer.schedule.stop_patience=2"]
    done = command("train", *first)
    assert done.returncode == 0, done.stdout + done.stderr
    config = load(first)
    record = json.loads((tmp_path / directory(config) / "result.json").read_text())
    errors = record["curve"]["validation_error"]
    assert record["test_error"] is None and record["validation_error"] == min(errors)
    best = errors.index(min(errors))
    assert len(errors) == 12 or len(errors) == best + 1 + 2
    assert record["reached"]["rate"] == record["curve"]["rate"][best]
    weights = checkpoint.load(tmp_path / directory(config) / "checkpoint.pt")
    assert weights is not None and checkpoint.fingerprint(weights["weights"]) == record["weights_sha256"]


SMALL_MAXOUT = [
    "architecture=maxout_mnist_pi",
    "architecture.full.full1.units=16",
    "architecture.full.full2.units=16",
    "architecture.irange=0.1",
    "optimizer.lr=0.1",
]
