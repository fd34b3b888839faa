"""Figures 3 and 4: the paper's numbers, the bands of ours, the maps, and what is drawn of which runs."""

import json
import shutil
import statistics
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from fake_records import digest, record, stored
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st

from nin_repro.config.compose import load, to_yaml
from nin_repro.config.conf import CONF
from nin_repro.config.recipe import family, key
from nin_repro.figures import EXPERIMENTS, compare, figure4, open_run
from nin_repro.figures import exemplars as first_of_each
from nin_repro.files import UsageError, read_json, write_json
from nin_repro.finished import rebuilt
from nin_repro.models.nin import NetworkInNetwork
from nin_repro.models.shape import Shape
from nin_repro.probes.maps import class_maps, strongest
from nin_repro.results import figure3 as paper
from nin_repro.results.curves import Comparison, Runs, band, choose, last_attempt
from nin_repro.results.figures import Exemplar, draw_figure3, draw_figure4, save
from nin_repro.training import checkpoint

Command = Callable[..., subprocess.CompletedProcess[str]]
FAMILY = digest("table1/nin paper")


def curve(test: list[float | None], train: list[float | None] | None = None, **more: list[Any]) -> dict[str, Any]:
    epochs = list(range(1, len(test) + 1))
    return {
        "attempt": [0] * len(test),
        "epoch": epochs,
        "test_error": test,
        "train_error_running": train or test,
    } | more


def drawn(records: list[Any], experiment: str = "table1/nin", **more: Any) -> Comparison:
    runs = choose(records, experiment, FAMILY, more.get("budget", "paper"))
    return Comparison({False: Runs("text/nin_no_dropout"), True: runs}, **more)


# --- Figure 3 -------------------------------------------------------------------------------------------------------


def test_the_papers_curves() -> None:
    curves = {one.name: dict(zip(paper.EPOCHS, one.rates, strict=True)) for one in paper.CURVES}
    assert tuple(8 * i for i in range(26)) == paper.EPOCHS
    assert {points[0] for points in curves.values()} == {0.9}
    assert curves["training, without dropout"][40] == 0.0613
    assert curves["training, with dropout"][152] is None  # hidden under another marker: not made up
    assert curves["testing, without dropout"][200] == 0.1814
    assert [curves["testing, with dropout"][epoch] for epoch in (8, 72, 200)] == [0.3487, 0.1414, 0.1461]
    assert sum(rate is None for points in curves.values() for rate in points.values()) == 1


@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(st.none() | st.floats(0, 100), min_size=6, max_size=6), min_size=1, max_size=5))
def test_a_band_is_mean_and_extremes_of_the_epochs_that_all_measured(
    tmp_path_factory: pytest.TempPathFactory, runs: list[list[float | None]]
) -> None:
    values = [record(seed=seed, curve=curve(points)) for seed, points in enumerate(runs)]
    found = band(stored(tmp_path_factory.mktemp("records"), *values), "test_error")
    measured = [points for points in runs if any(point is not None for point in points)]
    common = [i for i in range(6) if measured and all(points[i] is not None for points in measured)]
    if not common:
        assert found is None
        return
    columns = [[points[i] / 100 for points in measured] for i in common]  # type: ignore[operator]
    assert found is not None and found.runs == len(measured)
    assert found.epochs == tuple(i + 1 for i in common)
    assert found.mean == pytest.approx([statistics.mean(column) for column in columns])
    assert found.low == tuple(min(column) for column in columns)
    assert found.high == tuple(max(column) for column in columns)


def test_only_the_attempt_that_a_run_ended_with_counts(tmp_path: Path) -> None:
    rows = curve([90, 90, 90, 60, 40], attempt=[0, 0, 0, 1, 1], epoch=[1, 2, 3, 1, 2])
    (run,) = stored(tmp_path, record(curve=rows))
    assert last_attempt(run, "test_error") == {1: 60, 2: 40}
    assert band([run], "never_measured") is None


def test_only_living_runs_of_the_recipe_at_the_budget_are_chosen(tmp_path: Path) -> None:
    runs = stored(
        tmp_path,
        record(seed=1),
        record("table5/gap", seed=0, family=FAMILY),  # the same recipe under another name
        record(seed=2, dead_classes=[3]),
        record(seed=3, status="dead", error=None),
        record(seed=4, budget="short"),
        record(seed=8, budget="short", dead_classes=[3]),
        record(seed=9, budget="short", status="dead", error=None),
        record(seed=5, budget="short", family=FAMILY),
        record(seed=6, protocol="validate", error=None, validation_error=9.0, family=FAMILY),
        record("table1/nin_aug", seed=7),
    )
    found = choose(runs, "table1/nin", FAMILY, "paper")
    assert [run.seed for run in found.alive] == [0, 1]
    assert found.dead == 2
    short = choose(runs, "table1/nin", digest("table1/nin short"), "short")
    assert [run.seed for run in short.alive] == [4, 8] and (short.dead, short.silent) == (1, 1)


