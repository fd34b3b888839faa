"""How far numbers may lie apart by luck: what Student's t, Welch's interval and the binomial distribution say of it."""

import math
from collections.abc import Sequence

# Quantiles of Student's t at 0.975 for 2 to 9 degrees of freedom; above, the expansion in 1/df is good to 3 digits
# (Abramowitz & Stegun 26.7.5).
_T975 = {2: 4.3027, 3: 3.1824, 4: 2.7764, 5: 2.5706, 6: 2.4469, 7: 2.3646, 8: 2.3060, 9: 2.2622}
Z975 = 1.959964


def t975(df: int) -> float:
    """The 0.975 quantile of Student's t with `df` >= 2 degrees of freedom."""
    z = Z975
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return _T975.get(df) or z + first / df + second / df**2 + third / df**3


def beyond(t: float, df: int) -> float:
    """How likely Student's t with `df` >= 1 degrees of freedom is farther from 0 than `t`, to either side.

    The finite sums for whole degrees of freedom: Abramowitz & Stegun 26.7.3 and 26.7.4.
    """
    angle = math.atan(abs(t) / math.sqrt(df))
    term, total, cosine = 1.0, 0.0, math.cos(angle)
    for k in range(df // 2):
        total += term
        term *= cosine**2 * ((2 * k + 2) / (2 * k + 3) if df % 2 else (2 * k + 1) / (2 * k + 2))
    total *= math.sin(angle)
    return max(0.0, 1 - (2 / math.pi * (angle + cosine * total) if df % 2 else total))


def luck_of_run(n: int, std: float) -> float:
    """(a) of `tables.RULE`: how far one more run may lie from the mean of `n` runs, in points, at 95%."""
    return t975(n - 1) * std * math.sqrt(1 + 1 / n)


def luck_of_means(stds: Sequence[float], counts: Sequence[int]) -> float:
    """How far two means over seeds may lie apart by luck, in points, at 95%: Welch's interval, its degrees of freedom
    (Satterthwaite's) rounded down.

    Args:
        stds: sample standard deviations of the two groups.
        counts: how many runs they have, at least 3 each.
    """
    error, freedom = _welch(stds, counts)
    return t975(freedom) * error


def chance_of_means(difference: float, stds: Sequence[float], counts: Sequence[int]) -> float:
    """How likely luck alone parts two means by more than `difference` points: the p-value of the same, both sides."""
    error, freedom = _welch(stds, counts)
    return beyond(difference / error, freedom) if error else float(difference == 0)


def _welch(stds: Sequence[float], counts: Sequence[int]) -> tuple[float, int]:
    """The standard error of the difference of two means, and its degrees of freedom."""
    parts = [std**2 / n for std, n in zip(stds, counts, strict=True)]
    below = sum(part**2 / (n - 1) for part, n in zip(parts, counts, strict=True))
    freedom = int(sum(parts) ** 2 / below * (1 + 1e-12)) if below else min(counts) - 1
    return math.sqrt(sum(parts)), freedom


def luck_of_images(error: float, images: int) -> float:
    """(b) of `tables.RULE`: how far `error` (%) on `images` test images may lie from its expectation, at 95%."""
    return Z975 * math.sqrt(error * (100 - error) / images)


def hold(chances: Sequence[float]) -> list[bool]:
    """Which of several findings count still, at 5 %, as one of so many may by luck: by Holm's method (1979)."""
    ordered = sorted(range(len(chances)), key=lambda place: chances[place])
    found = [False] * len(chances)
    for rank, place in enumerate(ordered):
        if chances[place] > 0.05 / (len(chances) - rank):
            break
        found[place] = True
    return found
