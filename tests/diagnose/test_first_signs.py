"""What came first, of windows of steps that are made up."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from ding_normmon.core.incident import DenseWindow
from ding_normmon.diagnose.first_signs import what_came_first
from ding_normmon.diagnose.incident_of import incident_of


@pytest.mark.parametrize('value', [np.inf, -np.inf, np.nan, np.finfo(np.float64).max])
def test_figures_that_are_infinite_or_nearly_so_are_compared_in_silence(value: float) -> None:
    steps = np.arange(40)
    loss = 1 + 0.1 * np.sin(steps)
    gradient = 5 + 0.1 * np.cos(steps)
    loss[30:], gradient[31:] = 90.0, value
    window = DenseWindow(
        ('noreduce_value_loss_task1', 'grad/encoder/_total_norm'), steps, np.stack([loss, gradient], axis=1)
    )
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        found = [(departure.iteration, departure.stage) for departure in what_came_first(window, 32)]
    # NaN has a figure of its own: monitor/nonfinite.
    expected = [(30, 'loss')] if np.isnan(value) else [(30, 'loss'), (31, 'shared gradient')]
    assert found == expected


@pytest.mark.parametrize(('lasts', 'task'), [(1, None), (3, 1)])
@pytest.mark.parametrize('kind', ['exception', 'death'])
def test_what_was_back_at_its_level_did_not_end_the_run(kind: str, lasts: int, task: int | None) -> None:
    steps = np.arange(0, 80, 2)
    values = np.stack([1 + 0.1 * np.sin(steps), 5 + 0.1 * np.cos(steps)], axis=1)
    values[-3 : len(steps) - 3 + lasts, 1] *= 20
    window = DenseWindow(('noreduce_value_loss_task0', 'grad/head_value_task1/_total_norm'), steps, values)
    incident = incident_of(1, window, 79, kind, 'It ended.', {})
    assert incident.task == task
    assert bool(incident.first) == (task is not None)


def test_weights_that_jumped_in_the_last_steps_are_told_although_they_change_as_ever_again() -> None:
    steps = np.arange(40)
    weights = np.cumsum(1 + 0.1 * np.sin(steps))
    weights[37:] += 900
    window = DenseWindow(('norm/head_value_task2/_total_norm',), steps, weights[:, None])
    incident = incident_of(1, window, 40, 'exception', 'It ended.', {})
    assert (incident.task, incident.since) == (2, 37)


@pytest.mark.parametrize('is_finite', [True, False])
def test_a_raised_learning_rate_is_no_consequence_of_what_left_its_level_before(is_finite: bool) -> None:
    """A run that has just begun to learn leaves its levels all the time; NaN before the rise is another matter."""
    steps = np.arange(0, 160, 4)
    rate, gradient = np.full(40, 1e-3), 5 + 0.1 * np.cos(steps)
    loss, nonfinite = 1 + 0.1 * np.sin(steps), np.zeros(40)
    gradient[30:] *= 12
    rate[36:] = 0.1
    loss[37:] *= 500
    nonfinite[30:] = 0.0 if is_finite else 3.0
    names = ('learning_rate/encoder', 'grad/head_policy_task3/_total_norm', 'noreduce_value_loss_task1')
    values = np.stack([rate, gradient, loss, nonfinite], axis=1)
    window = DenseWindow((*names, 'monitor/nonfinite/noreduce_value_loss_task2'), steps, values)
    incident = incident_of(1, window, 148, 'finding', 'Odd.', {})
    assert (incident.task, incident.since) == ((None, 144) if is_finite else (2, 120))


@pytest.mark.parametrize(
    ('shared', 'is_sure', 'begins'), [(False, False, (2, 39)), (True, False, (0, 36)), (True, True, (2, 39))]
)
def test_a_task_that_a_finding_names_is_reached_by_others_only_through_what_they_share(
    shared: bool, is_sure: bool, begins: tuple[int, int]
) -> None:
    """A batch of another task had more new samples than ever, some steps before the observations of this one broke."""
    steps = np.arange(41)
    names = ('data/refill_rate_task0', 'data/observation_task2/max', 'grad/encoder/_total_norm')
    values = np.stack([scale * (1 + 0.1 * np.sin(steps + scale)) for scale in (1.0, 2.0, 3.0)], axis=1)
    values[36, 0], values[39, 1], values[39:, 2] = 14.0, 400.0, 90.0
    if shared:
        values[37:, 2] = 90.0
    window = DenseWindow(names, steps, values)
    incident = incident_of(1, window, 39, 'finding', 'Odd.', {}, at_fault=(2,), is_sure=is_sure)
    assert (incident.task, incident.since) == begins
    assert incident.first[0].task == begins[0]
