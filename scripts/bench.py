"""`python scripts/bench.py` measures this machine: three training loops side by side, the ceiling, the parts.

The loop a user would write, a good loop, and nin_repro's, with the same network, batches and work, take turns; so a
machine that others disturb disturbs all three alike. Results go to results/benchmarks, and are compared with what is
there first. Nothing else should run on the machine.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench_setting import NOT_HERE, Setting
from bench_workers import Failed, Worker, workers

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # this checkout, whichever is installed

from bench_page import PAIRS, Entry, chart, compare, page, quartiles, slug  # noqa: E402

from nin_repro.command import fail, given_place  # noqa: E402
from nin_repro.config.compose import load  # noqa: E402
from nin_repro.files import UsageError, atomic, read_json, require_place, write_json  # noqa: E402
from nin_repro.models.spec import layers, training_multiply_adds  # noqa: E402
from nin_repro.processes import gpus  # noqa: E402
from nin_repro.results.records import machine  # noqa: E402
from nin_repro.training.environment import PACKED, environment  # noqa: E402
from nin_repro.words import duration  # noqa: E402

FULL = Setting()
QUICK = replace(
    FULL, name="quick", images=4_992, evaluated=500, rounds=3, seconds=0.0, matmul=1_024, repeats=1, whitened=6_000
)
TINY_WORDS = (
    *(f"architecture.blocks.mlpconv{number}.widths=[8,8,{last}]" for number, last in ((1, 8), (2, 8), (3, "classes"))),
    "optimizer.batch_size=16",
)
TINY = replace(
    QUICK,
    words=FULL.words + TINY_WORDS,
    name="tiny",
    images=64,
    evaluated=32,
    matmul=64,
    copied=1,
    whitened=600,
    side=8,
    commands=("refused override",),
    threads=1,
    imported=("torchvision",),  # so that two of the loops need not import it
)
EPOCH = 50_000  # images
MOST = FULL.images // 128  # steps in a round: those of an epoch, with what comes once in one
# Other ways that ours goes; each knows whether this machine is one for it.
WAYS = ("ours_bf16", "ours_eager", "ours_plain", "ours_tf32", "ours_fp32", "ours_5", "mnist_1", "mnist_8")


@dataclass
class Progress:
    """What is measured now, and how long the rest takes if it goes on as it went."""

    left: dict[str, float]  # what each section is expected to take, in seconds
    expected: float = 0.0
    began: float = field(default_factory=time.monotonic)

    @contextmanager
    def section(self, name: str, failures: dict[str, str]) -> Iterator[None]:
        """Announce a section. If it fails, a line in `failures` is all that comes of it."""
        self._say(name, 0.0)
        try:
            yield
        except (Failed, OSError, subprocess.SubprocessError) as error:
            failures[name] = " ".join(str(error).split())
            print(f"  failed: {failures[name]}", flush=True)
        self.expected += self.left.pop(name)

    def turn(self, name: str, done: int, count: int) -> None:
        """Say that so many of the turns of a section are done."""
        self._say(f"{name}, turn {done} of {count}", self.left[name] * done / count)

    def _say(self, what: str, done: float) -> None:
        spent = self.expected + done
        pace = (time.monotonic() - self.began) / spent if spent else 1.0
        left = duration(pace * (sum(self.left.values()) - done))
        print(f"[{time.strftime('%H:%M:%S')}] {what}: about {left} left", flush=True)


def expectations(setting: Setting) -> dict[str, float]:
    """Seconds of the sections on two cores; only their proportions matter after the first."""
    turn = 3 * (max(setting.seconds, 1.2) + 1.2) + 1
    return {
        "start": 12,
        "loops and ceiling": setting.rounds * turn,
        "stages and evaluation": setting.rounds * 1.2 + 5 * setting.evaluated / 400,
        "layers": setting.rounds * 1.5,
        "commands": setting.repeats * 3.5 * len(setting.commands),
        "preprocessing": min(3, setting.repeats) * (6 + setting.whitened / 2_200),
    }


# --- what is measured -----------------------------------------------------------------------------------------------


def measure(setting: Setting) -> dict[str, Any]:
    """All sections, one after another; what fails is a line under `failures`."""
    failures: dict[str, str] = {}
    found: dict[str, Any] = {}
    progress = Progress(expectations(setting))
    load_before = os.getloadavg()[0]
    with ExitStack() as stack:
        with progress.section("start", failures):
            pool = stack.enter_context(workers(["device", "usual", "good", "ours", *WAYS], setting, failures))
            device = pool["device"]("describe") if "device" in pool else {}
            for name in [name for name, why in failures.items() if NOT_HERE in why]:
                del failures[name]
        with progress.section("loops and ceiling", failures):
            found |= _loops(setting, pool, failures, progress)
        if not found:
            raise UsageError(f"nothing could be measured: {'; '.join(map(': '.join, failures.items()))}")
        with progress.section("stages and evaluation", failures):
            found |= _inside_ours(setting, pool["ours"])
        with progress.section("layers", failures):
            found["layers"] = _layers(setting, pool["device"], found["ceiling"])
    if setting.commands:
        with progress.section("commands", failures):
            found["commands"] = _commands(setting)
    if setting.whitened:
        with progress.section("preprocessing", failures):
            found["preprocessing"] = _preprocessing(setting)
    return _about(setting, device, load_before) | found | {"failures": failures}


def _about(setting: Setting, device: dict[str, Any], load_before: float) -> dict[str, Any]:
    """Where, when and of what this is."""
    about = environment(device["words"], device["threads"])
    changed = b""
    if about["commit"] != "unknown" and not (ROOT / PACKED).exists():  # nor may what measures differ from the commit
        changed = subprocess.run(["git", "status", "--porcelain", "scripts"], cwd=ROOT, capture_output=True).stdout
    file = f"cpu-{slug(about['processor'])}-{os.cpu_count()}" if device["kind"] == "cpu" else slug(device["words"])
    return {
        "format": 1,
        "device": machine(about),
        "file": file,
        "setting": setting.name,
        "images_from": "CIFAR-10" if setting.data_dir else "random images of CIFAR-10's size",
        "commit": about["commit"],
        "dirty": about["dirty"] or bool(changed),
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "load_before": round(load_before, 2),
        "versions": about["versions"] | {"python": about["python"]},
        "threads": device["threads"],
        "processor": about["processor"],
    }


def _loops(setting: Setting, pool: dict[str, Worker], failures: dict[str, str], progress: Progress) -> dict[str, Any]:
    """The arms and the ceiling in turn, `rounds` times; the order moves on by one each time."""
    config = load(setting.words)
    batch = config.optimizer.batch_size
    flops = 2 * batch * training_multiply_adds(layers(config.dataset, config.architecture, config.regularizer))
    steps: dict[str, int] = {}
    seconds: dict[str, list[float]] = {}
    used: dict[str, list[float]] = {}
    ceilings: list[dict[str, float]] = []
    if missing := {"device", "ours"} - set(pool):
        raise Failed(f"no {' and no '.join(sorted(missing))}")
    arms = [name for name in pool if name != "device"]

    def take(name: str, count: int) -> tuple[float, float] | None:
        try:
            return pool[name]("run", count)
        except Failed as failure:
            if name == "ours":
                raise
            failures[name] = str(failure)
            arms.remove(name)
            return None

    for name in arms * 2:  # twice: what comes first may be compiled, searched for or captured
        if name in arms and (first := take(name, steps.get(name, 1))):
            steps[name], seconds[name], used[name] = max(1, min(MOST, round(setting.seconds / first[0]))), [], []
    for turn in range(setting.rounds):
        ceilings.append(pool["device"]("ceiling"))
        for name in arms[turn % len(arms) :] + arms[: turn % len(arms)]:
            if result := take(name, steps[name]):
                seconds[name].append(result[0])
                used[name].append(result[1])
        progress.turn("loops and ceiling", turn + 1, setting.rounds)
    ceiling = {name: quartiles([c[name] for c in ceilings], "GFLOP/s") for name in ceilings[0]}
    ceiling["copy"]["unit"] = "GB/s"
    best = max((name for name in ceiling if name != "copy"), key=lambda name: ceiling[name]["median"])
    found: dict[str, Any] = {"batch": batch, "rounds": setting.rounds, "arms": {}}
    for name in arms:
        peak = {kind: round(mb) for kind, mb in pool[name]("memory").items() if mb == mb}
        loss, error = pool[name]("totals")
        found["arms"][name] = {
            "images_per_second": quartiles([batch / s for s in seconds[name]], "images/s"),
            "step": quartiles(seconds[name], "s"),
            "cpu_seconds_of_a_step": quartiles(used[name], "s"),
            "steps_in_a_round": steps[name],
            "peak_memory_mb": peak,
            "loss": loss,
            "error": error,
        }
    for one, other in PAIRS:
        if {one, other} <= set(arms):
            pairs = zip(seconds[other], seconds[one], strict=True)
            found[f"{one}_over_{other}"] = quartiles([theirs / mine for theirs, mine in pairs], "x")
    shares = [flops / 1e9 / s / c[best] for s, c in zip(seconds["ours"], ceilings, strict=True)]
    found |= {"ceiling": ceiling, "ceiling_is": best, "share_of_ceiling": quartiles(shares, "share")}
    found["epoch"] = {
        "images": EPOCH,
        "tflop": round(flops / batch * EPOCH / 1e12, 2),
        "floor_seconds": round(flops / batch * EPOCH / 1e9 / ceiling[best]["median"], 2),
        "seconds": round(EPOCH / batch * found["arms"]["ours"]["step"]["median"], 2),
    }
    return found


def _inside_ours(setting: Setting, ours: Worker) -> dict[str, Any]:
    """Stages of a step, the look at the network's health, and evaluation."""
    stages = [ours("stages") for _ in range(setting.rounds)]
    looks = [ours("look") for _ in range(min(5, setting.rounds))]
    images = [ours("evaluate") for _ in range(min(5, setting.rounds))]
    found = {name: quartiles([each[name] for each in stages], "s") for name in stages[0]}
    found["look, every 100 steps"] = quartiles(looks, "s")
    return {"stages": found, "evaluation": quartiles(images, "images/s")}