def lines(figure: Any) -> dict[str, Any]:
    return {line.get_label(): line for line in figure.axes[0].get_lines()}


def test_ours_are_drawn_over_the_papers_on_the_papers_axes(tmp_path: Path) -> None:
    points: list[list[float | None]] = [[50.0 - seed, 30.0] for seed in range(3)]
    values = [record(seed=seed, curve=curve(one, [80, 70])) for seed, one in enumerate(points)]
    figure = draw_figure3(drawn(stored(tmp_path, *values)))
    axes, found = figure.axes[0], lines(figure)
    assert axes.get_xlim() == (0, 200) and axes.get_ylim() == (0, 0.9)
    assert list(axes.get_xticks()) == list(range(0, 201, 20))
    assert list(found["testing, with dropout, 3 seeds"].get_ydata()) == pytest.approx([0.49, 0.30])
    assert list(found["training, with dropout, 3 seeds"].get_ydata()) == pytest.approx([0.8, 0.7])
    printed = found["testing, with dropout"]
    assert list(printed.get_xdata()) == list(paper.EPOCHS)
    assert list(printed.get_ydata()) == list(paper.CURVES[3].rates)
    assert "budget" not in axes.get_title()


def test_lines_differ_without_colour(tmp_path: Path) -> None:
    runs = choose(stored(tmp_path, record(curve=curve([50, 40]))), "", FAMILY, "paper")
    looks = [
        (line.get_linestyle(), line.get_linewidth(), line.get_marker(), line.get_markerfacecolor() == "white")
        for line in lines(draw_figure3(Comparison({False: runs, True: runs}))).values()
    ]
    assert len(looks) == len(set(looks)) == 8


SHORT = {"budget": {"epochs": 16, "train_images": None, "max_steps": None}}
OPENING = {"budget": {"epochs": None, "train_images": None, "max_steps": 6256}}


def test_the_beginning_of_a_whole_run_is_comparable_with_the_papers(tmp_path: Path) -> None:
    runs = stored(tmp_path, record(budget="opening", family=FAMILY, epochs=16, curve=curve([50] * 16), recipe=OPENING))
    axes = draw_figure3(drawn(runs, budget="opening")).axes[0]
    assert axes.get_title().endswith("The first 16 epochs of the paper's schedule") and axes.get_xlim() == (0, 16)


def test_a_reduced_budget_says_so_in_the_title(tmp_path: Path) -> None:
    rows = curve([50] * 16)
    runs = stored(
        tmp_path, record(budget="short", family=FAMILY, epochs=16, curve=rows, dead_classes=[7], recipe=SHORT)
    )
    figure = draw_figure3(drawn(runs, budget="short"))
    axes = figure.axes[0]
    assert "Reduced budget “short”, 16 epochs" in axes.get_title()
    assert "not comparable" in axes.get_title()
    assert axes.get_xlim() == (0, 16)
    assert "Drawn with dropout: 1 seed in which a class had not begun to learn" in figure.get_supxlabel()


def test_what_is_missing_or_left_out_stands_in_the_figure(tmp_path: Path) -> None:
    comparison = drawn(stored(tmp_path, record(dead_classes=[1])), commands={False: "do this", True: "do that"})
    figure = draw_figure3(comparison)
    assert len(figure.axes[0].get_lines()) == len(paper.CURVES)
    notes = figure.get_supxlabel()
    assert "No runs of ours without dropout yet" in notes and "do this" in notes and "do that" in notes
    assert "Not drawn with dropout: 1 seed that ended with" in notes


def test_the_command_without_records_draws_the_papers_curves_and_names_commands(
    command: Command, tmp_path: Path
) -> None:
    (tmp_path / "results" / "records").mkdir(parents=True)
    done = command("figures")
    assert done.returncode == 0, done.stderr
    for name in EXPERIMENTS.values():
        assert f"  $ python -m nin_repro.train -m experiment={name} seed=0,1,2,3,4   # " in done.stdout
    written = sorted(path.name for path in (tmp_path / "results" / "figures").iterdir())
    assert written == ["figure3.png", "figure3.svg"]
    assert all(f"results/figures/{name}" in done.stdout for name in written)


