"""What is said of a task's batch, and how far the target network is."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ding_normmon import attach
from ding_normmon.core.record import Record
from ding_normmon.integrations.lightzero.batch import outside_support
from ding_normmon.runs import read_run
from ding_normmon.runs.history_file import FILE_NAME, HistoryFile
from ding_normmon.unizero import policy as policies
from tests.sampling import sampled
from tests.unizero.builders import random_batch, tiny_policy


def one_record(spoil: str = '') -> tuple[Record, list[float]]:
    policy = tiny_policy(2)
    batches = [random_batch(policy, task_id, 0, batch_size=3 + task_id) for task_id in range(2)]
    current, target, _ = batches[1]
    if spoil == 'reward':
        target[0][0, :2] = (1e4, -1e4)
    elif spoil == 'padded reward':
        # Of the step after the last one that is unrolled.
        target[0][:, -1] = 1e9
    elif spoil == 'mask':
        current[3][0, 0] = 0.25
    elif spoil == 'policy':
        target[2][0, 0, 0] = -1e-3
    with torch.no_grad():
        for parameter in policy._target_model.parameters():
            parameter.mul_(1.25)
    online = torch.cat([p.detach().double().reshape(-1) for p in policy._learn_model.parameters()])
    away = torch.cat([p.detach().double().reshape(-1) for p in policy._target_model.parameters()])
    attachment = attach(policy, {'monitor_norm_freq': 1})
    policy._forward_learn(copy.deepcopy(batches))
    attachment.detach()
    valid = [float((batch[0][3][:, :4] == 1).sum()) for batch in batches]
    (record,) = attachment.monitor.take_records()
    return record, [*valid, float((online - away).norm() / online.norm())]


def test_sizes_and_distance_against_float64() -> None:
    record, (first, second, distance) = one_record()
    scalars = record.scalars
    assert (scalars['data/batch_size_task0'], scalars['data/batch_size_task1']) == (3.0, 4.0)
    assert (scalars['data/valid_steps_task0'], scalars['data/valid_steps_task1']) == (first, second)
    assert scalars['target/distance'] == pytest.approx(distance, rel=1e-6)
    assert not any(name.startswith('data/outside/') for name in scalars)


SPOILT = [('padded reward', None, 0), ('reward', 'reward', 2), ('mask', 'mask', 1), ('policy', 'policy_target', 1)]


@pytest.mark.parametrize(('spoil', 'part', 'count'), sampled(SPOILT, 2))
def test_what_is_outside_is_counted_in_valid_steps(spoil: str, part: str | None, count: int) -> None:
    record, _ = one_record(spoil)
    found = {name: value for name, value in record.scalars.items() if name.startswith('data/outside/')}
    assert found == ({} if part is None else {f'data/outside/{part}_task1': float(count)})
    assert ('outside_support' in [finding.rule for finding in record.findings]) == (part is not None)


def test_the_support_is_that_of_the_transform() -> None:
    # h(15) = sqrt(16) - 1 + 0.015 = 3.015
    assert outside_support(np.array([14.8, -14.8, 15.0, -15.0, np.nan, -np.inf]), (-3.0, 3.0)) == 4


@pytest.mark.parametrize('spoilt', [0, 1])
def test_an_exception_in_the_forward_pass_is_told_with_the_task_whose_batch_made_it(
    spoilt: int, tmp_path: Path
) -> None:
    policy = tiny_policy(2)
    history = HistoryFile(tmp_path / FILE_NAME)
    attachment = attach(policy, {'monitor_norm_freq': 1000, 'watch': 1}, destinations=[history])
    for iteration in range(12):
        policy._forward_learn([random_batch(policy, task_id, iteration, batch_size=40) for task_id in range(2)])
    batches = [random_batch(policy, task_id, 12, batch_size=40) for task_id in range(2)]
    # Of a large batch, the observations of only some samples are looked at where nothing is wrong.
    batches[spoilt][0][0][38].reshape(-1)[5] = np.nan
    with pytest.raises(ValueError, match='NaN'):
        policy._forward_learn(batches)
    attachment.detach()
    (incident,) = read_run(tmp_path).incidents
    assert incident.kind == 'exception'
    assert (incident.opened, incident.task) == (12, spoilt)


def test_an_exception_in_a_step_that_is_not_watched_names_the_task(tmp_path: Path) -> None:
    policy = tiny_policy(3)
    history = HistoryFile(tmp_path / FILE_NAME)
    attachment = attach(policy, {'monitor_norm_freq': 1000, 'watch': 4}, destinations=[history])
    for iteration in range(10):
        policy._forward_learn([random_batch(policy, task_id, iteration) for task_id in range(3)])
    batches = [random_batch(policy, task_id, 10) for task_id in (2, 0, 1)]
    batches[1][0][0].reshape(-1)[5] = np.nan
    with pytest.raises(ValueError, match='NaN'):
        policy._forward_learn(batches)
    attachment.detach()
    (incident,) = read_run(tmp_path).incidents
    named = f'in the forward pass of task 0 ({policy.task_names[0]}), in the learner step of iteration 10.'
    assert incident.reason.endswith(named)
    assert (incident.opened, incident.task) == (10, 0)


def test_an_exception_has_an_incident_of_its_own_beside_one_that_is_open(tmp_path: Path) -> None:
    policy = tiny_policy(2)
    history = HistoryFile(tmp_path / FILE_NAME)
    attachment = attach(policy, {'monitor_norm_freq': 1000, 'watch': 1}, destinations=[history])
    for iteration in range(12):
        batches = [random_batch(policy, task_id, iteration) for task_id in range(2)]
        if iteration == 10:
            # Outside of what the policy declares: an invariant.
            batches[0][1][0][0, 0] = 1e4
        if iteration == 11:
            batches[1][0][0].reshape(-1)[5] = np.nan
            with pytest.raises(ValueError, match='NaN'):
                policy._forward_learn(batches)
        else:
            policy._forward_learn(batches)
    attachment.detach()
    first, second = read_run(tmp_path).incidents
    assert (first.kind, first.task) == ('invariant', 0)
    assert (second.kind, second.opened, second.task) == ('exception', 11, 1)


def test_a_batch_that_is_too_broken_to_be_measured_changes_no_exception(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise IndexError('no such row')

    monkeypatch.setattr(policies, 'publish_data', broken)
    policy = tiny_policy(2)
    attachment = attach(policy, {'monitor_norm_freq': 1})
    batches = [random_batch(policy, task_id, 0) for task_id in range(2)]
    batches[1][0][0].reshape(-1)[5] = np.nan
    with pytest.raises(ValueError, match='NaN'):
        policy._forward_learn(batches)
    attachment.detach()
    assert 'task 1: its batch cannot be measured: IndexError: no such row' in caplog.text


@pytest.mark.parametrize('broken', [[], [[[1.0], [2.0, 3.0]]]])
def test_a_batch_without_its_parts_changes_no_exception(broken: list[Any]) -> None:
    policy = tiny_policy(2)
    current, _, task_id = random_batch(policy, 1, 0)
    with pytest.raises(Exception) as raised:  # noqa: PT011 - whatever it is without the monitor
        policy._forward_learn([random_batch(policy, 0, 0), (current, broken, task_id)])
    assert raised.value.__context__ is None or raised.value.__suppress_context__
    assert f'in the forward pass of task 1 ({policy.task_names[1]})' in raised.value.__notes__