def _layers(setting: Setting, device: Worker, ceiling: dict[str, Entry]) -> dict[str, Any]:
    """Each layer's seconds beside what the ceilings allow: the larger of computing and moving."""
    best = max(entry["median"] for name, entry in ceiling.items() if name != "copy")
    device("layers")
    samples, work = [device("layers") for _ in range(setting.rounds)], device("work")
    found = {}
    for name, (flops, moved) in work.items():
        row: dict[str, Any] = {}
        for i, way in enumerate(("forward", "backward")):
            least = max(flops[i] / 1e9 / best, moved[i] / 1e9 / ceiling["copy"]["median"])
            measured = quartiles([sample[name][i] for sample in samples], "s")
            row[way] = {"seconds": measured, "gflop": flops[i] / 1e9, "mb": moved[i] / 1e6, "roofline_seconds": least}
            row[way]["share"] = round(least / measured["median"], 4)
        found[name] = row
    return found


def _commands(setting: Setting) -> dict[str, Entry]:
    """Whole processes, shell to exit: in turn, so that a slow minute meets all."""
    python = [sys.executable, "-m"]
    seconds: dict[str, list[float]] = {name: [] for name in setting.commands}
    with tempfile.TemporaryDirectory(prefix="bench") as text:
        folder = Path(text)
        if (ROOT / "results/records").exists():
            shutil.copytree(ROOT / "results/records", folder / "results/records")
        smoke = [*python, "nin_repro.train", "experiment=quickstart", "budget=smoke", "wandb.mode=disabled"]
        words = {
            "help": [*python, "nin_repro.train", "--help"],
            "refused override": [*python, "nin_repro.train", "experiment=table1/nin", "optimizer.learning_rate=1"],
            "tables": [*python, "nin_repro.tables"],
        }
        if "smoke run" in setting.commands:  # the data set is made before; smoke runs are on the digits
            _shell([*python, "nin_repro.prepare", "experiment=quickstart"], folder)
        for turn in range(setting.repeats):
            words["smoke run"] = words["already done"] = [*smoke, f"runs_dir=runs{turn}"]
            for name in setting.commands:
                started = time.perf_counter()
                _shell(words[name], folder, expected=2 if name == "refused override" else 0)
                seconds[name].append(time.perf_counter() - started)
    return {name: quartiles(values, "s") for name, values in seconds.items()}


