"""What networks and heads that are not built in look like: they are tried out on two black images, on the CPU.

Built-in ones are known by arithmetic, which needs no torch (spec.py).
"""

from typing import Any

import torch
from torch import nn

from nin_repro.files import UsageError
from nin_repro.models.network import Dropout, Head, Network, Start, make_network
from nin_repro.models.own import BUILT_IN, BUILT_IN_HEADS, reason_of
from nin_repro.models.shape import Layer, Shape
from nin_repro.schema import HEADS, NETWORKS, Architecture, Regularizer

IMAGES = 2


def layers(shape: Shape, classes: int, architecture: Architecture, regularizer: Regularizer) -> list[Layer]:
    """Every layer of a network from input to logits, in the order in which they are called.

    Raises:
        UsageError: the network does not take such images, does not give one logit for each class, or has weights that
            nobody would initialise and train, or that bear on no logit, or no dropout where the settings want it.
    """
    names = f"architecture.kind={architecture.kind} and regularizer.head={regularizer.head}"
    try:
        net = make_network(shape, classes, architecture, regularizer).eval()
        found = _listened(net)
        logits = net(torch.zeros(IMAGES, *shape))
    except UsageError:
        raise
    except Exception as error:
        files, reason = _files(architecture, regularizer), reason_of(error)
        if not isinstance(error, RuntimeError | IndexError):  # torch's words for shapes that do not fit
            raise UsageError(f"{names} cannot be used for {shape} images ({reason}): look into {files}") from error
        raise UsageError(
            f"{names} do not go together for {shape} images ({reason}): choose another head (fc takes whatever a "
            f"network ends in) or look into {files}"
        ) from error
    if logits.shape != (IMAGES, classes):
        raise UsageError(
            f"{names} give {list(logits.shape[1:])} values for an image, not one for each of {classes} classes: "
            f"choose regularizer.head=fc or look into {_files(architecture, regularizer)}"
        )
    starts = _starts(net, names)
    trained = {id(getattr(start.layer, kind, None)) for start in starts for kind in ("weight", "bias")}
    forgotten = [name for name, values in net.named_parameters() if id(values) not in trained]
    if forgotten or id(None) in trained:
        what = f"`weighted` leaves out {', '.join(forgotten)}" if forgotten else "a layer of `weighted` lacks its bias"
        raise UsageError(f"{names}: {what}; it names all layers that have weights, each with its `weight` and `bias`")
    if unused := _unused(net, logits):
        raise UsageError(
            f"{names}: no logit hangs on {', '.join(unused)}, so nothing can train it: use it or leave it out"
        )
    _require_dropout(net, architecture, regularizer)
    return found


def _unused(net: Network, logits: torch.Tensor) -> list[str]:
    """The names of the parameters that took no part in these logits."""
    parameters = dict(net.named_parameters())
    if not logits.requires_grad:
        return [*parameters]
    gradients = torch.autograd.grad(logits.sum(), [*parameters.values()], allow_unused=True)
    return [name for name, gradient in zip(parameters, gradients, strict=True) if gradient is None]


def _starts(net: Network, names: str) -> list[Start]:
    """What `weighted` of a network and its head say. Raises UsageError if it is no list of that, or names one twice."""
    wanted = f"{names}: `weighted` gives a list of Start(layer, fill), see README.md"
    if not isinstance(net.head, Head):
        raise UsageError(f"{names}: self.head is what make_head gives, or a Head of your own, see README.md")
    try:
        found = [*net.weighted(), *net.head.weighted()]
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{wanted} ({reason_of(error)})") from error
    if not all(isinstance(start, Start) for start in found):
        raise UsageError(wanted)
    layers = [id(start.layer) for start in found]
    twice = [name for name, layer in net.named_modules() if layers.count(id(layer)) > 1]
    if twice:
        raise UsageError(f"{names}: `weighted` names {', '.join(twice)} more than once")
    return found


def _listened(net: Network) -> list[Layer]:
    """A list that fills while the network runs, with each module of it that has parameters or no parts."""
    found: list[Layer] = []
    seen: set[int] = set()

    def listen(module: nn.Module, name: str) -> None:
        def note(_module: nn.Module, _inputs: Any, output: Any) -> None:
            new = {id(values): values.numel() for values in module.parameters(recurse=False) if id(values) not in seen}
            seen.update(new)
            adds = _multiply_adds(module, output)
            found.append(Layer(name, type(module).__name__, _shape(output), sum(new.values()), adds))

        module.register_forward_hook(note)

    for name, module in net.named_modules():
        leaf = not any(True for _ in module.children()) and not isinstance(module, nn.Identity)
        if name and (leaf or any(True for _ in module.parameters(recurse=False))):
            listen(module, name)
    return found


def _multiply_adds(module: nn.Module, output: Any) -> int:
    """Of an image, biases left out. Of a layer that is not torch's, as if each weight were used once."""
    if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return module.weight.numel() * (output[0].numel() // len(module.weight))
    weight = getattr(module, "weight", None)
    return weight.numel() if isinstance(weight, torch.Tensor) and weight.dim() > 1 else 0


def _shape(output: Any) -> Shape:
    while isinstance(output, tuple):
        output = output[0]
    sides: list[int] = [*output.shape[1:], 1, 1, 1]
    return Shape(*sides[:3])


def _require_dropout(net: Network, architecture: Architecture, regularizer: Regularizer) -> None:
    """Refuse a dropout that the recipe names and the network does not have."""
    in_head = [module for module in net.head.modules() if isinstance(module, Dropout)]
    in_body = [module for module in net.modules() if isinstance(module, Dropout) and module not in in_head]
    if regularizer.dropout and not in_body and architecture.kind not in BUILT_IN:
        raise UsageError(
            f"architecture.kind={architecture.kind} has no dropout: choose regularizer=gap, fc or fc_head_dropout, or "
            "set regularizer.dropout=0"
        )
    if regularizer.head_dropout and not in_head:
        raise UsageError(f"regularizer.head={regularizer.head} has no dropout: set regularizer.head_dropout=0")


def _files(architecture: Architecture, regularizer: Regularizer) -> str:
    own = [NETWORKS[architecture.kind]] * (architecture.kind not in BUILT_IN)
    own += [HEADS[regularizer.head]] * (regularizer.head not in BUILT_IN_HEADS)
    return " and ".join(own)
