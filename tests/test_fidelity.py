"""results/fidelity.md: it must say of every number where it is from, and say what the files say."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from nin_repro.config import compose, origins
from nin_repro.config.idle import idle
from nin_repro.config.recipe import key, recipe
from nin_repro.files import UsageError
from nin_repro.outcome import Request
from nin_repro.results import fidelity
from nin_repro.results.contradictions import CONTRADICTIONS
from nin_repro.results.fidelity import Choice, Fact, Provenance
from nin_repro.run import execute
from nin_repro.schema import Config

ROOT = Path(__file__).parents[1]
NAMES = [name for name in compose.experiments() if not name.startswith("search/")]


@cache
def config(*words: str) -> Config:
    return compose.load(list(words))


def experiment(name: str) -> Config:
    return config(f"experiment={name}")


@cache
def told(name: str) -> Provenance:
    return origins.provenance(compose.CONF, name, experiment(name))


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {path: value}
    found: dict[str, Any] = {}
    for name, item in value.items():
        found |= leaves(item, f"{path}.{name}" if path else name)
    return found


def copied(tmp_path: Path, file: str, old: str, new: str) -> Path:
    """A copy of conf/ with a change in one file."""
    conf = Path(shutil.copytree(compose.CONF, tmp_path / "conf"))
    text = (conf / file).read_text()
    assert old in text
    (conf / file).write_text(text.replace(old, new))
    return conf


# --- every number has a source --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_number_of_an_experiment_has_a_source_or_is_marked_assumed(name: str) -> None:
    found = told(name)
    facts = origins.active(found, experiment(name)).facts
    assert [fact.key for fact in facts if fact.source(found.choices) not in fidelity.SOURCES] == []
    assert len(facts) > 40


def test_every_number_of_the_choices_that_no_experiment_takes_has_one_too() -> None:
    taken = {(group, choice.name) for name in NAMES for group, choice in told(name).choices.items()}
    free = [(group, choice) for group in origins.GROUPS for choice in compose.choices()[group]]
    for group, choice in (pair for pair in free if pair not in taken):
        words = [f"{group}={choice}", *(["regularizer=maxout"] if choice.startswith("maxout") else [])]
        patterns = idle(config(*words))
        said = origins.of_choice(compose.CONF, group, choice)
        for path, _, at_default in origins.values(config(*words)):
            if path.startswith(f"{group}.") and not at_default and not any(fnmatchcase(path, p) for p in patterns):
                assert said[path.removeprefix(f"{group}.")].text, (choice, path)


def of_group(group: str, choice: str) -> dict[str, Any]:
    """The values of a group's file with what it inherits, by key."""
    own = leaves(OmegaConf.to_container(OmegaConf.load(compose.CONF / group / f"{choice}.yaml")))
    inherited = [of_group(group, base) for base in own.pop("defaults", ()) if base != "_self_"]
    return {path: value for base in [*inherited, own] for path, value in base.items()}


@pytest.mark.parametrize("name", NAMES)
def test_what_an_experiment_file_changes_is_never_said_to_be_from_its_groups(name: str) -> None:
    found = told(name)
    written = leaves(OmegaConf.to_container(OmegaConf.load(compose.CONF / "experiment" / f"{name}.yaml")))
    alone = {
        f"{group}.{path}": value
        for group, choice in found.choices.items()
        for path, value in of_group(group, choice.name).items()
    }
    for fact in found.facts:
        assert fact.by_experiment == (fact.key in written), fact
        if fact.key in alone and alone[fact.key] != fact.value:
            assert fact.by_experiment and fact.origin, fact


def test_the_page_shows_all_that_the_recipe_holds() -> None:
    """But for what names the run, its seed and its budget; blocks are named in one and numbered in the other."""
    for name in NAMES:
        values = json.loads(json.dumps(recipe(experiment(name))))
        for gone in ("meaning", "seed", "budget"):
            values.pop(gone)
        for gone in ("kind", "blocks", "full"):
            values["architecture"].pop(gone, None)
        values["dataset"].pop("name"), values["optimizer"].pop("kind")
        values.get("parent", {}).pop("key", None)
        shown = {fact.key: fact.value for fact in told(name).facts}
        assert {path: value for path, value in leaves(values).items() if path} == {
            path: shown.get(path, "not shown") for path in leaves(values)
        }


# --- how comments are read ------------------------------------------------------------------------------------------


def test_an_experiments_own_comment_and_value_are_shown_as_set_by_it() -> None:
    facts = {fact.key: fact for fact in told("table1/nin").facts}
    clip = facts["optimizer.clip_norm"]
    assert clip.value == 1 and clip.by_experiment and clip.origin.startswith("deviates")
    assert facts["optimizer.lr"].origin.startswith("MAV") and not facts["optimizer.lr"].by_experiment
    page = (ROOT / "results/fidelity.md").read_text()
    assert "| `optimizer.clip_norm` | 1 (set here) | **deviates**" in page


