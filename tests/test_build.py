"""What `build` makes of a configuration: which images and layers get what."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_loop import TINY, Make, images, make  # noqa: F401 - make is a fixture

from nin_repro import build
from nin_repro.config.compose import load
from nin_repro.training.console import Console


def test_the_head_has_a_warm_up_of_its_own(make: Make) -> None:  # noqa: F811
    run = make("regularizer=fc", "optimizer.schedule.warmup=[7,3,5,2]")
    found = {id(parameter): group.warmup for group in run.sgd.groups for parameter in group.parameters}
    layers = [start.layer for start in (*run.network.weighted(), *run.network.head.weighted())]
    assert [found[id(layer.weight)] for layer in layers] == [7, 7, 7, 3, 3, 3, 5, 5, 5, 2]
    short = make("regularizer=fc", "optimizer.schedule.warmup=[7,3,5]", name="short")
    assert short.sgd.groups[-1].warmup == 5


def test_the_last_training_images_are_watched(make: Make) -> None:  # noqa: F811
    run = make(count=400)  # of which 20 are tested; digits have 288 for validation
    assert run.watched is not None and len(run.watched[1]) == 288
    assert torch.equal(run.watched[1], run.batches.labels[-288:])
    assert torch.equal(run.watched[0].float(), run.batches.images[-288:].float())


def test_runs_on_fewer_of_the_same_images_have_their_own(tmp_path: Path) -> None:
    split, counts = images(), []
    for words in ([], ["budget.train_images=20"], ["budget.train_images=30"]):
        config = load([*TINY, *words])
        with Console(tmp_path / "train.log") as console:
            made = build.trainer(config, split, build.machine(config), console, tmp_path / "no.pt", lambda row: None)
        counts.append((len(made.batches.images), len(made.batches.labels), len(made.evaluation[1])))
    assert counts == [(70, 70, 20), (20, 20, 20), (30, 30, 20)]


LARGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
ALLOCATING = """
import torch
from nin_repro import build
from nin_repro.config.compose import load

build.machine(load(["experiment=quickstart", "device=cpu"]))
kept = torch.ones(64 << 18)  # 64 MiB
print(*(line.split()[1] for line in open("/proc/self/smaps_rollup") if line.startswith("AnonHugePages")))
"""


@pytest.mark.skipif(
    not LARGE_PAGES.exists() or "[never]" in LARGE_PAGES.read_text(), reason="the system has no large pages"
)
def test_large_tensors_are_in_large_pages() -> None:
    done = subprocess.run([sys.executable, "-c", ALLOCATING], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 32_000  # kB; in a process of its own, as a heap is taken once
