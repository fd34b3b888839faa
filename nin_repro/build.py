"""The one place that turns configuration into objects."""

import contextlib
import ctypes
import functools
import gc
import math
import mmap
import os
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from nin_repro import gpu
from nin_repro.config.recipe import budget_name, key
from nin_repro.cpu import cores
from nin_repro.data.batches import Batches, Pictures, on_device
from nin_repro.data.preprocess import preprocess
from nin_repro.data.sources import DATASETS
from nin_repro.data.splits import Split
from nin_repro.files import UsageError
from nin_repro.models.network import Fill, Inheritance, Network, Role, make_network, placed
from nin_repro.models.own import BUILT_IN, BUILT_IN_HEADS
from nin_repro.models.shape import Shape
from nin_repro.models.spec import layers, training_multiply_adds
from nin_repro.models.spectral import Conv2d
from nin_repro.schema import Config, Parent
from nin_repro.training.capture import cuda_graph
from nin_repro.training.console import Console
from nin_repro.training.loop import Limits, Trainer
from nin_repro.training.schedule import Rate, Reached, plan
from nin_repro.training.sgd import SGD, Group

HEAP = 4 << 30  # bytes of addresses that large pages are asked for; NIN for CIFAR-10 takes 1 GB of memory
# Below this many multiply-adds an update, the threads of a CPU wait for each other longer than they work.
ONE_THREAD_BELOW = 2e9
# An update on a CPU whose layers give more than so many bytes goes through it in micro-batches, each of FEWEST images
# at least: fewer cost time, as each goes through all weights.
HELD, FEWEST = 256 << 20, 32

Uploaded = tuple[Pictures, Tensor, Pictures, Tensor]  # images and labels to train on, and to be judged on
_on_devices: "WeakKeyDictionary[Split, dict[Any, Uploaded]]" = WeakKeyDictionary()
_uploading = threading.Lock()


@dataclass(frozen=True)
class Machine:
    """What computes a run."""

    device: torch.device
    threads: int
    words: str  # for records
    kernels: str  # whose compute a network, for records


def device_name(config: Config) -> str:
    """Where a run computes, such as "cpu" or "cuda:1"; whether that is there is not asked."""
    if config.device != "auto":
        return config.device
    return "cuda" if torch.cuda.is_available() else "cpu"