def _shell(words: list[str], folder: Path, expected: int = 0) -> None:
    path = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=folder, env=path, capture_output=True, text=True)
    if done.returncode != expected:
        raise Failed(f"{' '.join(words[1:])} ended with {done.returncode}: {done.stderr[-200:]}")


def _preprocessing(setting: Setting) -> dict[str, Any]:
    """GCN and ZCA with an empty cache and from it, each time in a fresh process.

    The training images alone, which is what others measure, and with the test images, which is what a run needs.
    """
    found: dict[str, Any] = {"images": setting.whitened}
    failed: dict[str, str] = {}
    samples: dict[str, list[dict[str, float]]] = {}
    for _ in range(min(3, setting.repeats)):
        with tempfile.TemporaryDirectory(prefix="bench") as folder:
            for name in ("the training images", "with the test images", "from cache"):
                whole = name != "the training images"
                with workers(["preparation"], setting, failed) as pool:
                    if failed:
                        raise Failed(failed["preparation"])
                    samples.setdefault(name, []).append(pool["preparation"]("prepare", f"{folder}/{whole}", whole))
    for name, values in samples.items():
        found[name] = quartiles([value["seconds"] for value in values], "s")
        found[f"{name}, peak over the raw images"] = quartiles([value["peak"] for value in values], "MB")
    return found