def test_a_changed_value_without_a_comment_loses_the_groups_source(tmp_path: Path) -> None:
    conf = copied(tmp_path, "experiment/table1/nin.yaml", "  clip_norm: 1 ", "  lr: 0.05\n  clip_norm: 1 ")
    facts = {fact.key: fact for fact in origins.provenance(conf, "table1/nin", experiment("table1/nin")).facts}
    assert facts["optimizer.lr"].origin == "" and facts["optimizer.lr"].by_experiment
    found = Provenance({}, (facts["optimizer.lr"],))
    assert "**no source given**" in fidelity.page({"table1/nin": found}, {"table1/nin": experiment("table1/nin")})


def test_a_variants_own_values_never_keep_what_its_parent_says(tmp_path: Path) -> None:
    (tmp_path / "optimizer").mkdir()
    files = {
        "base": "# About it.\n# Source: MAV\nlr: 0.1 # PAPER 4\nmomentum: 0.9\nclip: null # assumed\nmore: {}\n",
        "twin": "defaults:\n  - base # CAFFE: as there\n  - _self_\nlr: 0.2\n",
    }
    for name, text in files.items():
        (tmp_path / f"optimizer/{name}.yaml").write_text(text)
    said = {name: origin.text for name, origin in origins.of_choice(tmp_path, "optimizer", "twin").items()}
    assert said == {"lr": "", "momentum": "CAFFE: as there", "clip": "assumed", "more": "CAFFE: as there"}


