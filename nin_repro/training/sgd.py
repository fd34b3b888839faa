"""cuda-convnet's update, with clipping by the global norm, on torch's fused kernel.

The released code updates `inc = momentum * inc - rate * (gradient + decay * w); w += inc`: the rate is inside the
momentum. torch keeps `buffer = momentum * buffer + gradient + decay * w; w -= rate * buffer` with the rate outside.
They are the same as long as the rate stands still; when it drops, the old increments still carry the old rate in
cuda-convnet, so the buffers are rescaled here by old rate / new rate.

`torch._fused_sgd_` is called directly: any optimizer of torch.optim imports torch._dynamo first, over a second. It
also divides the gradients by `grad_scale` and leaves everything alone when `found_inf` is 1, both on the device. All
that an update reads or writes stays in its place there, so that it can be captured (training/capture.py).

On a GPU a tensor of this network's size gives that kernel a dozen of programs, four times an update. There weights,
gradients and momentum are each laid into one piece of memory, which one kernel of ours goes through: `Flat`.
"""

import itertools
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nin_repro import gpu

TINY = 1e-300  # a momentum that is 0 in fp32: at 0 itself the kernel wants no buffers


@dataclass
class Group:
    """Parameters that share a rate. `bias` groups have no decay, and may keep their rate when it drops."""

    parameters: list[Tensor]
    lr: float
    weight_decay: float
    bias: bool
    warmup: int = 0  # updates over which the rate rises
    scale: float = 1.0  # what the schedule and the warm-up make of the rate
    buffers: list[Tensor] = field(init=False)
    rate: Tensor = field(init=False)  # lr * scale, where the kernel reads it

    def __post_init__(self) -> None:
        self.buffers = [torch.zeros_like(parameter) for parameter in self.parameters]
        device = self.parameters[0].device  # the kernel for the CPU computes with a double, that of CUDA wants fp32
        kind = torch.float64 if device.type == "cpu" else torch.float32
        self.rate = torch.tensor(self.lr * self.scale, dtype=kind, device=device)

    def rescale(self, scale: float) -> None:
        """Multiply the initial rate by this; what has momentum keeps its size."""
        if scale != self.scale:
            torch._foreach_mul_(self.buffers, self.scale / scale)
            self.scale = scale
            self.rate.fill_(self.lr * scale)


