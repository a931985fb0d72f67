"""Figures against their past: every kind of change, and what is no change."""

from __future__ import annotations

import numpy as np
import pytest

from ding_normmon.core.record import Record
from ding_normmon.diagnose.departure import Departure
from ding_normmon.diagnose.window import Window
from ding_normmon.metrics import DECLARED


def run(series: dict[str, list[float]], every: int = 5) -> list[tuple[int, tuple[Departure, ...], Window]]:
    window = Window({}, DECLARED)
    states = []
    for number in range(len(next(iter(series.values())))):
        window.add(Record(every * number, {name: values[number] for name, values in series.items()}))
        states.append((every * number, window.departures.current, window))
    return states


def noisy(level: float, points: int, seed: int = 0, spread: float = 0.1) -> list[float]:
    return (level * np.exp(spread * np.random.default_rng(seed).normal(size=points))).tolist()


@pytest.mark.parametrize('name', ['grad/encoder/_total_norm', 'logits/policy/abs_max', 'norm/encoder/_total_norm'])
@pytest.mark.parametrize(('factor', 'away'), [(1.0, False), (30.0, True), (1 / 30, True)])
def test_a_level_that_jumps(name: str, factor: float, away: bool) -> None:
    spread = 0.01 if name.startswith('norm/') else 0.1
    states = run({name: noisy(2.0, 40, spread=spread) + noisy(2.0 * factor, 12, 1, spread)})
    strongest = [max((d.strength for d in current), default=0.0) for _, current, _ in states]
    assert max(strongest[:40]) < 1
    assert (max(strongest[40:]) >= 1) == away


def test_a_sign_that_turns_is_a_change() -> None:
    states = run({'data/reward/mean': noisy(1.0, 40) + [-value for value in noisy(1.0, 8)]})
    (departure,) = states[-1][1]
    assert departure.strength >= 1
    assert departure.level < 0 < departure.past


def test_a_slow_drift_of_data_is_a_change_and_that_of_weights_is_not() -> None:
    drifting = [1.0] * 60 + [1.01 ** (5 * number) for number in range(60)]
    states = run({'data/reward/max': drifting, 'norm/encoder/_total_norm': drifting})
    names = {departure.name for _, current, _ in states for departure in current if departure.strength >= 1}
    assert 'data/reward/max' in names
    late = {departure.name for departure in states[-1][1] if departure.strength >= 1}
    assert 'norm/encoder/_total_norm' not in late


def test_a_loss_near_zero_may_fluctuate_but_not_come_back() -> None:
    start = [3.0, 1.0, 0.3, 0.1, 0.03]
    near_zero = noisy(1e-3, 60, spread=1.5)
    calm = run({'noreduce_value_loss': start + near_zero})
    assert not any(d.strength >= 1 for _, current, _ in calm for d in current)
    back = run({'noreduce_value_loss': start + near_zero + noisy(3.2, 6)})
    assert any(d.strength >= 1 for d in back[-1][1])


def test_a_level_that_stays_changed_does_not_become_normal() -> None:
    states = run({'grad/encoder/_total_norm': noisy(1.0, 30) + noisy(100.0, 80, 1)})
    assert all(current and current[0].strength >= 1 for _, current, _ in states[33:])


def test_repeated_values_are_one_measurement() -> None:
    values = np.repeat(noisy(1.0, 20), 5).tolist()
    window = run({'grad/encoder/_total_norm': values})[-1][2]
    assert not window.departures.current


@pytest.mark.parametrize(('repeats', 'away'), [(False, True), (True, False)])
def test_the_same_gradient_norm_again_is_a_point_unless_a_logger_repeats_it(repeats: bool, away: bool) -> None:
    window = Window({}, DECLARED, repeats)
    values = [value for value in noisy(1.0, 20) for _ in range(5)] + [300.0] * 10
    for number, value in enumerate(values):
        window.add(Record(5 * number, {'grad/encoder/_total_norm': value}))
    assert bool(window.departures.current) == away


def test_a_constant_gradient_norm_that_jumps_has_left_its_past() -> None:
    for jump in (300.0, 1 / 300):
        states = run({'grad/encoder/_total_norm': [1.0] * 40 + [jump] * 20})
        assert not any(current for _, current, _ in states[:41])
        assert all(current[0].strength >= 1 for _, current, _ in states[42:])


def test_every_iteration_is_judged_like_every_fifth() -> None:
    values = noisy(1.0, 60) + noisy(50.0, 12, 1)
    often = np.repeat(values, 5).tolist()
    seldom = run({'data/observation_change/mean': values})
    dense = run({'data/observation_change/mean': often}, every=1)
    first = [next(i for i, current, _ in states if any(d.strength >= 1 for d in current)) for states in (seldom, dense)]
    assert first[0] == first[1]


