"""When rates drop and runs end."""

import dataclasses

import pytest

from nin_repro.schema import Budget, Schedule
from nin_repro.training.schedule import Rate, plan

DROPS = Schedule("drops", 260, [200, 230], 1, 0, 0.1, True)
PLATEAU = Schedule("plateau", 219, [], 3, 2, 0.1, True)
WHOLE = Budget("paper", None, None, None)


def scales(rate: Rate, errors: list[float]) -> list[float]:
    """The rate of each epoch of a run whose running training errors are these."""
    found = []
    for error in errors:
        if rate.finished:
            break
        found.append(rate.scale)
        rate.end_epoch(error)
    return found


def test_released_schedule() -> None:
    rate = Rate(DROPS, *plan(DROPS, WHOLE))
    found = scales(rate, [50.0] * 1000)
    assert len(found) == 260
    assert found[199] == 1 and found[200] == pytest.approx(0.1) and found[229] == pytest.approx(0.1)
    assert found[230] == pytest.approx(0.01) and found[259] == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("epochs", "drops"), [(26, [20, 23]), (16, [12, 14]), (5, [3, 4]), (2, [1]), (1, []), (260, [200, 230])]
)
def test_reduced_budget_drops_at_the_same_fractions(epochs: int, drops: list[int]) -> None:
    budget = Budget("short", epochs, None, None)
    assert plan(DROPS, budget) == (epochs, drops)
    if epochs != 260:
        assert plan(PLATEAU, budget) == (epochs, drops)


def test_plateau_waits_for_patience_at_each_rate_and_then_ends() -> None:
    rate = Rate(PLATEAU, *plan(PLATEAU, WHOLE))
    errors = [9.0, 8, 8, 8.5, 8]  # the best at epoch 2, then three epochs without a lower one
    errors += [7.0, 7, 7, 7]  # a tenth: one improvement, three without
    errors += [7.0, 7, 7]  # a hundredth: none
    found = scales(rate, [*errors, 0.0, 0.0])
    assert [round(scale, 4) for scale in found] == [1.0] * 5 + [0.1] * 4 + [0.01] * 3
    assert rate.finished


def test_plateau_is_bounded_by_its_epochs() -> None:
    rate = Rate(PLATEAU, *plan(PLATEAU, WHOLE))
    assert len(scales(rate, [100.0 / (i + 1) for i in range(1000)])) == 219


def test_state_goes_on_where_it_was() -> None:
    errors = [9.0, 8, 8.5, 8.2, 8.1, 7.0, 7.1, 7.2, 7.3, 7.4, 7.5, 7.6, 7.7]
    whole = Rate(PLATEAU, 219, None)
    expected = scales(whole, errors)
    for cut in range(len(expected)):
        first, second = Rate(PLATEAU, 219, None), Rate(PLATEAU, 219, None)
        begun = scales(first, errors[:cut])
        second.load(first.state())
        assert begun + scales(second, errors[cut:]) == expected
        assert second.finished


def test_bounds_are_those_of_the_recipe_when_nothing_is_reduced() -> None:
    short = dataclasses.replace(DROPS, epochs=10, drops=[5])
    assert plan(short, WHOLE) == (10, [5])