class Flat:
    """The parameters of groups in one piece of memory, fp32, and their momentum in another.

    Each begins where a GPU reads at its best, and each group at a new block of kernels.BLOCK values.
    """

    ALIGNED = 64  # values

    def __init__(self, groups: list[Group], kernels: Any) -> None:
        self.kernels, device = kernels, groups[0].parameters[0].device
        self.gaps: list[list[Tensor]] = []  # zeros after each parameter, perhaps none
        starts, end, blocks = [], 0, []
        for group in groups:
            first, gaps = end, []
            for i, parameter in enumerate(group.parameters):
                starts.append(end)
                step = kernels.BLOCK if i == len(group.parameters) - 1 else self.ALIGNED
                gaps.append(torch.zeros(-(end - first + parameter.numel()) % step, device=device))
                end += parameter.numel() + len(gaps[-1])
            self.gaps.append(gaps)
            blocks.append((end - first) // kernels.BLOCK)
        self.which = torch.arange(len(groups), dtype=torch.int32).repeat_interleave(torch.tensor(blocks)).to(device)
        self.values, self.momentum = (torch.zeros(end, device=device) for _ in range(2))
        self.inertia = torch.zeros((), device=device)  # the share of the momentum that an update keeps
        self.rates = torch.stack([group.rate for group in groups])
        self.decays = torch.tensor([group.weight_decay for group in groups], device=device)
        places = iter(starts)
        for group, rate in zip(groups, self.rates, strict=True):
            group.rate = rate
            for i, parameter in enumerate(group.parameters):
                place = parameter.shape, parameter.stride(), next(places)
                parameter.data = self.values.as_strided(*place).copy_(parameter.data)
                group.buffers[i] = self.momentum.as_strided(*place).copy_(group.buffers[i])

    def gather(self, gradients: list[list[Tensor]]) -> Tensor:
        """The gradients of the groups' parameters, each laid out as its parameter is, where `values` has that."""
        pieces: list[Tensor] = []
        for group, gaps in zip(gradients, self.gaps, strict=True):
            for gradient, gap in zip(group, gaps, strict=True):
                pieces += [gradient.as_strided((gradient.numel(),), (1,)), gap]
        return torch.cat([piece for piece in pieces if len(piece)])

    def apply(self, whole: Tensor, shrink: Tensor, fault: Tensor) -> None:
        """Update all of it by what `gather` made, divided by `shrink`, unless `fault` is above 0."""
        self.kernels.update(
            self.values, whole, self.momentum, self.which, self.rates, self.decays, self.inertia, shrink, fault
        )


class SGD:
    """Momentum SGD over groups. `fault` is 1 from the first non-finite loss or gradient on, and nothing moves then."""

    def __init__(self, groups: list[Group], momentum: float, clip_norm: float | None) -> None:
        self.groups = groups
        self.initial_momentum = momentum
        self.clip = math.inf if clip_norm is None else clip_norm  # a gradient is this long at most
        self.parameters = [parameter for group in self.groups for parameter in group.parameters]
        device = self.parameters[0].device
        self.fault = torch.zeros((), device=device)
        kernels = gpu.kernels(device)
        self.flat = None if kernels is None else Flat(self.groups, kernels)
        self.set_momentum(momentum)
        self.norm = torch.zeros((), device=device)  # of the last gradient, before clipping
        self.updates = torch.zeros((), dtype=torch.int64, device=device)  # made so far; stands still after a fault

    def set_momentum(self, momentum: float) -> None:
        """Of the next updates. Captured ones of `flat` read it; torch's kernel takes a number, which they keep."""
        self.momentum = momentum
        if self.flat is not None:
            self.flat.inertia.fill_(momentum)

    def set_scale(self, scale: float, bias_scale: float, step: int) -> None:
        """Multiply the initial rates by these factors in update `step`, from 0."""
        for group in self.groups:
            new = bias_scale if group.bias else scale
            if step < group.warmup:
                new *= (step + 1) / group.warmup
            group.rescale(new)

    @torch.no_grad()
    def step(self, loss: Tensor) -> None:
        """Apply the gradients that `loss.backward()` left in the parameters, and drop them."""
        gradients = [[_like(p, p.grad) for p in group.parameters] for group in self.groups]
        if self.flat is not None:
            self._apply_flat(self.flat, gradients, loss)
        else:
            self._apply(gradients, loss)
        for parameter in self.parameters:
            parameter.grad = None

    def _apply_flat(self, flat: Flat, gradients: list[list[Tensor]], loss: Tensor) -> None:
        whole = flat.gather(gradients)
        torch.linalg.vector_norm(whole, out=self.norm)
        shrink = flat.kernels.judge(loss, self.norm, self.fault, self.updates, self.clip)
        flat.apply(whole, shrink, self.fault)

    def _apply(self, gradients: list[list[Tensor]], loss: Tensor) -> None:
        norms = torch._foreach_norm(list(itertools.chain(*gradients)))
        self.norm.copy_(torch.linalg.vector_norm(torch.stack(norms)))
        bad = ~(torch.isfinite(self.norm) & torch.isfinite(loss))
        self.fault.copy_(torch.maximum(self.fault, bad.to(self.fault.dtype)))
        self.updates += self.fault == 0
        shrink = None
        if self.clip < math.inf:
            # As torch.nn.utils.clip_grad_norm_, whose 1e-6 keeps the quotient finite; here the divisor is at least 1.
            shrink = torch.clamp(self.norm / self.clip, min=1.0)
        for group, pushes in zip(self.groups, gradients, strict=True):
            torch._fused_sgd_(
                group.parameters,
                pushes,
                group.buffers,
                weight_decay=group.weight_decay,
                momentum=max(self.momentum, TINY),
                lr=group.rate,
                dampening=0.0,
                nesterov=False,
                maximize=False,
                is_first_step=False,
                grad_scale=shrink,
                found_inf=self.fault,
            )

    def state(self) -> dict[str, Tensor | list[Tensor] | list[float]]:
        return {
            "buffers": [buffer for group in self.groups for buffer in group.buffers],
            "scales": [group.scale for group in self.groups],
            "updates": self.updates,
        }

    def load(self, state: dict) -> None:
        buffers = iter(state["buffers"])
        for group, scale in zip(self.groups, state["scales"], strict=True):
            group.rescale(scale)
            for buffer in group.buffers:
                buffer.copy_(next(buffers))
        self.updates.copy_(state["updates"])


def _like(parameter: Tensor, gradient: Tensor | None) -> Tensor:
    """A gradient with its numbers where the parameter has them: the kernel goes through both as they lie in memory."""
    assert gradient is not None  # all parameters take part: models/trial.py sees to that
    steps = zip(parameter.shape, parameter.stride(), gradient.stride(), strict=True)
    if all(own == other for size, own, other in steps if size > 1):
        return gradient.as_strided(parameter.shape, parameter.stride())  # on a GPU even steps never taken must agree
    return torch.empty_like(parameter).copy_(gradient)
