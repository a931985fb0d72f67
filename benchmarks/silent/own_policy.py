"""The multi-task policy of this package with one error in its batches."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.silent.error import PLANTED, STEPS, SilentError
from benchmarks.workload import learner_batches
from ding_normmon import attach
from ding_normmon.core.record import Record
from ding_normmon.unizero import TaskSpec, UniZeroMultitaskPolicy, multitask_policy_config

__all__ = ['OWN_POLICY']

_TASKS = 3
_AT_FAULT = 1


def run_policy(spoil: Callable[[list[Any], int], list[Any]]) -> list[Record]:
    """Train three small tasks; from the planted iteration on, ``spoil`` changes their batches."""
    tasks = [TaskSpec(f'task{task_id}', (3, 5, 5), 3) for task_id in range(_TASKS)]
    small = {'embed_dim': 16, 'num_heads': 2, 'num_layers': 1}
    settings = {'batch_size': 8, 'num_unroll_steps': 4, 'model': {'support_scale': 10, 'world_model_cfg': small}}
    torch.manual_seed(0)
    policy = UniZeroMultitaskPolicy(multitask_policy_config(tasks, **settings), enable_field=['learn'])
    attachment = attach(policy, {'monitor_norm_freq': 1, 'budget': None})
    for iteration in range(STEPS):
        batches = learner_batches(policy, seed=iteration)
        policy._forward_learn(spoil(batches, iteration) if iteration >= PLANTED else batches)
    attachment.detach()
    return attachment.monitor.take_records()


def _rewards_too_large(batches: list[Any], iteration: int) -> list[Any]:
    batches[_AT_FAULT][1][0] *= 1000.0
    return batches


def _actions_of_another_space(batches: list[Any], iteration: int) -> list[Any]:
    # The world model would look up an action that it has no embedding for; the mask hides this step from the loss.
    batches[_AT_FAULT][0][1][0, 0] = -1
    return batches


def _mask_of_weights(batches: list[Any], iteration: int) -> list[Any]:
    batches[_AT_FAULT][0][3][1] *= 0.5
    return batches


def _same_batch(batches: list[Any], iteration: int) -> list[Any]:
    current, target, task_id = copy.deepcopy(_first(batches)[_AT_FAULT])
    batches[_AT_FAULT] = (current, target, task_id)
    return batches


def _first(batches: list[Any]) -> list[Any]:
    if not _kept:
        _kept.extend(copy.deepcopy(batches))
    return _kept


_kept: list[Any] = []


def _negative_policies(batches: list[Any], iteration: int) -> list[Any]:
    policies = np.asarray(batches[_AT_FAULT][1][2])
    policies[..., 0] -= 1.0
    batches[_AT_FAULT][1][2] = policies
    return batches


def _small_batches(batches: list[Any], iteration: int) -> list[Any]:
    current, target, task_id = batches[_AT_FAULT]
    batches[_AT_FAULT] = ([part[:2] for part in current], [part[:2] for part in target], task_id)
    return batches


def _without_task(batches: list[Any], iteration: int) -> list[Any]:
    return [batch for batch in batches if batch[2] != _AT_FAULT]


def _other_tasks_data(batches: list[Any], iteration: int) -> list[Any]:
    current, target, _ = copy.deepcopy(batches[0])
    batches[_AT_FAULT] = (current, target, _AT_FAULT)
    return batches


def _run_with_update(later: Callable[[UniZeroMultitaskPolicy], None]) -> list[Record]:
    """Train with another update of the target network from ``PLANTED - 1`` on, which is seen in the next iteration."""
    update = UniZeroMultitaskPolicy._update_target
    steps = 0

    def changed(policy: UniZeroMultitaskPolicy) -> None:
        nonlocal steps
        steps += 1
        (update if steps < PLANTED else later)(policy)

    UniZeroMultitaskPolicy._update_target = changed  # type: ignore[method-assign]
    try:
        return run_policy(lambda batches, iteration: batches)
    finally:
        UniZeroMultitaskPolicy._update_target = update  # type: ignore[method-assign]


def _swapped(policy: UniZeroMultitaskPolicy) -> None:
    models = policy._target_model.parameters(), policy._learn_model.parameters()
    torch._foreach_lerp_(*map(list, models), 1.0 - policy._cfg.target_update_theta)


_SUPPORT = frozenset({'outside_support'})
_ERRORS: tuple[tuple[str, frozenset[str], bool, Callable[[list[Any], int], list[Any]], int], ...] = (
    ('rewards beyond the support', _SUPPORT, True, _rewards_too_large, PLANTED),
    ('a mask that is none', _SUPPORT, True, _mask_of_weights, PLANTED),
    ('policy targets that are no probabilities', _SUPPORT, True, _negative_policies, PLANTED),
    ('a task whose batch never changes', frozenset({'batch_repeats'}), False, _same_batch, PLANTED + 1),
    ('a task whose batches are a part of what they were', frozenset({'input_changes'}), False, _small_batches, PLANTED),
    ('a task that is no longer in the batches', frozenset({'missing_data'}), False, _without_task, PLANTED),
    ("a task that is trained on another one's data", frozenset({'twin_tasks'}), False, _other_tasks_data, PLANTED),
)

OWN_POLICY: tuple[SilentError, ...] = (
    *(
        SilentError(name, '', rules, exact, partial(run_policy, spoil), planted)
        for name, rules, exact, spoil, planted in _ERRORS
    ),
    *(
        SilentError(name, '', frozenset({'target_network'}), False, partial(_run_with_update, later))
        for name, later in (
            ('a target network that no longer follows', lambda policy: None),
            ('a target network that keeps 1 - the factor it should', _swapped),
        )
    ),
)
"""Errors of what a multi-task policy is given, and of what it leaves undone."""
