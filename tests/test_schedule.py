"""When rates drop, momentum rises and runs end."""

import dataclasses

import pytest

from nin_repro.config.compose import load
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


def test_a_rate_that_falls_with_every_update_is_never_zero() -> None:
    rate = Rate(dataclasses.replace(DROPS, kind="exponential", factor=0.9, floor=0.0), 260, [])
    rate.step = 10**6
    assert 0 < rate.scale < 1e-20  # momentum is kept in proportion to it


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


def rate_of(schedule: Schedule, epochs: int | None = None) -> Rate:
    return Rate(schedule, *plan(schedule, Budget("any", epochs, None, None)))


def test_published_schedule_of_maxout_on_cifar() -> None:
    rate = rate_of(load(["optimizer=maxout_cifar10"]).optimizer.schedule)
    found = []
    while not rate.finished:
        found.append((rate.scale, rate.momentum(0.5)))
        rate.end_epoch(50.0)
    assert len(found) == 785
    scales, momenta = zip(*found, strict=True)
    # pylearn2: lr0 - (lr0 - 0.01 lr0) / 500 * epoch until epoch 500; momentum 0.5 + 0.1 * (epoch - 1) / 249
    for epoch, scale in ((1, 0.99802), (2, 0.99604), (250, 0.505), (499, 0.01198), (500, 0.01), (785, 0.01)):
        assert scales[epoch - 1] == pytest.approx(scale, rel=1e-9)
    for epoch, momentum in ((1, 0.5), (84, 0.5 + 8.3 / 249), (250, 0.6), (251, 0.6), (785, 0.6)):
        assert momenta[epoch - 1] == pytest.approx(momentum, rel=1e-12)


def test_published_schedule_of_maxout_on_mnist() -> None:
    rate = rate_of(load(["optimizer=maxout_mnist"]).optimizer.schedule)
    for step, lr in ((0, 0.05), (1, 0.05 / 1.00004), (25_000, 0.05 / 1.00004**25_000), (10**6, 1e-6)):
        rate.step = step
        assert 0.05 * rate.scale == pytest.approx(lr, rel=1e-9)
    rate.end_step()
    assert rate.step == 10**6 + 1
    rate.epoch = 249
    assert rate.momentum(0.5) == pytest.approx(0.7)


def test_reduced_budget_goes_through_decay_and_ramp_faster() -> None:
    for words in (["optimizer=maxout_cifar10"], ["optimizer=maxout_mnist"]):
        schedule = load(words).optimizer.schedule
        whole, fifth = rate_of(schedule), rate_of(schedule, schedule.epochs // 5)
        for epoch in range(fifth.epochs):
            fifth.epoch, whole.epoch = epoch, 5 * epoch
            fifth.step, whole.step = 100 * epoch, 500 * epoch
            assert fifth.scale == pytest.approx(whole.scale) and fifth.momentum(0.5) == pytest.approx(
                whole.momentum(0.5)
            )
        assert not fifth.finished
        fifth.end_epoch(0.0)
        assert fifth.finished
