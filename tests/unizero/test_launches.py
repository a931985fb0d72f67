"""What the monitor adds to a learner step on the path of accelerators: operations, which are launches there."""

from __future__ import annotations

from typing import Any

import pytest

from ding_normmon import attach
from ding_normmon.unizero import UniZeroMultitaskPolicy
from tests.accelerator import Operations
from tests.unizero.builders import random_batch, tiny_policy

pytestmark = pytest.mark.usefixtures('as_accelerator')

WITHOUT_BACKWARD_PASSES = {'preset': 'multitask', 'conflict_freq': 0}


def operations_of_a_step(policy: UniZeroMultitaskPolicy) -> int:
    batches = [random_batch(policy, task_id, 0) for task_id in policy.task_ids]
    with Operations() as operations:
        policy._forward_learn(batches)
    return operations.total


def added(num_tasks: int, **config: Any) -> int:
    """Operations of a measured step beyond those of the same step without a monitor."""
    policy = tiny_policy(num_tasks)
    operations_of_a_step(policy)
    bare = operations_of_a_step(policy)
    attachment = attach(policy, {'monitor_norm_freq': 1, 'diagnose': False, **config})
    operations_of_a_step(policy)
    measured = operations_of_a_step(policy)
    attachment.detach()
    return measured - bare


@pytest.mark.slow
@pytest.mark.full
def test_basic_metrics_take_as_many_operations_for_any_number_of_tasks() -> None:
    few, more, many = (added(num_tasks, preset='basic') for num_tasks in (4, 8, 26))
    assert few <= 260
    assert more - few <= 4
    assert many - few <= 22


@pytest.mark.slow
@pytest.mark.full
def test_metrics_of_several_tasks_without_their_backward_passes() -> None:
    assert added(26, **WITHOUT_BACKWARD_PASSES) <= 800


@pytest.mark.slow
def test_nothing_is_added_to_a_step_that_is_not_due() -> None:
    assert added(4, monitor_norm_freq=1_000) == 0
