"""Work that is launched as a whole: a CUDA graph instead of some hundred kernels that Python launches one by one.

A step of this network is a millisecond of a large GPU's work, and some ten of Python's. What is captured runs again
with the numbers and the addresses it was captured with: whatever changes from one time to the next has to be in tensors
that stay in their place.
"""

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nin_repro.rng import Clock

Body = Callable[[], None]
Capture = Callable[[Body], Body]  # makes of some work a call that does the same again

WARM = 2  # times that work is launched one by one before it is captured: kernels are loaded and chosen on the way
_one_at_a_time = threading.Lock()  # while one thread captures, no other may capture or drop what it captured
_own = threading.local()
_failed: list[torch.cuda.CUDAGraph] = []  # torch's allocator may go on asking a graph whose capture was broken off


@contextlib.contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """On a GPU, a stream of this thread's own: the default one cannot be captured, and runs shall not wait in turn.

    torch hands out 32 of them in turn: one for each thread, and not for each run, keeps those that are in use apart.
    """
    if device.type != "cuda":
        yield
        return
    with torch.cuda.device(device):
        streams: dict[torch.device, torch.cuda.Stream] = _own.__dict__.setdefault("streams", {})
        if device not in streams:
            streams[device] = torch.cuda.Stream()
        before, stream = torch.cuda.current_stream(), streams[device]
        stream.wait_stream(before)
        try:
            with torch.cuda.stream(stream):
                yield
        finally:  # whoever is next may get the memory that work still under way writes to
            before.wait_stream(stream)


def cuda_graph(body: Body) -> Body:
    """Capture what `body` launches on the current stream, which is not the default one. It is not executed yet."""
    graph = torch.cuda.CUDAGraph()
    capturing = torch.cuda.graph(graph, stream=torch.cuda.current_stream(), capture_error_mode="thread_local")
    with _one_at_a_time:
        try:
            with capturing:
                body()
        except RuntimeError:
            _failed.append(graph)
            with contextlib.suppress(RuntimeError):
                _capture_nothing()
            raise
    return graph.replay


def _capture_nothing() -> None:
    """After a capture that failed: torch 2.11 refuses draws of its own until another has ended well."""
    stream = torch.cuda.current_stream()
    with torch.cuda.graph(torch.cuda.CUDAGraph(), stream=stream, capture_error_mode="thread_local"):
        torch.zeros(1, device=stream.device)


class Replay:
    """Calls `body(*arguments)`; after WARM times with the same arguments a captured form of it.

    Args:
        capture: None never captures.
        clock: what the body draws by, if it draws.
        refused: called with the reason when capturing fails; everything is launched one by one from there on.
    """

    def __init__(
        self, body: Callable[..., None], capture: Capture | None, clock: Clock | None, refused: Callable[[str], None]
    ) -> None:
        self.body, self.capture, self.clock, self.refused = body, capture, clock, refused
        self.forms: dict[tuple[Any, ...], Body] = {}
        self.captures = 0  # made so far
        self.calls: Counter[tuple[Any, ...]] = Counter()

    def __call__(self, *arguments: Any) -> None:
        if self.capture is None:
            self.body(*arguments)
            return
        self.calls[arguments] += 1
        if self.calls[arguments] > WARM and arguments not in self.forms:
            self._try(arguments, self.capture)
        if arguments in self.forms:
            if self.clock is not None:
                self.clock.draw_ahead()
            self.forms[arguments]()
        else:
            self.body(*arguments)

    def _try(self, arguments: tuple[Any, ...], capture: Capture) -> None:
        try:
            with self.clock.captured() if self.clock is not None else contextlib.nullcontext():
                self.forms[arguments] = capture(partial(self.body, *arguments))
            self.captures += 1
        except RuntimeError as error:
            self.capture = None
            # To end a capture that has failed raises once more: the first says why.
            self.refused(" ".join(str(error.__context__ or error).split())[:200])

    def forget(self) -> None:
        """Drop what was captured; it is captured again when it is next called."""
        with _one_at_a_time:
            self.forms.clear()


class Answers(nn.Module):
    """A network whose answers without gradients are captured, for each shape of its input [N, C, H, W]."""

    def __init__(self, network: nn.Module, capture: Capture | None, refused: Callable[[str], None]):
        super().__init__()
        self.network = network
        self.inputs: dict[tuple[int, ...], Tensor] = {}
        self.outputs: dict[tuple[int, ...], Tensor] = {}
        self.replay = Replay(self._answer, capture, None, refused)  # networks draw only in training

    def _answer(self, *shape: int) -> None:
        self.outputs[shape] = self.network(self.inputs[shape])

    def forward(self, images: Tensor) -> Tensor:
        if self.replay.capture is None:
            found: Tensor = self.network(images)
            return found
        shape = tuple(images.shape)
        if shape not in self.inputs:
            self.inputs[shape] = torch.empty_like(images)
        self.inputs[shape].copy_(images)
        self.replay(*shape)
        return self.outputs[shape].clone()
