"""The counter-based draws: right bits, right frequencies, no state."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nin_repro import rng

WORD = 0xFFFFFFFF


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x32-10 as its paper writes it, one block in Python's own integers."""
    for _ in range(10):
        a, b = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [(b >> 32) ^ counter[1] ^ key[0], b & WORD, (a >> 32) ^ counter[3] ^ key[1], a & WORD]
        key = [(key[0] + 0x9E3779B9) & WORD, (key[1] + 0xBB67AE85) & WORD]
    return counter


def test_published_vectors() -> None:
    # Random123's known answers: the reference above is Philox, and ours is the reference.
    pi = philox([0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], [0xA4093822, 0x299F31D0])
    assert pi == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]
    zero = [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert rng.words((0, 0), 0, 0, 4).tolist() == zero == philox([0] * 4, [0] * 2)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, WORD), st.integers(0, WORD), st.integers(0, WORD), st.integers(0, 2**40), st.integers(0, 50))
def test_words_are_philox_of_block_purpose_and_step(low: int, high: int, purpose: int, step: int, block: int) -> None:
    drawn = rng.words((low, high), purpose, step, 4 * block + 4)[-4:].tolist()
    assert drawn == philox([block, purpose, step & WORD, step >> 32], [low, high])


def test_a_longer_draw_begins_with_the_shorter_one() -> None:
    assert torch.equal(rng.words((1, 2), 3, 4, 1000)[:13], rng.words((1, 2), 3, 4, 13))


def test_streams_differ_by_seed_attempt_and_use() -> None:
    names = [
        ("train", 0, 0),
        ("train", 0, 1),
        ("train", 1, 0),
        ("initialise", 0, 0),
        ("train", 10, 0),
        ("train", 1, 10),
    ]
    assert len({rng.seed_words(*name) for name in names}) == len(names)


def test_permutation_is_one_and_changes_with_the_epoch() -> None:
    first, second = (rng.permutation((5, 6), epoch, 1000) for epoch in (0, 1))
    assert sorted(first.tolist()) == list(range(1000))
    assert not torch.equal(first, second)
    assert not torch.equal(first, torch.arange(1000))


def test_permutation_favours_no_place() -> None:
    where = torch.stack([rng.permutation((7, 8), epoch, 10) for epoch in range(4000)]).float().mean(0)
    assert (where - 4.5).abs().max() < 0.25  # five standard deviations of the mean of 4,000 uniform places


def test_half_of_the_elements_are_kept_whatever_the_way_of_drawing() -> None:
    for drop in (0.5, 0.2, 0.8):
        kept = rng.keep_mask(rng.Clock((1, 2), 9), rng.DROPOUT, 200_001, drop)
        assert kept.shape == (200_001,) and set(kept.tolist()) == {0, 1}
        assert abs(kept.float().mean().item() - (1 - drop)) < 0.006  # over five standard deviations


def test_masks_of_neighbouring_steps_and_layers_are_independent() -> None:
    def mask(purpose: int, step: int) -> torch.Tensor:
        return rng.keep_mask(rng.Clock((1, 2), step), purpose, 100_000, 0.5).float()

    for other in (mask(17, 0), mask(16, 1)):
        assert abs((mask(16, 0) * other).mean().item() - 0.25) < 0.007


def test_what_is_drawn_for_is_told_apart() -> None:
    assert len({rng.PERMUTATION, rng.SHIFT}) == 2 and max(rng.PERMUTATION, rng.SHIFT) < rng.DROPOUT


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 300), st.integers(1, 300), st.sampled_from([0.5, 0.3]))
def test_a_part_of_a_mask_is_that_of_the_whole(first: int, count: int, drop: float) -> None:
    clock = rng.Clock((1, 2), 9)
    whole = rng.keep_mask(clock, rng.DROPOUT, 600, drop)
    assert torch.equal(rng.keep_mask(clock, rng.DROPOUT, count, drop, first=first), whole[first : first + count])


def test_elements_of_a_mask_are_independent_whatever_the_way_of_drawing() -> None:
    for drop in (0.5, 0.3):
        kept = rng.keep_mask(rng.Clock((1, 2), 9), rng.DROPOUT, 100_000, drop).float() - (1 - drop)
        for lag in (1, 2, 3, 4, 8, 16, 32, 50_000):  # over five standard deviations of the mean of the products
            assert (kept[lag:] * kept[:-lag]).mean().abs() < 5.5 * drop * (1 - drop) / (100_000 - lag) ** 0.5
