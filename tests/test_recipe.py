"""Keys and families, what a run feeds, what is told of its recipe."""

import contextlib
import copy
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_records import record, stored

from nin_repro.config import compose
from nin_repro.config.check import convert
from nin_repro.config.recipe import RECIPE, budget_name, directory, family, key, recipe
from nin_repro.describe import feeds, on_record, recipe_lines
from nin_repro.files import UsageError
from nin_repro.schema import Config
from nin_repro.schema import given as kept

# Never change one of these lines for a recipe that stays as it is: records are found by them.
FAMILIES = {
    "table1/nin": "bd4bcafae794",
}


def tree(config: Config) -> dict[str, Any]:
    return dataclasses.asdict(config)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from leaves(item, (*path, name))
    else:
        yield path, value


def others(value: Any) -> list[Any]:
    """Values that may be valid in the place of this one."""
    words = [
        "cifar100",
        "pixel",
        "avg",
        "max",
        "he",
        "fc",
        "inverted",
        "plateau",
        "validate",
        "bf16",
        "disabled",
        "never",
        "cpu",
        "files",
        "last",
        "likelihood",
    ]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, list):
        return [[*value[:-1], 99], [*value, "x"], [*value, 99]]
    if isinstance(value, str):
        return [word for word in [*words, value + "x"] if word != value]
    a_parent = {"experiment": "table1/nin", "fill": 1.0, "biases": True, "key": "0123456789ab"}
    return [1, "x", a_parent] if value is None else [value / 2 + 0.01 if isinstance(value, float) else value + 1, 0.5]


def changed(config: Config, path: tuple[Any, ...]) -> Config | None:
    """The configuration with another value at `path`; None if there is only one choice."""
    plain = copy.deepcopy(tree(config))
    spot = plain
    for name in path[:-1]:
        spot = spot[name]
    for value in others(spot[path[-1]]):
        spot[path[-1]] = value
        with contextlib.suppress(UsageError):
            found: Config = convert(Config, plain, "")
            return found
    return None


def test_the_key_moves_with_everything_that_can_change_the_result_and_with_nothing_else() -> None:
    config = compose.load([])
    moved = {path: changed(config, path) for path, _ in leaves(tree(config))}
    assert {path[-1] for path, other in moved.items() if other is None} == {"kind"}
    for path, other in moved.items():
        if other is not None:
            decides = path[0] in RECIPE and path != ("budget", "name")
            assert (key(other) != key(config)) == decides, path


def test_the_family_is_the_key_without_the_seed() -> None:
    zero, one = compose.load([]), compose.load(["seed=1"])
    assert key(zero) != key(one) and family(zero) == family(one)
    assert family(zero) != family(compose.load(["optimizer.lr=0.05"]))


def test_the_same_value_written_otherwise_is_the_same_key() -> None:
    assert key(compose.load(["optimizer.lr=1e-1", "dataset.preprocessing.gcn=55.0"])) == key(compose.load([]))


def test_a_field_that_is_added_later_moves_no_key_until_it_is_used() -> None:
    config = compose.load([])
    newer = dataclasses.make_dataclass("Sgd", [("nesterov", bool, False)], bases=(type(config.optimizer),), frozen=True)
    plain = {f.name: getattr(config.optimizer, f.name) for f in dataclasses.fields(config.optimizer)}
    assert key(dataclasses.replace(config, optimizer=newer(**plain))) == key(config)
    assert key(dataclasses.replace(config, optimizer=newer(**plain, nesterov=True))) != key(config)


def test_order_and_comments_in_files_move_no_key() -> None:
    config = compose.load([])
    backwards = {name: value for name, value in reversed(tree(config).items())}
    backwards["optimizer"] = dict(reversed(backwards["optimizer"].items()))
    assert key(convert(Config, backwards, "")) == key(config)


def test_the_order_of_the_blocks_is_part_of_the_recipe() -> None:
    config = compose.load([])
    plain = tree(config)
    plain["architecture"]["blocks"] = dict(reversed(plain["architecture"]["blocks"].items()))
    assert key(convert(Config, plain, "")) != key(config)


def test_cells_that_ask_for_the_same_recipe_share_their_runs() -> None:
    assert key(compose.load(["experiment=table1/nin"])) == key(compose.load(["experiment=table5/gap"]))
    directories = {str(directory(compose.load([f"experiment={name}"]))) for name in ("table1/nin", "table5/gap")}
    assert len(directories) == 1


def test_families_of_committed_experiments_stand_still() -> None:
    assert {name: family(compose.load([f"experiment={name}"])) for name in FAMILIES} == FAMILIES