def test_the_families_of_the_figure_are_those_of_the_experiments(tmp_path: Path) -> None:
    known = {
        (name, budget): family(load([f"experiment={name}", f"budget={budget}"]))
        for name in EXPERIMENTS.values()
        for budget in ("paper", "short")
    }
    runs = stored(tmp_path, *(record(name, budget=budget, family=one) for (name, budget), one in known.items()))
    for budget, words in (("paper", []), ("short", ["budget=short"])):
        comparison, said = compare(runs, words)
        for dropout, name in EXPERIMENTS.items():
            (run,) = comparison.runs[dropout].alive
            assert (run.experiment, run.budget) == (name, budget)
        assert not any("$" in line for line in said)
    other = family(load(["experiment=table1/nin", "precision=bf16"]))
    (fast,) = stored(tmp_path / "fast", record("table1/nin", family=other))
    comparison, said = compare([fast])
    assert comparison.runs[True].alive == (fast,) and "1 run at the budget paper, computed in bf16" in "".join(said)
    assert "Ours with dropout: computed in bf16." in draw_figure3(comparison).get_supxlabel()
    assert compare([*runs, fast])[0].runs[True].note == ""  # runs of the experiment itself go first
    assert any("budget=smoke record=always" in line for line in compare(runs, ["budget=smoke"])[1])
    fewer = compare(runs, ["budget=short", "budget.epochs=3"])[1]
    assert any("budget=short budget.epochs=3 record=always" in line for line in fewer)
    for refused, why in ((["budget=shrt"], "did you mean 'short'"), (["seed=3"], "give budget=short")):
        with pytest.raises(UsageError, match=why):
            compare(runs, refused)


# --- Figure 4 -------------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 12), st.integers(2, 9), st.booleans())
def test_the_tenth_is_exact_and_of_each_image_over_all_its_maps(
    seed: int, images: int, maps: int, side: int, ties: bool
) -> None:
    random = np.random.default_rng(seed)
    shape = (images, maps, side, side)
    # Without zeros, so that kept values can be counted; with few values most of them are ties.
    values = random.integers(1, 4, shape) if ties else random.permutation(images * maps * side**2).reshape(shape) + 1
    kept = strongest(torch.from_numpy(values.astype(np.float32))).numpy()
    count = maps * side**2 // 10
    for image, found in zip(values, kept, strict=True):
        assert np.count_nonzero(found) == count
        assert np.array_equal(found[found != 0], image[found != 0])
        assert sorted(found[found != 0]) == sorted(image.flat)[image.size - count :]


def test_all_may_come_from_one_map() -> None:
    maps = torch.arange(640.0).view(1, 10, 8, 8)
    kept = strongest(maps)
    assert bool((kept[0, :9] == 0).all()) and torch.equal(kept[0, 9], maps[0, 9])


def test_of_ties_the_first_are_kept() -> None:
    kept = strongest(torch.ones(2, 2, 5, 5))
    assert kept.flatten(1).tolist() == [[1.0] * 5 + [0.0] * 45] * 2


def test_class_maps_are_the_last_maps_scaled_up_and_leave_the_network_as_it_was() -> None:
    config = load(["experiment=quickstart"])
    network = NetworkInNetwork(Shape(1, 8, 8), 10, config.architecture, config.regularizer)  # type: ignore[arg-type]
    network.initialise(0, 0)
    images = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 8, 8, 1)).astype(np.float32))
    maps, said = class_maps(network, images)
    assert network.training and maps.shape == (3, 10, 8, 8)
    network.eval()
    with torch.no_grad():
        last = network.blocks(images.permute(0, 3, 1, 2))
        assert torch.equal(said, network(images.permute(0, 3, 1, 2)).argmax(1))
    class_maps(network, images)
    assert not network.training
    cut = strongest(last).double().numpy()
    size = cut.shape[2]
    assert size < 8  # there is something to scale up
    # Bilinear with pixels as areas: pixel i of the image lies at (i + 1/2) * size / 8 - 1/2 of the map.
    at = np.clip((np.arange(8) + 0.5) * size / 8 - 0.5, 0, size - 1)
    weights = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(size)))
    assert maps.numpy() == pytest.approx(np.einsum("yi,xj,nkij->nkyx", weights, weights, cut), abs=1e-5)


def exemplars() -> list[Exemplar]:
    random = np.random.default_rng(1)
    return [
        Exemplar(random.integers(0, 256, (8, 8, 3), np.uint8), random.random((3, 8, 8)) * (label + 1), label, 0)
        for label in range(3)
    ]


