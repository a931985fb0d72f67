"""The real multi-task policy under the monitor: every metric against float64, training bitwise the same."""

from __future__ import annotations

import gc
import random
import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from easydict import EasyDict

from ding_normmon import NormMonitor
from ding_normmon.core.record import Record
from ding_normmon.core.step import INERT
from tests.asserts import assert_bitwise_equal
from tests.unizero.builders import random_batch, tiny_policy

TASKS = 3
SIZES = (3, 6, 4)
GROUPS = {'head_value': 'head_value', 'head_reward': 'head_rewards', 'head_policy': 'head_policy'}


def batches(policy: Any, seed: int) -> list[Any]:
    return [random_batch(policy, task, seed, batch_size=SIZES[task]) for task in policy.task_ids]


def monitored_records(policy: Any, steps: int, **config: Any) -> list[Record]:
    monitor = NormMonitor(EasyDict(monitor_norm_freq=1, **config), policy, destinations=[])
    context = SimpleNamespace(train_iter=0, monitor_records=[])
    for iteration in range(steps):
        context.train_iter = iteration
        monitor(context)
        policy._forward_learn(batches(policy, iteration))
    monitor.close()
    return monitor.monitor.take_records()


class Spy:
    """Remembers, independently of the monitor, the tensors of the step it is told to look at."""

    def __init__(self, policy: Any) -> None:
        world_model = policy._learn_model.world_model
        self.groups = {'encoder': world_model.tokenizer.encoder, 'transformer': world_model.transformer}
        for name, attribute in GROUPS.items():
            for task, head in enumerate(getattr(world_model, attribute)):
                self.groups[f'{name}_task{task}'] = head
        self.weights = {name: norm64(list(module.parameters())) for name, module in self.groups.items()}
        self.model_norm = norm64(list(policy._learn_model.parameters()))
        self.gradients: dict[str, float] = {}
        self.signals: dict[tuple[str, int], torch.Tensor] = {}

    def on_publish(self, name: str, tensor: torch.Tensor, task_id: int, mask: torch.Tensor) -> None:
        batch, steps = mask.shape
        width = tensor.shape[-1] if tensor.dim() > 2 else 1
        tensor = tensor.double().reshape(batch, -1, width)
        repeats = tensor.shape[1] // steps
        rows = [tensor[b, t] for b in range(batch) for t in range(tensor.shape[1]) if mask[b, t // repeats]]
        self.signals[name, task_id] = torch.stack(rows)

    def on_publish_loss(self, name: str, value: Any, task_id: int) -> None:
        pass

    def on_clip(self, clip: Any) -> None:
        pass

    def on_hook_point(self, hook_point: str, step: Any) -> None:
        if hook_point == 'backward_end':
            for name, module in self.groups.items():
                self.gradients[name] = norm64([p.grad for p in module.parameters() if p.grad is not None])


def norm64(tensors: list[torch.Tensor]) -> float:
    return float(np.sqrt(sum(float((tensor.detach().double() ** 2).sum()) for tensor in tensors)))


@pytest.mark.parametrize('mixed', [False, True])
def test_every_metric_equals_a_float64_computation(mixed: bool) -> None:
    policy = tiny_policy(TASKS, mixed=mixed)
    twin = tiny_policy(TASKS, mixed=mixed)
    record = monitored_records(policy, 1)[0]
    spy = Spy(twin)
    from ding_normmon.core.step import LearnerStep

    twin.learner_step = LearnerStep(0, spy)
    output = twin._forward_learn(batches(twin, 0))
    twin.learner_step = INERT
    scalars = record.scalars

    for name, expected in spy.weights.items():
        if name == 'encoder' and mixed:
            continue
        assert scalars[f'norm/{name}/_total_norm'] == pytest.approx(expected, rel=1e-6)
        assert scalars[f'grad/{name}/_total_norm'] == pytest.approx(spy.gradients[name], rel=1e-6)
    assert scalars['norm/model/_total_norm'] == pytest.approx(spy.model_norm, rel=1e-6)
    assert scalars['grad/model/_total_norm'] == pytest.approx(output['total_grad_norm_before_clip_wm'], rel=1e-5)
    for family, norms in (('norm', spy.weights), ('grad', spy.gradients)):
        for head in GROUPS:
            values = np.array([norms[f'{head}_task{task}'] for task in range(TASKS)])
            assert scalars[f'{family}/{head}_all_tasks/mean'] == pytest.approx(values.mean(), rel=1e-6)
            assert scalars[f'{family}/{head}_all_tasks/std'] == pytest.approx(values.std(ddof=1), rel=1e-6)

    for name in {name for name, _ in spy.signals}:
        per_task = {task: values_of(name, spy.signals[name, task]) for task in range(TASKS)}
        everything = torch.cat(list(per_task.values()))
        for suffix, values in [('', everything), *((f'_task{task}', per_task[task]) for task in range(TASKS))]:
            for metric, expected in expected_statistics(name, suffix, values).items():
                assert scalars[metric] == pytest.approx(expected, rel=1e-6, abs=1e-12), metric
    for task in range(TASKS):
        metric = f'noreduce_value_loss_task{task}'
        assert scalars[metric] == pytest.approx(output[metric], rel=1e-6)
    if mixed:
        assert 'norm/encoder/_total_norm' not in scalars
        assert 'norm/encoder_task2/_total_norm' in scalars


def values_of(name: str, vectors: torch.Tensor) -> torch.Tensor:
    return vectors.norm(dim=-1) if name in ('x_token', 'embeddings/obs') else vectors.reshape(-1)


def expected_statistics(name: str, suffix: str, values: torch.Tensor) -> dict[str, float]:
    prefix = {'x_token': f'norm/x_token{suffix}/', 'embeddings/obs': f'embeddings/obs{suffix}/norm_'}.get(
        name, f'{name}{suffix}/'
    )
    statistics = {'mean': values.mean(), 'std': values.std(), 'max': values.max(), 'min': values.min()}
    if name.startswith(('logits', 'data')):
        statistics['abs_max'] = values.abs().max()
    return {prefix + statistic: float(value) for statistic, value in statistics.items()}


def test_training_is_bitwise_the_same_with_the_monitor_at_every_iteration() -> None:
    results = []
    for watch in (False, True):
        policy = tiny_policy(TASKS)
        torch.manual_seed(1)
        np.random.seed(1)
        random.seed(1)
        monitor = NormMonitor(EasyDict(monitor_norm_freq=1), policy, destinations=[]) if watch else None
        context = SimpleNamespace(train_iter=0, monitor_records=[])
        outputs = []
        for iteration in range(20):
            context.train_iter = iteration
            if monitor:
                monitor(context)
            outputs.append(policy._forward_learn(batches(policy, iteration)))
        if monitor:
            monitor.close()
        results.append(
            {
                'outputs': outputs,
                'model': policy._learn_model.state_dict(),
                'target': policy._target_model.state_dict(),
                'optimizer': policy._optimizer_world_model.state_dict(),
                'modes': [module.training for module in policy._learn_model.modules()],
                'python': random.getstate(),
                'numpy': np.random.get_state()[1].tolist(),
                'torch': torch.get_rng_state(),
            }
        )
    plain, watched = results
    assert_bitwise_equal(plain, watched)


def test_no_tensor_of_the_step_stays_alive() -> None:
    policy = tiny_policy(TASKS)
    seen: list[weakref.ref[torch.Tensor]] = []
    monitor = NormMonitor(EasyDict(monitor_norm_freq=1), policy, destinations=[])
    measurement = monitor.monitor._prepared.measurement
    publish = measurement.on_publish

    def remember(name: str, tensor: torch.Tensor, *args: Any) -> None:
        seen.append(weakref.ref(tensor))
        publish(name, tensor, *args)

    measurement.on_publish = remember  # type: ignore[method-assign]
    monitor(SimpleNamespace(train_iter=0, monitor_records=[]))
    policy._forward_learn(batches(policy, 0))
    gc.collect()
    assert len(seen) == 8 * TASKS
    assert not [reference for reference in seen if reference() is not None]
    assert monitor.monitor._prepared.buffer.bytes < 64 * 1024 * TASKS
    monitor.close()


def test_own_figures_are_merged_into_the_train_output_of_the_same_step() -> None:
    policy = tiny_policy(TASKS)
    monitor = NormMonitor(EasyDict(monitor_norm_freq=2, merge_train_output=True), policy, destinations=[])
    context = SimpleNamespace(train_iter=0, monitor_records=[])
    monitor(context)
    due = policy._forward_learn(batches(policy, 0))
    off = policy._forward_learn(batches(policy, 1))
    monitor.close()
    assert due['norm/encoder/_total_norm'] > 0
    assert all(isinstance(value, float) for value in due.values())
    assert not [name for name in off if name.startswith('norm/')]
    record = monitor.monitor.take_records()[0]
    assert record.scalars['grad/model/_total_norm'] == due['grad/model/_total_norm']


def test_steps_of_one_middleware_call_are_counted() -> None:
    policy = tiny_policy(2)
    monitor = NormMonitor(EasyDict(monitor_norm_freq=3), policy, destinations=[])
    monitor(SimpleNamespace(train_iter=5, monitor_records=[]))
    for seed in range(8):
        policy._forward_learn(batches(policy, seed))
    monitor.close()
    assert [record.iteration for record in monitor.monitor.take_records()] == [6, 9, 12]


def test_a_step_before_the_middleware_is_a_clear_error() -> None:
    policy = tiny_policy(2)
    monitor = NormMonitor(EasyDict(monitor_norm_freq=3), policy, destinations=[])
    with pytest.raises(RuntimeError, match='must stand before the trainer'):
        policy._forward_learn(batches(policy, 0))
    monitor.close()


def test_shared_heads_have_no_task_suffix() -> None:
    policy = tiny_policy(2, model={'world_model_cfg': {'share_head': True}})
    scalars = monitored_records(policy, 1)[0].scalars
    assert 'norm/head_value/_total_norm' in scalars
    assert 'norm/head_value_task0/_total_norm' not in scalars
    assert 'logits/value_task1/mean' in scalars
