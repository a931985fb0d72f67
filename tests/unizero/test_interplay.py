"""Everything switched on at every iteration of the real policy: training is the same, every family is there."""

from __future__ import annotations

import gc
import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from easydict import EasyDict

from ding_normmon import NormMonitor, Record
from tests.asserts import assert_bitwise_equal
from tests.unizero.builders import random_batch, tiny_policy

TASKS = 3
EVERYTHING = {
    'preset': 'full',
    'conflict_by_loss': True,
    'conflict_blocks': True,
    'conflict_exact': 'rank',
    'sketch_size': 128,
    'budget': None,
}


def train(steps: int, config: dict[str, Any] | None, mixed: bool = False) -> tuple[dict[str, Any], list[Record]]:
    policy = tiny_policy(TASKS, mixed=mixed)
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    monitor = None
    if config is not None:
        monitor = NormMonitor(EasyDict(monitor_norm_freq=1, **config), policy, destinations=[])
    context = SimpleNamespace(train_iter=0, monitor_records=[])
    outputs, records = [], []
    for context.train_iter in range(steps):
        if monitor is not None:
            monitor(context)
            records += context.monitor_records
        data = [random_batch(policy, task, context.train_iter, batch_size=3 + task) for task in policy.task_ids]
        outputs.append(policy._forward_learn(data))
    if monitor is not None:
        monitor.close()
        assert not monitor.monitor.lost_data.total
        records += monitor.monitor.take_records()
    state = {
        'outputs': outputs,
        'model': policy._learn_model.state_dict(),
        'target': policy._target_model.state_dict(),
        'optimizer': policy._optimizer_world_model.state_dict(),
        'modes': [module.training for module in policy._learn_model.modules()],
        'hooks': [len(module._forward_hooks) + len(module._backward_hooks) for module in policy._learn_model.modules()],
        'python': random.getstate(),
        'numpy': np.random.get_state()[1].tolist(),
        'torch': torch.get_rng_state(),
    }
    return state, records


@pytest.mark.parametrize('mixed', [False, True])
@pytest.mark.full
def test_training_is_bitwise_the_same_with_everything_on(mixed: bool) -> None:
    plain, _ = train(10, None, mixed)
    watched, records = train(10, EVERYTHING, mixed)
    assert_bitwise_equal(plain, watched)
    assert [record.iteration for record in records] == list(range(10))
    for record in records:
        assert np.isfinite(list(record.scalars.values())).all()
        for family in ('conflict/transformer/rate', 'conflict/transformer_block0/rate', 'update/transformer/relative'):
            assert family in record.scalars
        for task in range(TASKS):
            for what in ('conflict/transformer_task{}/share', 'conflict/embeddings_task{}/policy/norm'):
                assert what.format(task) in record.scalars
            assert f'update/transformer_task{task}/cosine' in record.scalars
        assert record.matrices['conflict/transformer/cosine'].labels[0] == ('mixed0' if mixed else 'task0')
        assert record.notes['conflict/transformer'].count('mixed' if mixed else 'task') == 2


@pytest.mark.slow
@pytest.mark.full
def test_no_gradient_of_a_task_stays_alive() -> None:
    policy = tiny_policy(TASKS)
    monitor = NormMonitor(EasyDict(monitor_norm_freq=1, **EVERYTHING), policy, destinations=[])
    context = SimpleNamespace(train_iter=0, monitor_records=[])
    sizes = []
    for context.train_iter in range(4):
        monitor(context)
        policy._forward_learn([random_batch(policy, task, 0) for task in policy.task_ids])
        gc.collect()
        sizes.append(sum(t.nbytes for t in gc.get_objects() if issubclass(type(t), torch.Tensor)))
    monitor.close()
    assert sizes[3] <= sizes[1]