def test_comments_reach_down_go_on_and_stop(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(
        "schedule:        # MAV, README\n"
        "  drops: [1, 2]  # PAPER 4.1: two\n"
        "                 # drops\n"
        "  # not a source: PAPER\n"
        "  word: '# PAPER'\n"
        "  epochs: 260    # as long as it takes\n"
        "lr: 0.1\n"
    )
    said = {name: origin.text for name, origin in origins.read(file).origins.items()}
    readme = "MAV, README"
    drops = "PAPER 4.1: two drops"
    assert said == {"schedule.drops": drops, "schedule.word": readme, "schedule.epochs": readme, "lr": ""}


@pytest.mark.parametrize("comment", ["# MVA: a typo", "# PAPERS, 4.1"])
def test_a_misspelt_source_is_refused_and_not_taken_for_an_ordinary_comment(comment: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(f"lr: 0.1 {comment}\n")
    with pytest.raises(UsageError, match="MAV"):
        origins.read(tmp_path / "x.yaml")


def test_reasons_of_an_experiment_go_before_its_choices_sources_but_never_make_facts_of_assumptions() -> None:
    choices = {"optimizer": Choice("sgd", "assumed: as the main row")}
    published, guessed = Fact("optimizer.lr", 0.1, "MAV, params"), Fact("optimizer.x", 1, "assumed: so")
    assert published.source(choices) == "assumed" and published.source({}) == "MAV"
    choices = {"optimizer": Choice("sgd", "PAPER 4.3: the same")}
    assert guessed.source(choices) == "assumed" and published.source(choices) == "PAPER"
    assert Fact("optimizer.lr", 1, "deviates: so", True).source(choices) == "deviates"


def test_the_summary_counts_each_value_once() -> None:
    found = origins.active(told("table1/nin"), experiment("table1/nin"))
    assert fidelity.counts(found).total() == len(found.facts) == len({fact.key for fact in found.facts})
    assert fidelity.counts(found)["deviates"] == 2  # clipping and the order of the images


def test_assumptions_of_rows_about_which_nothing_was_published_are_counted_as_such() -> None:
    main, other = (fidelity.counts(told(name)) for name in ("table1/nin", "text/nin_no_dropout"))
    assert other["assumed"] > main["assumed"] + 5


# --- keys that do nothing -------------------------------------------------------------------------------------------


SCHEDULE = "optimizer.schedule."
MAXOUT = ["dataset=digits", "architecture=maxout_mnist_pi", "regularizer=maxout", "optimizer=maxout_mnist"]
IDLE = {
    "nin": (
        ["experiment=quickstart", "restarts=0"],
        ["regularizer.fc_std=1", "regularizer.fc_lr_factor=7", "architecture.blocks.mlpconv1.std=[9,9,9]"]
        + [f"architecture.blocks.mlpconv3.pool_{name}" for name in ("size=5", "stride=1", "ceil=false")]
        + [SCHEDULE + name for name in ("patience=9", "plateau_drops=5", "momentum_final=0.5", "decay_epochs=9")]
        + [SCHEDULE + "floor=0.5"],
        "regularizer.dropout=0.4",
    ),
    "maxout": (
        MAXOUT,
        ["regularizer.fc_std=1", "optimizer.last_layer_factor=9", "optimizer.last_layer_bias_factor=9"]
        + [SCHEDULE + name for name in ("drops=[1]", "patience=9", "plateau_drops=5", "decay_epochs=9")],
        SCHEDULE + "factor=0.9",
    ),
}


@pytest.mark.parametrize("name", IDLE)
def test_keys_that_the_page_leaves_out_do_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compose, "require_effect", lambda *_: None)  # it refuses such words
    base, without_effect, active = IDLE[name]
    for word in without_effect:
        assert any(fnmatchcase(word.partition("=")[0], pattern) for pattern in idle(config(*base))), word
    assert not any(fnmatchcase(active.partition("=")[0], pattern) for pattern in idle(config(*base)))
    small = ["budget.max_steps=3", "budget.train_images=96", "optimizer.batch_size=32", "eval_every=0", "record=never"]
    where = ["device=cpu", "threads=1", "wandb.mode=disabled", f"runs_dir={tmp_path}", f"data_dir={tmp_path}"]
    weights = []
    for words in ([], without_effect, [active]):
        overrides = [*base, *small, *where, *words]
        done = execute(Request(compose.load(overrides), overrides, None, ""))
        assert done.state == "done", done
        weights.append(json.loads((Path(done.path) / "result.json").read_text())["weights_sha256"])
    assert weights[0] == weights[1] != weights[2]


# --- contradictions -------------------------------------------------------------------------------------------------


def test_all_contradictions_are_there() -> None:
    assert [one.id for one in CONTRADICTIONS] == [f"X{number}" for number in range(1, 19)]


@pytest.mark.parametrize("one", CONTRADICTIONS, ids=lambda one: one.id)
def test_every_experiment_that_a_contradiction_is_about_takes_exactly_one_side(one: fidelity.Contradiction) -> None:
    configs = {name: experiment(name) for name in NAMES}
    names = fidelity.concerned(one, configs)
    assert bool(names) == bool(one.experiments)
    for pattern in one.experiments:
        assert fidelity.concerned(fidelity.Contradiction("", "", (pattern,), (), ""), configs), pattern
    for name in names:
        assert sum(fidelity.taken(side, configs[name]) for side in one.sides) == 1, name


@pytest.mark.parametrize("one", [one for one in CONTRADICTIONS if one.experiments], ids=lambda one: one.id)
def test_the_words_that_decide_otherwise_do(one: fidelity.Contradiction) -> None:
    configs = {name: experiment(name) for name in NAMES}
    name = fidelity.concerned(one, configs)[0]
    keys = set()
    offered = [side for side in one.sides if fidelity.words(side)]
    assert offered
    for side in offered:
        words = fidelity.words(side).split()
        base = [] if words[0].startswith("experiment=") else [f"experiment={name}"]
        chosen = compose.load([*base, *words])
        assert fidelity.taken(side, chosen), words
        keys.add(key(chosen))
    assert len(keys) == len(offered)


def test_the_page_follows_the_configuration() -> None:
    """Another value of the key that decides, another place in the table."""
    name, x1 = "table1/nin", CONTRADICTIONS[0]
    found = {name: origins.active(told(name), experiment(name))}
    pages = [
        fidelity.page(found, {name: chosen})
        for chosen in (experiment(name), config(f"experiment={name}", "architecture.blocks.mlpconv2.pool=avg"))
    ]
    for page, (yes, no) in zip(pages, itertools.permutations(side.what for side in x1.sides), strict=True):
        lines = {
            line.split(" | ")[0]: line for line in page.splitlines() if line.startswith(("| maximum |", "| average |"))
        }
        assert f"`{name}`" in lines[f"| {yes}"] and "no experiment" in lines[f"| {no}"]


# --- the file -------------------------------------------------------------------------------------------------------


def test_the_committed_page_is_what_the_command_writes() -> None:
    configs = {name: experiment(name) for name in NAMES}
    facts = {name: origins.active(told(name), configs[name]) for name in NAMES}
    written = fidelity.page(facts, configs)
    committed = (ROOT / "results/fidelity.md").read_text()
    assert committed == written, "out of date: run python -m nin_repro.tables"


def test_the_page_explains_every_source_and_shows_every_experiment() -> None:
    page = (ROOT / "results/fidelity.md").read_text()
    headings = {line.removeprefix("### ") for line in page.splitlines() if line.startswith("### ")}
    assert {name for name in NAMES if name != "quickstart"} <= headings
    explained = {
        line[2:].partition(":")[0] for line in page.partition("## Sources")[2].splitlines() if line[:2] == "- "
    }
    assert explained == set(fidelity.SOURCES)
    assert "no source given" not in page


def test_the_command_writes_the_page_without_torch(tmp_path: Path) -> None:
    code = "import sys, nin_repro.tables as t; sys.argv[0] = 't'; t.main(); sys.exit('torch' in sys.modules)"
    (tmp_path / "records").mkdir()
    words = [sys.executable, "-c", code, "--records", "records", "--out", "out"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/fidelity.md").read_bytes() == (ROOT / "results/fidelity.md").read_bytes()
