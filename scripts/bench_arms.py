"""The training loops that scripts/bench.py measures beside ours, which is in `bench_ours`.

Each is a class that lives in a process of its own and answers calls there. So the peak of its memory is its own, and
what one sets for its whole process (heap, threads, precision) does not reach the others. `bench_device` has the rest.
"""

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # this checkout, whichever is installed

from bench_setting import Setting  # noqa: E402

from nin_repro import build  # noqa: E402
from nin_repro.config.compose import load  # noqa: E402
from nin_repro.cpu import cores  # noqa: E402
from nin_repro.data import archive  # noqa: E402
from nin_repro.models.spec import dropped, relu_ends, widths  # noqa: E402
from nin_repro.rng import Clock  # noqa: E402
from nin_repro.training.capture import WARM, Replay, cuda_graph  # noqa: E402

MB = 1e6


def memory(name: str) -> float:
    """VmRSS or VmHWM (its peak) of this process in MB; NaN where there is no /proc."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024 / MB
    except OSError:
        pass
    return math.nan


def pictures(setting: Setting) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training images uint8 [N, 32, 32, 3] and labels int64 [N], test images and labels: CIFAR-10 or random ones."""

    if setting.data_dir is not None:
        found = archive.load("cifar10", Path(setting.data_dir), ("train", "test"))
        return found.images["train"], found.labels["train"], found.images["test"], found.labels["test"]
    draw = np.random.default_rng(0)
    images, labels = draw.integers(0, 256, (60_000, 32, 32, 3), np.uint8), draw.integers(0, 10, 60_000)
    return images[:50_000], labels[:50_000], images[50_000:], labels[50_000:]


# --- the three loops ------------------------------------------------------------------------------------------------


class Arm:
    """A training loop. `step` makes one whole update; what it adds up is read by `totals`."""

    def __init__(self, setting: Setting) -> None:

        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.config, self.setting = load(replaced(setting.words, self.words())), setting
        torch.manual_seed(0)
        torch.set_num_threads(setting.threads or cores())  # whatever OMP_NUM_THREADS says
        images, labels, *test = pictures(setting)
        self.build(np.array(images[: setting.images]), labels[: setting.images], *test)

    def words(self) -> list[str]:
        """What this arm has of the configuration by itself."""
        return []

    def build(self, images: Any, labels: Any, test_images: Any, test_labels: Any) -> None:
        raise NotImplementedError

    def step(self) -> None:
        raise NotImplementedError

    def totals(self) -> list[float]:
        """Mean loss and error (percent) of all images since the start."""
        raise NotImplementedError

    def run(self, steps: int, lead: int = 1) -> tuple[float, float]:
        """Seconds a step on the clock, and of this process on all cores. The first `lead` steps are not timed."""
        for _ in range(lead):
            self.step()
        spent: list[float] = []
        return clock(self.step, self.device, steps, spent), spent[0]

    def memory(self) -> dict[str, float]:
        found = {"process": memory("VmHWM")}
        if self.device.type == "cuda":
            found["gpu"] = torch.cuda.max_memory_allocated() / MB
        return found


def replaced(words: Iterable[str], others: Iterable[str]) -> list[str]:
    """Words of a command line, with others in the place of those that have the same key."""
    return [*({word.partition("=")[0]: word for word in [*words, *others]}).values()]


def clock(call: Callable[[], Any], device: Any, repeats: int = 1, cpu: list[float] | None = None) -> float:
    """Seconds of one call, the device's work included; `cpu` gets the seconds of this process on all cores."""

    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    started, used = time.perf_counter(), time.process_time()
    for _ in range(repeats):
        call()
    wait()
    if cpu is not None:
        cpu.append((time.process_time() - used) / repeats)
    return (time.perf_counter() - started) / repeats


def timed(call: Callable[[], Any], device: Any, draws: Clock, repeats: int = 1) -> float:
    """Seconds of one call without what it takes to launch it: on a GPU captured, on the current stream.

    Raises:
        RuntimeError: it cannot be captured.
    """

    def body() -> None:
        for _ in range(repeats):
            call()

    if device.type != "cuda":
        return clock(body, device) / repeats

    def refused(why: str) -> None:
        raise RuntimeError(f"not captured: {why}")

    replay = Replay(body, cuda_graph, draws, refused)
    for _ in range(WARM + 1):
        replay()
    return clock(replay, device) / repeats