def test_the_true_map_has_the_frame_and_a_row_one_scale() -> None:
    rows = exemplars()
    figure = draw_figure4(rows, ["cat", "dog", "ship"], "title", "caption")
    axes = np.array(figure.axes).reshape(3, 4)
    for label, row in enumerate(axes):
        frames = [axis.spines["left"] for axis in row[1:]]
        widths = [frame.get_linewidth() for frame in frames]
        assert widths.index(max(widths)) == label and widths.count(max(widths)) == 1
        assert frames[label].get_edgecolor() == (1, 0, 0, 1)
        assert {axis.get_images()[0].get_clim() for axis in row[1:]} == {(0, rows[label].maps.max())}
        assert np.array_equal(row[0].get_images()[0].get_array(), rows[label].image)
    # Of 17 levels, as the digits are.
    dim = [replace(one, image=np.minimum(np.asarray(one.image)[..., 0], 16)) for one in rows]
    (shown,) = draw_figure4(dim, ["cat", "dog", "ship"], "title", "caption").axes[0].get_images()
    assert shown.get_clim() == (0, 16)
    assert [row[0].get_ylabel() for row in axes] == ["cat", "dog\n(says cat)", "ship\n(says cat)"]
    assert [axis.get_title() for axis in axes[0]] == ["image", "cat", "dog", "ship"]
    bare = draw_figure4([replace(one, image=7) for one in rows], ["cat", "dog", "ship"], "title", "caption")
    columns = np.array(bare.axes).reshape(3, 4)
    assert [[text.get_text() for text in row[0].texts] for row in columns] == [["7"]] * 3
    assert not columns[0, 0].get_images() and columns[0, 0].get_title() == "image no."


def test_the_same_input_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = stored(tmp_path / "records", *(record(seed=seed, curve=curve([50 + seed, 40])) for seed in range(2)))

    def files(name: str) -> list[bytes]:
        three = save(draw_figure3(drawn(runs)), tmp_path / name / "figure3")
        four = save(draw_figure4(exemplars(), ["a", "b", "c"], "title", "caption"), tmp_path / name / "figure4")
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == sorted(path.name for path in three + four)
        return [path.read_bytes() for path in three + four]

    first = files("first")
    monkeypatch.setitem(matplotlib.rcParams, "lines.linewidth", 9.0)  # a user's own style
    monkeypatch.setitem(matplotlib.rcParams, "svg.hashsalt", None)
    assert files("second") == first
    assert first[0].startswith(b"\x89PNG") and b"<svg" in first[1] and b"<dc:date>" not in first[1]


# --- a run's directory ----------------------------------------------------------------------------------------------


def test_figure_4_of_a_run(command: Command, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "results" / "records").mkdir(parents=True)
    done = command("figures", "--run", str(trained), "--data-dir", str(trained.parents[1] / "data"))
    assert done.returncode == 0, done.stderr
    for kind in ("png", "svg"):
        assert f"results/figures/figure4-{trained.name}.{kind}\n" in done.stdout
    (folder,) = figure4(open_run(trained), trained.parents[1] / "data", tmp_path, maps_only=True)[0].parents[:1]
    assert (folder / f"figure4-maps-{trained.name}.png").stat().st_size > 1000


def test_figure_4_has_the_first_image_of_each_class_and_the_maps_of_that_image(trained: Path) -> None:
    config, _, weights = open_run(trained)
    config = replace(config, data_dir=str(trained.parents[1] / "data"))
    found, name = first_of_each(config, weights, maps_only=True)
    network, inputs, labels, _ = rebuilt(config, weights)
    assert isinstance(network, NetworkInNetwork)
    assert name == "test" and [one.label for one in found] == [*range(10)]
    for one in found:
        first = labels.tolist().index(one.label)
        maps, said = class_maps(network, inputs[first : first + 1])
        assert one.image == first and one.said == said[0]
        np.testing.assert_allclose(one.maps, maps[0].numpy(), rtol=1e-5, atol=1e-6)


def altered(source: Path, folder: Path, **files: bytes | None) -> Path:
    """A copy of a run with files replaced or, if None, removed; "_" for "." in names."""
    copy = folder / "copy"
    shutil.copytree(source, copy)
    for name, content in files.items():
        path = copy / name.replace("_", ".")
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
    return copy


def test_a_sound_run_opens(trained: Path, tmp_path: Path) -> None:
    config, found, weights = open_run(altered(trained, tmp_path))
    assert (config.dataset.name, found["status"]) == ("digits", "done")
    assert checkpoint.fingerprint(weights) == found["weights_sha256"]


