"""Compile our kernels for GPUs of these architectures, such as `90`, and print what each needs of the chip, as JSON.

No GPU is wanted: an update of a network calls them on a CPU, and instead of being launched they are noted with what
they are given. Only sizes and types of that matter.
"""

import json
import subprocess
import sys
import tempfile
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel
from triton.runtime.jit import JITFunction

from nin_repro import build, gpu, kernels
from nin_repro.config.compose import load
from nin_repro.data.batches import crop_and_flip
from nin_repro.models import fused
from nin_repro.rng import Clock
from nin_repro.schema import Augment
from nin_repro.training.update import backward, note

TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float64: "fp64"}
TYPES |= {torch.uint8: "u8", torch.int32: "i32", torch.int64: "i64"}


class Noted:
    """In the place of a kernel: notes with what it would be launched."""

    def __init__(self, kernel: Any, calls: list[tuple[Any, tuple[Any, ...], dict[str, Any]]]) -> None:
        self.kernel, self.calls = kernel, calls

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *given, **options: self.calls.append((self.kernel, given, options))


def calls_of_an_update() -> list[tuple[Any, tuple[Any, ...], dict[str, Any]]]:
    calls: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []
    own = {name: value for name, value in vars(kernels).items() if isinstance(value, JITFunction)}
    vars(kernels).update({name: Noted(kernel, calls) for name, kernel in own.items()})
    gpu.kernels = lambda device: kernels
    crop_and_flip(torch.zeros(2, 32, 32, 3), Augment(pad=4, flip=True), Clock())
    # Gradients in two passes over so few images as there are here, and in one; one random bit an element, and 16.
    for rows, dropout in ((fused.LARGE, 0.5), (1, 0.5), (1, 0.2)):
        config = load(["experiment=table1/nin_aug", f"regularizer.dropout={dropout}"])
        network: Any = build.network(config).to(memory_format=torch.channels_last)
        network.bf16 = network.fused = True
        optimizer = build.optimizer(config, network)
        fused.LARGE = rows
        images, labels = torch.zeros(2, 3, 32, 32), torch.zeros(2, dtype=torch.int64)
        loss, wrong = backward(network(images.to(memory_format=torch.channels_last)), labels)
        optimizer.step(loss)
        totals, norms, window = (torch.zeros(size, dtype=torch.float64) for size in (3, 2, 2))
        note(loss, wrong, loss, optimizer.clip, 2, totals, norms, window, labels)
    vars(kernels).update(own)  # they call each other
    return calls


def compiled(kernel: Any, given: tuple[Any, ...], options: dict[str, Any], architecture: int) -> CompiledKernel:
    """As Triton does at a launch: what is 1, and what is a multiple of 16, is made part of the code."""
    signature, constants, multiples = {}, {}, {}
    for i, (parameter, value) in enumerate(zip(kernel.params, given, strict=True)):
        if isinstance(value, torch.Tensor):
            signature[parameter.name] = f"*{TYPES[value.dtype]}"
            multiples[i,] = [["tt.divisibility", 16]]
        elif parameter.is_constexpr or value == 1:
            signature[parameter.name], constants[parameter.name] = "constexpr", value
        elif isinstance(value, float):
            signature[parameter.name] = "fp32"
        else:
            signature[parameter.name] = "i32"
            if value % 16 == 0:
                multiples[i,] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, multiples)
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)


def needs(made: CompiledKernel) -> dict[str, int]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        words = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        told = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    found = dict(word.split(":") for line in told.splitlines() if "REG:" in line for word in line.split())
    return {"registers": int(found["REG"]), "spilled": int(found["STACK"]), "shared": made.metadata.shared}


if __name__ == "__main__":
    found = {}  # by what is compiled, which others share
    for call in calls_of_an_update():
        for architecture in map(int, sys.argv[1:]):
            made = compiled(*call, architecture)
            found[made.hash] = {"kernel": made.name, "architecture": architecture} | needs(made)
    print(json.dumps(list(found.values())))