# --- the command ----------------------------------------------------------------------------------------------------


def settings(words: argparse.Namespace) -> Setting:
    """How much is measured, and on which images."""
    if words.tiny:
        return TINY
    setting = QUICK if words.quick else FULL
    if gpus():  # a single step of it says nothing
        setting = replace(setting, images=FULL.images, evaluated=10_000, seconds=max(setting.seconds, 0.3))
        if words.quick:  # what it has no part in takes half of the time
            setting = replace(setting, commands=(), whitened=0)
    if (words.data_dir / "cifar10.npz").exists():
        return replace(setting, data_dir=str(words.data_dir))
    print(f"no {words.data_dir / 'cifar10.npz'}: random images of that size instead, which cost the same time")
    return setting


def publish(found: dict[str, Any], folder: Path, keep: bool, say: Callable[[str], None] = print) -> None:
    """Compare with the file of this device, then replace it, its page and its chart, unless told to keep them."""
    path = folder / f"{found.pop('file')}.json"
    before = None
    try:
        before = read_json(path)
        for line in compare(before, found):
            say(line)
    except FileNotFoundError:
        pass
    except (KeyError, TypeError, ValueError) as error:
        say(f"{path} cannot be compared with ({type(error).__name__}: {error})")
    if keep:
        say(f"{path} is kept as it was")
    elif before is not None and before.get("setting") == "full" and found["setting"] != "full":
        say(f"{path} is of a full measurement, and is kept: this was a {found['setting']} one")
    else:
        write_json(path, found)
        with atomic(path.with_suffix(".md")) as file:
            file.write(page(found, path.stem))
        chart(found, path.with_suffix(".svg"))
        say(f"written: {path}, {path.with_suffix('.md').name}, {path.with_suffix('.svg').name}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="about a minute; never replaces a full measurement")
    parser.add_argument("--keep", action="store_true", help="compare with the file that is there, and leave it")
    parser.add_argument("--data-dir", type=given_place, default=ROOT / "data", help="where cifar10.npz is (data)")
    parser.add_argument("--out", type=given_place, default=ROOT / "results/benchmarks", help="(results/benchmarks)")
    parser.add_argument("--tiny", action="store_true", help=argparse.SUPPRESS)  # for tests: every section in seconds
    words = parser.parse_args()
    started = time.monotonic()
    try:
        if not words.keep:
            require_place(words.out)
        found = measure(settings(words))
    except UsageError as error:
        return fail(error)
    print(f"measured in {duration(time.monotonic() - started)}: {found['device']}")
    for name in ("ours_over_usual", "ours_over_good", "share_of_ceiling"):
        if name in found:
            entry = found[name]
            print(f"  {name:17} {entry['median']:.2f} ({entry['q1']:.2f} to {entry['q3']:.2f}, n = {entry['n']})")
    for name, line in found["failures"].items():
        print(f"  not measured: {name}: {line}")
    publish(found, words.out, words.keep)
    return 0


if __name__ == "__main__":
    sys.exit(main())
