"""What scripts/bench.py measures of nin_repro's own loop: the ways that it goes, its parts, several seeds at once."""

import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_arms import Arm, clock, timed
from bench_setting import NOT_HERE
from torch.nn import functional as F

from nin_repro import build
from nin_repro.cpu import bf16_instructions
from nin_repro.data.splits import Split
from nin_repro.training.capture import WARM, own_stream
from nin_repro.training.console import Console
from nin_repro.training.evaluate import evaluate


class Ours(Arm):
    """nin_repro's own `Trainer`, built and set up as a run does it, with its bookkeeping between the steps.

    Its fast mode: on a GPU bf16 and CUDA graphs, on a CPU fp32.
    """

    def words(self) -> list[str]:
        return ["precision=bf16"] if self.device.type == "cuda" else []

    def run(self, steps: int, lead: int = 1) -> tuple[float, float]:
        with own_stream(self.device):
            return super().run(steps, lead)

    def build(self, images: Any, labels: Any, test_images: Any, test_labels: Any) -> None:
        # A copy, as the training images are: a view would keep all random images in memory.
        test = np.array(test_images[: self.setting.evaluated]), test_labels[: self.setting.evaluated]
        self.set_up(Split(images, labels, *test, images, 10, "", "", "test"))

    def set_up(self, split: Split) -> None:
        console, nowhere = Console(Path(os.devnull)), Path(os.devnull)  # `WORDS` keep it from saving anything
        console.shown = math.inf  # no status lines between ours
        machine = build.machine(self.config)
        self.work = build.trainer(self.config, split, machine, console, nowhere, lambda row: None)
        self.positions: Iterator[int] = iter(())

    def step(self) -> None:
        work = self.work
        position = next(self.positions, None)
        if position is None:
            work.rate.epoch = work.progress.step // len(work.batches)
            self.positions, self.started = iter(range(work.begin_epoch(), len(work.batches))), time.monotonic()
            position = next(self.positions)
        work.step(position)
        work._between_steps(self.started, position + 1)

    def totals(self) -> list[float]:
        loss, wrong, seen = self.work.totals.tolist()
        return [loss / seen, 100 * wrong / seen]

    def stages(self) -> dict[str, float]:
        """Seconds of the parts of one step, each by itself, as a captured step has them, and of the whole."""
        work, repeats = self.work, 10 if self.device.type == "cuda" else 1
        with own_stream(self.device):
            total = clock(self.step, self.device, repeats)
            draws, parameters, first = work.network.clock, work.sgd.parameters, torch.zeros_like(work.now[1:])
            images, labels = work.batches.gather(first, work.batches.size(0), draws)
            micro = images.split(work.micro_batch or len(images))
            loss = F.cross_entropy(work.network(micro[0]), labels[: len(micro[0])])
            zeros = [torch.zeros_like(parameter) for parameter in parameters]

            def update() -> None:
                for parameter, zero in zip(parameters, zeros, strict=True):
                    parameter.grad = zero
                work.sgd.step(loss.detach())

            parts: dict[str, Callable[[], Any]] = {
                "input": lambda: work.batches.gather(first, work.batches.size(0), draws),
                "forward": lambda: [work.network(part).detach() for part in micro],  # without what it is made from
                "backward": lambda: [torch.autograd.grad(loss, parameters, retain_graph=True) for _ in micro],
                "optimizer": update,
            }
            spent = {name: timed(call, self.device, draws, repeats) for name, call in parts.items()}
        return spent | {"the whole step": total}

    def look(self) -> float:
        """Seconds of the look at whether the network is alive, which comes every hundred updates."""
        self.work.network.initialise(0, 0)  # one that died in the loops is looked at on eight times the images
        return self._warm(self.work._look)

    def evaluate(self) -> float:
        """Test images a second, without dropout."""
        return len(self.work.evaluation[1]) / self._warm(partial(evaluate, self.work.answers, *self.work.evaluation))

    def _warm(self, call: Callable[[], Any]) -> float:
        """Seconds of a call to what captures itself, once it is captured."""
        with own_stream(self.device):
            for _ in range(WARM + 1 if self.device.type == "cuda" else 0):
                call()
            return clock(call, self.device)


class OnGpu(Ours):
    """Another way that ours goes on a GPU: with other words."""

    ways: tuple[str, ...] = ()

    def words(self) -> list[str]:
        if self.device.type != "cuda":
            raise RuntimeError(NOT_HERE)
        return [*self.ways]


class OursBf16(Ours):
    """In bf16 on a CPU that has instructions for it."""

    def words(self) -> list[str]:
        if self.device.type != "cpu" or not bf16_instructions():
            raise RuntimeError(NOT_HERE)
        return ["precision=bf16"]


class OursTf32(OnGpu):
    ways = ("precision=tf32",)


class OursFp32(OnGpu):
    ways = ("precision=fp32",)


class OursEager(OnGpu):
    ways = ("precision=bf16", "cuda_graphs=false")


class OursPlain(Ours):
    """Without layers of ours."""

    def words(self) -> list[str]:
        return [*super().words(), "fused=false"]


class Seeds(OnGpu):
    """Several trainers of one recipe at the same time, in a thread each, as `together=N` has them."""

    ways: tuple[str, ...] = ("precision=bf16",)
    count = 5

    def set_up(self, split: Split) -> None:
        self.members = []
        for seed in range(self.count):
            member = Ours.__new__(Ours)
            member.device, member.setting = self.device, self.setting
            member.config = dataclasses.replace(self.config, seed=seed)
            member.set_up(split)
            self.members.append(member)

    def run(self, steps: int, lead: int = 1) -> tuple[float, float]:
        """Seconds of the group, by the steps that all of its members made."""

        def work(member: Ours, count: int) -> None:
            with own_stream(self.device):
                for _ in range(count):
                    member.step()
                member.totals()  # waits for the device

        with ThreadPoolExecutor(self.count) as pool:
            list(pool.map(work, self.members, [lead] * self.count))
            used, started = time.process_time(), time.perf_counter()
            list(pool.map(work, self.members, [steps] * self.count))
            made = steps * self.count
            return (time.perf_counter() - started) / made, (time.process_time() - used) / made

    def totals(self) -> list[float]:
        return self.members[0].totals()


class OneMnist(Seeds):
    """The network for MNIST, on images cut to its size: what it costs does not depend on what is in them."""

    ways = ("precision=bf16", "experiment=table4/nin", "dataset.preprocessing.divide=255")
    count = 1

    def build(self, images: Any, labels: Any, test_images: Any, test_labels: Any) -> None:
        cut = np.s_[:, :28, :28, :1]
        super().build(np.array(images[cut]), labels, np.array(test_images[cut]), test_labels)


class MnistSeeds(OneMnist):
    count = 8
