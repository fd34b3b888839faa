"""The benchmark's structure, fairness and comparison. No test here asserts how fast anything is."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import bench  # noqa: E402
import bench_device  # noqa: E402
import bench_ours  # noqa: E402
from bench_page import compare, entries, page, quartiles, slug  # noqa: E402

from nin_repro.files import read_json  # noqa: E402

# The three loops on the same images in the same order; weights of a size that tells the logits apart.
ALIKE: tuple[str, ...] = ("regularizer=gap", "optimizer.order=files", "dataset.augment.pad=0")
ALIKE += ("dataset.augment.flip=false", "architecture.init=he", "architecture.last_relu=false")


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the script writes at its tiniest, through the command line."""
    folder = tmp_path_factory.mktemp("benchmarks")
    words = [sys.executable, str(ROOT / "scripts/bench.py"), "--tiny", "--out", str(folder)]
    done = subprocess.run(words, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "loops and ceiling: about" in done.stdout and "written: " in done.stdout
    return next(folder.glob("*.json"))


@pytest.fixture
def found(measured: Path) -> dict[str, Any]:
    return read_json(measured)


def test_every_section_is_measured(found: dict[str, Any], measured: Path) -> None:
    assert found["failures"] == {}
    assert {"device", "commit", "dirty", "date", "versions"} <= found.keys()
    assert set(found["arms"]) >= {"usual", "good", "ours"}
    for name in ("ours_over_usual", "ours_over_good", "share_of_ceiling"):
        assert found[name].keys() == {"median", "q1", "q3", "n", "unit"} and found[name]["n"] == found["rounds"]
    for arm in found["arms"].values():
        assert arm["peak_memory_mb"]["process"] > 0 and arm["images_per_second"]["unit"] == "images/s"
    stages = {"input", "forward", "backward", "optimizer", "the whole step", "look, every 100 steps"}
    assert set(found["stages"]) == stages
    assert [*found["layers"]][:4] == ["conv1", "cccp1", "cccp2", "pool1"] and "drop2" in found["layers"]
    conv1 = found["layers"]["conv1"]  # 5x5x3 inputs, 8 maps of 32x32, 16 images; no gradient of the input
    assert conv1["forward"]["gflop"] == conv1["backward"]["gflop"] == pytest.approx(2 * 75 * 8 * 1024 * 16 / 1e9)
    cccp1 = found["layers"]["cccp1"]["forward"]  # 8 maps in, 8 out, fp32, and 8 x 8 + 8 weights
    assert cccp1["mb"] == pytest.approx(4 * (16 * 2 * 8 * 1024 + 72) / 1e6)
    assert all(entry["q1"] <= entry["median"] <= entry["q3"] for _, entry in entries(found))
    assert found["images_from"] == "random images of CIFAR-10's size"
    page = measured.with_suffix(".md").read_text()
    assert f"({measured.stem}.svg)" in page and "random images" in page and "| ours |" in page
    assert measured.with_suffix(".svg").read_text().startswith("<?xml")


def test_the_loops_compute_the_same() -> None:
    setting = bench.replace(bench.TINY, words=bench.TINY.words + ALIKE)
    seen = {}
    for name in ("usual", "good", "ours"):
        arm = bench_device.KINDS[name](setting)
        arm.step()
        seen[name] = arm.totals()
    arm.work.console.log.close()
    loss, error = seen["ours"]
    assert abs(loss - 2.302585) > 1e-3  # not the loss of logits that are all alike
    for name in ("usual", "good"):
        assert seen[name][0] == pytest.approx(loss, rel=1e-5) and seen[name][1] == error


def test_the_page_says_what_was_asked_for_and_whether_it_is_met(found: dict[str, Any]) -> None:
    found["ours_over_usual"]["median"] = 1.95
    found["commands"] = {"help": quartiles([0.19], "s"), "tables": quartiles([2.5], "s")}
    found["preprocessing"] |= {"images": 60_000, "the training images": quartiles([12.0], "s")}
    lines = page(found, "here").splitlines()
    assert "| speed over the usual loop's | 1.95 x | 1.8 | 2 | 3 | yes |" in lines
    assert (
        "| help | 0.19 s | 0.4 | 0.2 | 0.05 | the aim |" in lines
        and "| tables | 2.5 s | 2 | 0.5 |  | **no** |" in lines
    )
    assert "| whitening of the 50,000 training images | 12 s | 12 | 9 | 7 | yes |" in lines
    fewer = page(found | {"preprocessing": found["preprocessing"] | {"images": 600}}, "here")
    bare = {name: value for name, value in found.items() if name not in ("commands", "preprocessing")}
    assert "| whitening" not in page(bare, "here") and not any("slower: " in line for line in compare(found, bare))
    assert "| whitening" not in fewer and "8 seeds at once over one" not in fewer
    gpu = found | {"device": "NVIDIA H200", "mnist_8_over_mnist_1": quartiles([4.2], "x")}
    assert "| the network for MNIST, 8 seeds at once over one | 4.2 x | 2.5 | 4 |  | the aim |" in page(gpu, "there")


def test_the_page_says_what_whole_runs_take_by_its_rates(found: dict[str, Any]) -> None:
    assert "260 epochs" not in page(found, "here")  # on a CPU nobody waits for a hundred
    steps = {"ours": 0.001, "ours_5": 0.0008}
    arms = {name: found["arms"]["ours"] | {"step": quartiles([step], "s")} for name, step in steps.items()}
    gpu = found | {
        "device": "NVIDIA H200",
        "arms": arms,
        "batch": 128,
        "evaluation": quartiles([500_000.0], "images/s"),
    }
    # 260 epochs of 391 updates, and 20 ms of evaluation in each
    lines = page(gpu, "there").splitlines()
    assert "| 260 epochs with evaluation, by these rates, without start-up | 107 s | 75 | 48 | 22 | **no** |" in lines
    assert "| 100 such runs, five at a time, by these rates | 144 minutes | 90 | 60 | 32 | **no** |" in lines


def test_what_got_slower_is_named(found: dict[str, Any]) -> None:
    for _, entry in entries(found):
        entry["q1"] = entry["q3"] = entry["median"]
    assert not any("slower: " in line for line in compare(found, found))
    now = copy.deepcopy(found)
    for entry, factor in (
        (now["arms"]["good"]["step"], 2.0),
        (now["evaluation"], 0.5),
        (now["arms"]["ours"]["step"], 0.5),
    ):
        for name in ("median", "q1", "q3"):
            entry[name] *= factor
    named = [line for line in compare(found, now) if "slower: " in line]
    assert len(named) == 2 and "arms.good.step" in named[0] and "evaluation" in named[1] and "100% worse" in named[0]
    noisy = copy.deepcopy(now)  # the same medians, but so noisy that nothing follows from them
    for _, entry in entries(noisy):
        entry["q1"], entry["q3"] = entry["median"] / 3, entry["median"] * 3
    assert not any("slower: " in line for line in compare(found, noisy))
    slow = copy.deepcopy(found)  # a machine at half its speed, the project as it was
    for path, entry in entries(slow):
        factor = {"s": 2.0, "images/s": 0.5}.get(entry["unit"], 0.5 if path.startswith("ceiling.") else 1.0)
        for name in ("median", "q1", "q3"):
            entry[name] *= factor
    lines = compare(found, slow)
    assert "0.50 times its speed" in lines[1] and not any("slower: " in line for line in lines)


def test_what_is_kept_and_what_is_replaced(found: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "here.json"
    said: list[str] = []
    full = found | {"setting": "full"}
    bench.publish(full | {"file": "here"}, tmp_path, keep=False, say=said.append)
    before = path.read_bytes()
    bench.publish(full | {"file": "here", "date": "later"}, tmp_path, keep=True, say=said.append)
    assert path.read_bytes() == before and said[-1].endswith("is kept as it was")
    bench.publish(found | {"file": "here", "date": "later"}, tmp_path, keep=False, say=said.append)
    assert path.read_bytes() == before and "is of a full measurement" in said[-1]
    bench.publish(full | {"file": "here", "date": "later"}, tmp_path, keep=False, say=said.append)
    assert json.loads(path.read_text())["date"] == "later"
    for damaged in ("<<<<<<< HEAD", "[]", '{"date": "once"}'):
        path.write_text(damaged)
        bench.publish(full | {"file": "here"}, tmp_path, keep=False, say=said.append)
        assert "cannot be compared with" in said[-2] and json.loads(path.read_text())["setting"] == "full"


def test_a_place_that_takes_no_page_is_refused_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "measure", lambda setting: pytest.fail("it measures"))
    monkeypatch.setattr("sys.argv", ["bench.py", "--tiny", "--out", "/dev/null/pages"])
    assert bench.main() == 2
    assert capsys.readouterr().err.startswith(
        "error: --out /dev/null/pages: nothing can be written there (Not a directory)"
    )


def test_a_failure_is_a_line_and_not_the_end(tmp_path: Path) -> None:
    failures: dict[str, str] = {}
    damaged = tmp_path / "cifar10.npz"
    damaged.write_bytes(b"PK\3\4 not an archive")
    with bench.workers(["device", "good"], bench.replace(bench.TINY, data_dir=str(tmp_path)), failures) as pool:
        assert set(pool) == {"device"} and "damaged" in failures["good"]
        with pytest.raises(bench.Failed, match="AttributeError"):
            pool["device"]("nothing")
        assert pool["device"]("describe")["kind"] in ("cpu", "cuda")  # and goes on after it


def test_names_of_devices() -> None:
    assert slug("AMD EPYC 9554 64-Core Processor") == "amd-epyc-9554"
    assert slug("Intel(R) Xeon(R) CPU @ 2.50GHz") == "intel-xeon"
    assert slug("Intel(R) Xeon(R) CPU @ 2.50GHz (AVX-512, bf16)") == "intel-xeon-avx-512-bf16"
    assert slug("NVIDIA H200") == "nvidia-h200"
    assert quartiles([3.0, 1.0, 2.0], "s") == {"median": 2.0, "q1": 1.5, "q3": 2.5, "n": 3, "unit": "s"}


def test_seeds_at_once_make_the_steps_that_each_makes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_ours.OnGpu, "words", lambda self: [])
    several, one = bench_ours.Seeds(bench.TINY), bench_ours.Ours(bench.TINY)
    for arm in (several, one):
        seconds, _ = arm.run(2)
        assert seconds > 0
    assert [member.config.seed for member in several.members] == [0, 1, 2, 3, 4]
    assert several.totals() == one.totals() != several.members[1].totals()
    assert all(member.work.progress.step == one.work.progress.step for member in several.members)
    for arm in (one, *several.members):
        arm.work.console.log.close()