BROKEN: dict[str, tuple[dict[str, bytes | None], str]] = {
    "no result": ({"result_json": None}, "no finished run"),
    "binary result": ({"result_json": b"\xff\x00"}, "no finished run"),
    "nested result": ({"result_json": b"[" * 100_000}, "result.json"),
    "other result": ({"result_json": b'{"status": "done", "key": [1]}'}, "not of the run"),
    "dead": ({"result_json": b'{"status": "dead"}'}, "every start of this run died"),
    "no configuration": ({"config_yaml": None}, "config.yaml cannot be read"),
    "binary configuration": ({"config_yaml": b"\xff\xfe\x00"}, "config.yaml cannot be read"),
    "broken configuration": ({"config_yaml": b"a: [1\nb: }"}, "config.yaml cannot be read"),
    "list": ({"config_yaml": b"- 1\n- 2\n"}, "is not a configuration"),
    "text": ({"config_yaml": b"hello"}, "config.yaml"),
    "strange keys": ({"config_yaml": b"dataset: 3\n"}, "config.yaml"),
    "reference to nowhere": ({"config_yaml": b"dataset: ${nowhere}\n"}, "config.yaml"),
    "no checkpoint": ({"checkpoint_pt": None}, "checkpoint.pt is missing"),
    "truncated": ({"checkpoint_pt": checkpoint.MAGIC + b"0" * 40}, "truncated or altered"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_run_is_refused_in_one_line(trained: Path, tmp_path: Path, what: str) -> None:
    files, expected = BROKEN[what]
    with pytest.raises(UsageError, match=expected) as refusal:
        open_run(altered(trained, tmp_path, **files))
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 500


@pytest.mark.parametrize("state", [{}, 3, {"weights": {"a": 1}}, {"weights": {}}, {"weights": {"a": torch.ones(1)}}])
def test_weights_that_are_not_the_runs_are_refused(trained: Path, tmp_path: Path, state: Any) -> None:
    run = altered(trained, tmp_path)
    checkpoint.save(run / "checkpoint.pt", state)
    with pytest.raises(UsageError, match=r"checkpoint\.pt") as refusal:
        open_run(run)
    assert "\n" not in str(refusal.value)


def test_a_configuration_of_another_run_is_refused(trained: Path, tmp_path: Path) -> None:
    text = (trained / "config.yaml").read_text()
    assert "\nseed: 0\n" in text
    with pytest.raises(UsageError, match="not of the run"):
        open_run(altered(trained, tmp_path, config_yaml=text.replace("\nseed: 0\n", "\nseed: 1\n").encode()))


@pytest.mark.parametrize("words", [["dataset=cifar100"], ["regularizer=fc"], ["architecture=cnn", "regularizer=gap"]])
def test_a_run_without_ten_class_maps_is_refused(tmp_path: Path, words: list[str]) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        text = to_yaml(compose("train", words))
    (tmp_path / "config.yaml").write_text(text)
    (tmp_path / "result.json").write_text(
        json.dumps({"status": "done", "key": key(load(words)), "epochs": 1, "test_error": 9})
    )
    with pytest.raises(UsageError, match="Figure 4"):
        open_run(tmp_path)


def test_weights_of_another_network_are_refused(trained: Path, tmp_path: Path) -> None:
    run, weights = altered(trained, tmp_path), {"a": torch.ones(1)}
    checkpoint.save(run / "checkpoint.pt", {"weights": weights})
    told = read_json(run / "result.json") | {"weights_sha256": checkpoint.fingerprint(weights)}
    write_json(run / "result.json", told)
    with pytest.raises(UsageError, match="not of its network"):
        figure4(open_run(run), trained.parents[1] / "data", tmp_path)


def test_a_result_without_an_error_is_refused(trained: Path, tmp_path: Path) -> None:
    told = read_json(trained / "result.json") | {"test_error": "low"}
    with pytest.raises(UsageError, match="lacks its epochs or its error"):
        open_run(altered(trained, tmp_path, result_json=json.dumps(told).encode()))


def test_what_is_no_run_is_refused_before_anything_is_drawn(command: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(UsageError, match="no finished run"):
        open_run(tmp_path / "file")
    (tmp_path / "results" / "records").mkdir(parents=True)
    done = command("figures", "--run", "nowhere")
    assert done.returncode == 2 and not (tmp_path / "results" / "figures").exists()
    assert done.stderr.startswith("error: --run nowhere: no finished run") and done.stderr.count("\n") == 1
