"""Random numbers by counter: Philox4x32-10, the same on every device and in every order of asking.

A draw is a function of (seed, attempt, what it is for, step), so nothing about randomness has to be saved to go on
exactly after an interruption, and the draws of one layer do not depend on those of another.

Reference: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

import contextlib
import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor

PERMUTATION, SHIFT, DROPOUT = 1, 2, 16  # purposes; dropout layer i draws for purpose DROPOUT + i

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def seed_words(*parts: int | str) -> tuple[int, int]:
    """Two 32-bit words, a Philox key, from anything that names a stream."""
    raw = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(raw[:4], "little"), int.from_bytes(raw[4:8], "little")


def words(
    key: tuple[int, int],
    purpose: int,
    step: int | Tensor,
    count: int,
    device: torch.device | str = "cpu",
    first: int = 0,
) -> Tensor:
    """`count` uniform 32-bit words as int64 [count], from blocks (block number, purpose, step, step >> 32).

    They are those from number `first` on. For several steps at once, int64 [K, 1], they are [K, count].
    """
    c0 = torch.arange(first // 4, -(-(first + count) // 4), dtype=torch.int64, device=device)
    if isinstance(step, Tensor):
        c0 = c0.expand(len(step), len(c0))
    c1 = torch.full_like(c0, purpose)
    c2 = torch.zeros_like(c0) + (step & _MASK)
    c3 = torch.zeros_like(c0) + (step >> 32)
    k0, k1 = key
    for _ in range(10):
        # The product of two 32-bit words wraps in a signed 64-bit one, but its bits are right.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _MASK) ^ c1 ^ k0,
            p1 & _MASK,
            ((p0 >> 32) & _MASK) ^ c3 ^ k1,
            p0 & _MASK,
        )
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return torch.stack((c0, c1, c2, c3), dim=-1).flatten(-2)[..., first % 4 : first % 4 + count]


def permutation(key: tuple[int, int], step: int, count: int, device: torch.device | str = "cpu") -> Tensor:
    """A uniform order of 0 .. count-1, int64 [count]: the order of 63-bit draws (equal ones keep their places)."""
    high, low = words(key, PERMUTATION, step, 2 * count, device).view(2, count)
    return torch.argsort((high >> 1 << 32) | low, stable=True)


class Clock:
    """Which update a network is in, and the random words of that update.

    They are drawn when they are asked for, by the `step` that Python counts. A captured update (training/capture.py)
    cannot do that: its Python ran once. For it the words of AHEAD updates are drawn at a time, and it reads the row
    of its own update, `now`, which it counts itself. The words are the same.
    """

    AHEAD = 64

    def __init__(self, key: tuple[int, int] = (0, 0), step: int = 0) -> None:
        self.key, self.step = key, step
        self.image = 0  # images of the batch that came before, where an update goes through it in micro-batches
        self.now: Tensor | None = None  # int64 [1] on the device: the step, as far as the device has come
        self.asked: dict[int, int] = {}  # words that each purpose has asked for at most
        self.drawn: dict[int, Tensor] = {}  # int64 [AHEAD, words] for each purpose
        self.first = -1  # step of their first row
        self.reading = False  # while an update is captured

    def set(self, key: tuple[int, int], now: Tensor) -> None:
        """Begin anew with another key. Nothing that was captured before may be used after."""
        self.key, self.now, self.drawn, self.first = key, now, {}, -1

    def words(self, purpose: int, count: int, device: torch.device | str = "cpu", first: int = 0) -> Tensor:
        """As the function of this name, for this update."""
        self.asked[purpose] = max(first + count, self.asked.get(purpose, 0))
        if not self.reading:
            return words(self.key, purpose, self.step, count, device, first)
        assert self.now is not None
        return self.drawn[purpose].index_select(0, self.now % self.AHEAD)[0, first : first + count]

    def draw_ahead(self) -> None:
        """See to it that what a captured update reads at `step` is there."""
        first = self.step - self.step % self.AHEAD
        if first == self.first and self.drawn.keys() == self.asked.keys():
            return
        assert self.now is not None
        steps = torch.arange(first, first + self.AHEAD, device=self.now.device)[:, None]
        for purpose, count in self.asked.items():
            found = words(self.key, purpose, steps, count, self.now.device)
            if purpose in self.drawn:
                self.drawn[purpose].copy_(found)
            else:
                self.drawn[purpose] = found.contiguous()
        self.first = first

    @contextlib.contextmanager
    def captured(self) -> Iterator[None]:
        """Inside, `words` reads what `draw_ahead` drew."""
        self.draw_ahead()
        self.reading = True
        try:
            yield
        finally:
            self.reading = False


def keep_words(
    clock: Clock, purpose: int, count: int, drop: float, device: torch.device | str = "cpu", first: int = 0
) -> tuple[Tensor, int]:
    """Words that decide which of `count` elements are kept, and how many bits decide each, from the lowest on.

    One bit an element at drop = 0.5: 1 keeps it. Otherwise 16, so that the probability is exact to 1 / 65,536: `least`
    or more keep it. The elements are those from number `first` on; so many as share its word with it come before it.
    """
    bits = 1 if drop == 0.5 else 16
    start, end = first * bits // 32, -(-(first + count) * bits // 32)
    return clock.words(purpose, end - start, device, start), bits


def least(drop: float) -> int:
    """The smallest 16-bit number that keeps an element."""
    return round(drop * 65536)


def keep_mask(
    clock: Clock, purpose: int, count: int, drop: float, device: torch.device | str = "cpu", first: int = 0
) -> Tensor:
    """uint8 [count], 1 where an element is kept, which happens with probability 1 - drop; from number `first` on."""
    drawn, bits = keep_words(clock, purpose, count, drop, device, first)
    before = first % (32 // bits)
    if bits == 1:
        shifts = torch.arange(0, 32, 8, device=device)
        packed = ((drawn[:, None] >> shifts) & 0xFF).to(torch.uint8).flatten()
        places = torch.arange(8, dtype=torch.uint8, device=device)
        return ((packed[:, None] >> places) & 1).flatten()[before : before + count]
    halves = torch.stack((drawn & 0xFFFF, drawn >> 16), dim=1).flatten()[before : before + count]
    return (halves >= least(drop)).to(torch.uint8)