def plain_network(config: Any) -> Any:
    """The network in torch's own layers, as anyone would write it, with the weights that ours starts from."""

    blocks, channels = config.architecture.blocks, 3
    steps: list[nn.Module] = []
    for number, block in enumerate(blocks.values(), start=1):
        maps = widths(block.widths, 10)
        for i, width in enumerate(maps):
            steps.append(nn.Conv2d(channels, width, *((block.kernel, block.stride, block.pad) if i == 0 else (1,))))
            if i < len(maps) - 1 or relu_ends(config.architecture, number):
                steps.append(nn.ReLU(inplace=True))
            channels = width
        if block.pool != "none":
            pool = nn.MaxPool2d if block.pool == "max" else nn.AvgPool2d
            steps.append(pool(block.pool_size, block.pool_stride, ceil_mode=block.pool_ceil))
        if number in dropped(len(blocks), config.regularizer):
            steps.append(nn.Dropout(config.regularizer.dropout))
    network = nn.Sequential(*steps, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    ours = build.network(config)
    ours.initialise(config.seed, 0)
    mine = [layer for layer in network if isinstance(layer, nn.Conv2d)]
    for layer, source in zip(mine, ours.convolutions(), strict=True):  # type: ignore[operator]
        layer.load_state_dict(source.state_dict())
    return network


class Pictures:
    """A torch Dataset of PIL images, transformed one by one."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, transform: Callable[[Any], Any]) -> None:
        self.images, self.labels, self.transform = images, labels.tolist(), transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.images[i])), self.labels[i]


def channel_mean(images: np.ndarray) -> np.ndarray:
    return images.reshape(-1, 3).mean(axis=0, dtype=np.float64) / 255


class Usual(Arm):
    """The loop of tutorials: DataLoader over PIL images, torchvision's augmentation, fp32 NCHW, `.item()` each step.

    torch's defaults stand, on a GPU that of TF32 in convolutions too. On a CPU the loader works in the process itself:
    with others beside it, it is slower on two cores.
    """

    def build(self, images: Any, labels: Any, *_: Any) -> None:
        from torchvision import transforms

        augment, sgd, gpu = self.config.dataset.augment, self.config.optimizer, self.device.type == "cuda"
        crop = [transforms.RandomCrop(32, padding=augment.pad)] * (augment.pad > 0)
        flip = [transforms.RandomHorizontalFlip()] * augment.flip
        scale = [transforms.ToTensor(), transforms.Normalize(channel_mean(images).tolist(), (1, 1, 1))]
        workers = min(4, cores()) if gpu else 0
        loader: Any = DataLoader(
            Pictures(images, labels, transforms.Compose(crop + flip + scale)),  # type: ignore[arg-type]
            sgd.batch_size,
            shuffle=sgd.order == "shuffled",
            num_workers=workers,
            pin_memory=gpu,
            persistent_workers=workers > 0,
        )
        self.batches = (batch for _ in iter(int, 1) for batch in loader)
        self.network = plain_network(self.config).to(self.device)
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), sgd.lr, momentum=sgd.momentum, weight_decay=sgd.weight_decay
        )
        self.ahead = 2 * workers  # batches that are ready when a round begins
        self.loss, self.wrong, self.seen = 0.0, 0, 0

    def run(self, steps: int, lead: int = 1) -> tuple[float, float]:
        return super().run(steps, lead + self.ahead)

    def step(self) -> None:
        images, labels = next(self.batches)
        images, labels = images.to(self.device), labels.to(self.device)
        self.optimizer.zero_grad()
        logits = self.network(images)
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        if self.config.optimizer.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.optimizer.clip_norm)
        self.optimizer.step()
        self.loss += loss.item() * len(labels)
        self.wrong += (logits.argmax(1) != labels).sum().item()
        self.seen += len(labels)

    def totals(self) -> list[float]:
        return [self.loss / self.seen, 100 * self.wrong / self.seen]


class Good(Arm):
    """A careful eager loop: images on the device, channels-last, fused SGD, no waiting; bf16 autocast on a GPU."""

    def build(self, images: Any, labels: Any, *_: Any) -> None:
        sgd, pad = self.config.optimizer, self.config.dataset.augment.pad
        torch.backends.cudnn.benchmark = True
        mean = torch.from_numpy(channel_mean(images)).float()
        floats = (torch.from_numpy(images) / 255 - mean).to(self.device)
        self.images = F.pad(floats, (0, 0, pad, pad, pad, pad))  # once: crops are then gathered from it
        self.labels = torch.from_numpy(labels).to(self.device)
        self.network = plain_network(self.config).to(self.device, memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), sgd.lr, momentum=sgd.momentum, weight_decay=sgd.weight_decay, fused=True
        )
        self.sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        self.chosen = self._order()

    def _order(self) -> Iterator[Any]:
        count, shuffled = len(self.labels), self.config.optimizer.order == "shuffled"
        while True:
            order = torch.randperm(count, device=self.device) if shuffled else torch.arange(count, device=self.device)
            yield from order.split(self.config.optimizer.batch_size)

    def _batch(self, chosen: Any) -> Any:
        """Images [B, 3, 32, 32] in channels-last memory."""
        augment, count, device = self.config.dataset.augment, len(chosen), self.device
        rows = columns = torch.arange(32, device=device).expand(count, 32)
        if augment.flip:
            columns = torch.where(torch.rand(count, 1, device=device) < 0.5, 31 - columns, columns)
        if augment.pad:
            down, right = torch.randint(2 * augment.pad + 1, (2, count, 1), device=device)
            rows, columns = rows + down, columns + right
        return self.images[chosen[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)

    def step(self) -> None:
        chosen = next(self.chosen)
        images, labels = self._batch(chosen), self.labels[chosen]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            logits = self.network(images)
            loss = F.cross_entropy(logits, labels)
        loss.backward()
        if self.config.optimizer.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.optimizer.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        wrong = (logits.detach().argmax(1) != labels).sum()
        self.sums += torch.stack((loss.detach().double() * len(labels), wrong, torch.full_like(wrong, len(labels))))

    def totals(self) -> list[float]:
        loss, wrong, seen = self.sums.tolist()
        return [loss / seen, 100 * wrong / seen]
