"""The campaign: what is missing is trained, what is there is not, and it stops and goes on anywhere."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fake_records import record, stored

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import reproduce

from nin_repro.config.compose import experiments, load
from nin_repro.config.recipe import family
from nin_repro.cpu import bf16_instructions
from nin_repro.results.tables import build
from nin_repro.tables import cells

ROOT = Path(__file__).parents[1]
SMALL = ["restarts=0", "architecture.last_relu=false", "wandb.mode=disabled"]
SHORT = ["budget.epochs=10", "budget.train_images=200"]  # as many as it takes to do better than guessing


@pytest.mark.parametrize(
    ("gpu", "instructions", "nin", "maxout"),
    [(True, False, "bf16", "bf16"), (False, True, "bf16", "fp32"), (False, False, "fp32", "fp32")],
)
def test_cells_are_trained_in_what_is_fastest(
    gpu: bool, instructions: bool, nin: str, maxout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reproduce, "gpus", lambda: ["a GPU"] * gpu)
    monkeypatch.setattr(reproduce, "bf16_instructions", lambda: instructions)
    for name, precision in (("table1/nin", nin), ("table1/maxout", maxout)):
        assert reproduce.overrides(name, ["threads=1"]) == [f"experiment={name}", "threads=1", f"precision={precision}"]
        assert reproduce.overrides(name, ["precision=tf32"]) == [f"experiment={name}", "precision=tf32"]


@pytest.mark.parametrize(("living", "seeds", "apart"), [(2, [0, 1, 2], "2 in bf16"), (3, [], "")])
def test_runs_in_another_precision_count_if_they_are_enough(
    living: int, seeds: list[int], apart: str, tmp_path: Path
) -> None:
    key = family(load(["experiment=table1/nin", "precision=bf16"]))
    runs = stored(tmp_path, *(record(seed=seed, family=key) for seed in range(living)))
    (cell,) = reproduce.cells(runs, ["table1/nin"], ["precision=fp32"], 3)
    assert (cell.seeds, cell.apart) == (seeds, apart)


@pytest.mark.parametrize(
    ("counts", "precision", "seeds", "apart"),
    [
        ({"fp32": 3}, "fp32", [3, 4], ""),
        ({"fp32": 3, "bf16": 5}, "fp32", [3, 4], "5 in bf16"),  # the tables show fp32 as long as it has enough
        ({"fp32": 2, "bf16": 1}, "bf16", [1, 2, 3, 4], "2 in fp32"),
        ({"fp32": 2, "bf16": 4}, "bf16", [4], "2 in fp32"),
        ({"fp32": 2, "bf16": 5}, "bf16", [], ""),
        ({}, "bf16", [0, 1, 2, 3, 4], ""),
    ],
)
def test_what_is_trained_is_what_the_tables_will_show(
    counts: dict[str, int], precision: str, seeds: list[int], apart: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(reproduce, "gpus", lambda: ["a GPU"])
    keys = {name: family(load(["experiment=table1/nin", f"precision={name}"])) for name in ("fp32", "bf16")}
    done = [(name, seed) for name, count in counts.items() for seed in range(count)]
    runs = [record(seed=seed, family=keys[name]) for name, seed in done]
    (cell,) = reproduce.cells(stored(tmp_path / "some", *runs), ["table1/nin"], ["threads=1"], 5)
    assert (cell.config.precision, cell.seeds, cell.apart) == (precision, seeds, apart)
    assert cell.said(["threads=1"]) == ["experiment=table1/nin", "threads=1", f"precision={precision}"]
    runs += [record(seed=seed, family=keys[precision]) for seed in seeds]
    report = build(stored(tmp_path / "all", *runs), cells({"table1/nin": load(["experiment=table1/nin"])}))
    filled = [one for table in report.tables for row in table.rows for one in row.results if one.records]
    assert [one.stats.n for one in filled] == [5]


def test_a_cell_of_which_no_run_lives_costs_what_its_runs_took_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = family(load(["experiment=table2/nin_released", "precision=bf16"]))
    dead = [record(seed=seed, family=key, status="dead") | {"seconds": 600.0 + seed} for seed in range(3)]
    todo = reproduce.cells(stored(tmp_path, *dead), ["table2/nin_released"], ["precision=bf16"], 5)
    reproduce.show_plan(todo, {"bf16": 1.0}, "2 x a CPU", 2)
    machine, _, row = capsys.readouterr().out.splitlines()
    assert machine.startswith("2 x a CPU, 2 at a time.")
    assert row.split()[1:6] == ["0/5", "3,4,5,6,7", "bf16", "10:01", "50:05"] and row.endswith("(none of 3 runs lives)")


def test_a_run_takes_as_long_as_the_benchmark_says() -> None:
    pages = [json.loads(path.read_text()) for path in (ROOT / "results/benchmarks").glob("cpu-*.json")]
    measured = [
        (page, *way) for page in pages for way in (("fp32", "ours"), ("bf16", "ours_bf16")) if way[1] in page["arms"]
    ]
    assert {precision for _, precision, _ in measured} == {"fp32", "bf16"}
    for page, precision, arm in measured:
        assert reproduce.measured_paces("64 x another CPU") == {}
        paces = reproduce.measured_paces(page["device"])
        told = [f"precision={precision}"]
        (trained,), (whole,) = (
            reproduce.cells([], ["table1/nin"], [*told, *more], 5) for more in (["eval_every=0"], [])
        )
        speed = page["arms"][arm]["images_per_second"]["median"]
        assert trained.seconds(paces) == pytest.approx(260 * 50_000 / speed)
        # Of 10,000 images after each epoch there is no backward pass, which takes twice as long as a forward one.
        assert whole.seconds(paces) == pytest.approx(260 * (50_000 + 10_000 / 3) / speed, rel=0.01)


def test_every_cell_of_the_tables_is_in_the_campaign() -> None:
    names = [name for stage in reproduce.STAGES.values() for name in stage]
    configs = {name: load([f"experiment={name}"]) for name in experiments()}
    asked = {family(load([f"experiment={name}"])) for name in names if " " not in name}
    cells_of_tables = build([], cells(configs), []).empty
    assert len(cells_of_tables) > 25 and {cell.family for cell in cells_of_tables} <= asked


def give(
    place: Path, *words: str, last: str = "record=always", environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    (place / "results/records").mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(ROOT / "scripts" / "reproduce.py"), "--only", "quickstart", last, "--seeds", "2"]
    command += [*words, *SMALL]  # words between options and after them
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | (environment or {})
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=120)


def records(place: Path) -> list[int]:
    return sorted(json.loads(path.read_text())["seed"] for path in place.glob("results/records/quickstart/*.json"))


def test_a_campaign_trains_what_is_missing_and_then_has_nothing_to_do(tmp_path: Path) -> None:
    plan = give(tmp_path, "--plan", *SHORT)
    assert plan.returncode == 0 and "quickstart  0/2" in plan.stdout and not (tmp_path / "runs").exists()
    first = give(tmp_path, "--at-once", "2", *SHORT)
    assert first.returncode == 0, first.stdout + first.stderr
    assert records(tmp_path) == [0, 1] and "2 runs in 1 cells to go" in first.stdout
    (gone,) = [path for path in tmp_path.rglob("records/*/*.json") if json.loads(path.read_text())["seed"] == 1]
    gone.unlink()
    again = give(tmp_path, "--at-once", "1", *SHORT)
    assert "seed=1 " in again.stdout and "already done" in again.stdout and records(tmp_path) == [0, 1]
    last = give(tmp_path, *SHORT)
    assert last.returncode == 0 and "2/2" in last.stdout and "nin_repro.train" not in last.stdout


def test_a_changed_experiment_is_a_cell_of_its_own(tmp_path: Path) -> None:
    words = ["--only", "quickstart optimizer.weight_decay=0.01", "--seeds", "1", *SHORT]
    plan = give(tmp_path, "--plan", *words)
    assert "quickstart optimizer.weight_decay=0.01  0/1" in plan.stdout
    done = give(tmp_path, "--at-once", "1", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = tmp_path.glob("results/records/quickstart/*.json")
    assert json.loads(path.read_text())["recipe"]["optimizer"]["weight_decay"] == 0.01
    assert "1/1" in give(tmp_path, "--plan", *words).stdout
    used, other = ("bf16", "fp32") if bf16_instructions() else ("fp32", "bf16")
    assert json.loads(path.read_text())["recipe"].get("precision", "fp32") == used
    assert "1/1" in give(tmp_path, "--plan", *words, f"precision={other}").stdout  # so a GPU does not do it again
    more = give(tmp_path, "--plan", "--seeds", "2", *words[:2], *SHORT, f"precision={other}").stdout
    assert "0/2     0,1" in more  # precisions are not mixed in a cell


@pytest.mark.parametrize(
    "word, way_out", [("experiment=table4/nin", "--only"), ("seed=1", "--seeds"), ("nin", "key=value")]
)
def test_words_that_would_make_the_plan_untrue_are_refused(word: str, way_out: str, tmp_path: Path) -> None:
    done = give(tmp_path, "--plan", word)
    assert done.returncode == 2 and way_out in done.stderr and done.stderr.count("\n") == 1 and done.stdout == ""


def test_a_cell_that_no_seed_may_fill_any_more_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = family(load(reproduce.overrides("quickstart", SMALL)))
    stored(tmp_path, *(record("quickstart", seed, 90.0, status="dead", family=recipe) for seed in range(4)))
    words = ["--only", "quickstart", "--seeds", "2", f"records_dir={tmp_path}", *SMALL]
    monkeypatch.setattr(sys, "argv", ["reproduce", *words])
    with pytest.raises(SystemExit, match="1"):
        reproduce.main()
    assert "quickstart: not completed: 0 of 2 runs live, and no more than 4 seeds are tried" in capsys.readouterr().out


def test_when_the_time_is_up_runs_are_saved_and_no_process_is_left(tmp_path: Path) -> None:
    started = time.monotonic()
    stopped = give(tmp_path, "--at-once", "1", "--minutes", "0.25", "optimizer.schedule.epochs=9999", "eval_every=0")
    assert "the time is up" in stopped.stdout and stopped.returncode == 0 and time.monotonic() - started < 60
    (status,) = tmp_path.glob("runs/*/status.json")
    assert json.loads(status.read_text())["state"] == "interrupted" and not records(tmp_path)


def test_runs_that_leave_no_record_are_not_trained_again_and_again(tmp_path: Path) -> None:
    done = give(tmp_path, "--at-once", "1", *SHORT, last="record=never")
    assert done.returncode == 1 and "left no record" in done.stdout


def test_a_data_set_that_cannot_be_had_is_tried_once_and_its_cells_are_named(tmp_path: Path) -> None:
    names = ["quickstart", "quickstart optimizer.weight_decay=0.01 architecture.blocks.mlpconv1.widths=[8,8,8]"]
    done = give(tmp_path, "--only", ",".join(names), "data_dir=/dev/null", *SHORT)
    assert done.returncode == 1 and done.stdout.count("nin_repro.prepare") == done.stderr.count("error: ") == 1
    assert "nin_repro.train" not in done.stdout
    for name in names:
        assert f"{name}: not completed: no /dev/null/digits.npz" in done.stdout


def test_what_failed_is_told_when_the_time_is_up_too(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now, codes = [0.0], iter([2, None])

    def run(words: list[str], deadline: float) -> int | None:
        code = next(codes)
        now[0] = deadline if code is None else now[0]
        return code

    monkeypatch.setattr(reproduce, "run", run)
    monkeypatch.setattr(reproduce, "listen", lambda: None)
    monkeypatch.setattr(reproduce, "time", SimpleNamespace(monotonic=lambda: now[0]))
    names = "quickstart,quickstart optimizer.weight_decay=0.01"
    monkeypatch.setattr("sys.argv", ["", "--only", names, "--minutes", "1", data, f"records_dir={tmp_path}"])
    with pytest.raises(SystemExit) as ended:
        reproduce.main()
    said = capsys.readouterr().out
    assert ended.value.code == 1 and "the time is up" in said
    assert "quickstart: not completed: exit code 2" in said and said.count("not completed") == 1


REFUSED = [["no.such=1"], ["--only", "table1/nothing"], ["records_dir=nowhere"], ["--minutes", "0"]]
REFUSED += [["--only", ""], ["--only", "table1/nin,"], ["--minutes", "nan"], ["--seeds", "0"], ["--at-once", "-3"]]


def test_a_record_that_cannot_be_used_is_no_reason_to_train_it_again(tmp_path: Path) -> None:
    place = tmp_path / "results/records/quickstart"
    place.mkdir(parents=True)
    (place / "cut.json").write_text('{"format": 1')
    refused = give(tmp_path, "--plan")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1 and "records check" in refused.stderr


def test_a_page_of_the_benchmark_that_is_damaged_is_not_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "results/benchmarks").mkdir(parents=True)
    (tmp_path / "results/benchmarks/one.json").write_text("<<<<<<< HEAD")
    monkeypatch.setattr(reproduce, "ROOT", tmp_path)
    assert reproduce.measured_paces("a CPU") == {} and "one.json is not read" in capsys.readouterr().err


@pytest.mark.parametrize("words", REFUSED, ids=" ".join)
def test_what_makes_no_sense_is_refused_in_one_line(words: list[str], tmp_path: Path) -> None:
    refused = give(tmp_path, *words)
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1 and "error:" in refused.stderr
    assert refused.stdout == ""


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_nothing_is_trained_on_a_gpu_that_fails_its_tests(tmp_path: Path) -> None:
    """Here it fails all of them, because it is not there."""
    claimed = {"CUDA_VISIBLE_DEVICES": "0", "PYTEST_ADDOPTS": "-n0 -x"}
    refused = give(tmp_path, *SHORT, environment=claimed)
    assert refused.returncode == 2 and "first on a GPU: python -m pytest --gpu" in refused.stdout
    assert "failed, see above: nothing is trained" in refused.stderr and not (tmp_path / "runs").exists()
