"""Policies that clip before they average: what is reported on several ranks, and how it is told which policies do."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from ding_normmon.core.parameter_groups import find_groups
from ding_normmon.core.record import Record
from ding_normmon.integrations.adapter import LOCAL_GRADIENT
from ding_normmon.integrations.lightzero import lightzero_adapter
from ding_normmon.integrations.lightzero.gradient import CORRECTED, ONE_RANK, SYNCHRONISED, reported_gradient
from tests.distributed.ranks import run_ranks
from tests.integrations.lightzero import measure, multitask
from tests.integrations.lightzero.policies import POLICIES

NAME = 'unizero_multitask'
LAYOUT = [(0, 1), (2,)]
HEADS = ('head_value', 'head_reward', 'head_policy', 'head_observation')


def train(rank: int) -> dict[str, Any]:
    """Do a monitored learner step on the tasks of this rank; return the record and what the test saw itself."""
    torch.manual_seed(0)
    tasks = LAYOUT[rank]
    policy = multitask.unizero_multitask(task_id=tasks[0], task_num=len(tasks))
    policy._cfg.multi_gpu = True
    for iteration in range(2):
        multitask.learn(policy, NAME, iteration, tasks)
    model = policy._learn_model
    groups = {group.key: list(group.parameters) for group in find_groups(model, multitask.TASKS)}
    used: dict[str, float] = {}

    def remember(*_: object) -> None:
        used.update(norms_of(groups))

    handle = policy._optimizer_world_model.register_step_pre_hook(remember)
    with measure.gradients_before_clipping(groups) as local, measure.monitored(policy) as records:
        multitask.learn(policy, NAME, 2, tasks)
    handle.remove()
    return {
        'records': records,
        'local': {key: measure.norm_of(gradients) for key, gradients in local.items() if gradients},
        'used': used,
        'gradient': lightzero_adapter(policy).gradient,
        'remarks': lightzero_adapter(policy).remarks,
    }


def norms_of(groups: dict[str, list[Any]]) -> dict[str, float]:
    gradients = {key: [p.grad for p in parameters if p.grad is not None] for key, parameters in groups.items()}
    return {key: measure.norm_of(found) for key, found in gradients.items() if found}


@pytest.mark.distributed
def test_two_ranks_that_clip_before_they_average() -> None:
    first, second = run_ranks(train, 2, timeout=150)
    assert first['gradient'] == second['gradient'] == LOCAL_GRADIENT
    assert second['records'] == []
    assert 'grad_local/' in first['remarks'][0]
    record: Record = measure.only(first['records'])
    scalars = record.scalars
    shared = [group for group in first['local'] if '_task' not in group]
    assert {'encoder', 'transformer'} <= set(shared)
    for group in shared:
        norms = np.array([first['local'][group], second['local'][group]])
        for statistic in ('mean', 'min', 'max'):
            expected = getattr(norms, statistic)()
            assert scalars[f'grad_local/{group}/{statistic}'] == pytest.approx(expected, rel=1e-6), group
        assert first['used'][group] == pytest.approx(second['used'][group], rel=1e-6)
        assert scalars[f'grad_synced/{group}/_total_norm'] == pytest.approx(first['used'][group], rel=1e-6)
        assert f'grad/{group}/_total_norm' not in scalars
    # A head is one rank's, and its gradient is there before that rank clips.
    for task_id in range(multitask.TASKS):
        owner = first if task_id in LAYOUT[0] else second
        for head in HEADS:
            key = f'{head}_task{task_id}'
            assert scalars[f'grad/{key}/_total_norm'] == pytest.approx(owner['local'][key], rel=1e-6)
    assert 'grad/model/_total_norm' not in scalars
    assert scalars['monitor/no_gradient/other'] == 1.0
    assert 'grad_local/other/mean' not in scalars


# -- who clips first -------------------------------------------------------------------------------------------------

FIRST = {
    'unizero': LOCAL_GRADIENT,
    'sampled_unizero': SYNCHRONISED,
    'muzero': SYNCHRONISED,
    'efficientzero': SYNCHRONISED,
    'gumbel_muzero': SYNCHRONISED,
}


@pytest.mark.parametrize('name', FIRST)
def test_what_the_package_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = POLICIES[name]()
    assert reported_gradient(policy) == ONE_RANK
    monkeypatch.setattr(dist, 'is_initialized', lambda: True)
    monkeypatch.setattr(dist, 'get_world_size', lambda: 2)
    policy._cfg.multi_gpu = True
    assert reported_gradient(policy) == FIRST[name]
    # Ranks that never average have their own gradients.
    policy._cfg.multi_gpu = False
    assert reported_gradient(policy) == LOCAL_GRADIENT


@pytest.mark.parametrize('key', ['use_moco', 'only_use_moco_stats'])
def test_gradients_that_the_policy_corrects(key: str) -> None:
    policy = multitask.unizero_multitask()
    setattr(policy._cfg, key, True)
    assert reported_gradient(policy) == CORRECTED


def test_a_subclass_that_only_adds_to_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    class Parent:
        _cfg = SimpleNamespace(multi_gpu=True)

        def _forward_learn(self) -> None:
            self.sync_gradients()  # type: ignore
            torch.nn.utils.clip_grad_norm_([], 1.0)

    class Child(Parent):
        def _forward_learn(self) -> None:
            super()._forward_learn()

    monkeypatch.setattr(dist, 'is_initialized', lambda: True)
    monkeypatch.setattr(dist, 'get_world_size', lambda: 2)
    assert reported_gradient(Child()) == SYNCHRONISED