@pytest.mark.parametrize(('changed', 'owner'), [([2], ('task', 2)), ([0, 1, 2, 3], ('all', None))])
def test_whose_a_departure_is(changed: list[int], owner: tuple[str, int | None]) -> None:
    series = {
        f'grad/head_policy_task{task}/_total_norm': noisy(1.0, 40, task)
        + noisy(100.0 if task in changed else 1.0, 8, task)
        for task in range(4)
    }
    states = run(series)
    owners = {states[-1][2].owner(departure)[:2] for departure in states[-1][1] if departure.strength >= 1}
    assert owners == {owner}


def strongest(values: list[float], name: str, since: int) -> float:
    """Return the largest strength of a figure from a point on."""
    states = run({name: values})
    assert not any(d.strength >= 1 for _, current, _ in states[:since] for d in current)
    return max((d.strength for _, current, _ in states[since:] for d in current), default=0.0)


@pytest.mark.parametrize(
    ('entropy', 'away'), [(0.693, False), (0.65, False), (0.75, False), (0.97, True), (1.099, True), (0.0, True)]
)
def test_the_entropy_of_targets_that_was_constant_may_change_a_little(entropy: float, away: bool) -> None:
    values = [0.693] * 20 + [entropy] * 6
    assert (strongest(values, 'noreduce_target_policy_entropy_task0', 20) >= 1) == away


@pytest.mark.parametrize('name', ['update/head_value_task1/relative', 'update/head_reward/relative'])
@pytest.mark.parametrize(('factor', 'away'), [(1.0, False), (20.0, False), (100.0, True), (0.1, False)])
def test_steps_of_a_head_jump_above_its_first_ones(name: str, factor: float, away: bool) -> None:
    falling = [0.02 * 0.8**number for number in range(18)]
    values = [*falling, *(factor * falling[-1] * 0.95**number for number in range(8))]
    assert (strongest(values, name, 18) >= 1) == away


@pytest.mark.parametrize(
    ('rates', 'away'),
    [
        ([0.05] * 10 + [0.01] * 20, False),
        ([0.05] * 10 + [0.0] * 10 + [-0.005] * 10, False),
        ([-0.05] * 30, False),
        ([0.05] * 16 + [-0.08] * 6 + [0.0] * 4, True),
    ],
)
@pytest.mark.parametrize('name', ['norm/head_value_task1/_total_norm', 'norm/encoder/_total_norm'])
def test_weights_that_shrink_faster_than_ever(rates: list[float], away: bool, name: str) -> None:
    values = np.exp(np.cumsum(rates)).tolist()
    assert (strongest(values, name, 0 if not away else 16) >= 1) == away


@pytest.mark.parametrize(('size', 'away'), [(2e-2, True), (5e-3, True), (2e-5, False)])
def test_values_with_a_size_do_not_become_exactly_0(size: float, away: bool) -> None:
    values = [2e-5] * 8 + noisy(size, 10) + [0.0] * 5
    states = run({'data/value_target/mean': values})
    assert any(d.strength >= 1 and d.level == 0 for _, current, _ in states[18:] for d in current) == away


def test_what_all_tasks_do_is_not_one_tasks_where_a_value_comes_twice() -> None:
    after = {0: [50.1, 50.2, 50.2, 50.3, 50.4, 50.4, 50.5, 50.6], 1: [51.1, 51.2, 51.3, 51.3, 51.4, 51.5, 51.5, 51.5]}
    series = {f'norm/x_token_task{task}/mean': noisy(8.0, 40, task, 0.01) + after[task] for task in after}
    states = run(series)
    owners = {states[-1][2].owner(departure)[:2] for departure in states[-1][1]}
    assert owners == {('all', None)}


@pytest.mark.parametrize(('every', 'away'), [(5, False), (10, True), (20, True)])
def test_few_batches_tell_more_if_they_lie_further_apart(every: int, away: bool) -> None:
    values = noisy(1.0, 8, spread=0.8) + noisy(3.0, 4, 1)
    states = run({'data/observation_change/mean': values}, every)
    assert any(d.strength >= 1 for _, current, _ in states for d in current) == away


@pytest.mark.parametrize(('statistic', 'away'), [('mean', False), ('std', True), ('abs_max', True)])
def test_the_mean_of_logits_does_not_matter_but_their_size_does(statistic: str, away: bool) -> None:
    states = run({f'logits/policy_task1/{statistic}': noisy(0.02, 20) + noisy(1.0, 6, 1)})
    assert any(d.strength >= 1 for _, current, _ in states for d in current) == away
