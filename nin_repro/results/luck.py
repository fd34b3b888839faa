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


def beyond(t: float, df: float) -> float:
    """How likely Student's t with `df` >= 1 degrees of freedom, whole or not, is farther from 0 than `t`, to either
    side: its density integrated by the exp-sinh rule (Takahasi & Mori 1974), to 12 digits.
    """
    total = 0.0
    for step in range(-128, 129):
        further = math.exp(math.pi / 2 * math.sinh(step / 32))
        total += (1 + (abs(t) + further) ** 2 / df) ** (-(df + 1) / 2) * further * math.cosh(step / 32)
    scale = math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) / math.sqrt(df * math.pi)
    return 2 * scale * total * math.pi / 2 / 32


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
    return _limit([std**2 / n for std, n in zip(stds, counts, strict=True)], counts)


def luck_of_pair(stds: Sequence[float], counts: Sequence[int]) -> float:
    """How far the difference of one more run of each group may lie from that of the means, in points, at 95%: the
    prediction interval that goes with `luck_of_means`, with the same arguments.
    """
    return _limit([std**2 * (1 + 1 / n) for std, n in zip(stds, counts, strict=True)], counts)


def chance_of_means(difference: float, stds: Sequence[float], counts: Sequence[int]) -> float:
    """How likely luck alone parts two means by more than `difference` points: the p-value of Welch's test, both
    sides, its degrees of freedom not rounded.
    """
    error, freedom = _welch([std**2 / n for std, n in zip(stds, counts, strict=True)], counts)
    return beyond(difference / error, freedom) if error else float(difference == 0)


def _limit(parts: Sequence[float], counts: Sequence[int]) -> float:
    error, freedom = _welch(parts, counts)
    return t975(int(freedom * (1 + 1e-12))) * error  # a whole number that came out 1e-16 less is not rounded down


def _welch(parts: Sequence[float], counts: Sequence[int]) -> tuple[float, float]:
    """The root of a sum of two variances, and its degrees of freedom (Satterthwaite's)."""
    below = sum(part**2 / (n - 1) for part, n in zip(parts, counts, strict=True))
    return math.sqrt(sum(parts)), sum(parts) ** 2 / below if below else min(counts) - 1


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
