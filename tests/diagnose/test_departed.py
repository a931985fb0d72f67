"""What the rules about departures make of them: what is learnt, what one part does alone, and what many do together."""

from __future__ import annotations

import numpy as np
import pytest

from ding_normmon.core.finding import Finding
from ding_normmon.core.record import Record
from ding_normmon.diagnose import Diagnosis
from ding_normmon.metrics import DECLARED

CHANGED = 40
"""Record in which something begins; records are five iterations apart."""


def findings(series: dict[str, list[float]], rule: str) -> list[Finding]:
    diagnosis = Diagnosis({}, figures=DECLARED)
    for number in range(len(next(iter(series.values())))):
        diagnosis.observe(Record(5 * number, {name: values[number] for name, values in series.items()}))
    assert not diagnosis.switched_off
    return [finding for finding in diagnosis.findings if finding.rule == rule]


def noisy(level: float, points: int, seed: int = 0, spread: float = 0.05) -> list[float]:
    return (level * np.exp(spread * np.random.default_rng(seed).normal(size=points))).tolist()


def rewarded(reward: float, value: float, seen_after: int) -> dict[str, list[float]]:
    """Return a task that gets its first rewards, seen in a batch some records later, and one that never gets any."""
    series = {}
    for task in range(2):
        rewards = [0.0] * (CHANGED + 16)
        values = noisy(2e-5, CHANGED + 16)
        if task == 0:
            rewards[CHANGED + seen_after :] = noisy(reward, 16 - seen_after)
            values[CHANGED:] = noisy(value, 16, 1)
        series[f'data/reward_task{task}/abs_max'] = rewards
        for statistic in ('mean', 'abs_max'):
            series[f'data/value_target_task{task}/{statistic}'] = values
    return series


@pytest.mark.parametrize(('value', 'seen_after', 'told'), [(0.7, 0, False), (0.7, 3, False), (12.0, 3, True)])
def test_values_are_learnt_from_the_first_rewards_as_far_as_these_explain_them(
    value: float, seen_after: int, told: bool
) -> None:
    found = findings(rewarded(0.9, value, seen_after), 'target_jump')
    assert any(finding.severity == 'warning' and finding.tasks == (0,) for finding in found) == told


@pytest.mark.parametrize(('larger', 'told'), [(True, False), (False, True)])
def test_a_value_loss_that_rises_with_rewards_of_another_size_is_learning(larger: bool, told: bool) -> None:
    """A task that gets 0.15 now and then finds out how to get 0.9."""
    series = {}
    for task in range(3):
        # Rare rewards are in some batches only.
        rewards, losses = [0.15 * (n % 3 > 0) for n in range(CHANGED + 16)], noisy(0.001, CHANGED + 16, task)
        if task == 0:
            rewards[CHANGED:] = [(0.9 if larger else 0.15) * (n % 3 == 0) for n in range(16)]
            losses[CHANGED:] = noisy(0.08, 16, 9)
        series[f'data/reward_task{task}/abs_max'] = rewards
        series[f'noreduce_value_loss_task{task}'] = losses
    found = findings(series, 'loss_jump')
    assert [finding.tasks for finding in found[:1]] == [(0,)]
    assert any(finding.severity == 'warning' for finding in found) == told


@pytest.mark.parametrize(
    ('before', 'spread', 'severity'), [(0, 0.05, 'info'), (0, 0.6, 'warning'), (0.01, 0.05, 'warning')]
)
def test_first_rewards_are_what_training_is_for_unless_all_steps_have_them(
    before: float, spread: float, severity: str
) -> None:
    series = {}
    for task in range(4):
        for statistic, of_largest in (('max', 1.0), ('abs_max', 1.0), ('std', spread)):
            rewards = [of_largest * reward for reward in noisy(before, CHANGED + 16, task)]
            if task == 2:
                rewards[CHANGED:] = [of_largest * reward for reward in noisy(0.88, 16, 7)]
            series[f'data/reward_task{task}/{statistic}'] = rewards
    found = findings(series, 'data_jump')
    assert {(finding.severity, finding.tasks) for finding in found} <= {(severity, (2,))}
    assert found or severity == 'info'


def test_values_without_any_reward_are_no_learning() -> None:
    found = findings(rewarded(0.0, 5.0, 0), 'target_jump')
    assert [(finding.severity, finding.tasks) for finding in found] == [('warning', (0,))]


@pytest.mark.parametrize(('shrinking', 'told'), [(('encoder',), False), (('encoder', 'transformer'), True)])
def test_what_decays_does_so_in_several_parts(shrinking: tuple[str, ...], told: bool) -> None:
    series = {}
    for part in ('encoder', 'transformer', 'task_embedding'):
        rates = [0.002] * CHANGED + [-0.007 if part in shrinking else 0.002] * 7
        series[f'norm/{part}/_total_norm'] = np.exp(np.cumsum(rates)).tolist()
    assert any(finding.severity == 'warning' for finding in findings(series, 'weight_jump')) == told


@pytest.mark.parametrize(('parts', 'told'), [(1, False), (4, True)])
def test_steps_of_many_parts_count_for_more_than_those_of_one(parts: int, told: bool) -> None:
    series = {}
    for part in range(6):
        steps = noisy(2e-3, CHANGED + 12, part)
        steps[CHANGED:] = [step * (2.2 if part < parts else 1.0) for step in steps[CHANGED:]]
        series[f'update/part{part}/relative'] = steps
    assert any(finding.severity == 'warning' for finding in findings(series, 'update_jump')) == told


@pytest.mark.parametrize(('explained', 'severity'), [(True, 'info'), (False, 'warning')])
def test_a_clip_coefficient_that_falls_as_the_gradient_grows_is_information(explained: bool, severity: str) -> None:
    series = {
        'clip/model/coefficient': [1.0] * CHANGED + [0.1] * 20,
        'grad/model/_total_norm': noisy(1.0, CHANGED) + noisy(10.0 if explained else 1.0, 20, 1),
    }
    assert [finding.severity for finding in findings(series, 'update_jump')] == [severity]


@pytest.mark.parametrize(('pace', 'severity'), [(1.12, 'info'), (5.0, 'warning')])
def test_values_that_grow_little_by_little_are_information(pace: float, severity: str) -> None:
    level = noisy(1.0, CHANGED + 24)
    grown = [min(pace ** max(0, number - CHANGED), 20.0) * value for number, value in enumerate(level)]
    series = {'outputs/head/logit/abs_max': grown}
    found = findings(series, 'output_jump')
    assert found
    assert found[0].severity == severity