def test_the_recipe_is_whole() -> None:
    assert set(recipe(compose.load([]))) == {*RECIPE, "meaning"} - {"parent", "precision"}  # left out at their defaults


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["seed=3", "precision=bf16"], "Table 4, NIN + Dropout: 0.47 %"),
        (["budget=short"], "Table 4, NIN + Dropout: 0.47 % (not at this budget: short)"),
        (["optimizer.clip_norm=null"], "Table 4, NIN + Dropout: 0.47 %"),  # the recipe of table4/nin_unclipped
        (["regularizer=gap"], "no cell of the paper; not the recipe of Table 4, NIN + Dropout: 0.47 %"),
    ],
)
def test_what_a_run_feeds_is_what_its_recipe_fills(words: list[str], expected: str) -> None:
    assert feeds(compose.load(["experiment=table4/nin", *words])) == expected


@pytest.mark.parametrize("name", ["table2/nin_released", "extra/nin_224"])
def test_the_described_recipe_is_words_for_the_command_line(name: str) -> None:
    config = compose.load([f"experiment={name}", "seed=4", "budget=smoke"])
    words = [line.strip() for line in recipe_lines(config)]
    assert key(compose.load(words)) == key(config) != key(compose.load([]))


def test_a_word_that_does_nothing_may_say_what_the_files_say() -> None:
    words = ["regularizer.fc_std=0.05", "optimizer.schedule.patience=1", "architecture.blocks.mlpconv3.pool_size=3"]
    assert key(compose.load(words)) == key(compose.load([]))


def test_a_reduced_budget_never_calls_itself_the_papers() -> None:
    assert budget_name(compose.load([])) == "paper"
    assert budget_name(compose.load(["budget=short"])) == "short"
    for word in ("budget.epochs=3", "budget.max_steps=10", "budget.train_images=100"):
        assert budget_name(compose.load([word])) == "custom"


def test_a_configuration_from_before_a_key_existed_is_read_with_its_default() -> None:
    def older(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {name: older(item) for name, item in kept(value).items()}
        return {name: older(item) for name, item in value.items()} if isinstance(value, dict) else value

    config = compose.load(["experiment=table1/nin"])
    plain = older(config)
    assert "warmup" not in plain["optimizer"]["schedule"] and "precision" not in plain
    assert convert(Config, plain, "") == config


def test_a_deviation_that_the_command_undoes_is_not_told_of_the_run() -> None:
    def told(*words: str) -> set[str]:
        return {line.split(" (")[0] for line in compose.load(["experiment=table4/nin", *words]).about.deviations}

    undone = {
        "gradient norm clipped at 1": "optimizer.clip_norm=null",
        "images are drawn in a new order each epoch": "optimizer.order=files",
        "inputs 0-255 less the per-pixel mean": "dataset.preprocessing.divide=255",
        "no max pooling after the third block": "architecture.blocks.mlpconv3.pool=max",
    }
    assert {*undone} <= told() == told("seed=1", "optimizer.clip_norm=1") == told("optimizer=sgd_plain")
    for line, word in undone.items():
        assert told(word) == told() - {line}


def test_a_deviation_is_told_as_it_is_written() -> None:
    pad, clip = "padded [architecture.blocks.mlpconv1.pad]", "as note [X17] has it, clipped [optimizer.clip_norm]"
    about = dataclasses.replace(
        compose.load(["experiment=table1/nin"]).about, deviations=["as [X17] has it", pad, clip]
    )

    def told(*more: str) -> list[str]:
        words = ["experiment=table1/nin", *more]
        plain = compose.conf.composed(words)
        assert plain is not None
        compose._settle_pads(plain["architecture"], "architecture")
        return compose._still_true(about, plain, words).deviations

    assert told("seed=1") == ["as [X17] has it", "padded", "as note [X17] has it, clipped"]
    assert told("optimizer.clip_norm=3") == ["as [X17] has it", "padded"]


def test_what_is_on_record_of_a_recipe_is_told_by_precision(tmp_path: Path) -> None:
    words = ["experiment=quickstart", f"records_dir={tmp_path}", "seed=7"]
    config = compose.load(words)
    assert on_record(config, words) == "no run of this recipe"
    in_bf16, other = (family(compose.load([*words, word])) for word in ("precision=bf16", "optimizer.lr=0.3"))
    runs = [record("quickstart", seed, 1.0 + seed, family=in_bf16) for seed in range(3)]
    runs += [record("quickstart", 0, 5.0, family=family(config), status="dead"), record("quickstart", 0, family=other)]
    runs[-2]["attempts"] = [{"attempt": 0, "died": "network", "epoch": 1, "step": 9}]
    stored(tmp_path, *runs)
    assert on_record(config, words) == "fp32: 1 seed, all died; bf16: 3 seeds, 2.00 ± 1.00 %"
