"""Sums whose factors are known exactly: learnt, kept, and what has changed in them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from ding_normmon.diagnose.weighted_sum import Change, WeightedSum

PARTS = ('value_loss', 'policy_loss', 'obs_loss')

Values = npt.NDArray[np.float64]


def observed(
    factors: list[Values], seed: int = 0, rounding: float = 0.0, spread: float = 0.5, offset: float = 0.0
) -> tuple[WeightedSum, list[int]]:
    """Add one record for each array of factors, (parts, tasks); return also how many were unexplained after each."""
    total, chance = WeightedSum(), np.random.default_rng(seed)
    level = chance.uniform(0.2, 3, factors[0].shape)
    unexplained = []
    for each in factors:
        values = level * np.exp(spread * chance.normal(size=level.shape))
        shown = values * (1 + rounding * chance.uniform(-1, 1, level.shape))
        parts = {(part, task): float(shown[p, task]) for p, part in enumerate(PARTS) for task in range(level.shape[1])}
        total.add(float((each * values).sum()) + offset * float(chance.normal()), parts)
        unexplained.append(total.unexplained)
    return total, unexplained


def weights(tasks: int) -> Values:
    return np.outer([0.25, 0.5, 10.0], np.ones(tasks)) / tasks


def scaled(part: int | slice, task: int | slice, factor: float, tasks: int) -> Values:
    changed = weights(tasks).copy()
    changed[part, task] *= factor
    return changed


CHANGES = [
    (slice(None), 1, 40.0, Change('', (1,), 40.0, True)),
    (slice(None), 2, 0.0, Change('', (2,), 0.0, True)),
    (slice(None), slice(1, 3), 25.0, Change('', (1, 2), 25.0, True)),
    (0, 0, 100.0, Change('value_loss', (0,), 100.0, True)),
    (1, slice(None), -1.0, Change('policy_loss', (), -1.0, True)),
    (slice(None), slice(None), 9.0, Change('', (), 9.0, True)),
]


@pytest.mark.parametrize(('part', 'task', 'factor', 'expected'), CHANGES, ids=[str(each[3]) for each in CHANGES])
@pytest.mark.parametrize('rounding', [0.0, 5e-4])
def test_what_has_changed_is_told_with_its_factor(
    part: int | slice, task: int | slice, factor: float, expected: Change, rounding: float
) -> None:
    total, unexplained = observed([weights(4)] * 20 + [scaled(part, task, factor, 4)] * 8, rounding=rounding)
    assert unexplained[:20] == [0] * 20
    change = total.change()
    assert change is not None
    assert change.is_clear
    assert (change.part, change.tasks) == (expected.part, expected.tasks)
    assert change.factor == pytest.approx(factor, rel=0.1, abs=0.1)


def test_tasks_with_weights_of_their_own_are_learnt_too() -> None:
    own = weights(3) * [1.0, 5.0, 0.2]
    total, unexplained = observed([own] * 40 + [own * [1.0, 1.0, 30.0]] * 6)
    assert unexplained[:40] == [0] * 40
    change = total.change()
    assert change is not None
    assert (change.part, change.tasks) == ('', (2,))
    assert change.factor == pytest.approx(30, rel=1e-3)


def test_a_weight_that_grows_is_followed() -> None:
    ramp = [scaled(slice(None), 0, 1.07**number, 3) for number in range(30)]
    total, _ = observed([weights(3)] * 20 + ramp)
    change = total.change()
    assert change is not None
    assert change.tasks == (0,)
    assert total.followed(change).factor == pytest.approx(1.07**29, rel=1e-3)


@pytest.mark.parametrize('seed', range(3))
def test_weights_that_always_change_and_what_is_no_such_sum_are_not_judged(seed: int) -> None:
    chance = np.random.default_rng(seed)
    moving = [weights(2) * np.exp(0.3 * chance.normal(size=(3, 2))) for _ in range(80)]
    assert not any(observed(moving, seed)[1])
    assert not any(observed([weights(2)] * 80, seed, offset=2.0)[1])


@pytest.mark.parametrize('seed', range(3))
def test_the_same_weights_with_rounded_losses_stay_explained(seed: int) -> None:
    assert not any(observed([weights(4)] * 200, seed, rounding=4e-3)[1])


def test_a_new_task_begins_a_new_sum() -> None:
    total, _ = observed([weights(2)] * 20)
    chance = np.random.default_rng(9)
    for _ in range(20):
        values = chance.uniform(1, 2, (3, 3))
        parts = {(part, task): float(values[p, task]) for p, part in enumerate(PARTS) for task in range(3)}
        total.add(float((weights(3) * values).sum()), parts)
        assert total.unexplained == 0
    assert total.expected == pytest.approx(float((weights(3) * values).sum()), rel=1e-6)


def test_after_a_while_new_weights_are_the_usual_ones() -> None:
    _, unexplained = observed([weights(2)] * 20 + [9 * weights(2)] * 90)
    assert max(unexplained) == 63
    assert unexplained[-1] == 0


def test_tasks_with_the_same_losses_cannot_be_told_apart() -> None:
    total, chance = WeightedSum(), np.random.default_rng(1)
    for number in range(30):
        values = chance.uniform(1, 2, 3)
        parts = {(part, task): float(values[p] * (1 + task)) for p, part in enumerate(PARTS) for task in range(2)}
        factors = [9.0 if number >= 20 and task == 1 else 1.0 for _, task in parts]
        total.add(sum(factor * value for factor, value in zip(factors, parts.values(), strict=True)), parts)
    change = total.change()
    assert change is not None
    assert not change.is_clear


def test_of_a_task_whose_losses_are_one_part_all_of_them_are_named() -> None:
    total, chance = WeightedSum(), np.random.default_rng(1)
    for number in range(30):
        parts = {(part, task): float(chance.uniform(1, 2)) for part in PARTS for task in range(2)}
        parts['value_loss', 1] = parts['policy_loss', 1] = 1e-4 * parts['obs_loss', 1]
        total.add(sum(parts.values()) + sum(parts[part, 1] for part in PARTS) * 9 * (number >= 20), parts)
    change = total.change()
    assert change is not None
    assert (change.part, change.tasks, change.is_clear) == ('', (1,), True)