def machine(config: Config) -> Machine:
    """Choose the device and set the process up for it.

    Raises:
        UsageError: the device or what it shall compute in is not there, or more threads are asked for than cores are.
    """
    there = os.cpu_count()
    if config.threads and there and config.threads > there:
        raise UsageError(
            f"threads={config.threads}: this machine has {there} cores, and more threads only wait for each other; "
            f"give at most {there}, or leave it out"
        )
    name = device_name(config)
    if name.startswith("cuda"):
        number = int(name.partition(":")[2] or 0)
        if number >= torch.cuda.device_count():
            raise UsageError(
                f"device={config.device}, but {torch.cuda.device_count()} CUDA devices are visible: choose device=cpu"
            )
        torch.cuda.set_device(number)  # of this thread: Triton launches on whichever is its own
        # Unless it is told, cuDNN computes convolutions with 10 bits of mantissa.
        products = "tf32" if config.precision == "tf32" else "ieee"
        torch.backends.cudnn.conv.fp32_precision = torch.backends.cuda.matmul.fp32_precision = products  # type: ignore[attr-defined]
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        torch.backends.cudnn.deterministic = True
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or its sums depend on what other streams do
        # Where a backward pass begins with a product, its thread has used no GPU yet; torch sees to that by itself.
        warnings.filterwarnings("ignore", "Attempting to run cuBLAS, but there was no current CUDA context")
    elif config.precision == "tf32":
        raise UsageError("precision=tf32 needs a GPU, and this run is on the CPU: choose fp32 or bf16")
    per_image = training_multiply_adds(layers(config.dataset, config.architecture, config.regularizer))
    small = per_image * config.optimizer.batch_size < ONE_THREAD_BELOW
    threads = config.threads or (1 if small or config.together > 1 else max(1, cores() // config.processes))
    torch.set_num_threads(threads)
    _keep_pages()
    device = torch.device(name)
    if device.type == "cpu":
        fused = config.fused and config.precision == "fp32"  # bf16 is autocast's, which takes torch's layers
        return Machine(device, threads, "cpu", "ours" if fused else "torch")
    ours = "ours" if config.fused else "ours, but torch's layers"
    kernels = ours if gpu.refusal(device) is None else "torch"
    return Machine(device, threads, torch.cuda.get_device_name(device), kernels)


@functools.cache
def _keep_pages() -> None:
    """Tell glibc to keep freed memory, which it returns to the system and faults in again for every activation, and
    Linux to give what it takes in large pages.

    The first is a quarter of a training step on a CPU; the second a tenth, and up to half where virtual machines share
    a busy host. Elsewhere nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.malloc.restype = ctypes.c_void_p
        trim_threshold, top_pad, mmap_max = -1, -2, -4
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, -1)  # never
        libc.mallopt(top_pad, 64 << 20)
        start = libc.malloc(ctypes.c_size_t(HEAP))  # of addresses: there is no memory behind them yet
        if start is not None:
            first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
            length = ctypes.c_size_t(HEAP - mmap.PAGESIZE)
            libc.madvise(ctypes.c_void_p(first), length, mmap.MADV_HUGEPAGE)
            libc.free(ctypes.c_void_p(start))


def network(config: Config) -> Network:
    """The network of a configuration."""
    facts, size = DATASETS[config.dataset.name], config.dataset.resize
    height, width, channels = facts.shape
    shape = Shape(channels, size or height, size or width)
    net = make_network(shape, facts.classes, config.architecture, config.regularizer)
    net.resize, net.bf16 = size, config.precision == "bf16"
    for layer in net.modules():
        if isinstance(layer, Conv2d):
            layer.fused = config.fused
    return net


def micro_batch(config: Config) -> int | None:
    """Images of a batch that an update on a CPU goes through at a time: see HELD. None: all of them.

    In what is not built in, images may bear on each other, as by batch normalisation.
    """
    if config.architecture.kind not in BUILT_IN or config.regularizer.head not in BUILT_IN_HEADS:
        return None
    batch = config.optimizer.batch_size
    values = sum(layer.output.size for layer in layers(config.dataset, config.architecture, config.regularizer))
    held = batch * values * (2 if config.precision == "bf16" else 4)
    return max(FEWEST, math.ceil(batch / math.ceil(held / HELD)))


@dataclass(frozen=True)
class Ancestor:
    """What a run takes from its finished parent."""

    weights: dict[str, Tensor]
    reached: Reached


def inherit(config: Config, net: Network, ancestor: Ancestor) -> None:
    """Let a network start from its parent's weights, as the configuration says.

    Raises:
        UsageError: they do not fit.
    """
    parent = config.parent
    if parent is None or not parent.weights:
        return
    weights = placed(ancestor.weights)
    _require_places(parent, weights, net)
    fill = None if parent.fill == "fresh" else Fill("identity")
    if isinstance(parent.fill, float):
        fill = Fill("constant", parent.fill)
    net.inheritance = Inheritance(weights, fill, parent.biases)


def _require_places(parent: Parent, weights: Mapping[str, Tensor], net: Network) -> None:
    """Refuse weights of a parent, by their places, that this network has no layers for, and what cannot be filled."""
    own = placed(dict(net.named_parameters()))
    for place, values in weights.items():
        if place not in own or own[place].shape != values.shape:
            raise UsageError(
                f"parent.experiment={parent.experiment}: its weights {place} {list(values.shape)} have no place in "
                "this network; a parent's layers must be layers of this one, with the same shapes"
            )
    for place, values in own.items():
        if parent.fill == "identity" and values.dim() > 1 and place not in weights and values[0, 0].numel() > 1:
            raise UsageError(
                f"parent.fill=identity: {place} {list(values.shape)}, which the parent {parent.experiment} lacks, is "
                "no 1x1 layer and has no identity; give a number, or fresh"
            )


def require_heir(config: Config, parent: Config) -> None:
    """Refuse a parent whose weights a run cannot start from, before it is trained.

    Raises:
        UsageError: they do not fit.
    """
    if config.parent is not None and config.parent.weights:
        _require_places(config.parent, placed(dict(network(parent).named_parameters())), network(config))


def optimizer(config: Config, net: Network) -> SGD:
    """The optimizer of a network: weights and biases of each of its roles have a rate of their own."""
    sgd, head = config.optimizer, config.regularizer.fc_lr_factor
    factors = {
        "inner": (1.0, 1.0),
        "last": (sgd.last_layer_factor, sgd.last_layer_bias_factor),
        "head": (head, head),
    }
    groups = []
    for role in net.roles():
        for (warmup, convolutional), members in _alike(config, net, role).items():
            weight_factor, bias_factor = (f * (sgd.conv_lr_factor if convolutional else 1) for f in factors[role.name])
            weights, biases = ([getattr(layer, name) for layer in members] for name in ("weight", "bias"))
            groups.append(Group(weights, sgd.lr * weight_factor, sgd.weight_decay, bias=False, warmup=warmup))
            groups.append(Group(biases, sgd.lr * sgd.bias_lr_factor * bias_factor, 0.0, bias=True, warmup=warmup))
    return SGD(groups, sgd.momentum, sgd.clip_norm)


def _alike(config: Config, net: Network, role: Role) -> dict[tuple[int, bool], list[nn.Module]]:
    """The layers of a role by the number of updates over which their rates rise, and by whether they convolve."""
    updates = config.optimizer.schedule.warmup or [0]
    blocks = {start.layer: start.block for start in net.weighted()}
    found: dict[tuple[int, bool], list[nn.Module]] = {}
    for layer in role.layers:  # a head comes after the last block
        warmup = updates[min(blocks.get(layer, len(updates)), len(updates) - 1)]
        found.setdefault((warmup, isinstance(layer, nn.Conv2d)), []).append(layer)
    return found


def _uploaded(config: Config, split: Split, device: torch.device) -> Uploaded:
    """The preprocessed images of a split and their labels on the device: once for all runs that have the split."""
    count = config.budget.train_images
    asked = config.dataset.preprocessing, config.data_dir, count, device
    with _uploading:
        kept = _on_devices.setdefault(split, {})
        if asked not in kept:
            train, evaluation = preprocess(
                split.fit_images,
                split.wanted(count),
                config.dataset.preprocessing,
                Path(config.data_dir) / "cache",
                split.digest,
            )
            labels, eval_labels = (torch.from_numpy(one).to(device) for one in (split.train_labels, split.eval_labels))
            kept[asked] = on_device(train, device), labels[:count], on_device(evaluation, device), eval_labels
        return kept[asked]


def trainer(
    config: Config,
    split: Split,
    found: Machine,
    console: Console,
    checkpoint: Path,
    record_row: Callable[[dict[str, Any]], None],
    ancestor: Ancestor | None = None,
) -> Trainer:
    """Everything that `Trainer` needs, from the configuration and the images of `open_split`."""
    cuda = found.device.type == "cuda"
    if cuda:
        gc.collect()  # earlier trainers, which hold their images on the device, are circles of objects
    images, labels, eval_images, eval_labels = _uploaded(config, split, found.device)
    net = network(config).to(found.device)
    if cuda:
        net.to(memory_format=torch.channels_last)  # as the images are; otherwise cuDNN turns them round at each layer
        refusal = gpu.refusal(found.device)
        net.fused = config.fused and net.bf16 and refusal is None
        if refusal is not None:
            console.line(f"torch's own kernels, which are slower, for ours cannot be used: {refusal}")
    reached = None
    if ancestor is not None:
        inherit(config, net, ancestor)
        reached = ancestor.reached
    epochs, drops = plan(config.optimizer.schedule, config.budget)
    held = DATASETS[config.dataset.name].validation  # the last so many training images; of a reduced run, of its own
    return Trainer(
        net,
        optimizer=lambda fresh: optimizer(config, fresh),
        rate=lambda: Rate(config.optimizer.schedule, epochs, drops, reached),
        batches=Batches(
            images,
            labels,
            config.optimizer.batch_size,
            config.dataset.augment,
            shuffled=config.optimizer.order == "shuffled",
        ),
        evaluation=(eval_images, eval_labels),
        limits=Limits(
            key=key(config),
            data=split.digest,
            seed=config.seed,
            restarts=config.restarts,
            # In a reduced run a silent class may only be one that has not begun to learn.
            restart_for_classes=budget_name(config) == "paper",
            max_steps=config.budget.max_steps,
            eval_every=config.eval_every,
            train_eval_every=config.train_eval_every,
            checkpoint_seconds=config.checkpoint_seconds,
        ),
        console=console,
        checkpoint_path=checkpoint,
        record_row=record_row,
        eval_name=split.eval_name,
        watched=(images[-held:], labels[-held:]) if held else None,
        capture=cuda_graph if cuda and config.cuda_graphs else None,
        micro_batch=None if cuda else micro_batch(config),
        unattended=cuda,
    )
