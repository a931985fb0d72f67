"""Plasticity of the real policy: against direct counts in float64, harmless to training, the same on 1 and 2 ranks."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from easydict import EasyDict
from torch import nn

from ding_normmon import NormMonitor, Record
from tests.accelerator import take_accelerators_path
from tests.distributed.ranks import run_ranks
from tests.metrics.maths.references import dormant_units, ranks
from tests.sampling import sampled
from tests.unizero.builders import random_batch, tiny_policy

TASKS, SIZES = 3, (3, 6, 4)
LAYERS = {
    'encoder': ('world_model.tokenizer.encoder.layers.2', 'world_model.tokenizer.encoder.layers.5'),
    'transformer': ('world_model.transformer.blocks.0.mlp.1',),
}


def batches(policy: Any, seed: int) -> list[Any]:
    return [random_batch(policy, task, seed, batch_size=SIZES[task]) for task in policy.task_ids]


def monitored(policy: Any, steps: int, **config: Any) -> list[Record]:
    settings = EasyDict({'monitor_norm_freq': 1, 'preset': 'multitask', **config})
    monitor = NormMonitor(settings, policy, destinations=[])
    for iteration in range(steps):
        monitor(SimpleNamespace(train_iter=iteration, monitor_records=[]))
        policy._forward_learn(batches(policy, iteration))
    monitor.close()
    assert not monitor.monitor.lost_data.total
    return monitor.monitor.take_records()


def put_to_sleep(policy: Any, channels: Sequence[int] = (1, 4)) -> None:
    """Make some units of each shared layer nearly silent, and others without a say in the loss, for all tasks."""
    modules = dict(policy._learn_model.named_modules())
    with torch.no_grad():
        # A GELU far below zero is almost silent.
        modules['world_model.tokenizer.encoder.layers.4'].bias[list(channels)] = -4.0
        modules['world_model.transformer.blocks.0.mlp.0'].bias[::3] = -6.0
        modules['world_model.tokenizer.encoder.layers.3'].weight[:, [0, 2]] = 0.0
        modules['world_model.transformer.blocks.0.mlp.2'].weight[:, 1::4] = 0.0


class Watcher:
    """Counts by itself: keeps every activation, gradient and signal of the training passes of one step."""

    def __init__(self, policy: Any) -> None:
        self.activations: dict[tuple[str, int], torch.Tensor] = {}
        self.masks: dict[int, torch.Tensor] = {}
        self.signals: dict[tuple[str, int], np.ndarray] = {}
        model = policy._learn_model
        modules = dict(model.named_modules())
        for path in [path for paths in LAYERS.values() for path in paths]:
            modules[path].register_forward_hook(self._keep(path, model))
        policy.learner_step = self
        policy._forward_learn(batches(policy, 0))

    due = True

    def _keep(self, path: str, model: Any) -> Any:
        def hook(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            output.retain_grad()
            self.activations[path, model.selection.task_id] = output

        return hook

    def publish(self, name: str, tensor: torch.Tensor, task_id: int, mask: torch.Tensor) -> None:
        if name.startswith('data/'):
            return  # numbers of the batch, no representations
        self.masks[task_id] = mask.bool()
        self.signals[name, task_id] = self.valid(tensor.detach(), mask.bool())

    @staticmethod
    def valid(tensor: torch.Tensor, mask: torch.Tensor) -> np.ndarray:
        if tensor.ndim == 4:  # (B*T, C, h, w)
            tensor = tensor.abs().double().sum(dim=(2, 3))
        tensor = tensor.reshape(mask.shape[0], -1, tensor.shape[-1])
        n = tensor.shape[1] // mask.shape[1]
        return np.stack(
            [tensor[b, t].numpy() for b in range(len(mask)) for t in range(tensor.shape[1]) if mask[b, t // n]]
        )

    def samples(self, path: str, task: int, gradient: bool) -> np.ndarray:
        tensor = self.activations[path, task]
        return self.valid(tensor.grad if gradient else tensor.detach(), self.masks[task])

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


@pytest.fixture(scope='module')
def both() -> tuple[Record, Watcher]:
    policy, twin = tiny_policy(TASKS), tiny_policy(TASKS)
    for each in (policy, twin):
        put_to_sleep(each)
    (record,) = monitored(policy, 1, dormant_taus=[0.05, 0.3])
    return record, Watcher(twin)


@pytest.mark.parametrize('gradient', [False, True])
@pytest.mark.parametrize('tau', sampled([0.05, 0.3], 2))
@pytest.mark.parametrize('group', sampled(LAYERS, 2))
def test_dormant_ratios_are_those_of_a_direct_count(
    both: tuple[Record, Watcher], group: str, tau: float, gradient: bool
) -> None:
    record, watcher = both
    statistic = f'{"gradient_" if gradient else ""}dormant_tau{tau:g}'
    samples = {task: [watcher.samples(path, task, gradient) for path in LAYERS[group]] for task in range(TASKS)}
    for task in range(TASKS):
        expected = np.concatenate([dormant_units(layer, tau) for layer in samples[task]]).mean()
        assert record.scalars[f'plasticity/{group}_task{task}/{statistic}'] == expected
    merged = [np.concatenate(layer) for layer in zip(*samples.values(), strict=True)]
    expected = np.concatenate([dormant_units(layer, tau) for layer in merged]).mean()
    assert record.scalars[f'plasticity/{group}/{statistic}'] == expected
    assert 0 < expected < 1


@pytest.mark.parametrize('group', LAYERS)
def test_overlaps_are_those_of_a_direct_count(both: tuple[Record, Watcher], group: str) -> None:
    record, watcher = both
    sets = [
        np.concatenate([dormant_units(watcher.samples(path, task, False), 0.05) for path in LAYERS[group]])
        for task in range(TASKS)
    ]
    matrix = record.matrices[f'plasticity/{group}/dormant_overlap_tasks']
    for i in range(TASKS):
        for j in range(TASKS):
            assert matrix.values[i, j] == pytest.approx((sets[i] & sets[j]).sum() / (sets[i] | sets[j]).sum())
    upper = matrix.values[np.triu_indices(TASKS, 1)]
    assert record.scalars[f'plasticity/{group}/dormant_overlap_tasks'] == pytest.approx(upper.mean())
    assert f'plasticity/{group}/dormant_overlap_time' not in record.scalars


@pytest.mark.parametrize('signal', ['x_token', 'embeddings/obs'])
def test_ranks_are_those_of_numpy(both: tuple[Record, Watcher], signal: str) -> None:
    record, watcher = both
    vectors = [watcher.signals[signal, task] for task in range(TASKS)]
    for suffix, part in [('', np.concatenate(vectors)), *((f'_task{task}', vectors[task]) for task in range(TASKS))]:
        rank, stable, features = ranks(part)
        assert record.scalars[f'plasticity/{signal}{suffix}/effective_rank'] == pytest.approx(rank, rel=1e-6)
        assert record.scalars[f'plasticity/{signal}{suffix}/stable_rank'] == pytest.approx(stable, rel=1e-6)
        assert record.scalars[f'plasticity/{signal}{suffix}/feature_rank'] == features


def test_weight_magnitude(both: tuple[Record, Watcher]) -> None:
    twin = tiny_policy(TASKS)
    put_to_sleep(twin)
    weights = torch.cat(
        [p.detach().double().reshape(-1) for p in twin._learn_model.world_model.transformer.parameters()]
    )
    expected = float(weights.square().mean().sqrt())
    assert both[0].scalars['plasticity/transformer/weight_rms'] == pytest.approx(expected, rel=1e-6)


def test_a_dead_layer_is_dormant_for_every_task_and_stays_so() -> None:
    policy = tiny_policy(TASKS)
    mlp = policy._learn_model.world_model.transformer.blocks[0].mlp
    with torch.no_grad():
        mlp[0].weight.zero_()
        mlp[0].bias.fill_(-100.0)
    first, second = monitored(policy, 2)
    for suffix in ('', *(f'_task{task}' for task in range(TASKS))):
        for statistic in ('dormant_tau0.025', 'dormant_tau0.1'):
            assert first.scalars[f'plasticity/transformer{suffix}/{statistic}'] == 1.0
            assert second.scalars[f'plasticity/transformer{suffix}/{statistic}'] == 1.0
        assert second.scalars[f'plasticity/transformer{suffix}/dormant_overlap_time'] == 1.0
    assert second.scalars['plasticity/transformer/dormant_overlap_tasks'] == 1.0
    assert (second.matrices['plasticity/transformer/dormant_overlap_tasks'].values == 1.0).all()


def test_per_task_encoders_are_not_shared_layers() -> None:
    (record,) = monitored(tiny_policy(TASKS, mixed=True), 1)
    assert not [name for name in record.scalars if name.startswith('plasticity/encoder') and 'dormant' in name]
    assert 'plasticity/transformer_task1/dormant_tau0.1' in record.scalars


@pytest.mark.full
def test_little_memory_means_fewer_units_and_dimensions_with_a_stated_error() -> None:
    exact, frugal = (monitored(tiny_policy(TASKS), 1, memory_budget=size)[0] for size in (2**23, 6_000))
    names = {name for name in frugal.scalars if name.endswith('/rank_error')}
    assert len(names) == 2 * (TASKS + 1)
    assert not [name for name in exact.scalars if name.endswith('/rank_error')]
    assert 'dormant_units' in frugal.notes
    for metric in ('dormant_units', 'representation_rank'):
        # The projection is kept, it is not sent.
        assert frugal.scalars[f'monitor/cost/{metric}/bytes'] < 6_000
    difference = frugal.scalars['plasticity/x_token/stable_rank'] / exact.scalars['plasticity/x_token/stable_rank'] - 1
    assert abs(difference) < 2 * frugal.scalars['plasticity/x_token/rank_error']


def hooks_of(policy: Any) -> list[Any]:
    hooks = ('_forward_hooks', '_forward_pre_hooks', '_backward_hooks', '_backward_pre_hooks')
    return [
        *(dict(getattr(module, name)) for module in policy._learn_model.modules() for name in hooks),
        *(parameter._backward_hooks for parameter in policy._learn_model.parameters()),
        *(parameter._post_accumulate_grad_hooks for parameter in policy._learn_model.parameters()),
    ]


def test_no_hook_stays_even_when_a_step_raises() -> None:
    policy = tiny_policy(TASKS)
    before = hooks_of(policy)
    monitor = NormMonitor(EasyDict(monitor_norm_freq=1, preset='full'), policy, destinations=[])
    inside = []

    def fail(*args: Any, **kwargs: Any) -> None:
        inside.append(hooks_of(policy) != before)
        raise RuntimeError('on purpose')

    step = policy._optimizer_world_model.step
    for iteration, failing in enumerate(['forward', 'step', None]):
        monitor(SimpleNamespace(train_iter=iteration, monitor_records=[]))
        with contextlib.ExitStack() as undo:
            if failing == 'forward':
                handle = policy._learn_model.world_model.transformer.register_forward_hook(fail)
                undo.callback(handle.remove)
            policy._optimizer_world_model.step = fail if failing == 'step' else step
            if failing:
                undo.enter_context(pytest.raises(RuntimeError, match='on purpose'))
            policy._forward_learn(batches(policy, iteration))
        assert hooks_of(policy) == before
    assert inside == [True, True]
    monitor.close()
    assert hooks_of(policy) == before


@pytest.mark.parametrize('mixed', sampled([True, False], 2))
def test_training_is_bitwise_the_same_with_everything_on(mixed: bool) -> None:
    results = []
    for watch in (False, True):
        policy = tiny_policy(TASKS, mixed=mixed, model={'world_model_cfg': {'resid_pdrop': 0.1, 'embed_pdrop': 0.1}})
        torch.manual_seed(1)
        np.random.seed(1)
        random.seed(1)
        modes = [module.training for module in policy._target_model.modules()]
        monitor = NormMonitor(EasyDict(monitor_norm_freq=2, preset='full'), policy, destinations=[]) if watch else None
        outputs = []
        for iteration in range(8):
            if monitor:
                monitor(SimpleNamespace(train_iter=iteration, monitor_records=[]))
            outputs.append(policy._forward_learn(batches(policy, iteration)))
        if monitor:
            monitor.close()
            assert not monitor.monitor.lost_data.total
        assert [module.training for module in policy._target_model.modules()] == modes
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
    from tests.asserts import assert_bitwise_equal

    assert_bitwise_equal(*results)


@pytest.mark.parametrize('capacity', sampled([4096, 4], 2))
def test_the_path_of_accelerators_gives_the_same_record(capacity: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = monitored(tiny_policy(TASKS), 2, preset='full')
    take_accelerators_path(monkeypatch, capacity)
    records = monitored(tiny_policy(TASKS), 2, preset='full')
    for record, reference_record in zip(records, expected, strict=True):
        names = {name for name in reference_record.scalars if not name.startswith('monitor/')}
        assert names == {name for name in record.scalars if not name.startswith('monitor/')}
        for name in names:
            assert record.scalars[name] == pytest.approx(reference_record.scalars[name], rel=1e-6, abs=1e-12), name


LAYOUTS = ([[0, 1, 2]], [[0, 2], [1]], [[], [2, 1, 0]])


def records_of_a_layout(rank: int, layout: Sequence[Sequence[int]]) -> list[Record]:
    policy = tiny_policy(TASKS, layout[rank])
    put_to_sleep(policy)
    return monitored(policy, 2, setup_timeout=60)


def on_two_ranks(rank: int) -> list[list[Record]]:
    return [records_of_a_layout(rank, layout) for layout in LAYOUTS[1:]]


@pytest.mark.distributed
@pytest.mark.full
def test_a_record_does_not_depend_on_the_layout() -> None:
    reference_records = records_of_a_layout(0, LAYOUTS[0])
    for records in run_ranks(on_two_ranks, 2, timeout=150)[0]:
        for record, expected in zip(records, reference_records, strict=True):
            names = {name for name in expected.scalars if name.startswith(('plasticity/', 'clip/'))}
            assert names == {name for name in record.scalars if name.startswith(('plasticity/', 'clip/'))}
            assert len(names) > 60
            for name in names:
                assert record.scalars[name] == pytest.approx(expected.scalars[name], rel=1e-6, abs=0), name
            for name, matrix in expected.matrices.items():
                if name.startswith('plasticity/'):
                    assert np.array_equal(record.matrices[name].values, matrix.values, equal_nan=True)
