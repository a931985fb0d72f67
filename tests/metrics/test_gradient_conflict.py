"""Gradient conflict in known situations; brute force on the real policy stands in tests/unizero."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ding_normmon import ConfigurationError, Monitor, Record
from ding_normmon.metrics.gradient_conflict import GradientConflict
from ding_normmon.rows.moments import square_sum_row
from ding_normmon.rows.table import Batch, RowKey, RowTable
from tests.metrics.shared_model import Shared, loss_of

Losses = Mapping[int, Tensor]


def record_of(
    model: nn.Module, losses: Callable[[nn.Module], Losses], num_tasks: int = 2, **config: Any
) -> tuple[Record, Monitor]:
    metric = GradientConflict()
    monitor = Monitor(model, {'monitor_norm_freq': 1, **config}, num_tasks=num_tasks, metrics=[metric])
    with monitor.step(0) as step:
        step.forward_end(losses(model))
    monitor.close()
    (record,) = monitor.take_records()
    assert not monitor.lost_data.total
    return record, monitor


# -- known situations ------------------------------------------------------------------------------------------------

SIZES = pytest.mark.parametrize('size', [4096, 128], ids=['exact', 'sketched'])
"""1,230 parameters: more than the sketch, or fewer."""


@SIZES
def test_identical_tasks_have_cosine_1(size: int) -> None:
    record, _ = record_of(Shared(), lambda m: {0: loss_of(m, 0, 5), 1: 3 * loss_of(m, 0, 5)}, sketch_size=size)
    assert record.scalars['conflict/encoder/min_cosine'] == pytest.approx(1, abs=1e-6)
    assert record.scalars['conflict/encoder/rate'] == 0


@SIZES
def test_a_negated_loss_has_cosine_minus_1(size: int) -> None:
    record, _ = record_of(Shared(), lambda m: {0: loss_of(m, 0, 5), 1: -loss_of(m, 0, 5)}, sketch_size=size)
    assert record.scalars['conflict/encoder/mean_cosine'] == pytest.approx(-1, abs=1e-6)
    assert record.scalars['conflict/encoder_task0/mean_cosine'] == pytest.approx(-1, abs=1e-6)
    assert record.scalars['conflict/encoder/rate'] == 1


@SIZES
def test_a_loss_times_100_has_its_share(size: int) -> None:
    def losses(model: nn.Module) -> Losses:
        return {task: loss_of(model, 0, 5) * (100 if task == 1 else 1) for task in range(4)}

    scalars = record_of(Shared(), losses, num_tasks=4, sketch_size=size)[0].scalars
    assert scalars['conflict/encoder_task1/share'] == pytest.approx(100 / 103, rel=1e-6)
    assert scalars['conflict/encoder_task0/share'] == pytest.approx(1 / 103, rel=1e-6)
    assert scalars['conflict/encoder/imbalance'] == pytest.approx(100, rel=1e-5)
    assert scalars['conflict/encoder/effective_tasks'] == pytest.approx(103**2 / (100**2 + 3), rel=1e-5)


def test_equal_tasks_are_all_effective() -> None:
    scalars = record_of(Shared(), lambda m: {t: loss_of(m, 0, 5) for t in range(4)}, num_tasks=4)[0].scalars
    assert scalars['conflict/encoder/effective_tasks'] == pytest.approx(4, rel=1e-6)
    assert scalars['conflict/encoder/imbalance'] == pytest.approx(1, rel=1e-6)


def test_orthogonal_sub_networks_have_cosine_0() -> None:
    record, _ = record_of(Shared(), lambda m: {0: m.encoder.weight[:10].square().sum(), 1: m.encoder.weight[20:].sum()})
    assert record.scalars['conflict/encoder/mean_cosine'] == 0
    assert record.scalars['conflict/encoder/rate'] == 0
    sketched, _ = record_of(
        Shared(),
        lambda m: {0: m.encoder.weight[:10].square().sum(), 1: m.encoder.weight[20:].sum()},
        sketch_size=128,
    )
    assert abs(sketched.scalars['conflict/encoder/mean_cosine']) < 4 * 128**-0.5
    exact, _ = record_of(
        Shared(),
        lambda m: {0: m.encoder.weight[:10].square().sum(), 1: m.encoder.weight[20:].sum()},
        sketch_size=128,
        conflict_exact='rank',
    )
    assert exact.scalars['conflict/encoder/mean_cosine'] == 0


def test_a_task_without_gradient_on_a_group_is_absent_there() -> None:
    def losses(model: nn.Module) -> Losses:
        return {0: loss_of(model, 0), 1: loss_of(model, 1), 2: model.head_value[2].weight.sum()}

    record, _ = record_of(Shared(), losses, num_tasks=4)
    assert record.matrices['conflict/encoder/cosine'].rows == (0, 1)
    assert 'conflict/encoder_task2/share' not in record.scalars
    assert 'conflict/encoder_task3/share' not in record.scalars


def test_of_one_task_nothing_is_said() -> None:
    record, _ = record_of(Shared(), lambda m: {1: loss_of(m, 1)})
    assert not [name for name in record.scalars if name.startswith('conflict')]
    assert not record.matrices
    assert not record.notes


def test_a_gradient_of_zero_has_share_0_and_no_cosine() -> None:
    record, _ = record_of(Shared(), lambda m: {t: loss_of(m, t) * (t != 2) for t in range(3)}, num_tasks=3)
    assert record.scalars['conflict/encoder_task2/share'] == 0
    assert 'conflict/encoder_task2/mean_cosine' not in record.scalars
    assert record.matrices['conflict/encoder/cosine'].rows == (0, 1)
    assert np.isfinite(list(record.scalars.values())).all()


@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_a_gradient_that_is_not_finite_is_told_and_spoils_nothing_else(bad: float) -> None:
    record, _ = record_of(
        Shared(), lambda m: {t: loss_of(m, t) * (bad if t == 1 else 1) for t in range(3)}, num_tasks=3, sketch_size=128
    )
    assert record.scalars['monitor/nonfinite/conflict/encoder_task1'] == 1
    assert record.matrices['conflict/encoder/cosine'].rows == (0, 2)
    assert np.isfinite(list(record.scalars.values())).all()


def test_the_worst_pair_is_named() -> None:
    model = Shared()
    metric = GradientConflict()
    monitor = Monitor(
        model, {'monitor_norm_freq': 1}, num_tasks=3, task_names=['pong', 'breakout', 'qbert'], metrics=[metric]
    )
    with monitor.step(0) as step:
        step.forward_end({0: loss_of(model, 0, 5), 1: loss_of(model, 1, 6), 2: -loss_of(model, 0, 5)})
    monitor.close()
    (record,) = monitor.take_records()
    assert record.notes['conflict/encoder'].startswith('pong and qbert: cosine -1.000 ± 0.000, in conflict')
    assert record.matrices['conflict/encoder/cosine'].labels == {0: 'pong', 1: 'breakout', 2: 'qbert'}


@pytest.mark.parametrize('exact', ['never', 'rank'])
def test_forward_end_may_fire_once_per_task(exact: str) -> None:
    model = Shared()
    whole, _ = record_of(model, lambda m: {t: loss_of(m, t) for t in range(3)}, num_tasks=3)
    config = {'monitor_norm_freq': 1, 'conflict_exact': exact}
    monitor = Monitor(model, config, num_tasks=3, metrics=[GradientConflict()])
    for iteration in range(2):
        with monitor.step(iteration) as step:
            for task in range(3 if iteration == 0 else 2):
                step.forward_end({task: loss_of(model, task)})
    monitor.close()
    first, second = monitor.take_records()
    for metric, value in whole.scalars.items():
        if metric.startswith('conflict/'):
            assert first.scalars[metric] == pytest.approx(value, abs=1e-6)
    assert second.matrices['conflict/encoder/cosine'].rows == (0, 1)


# -- the training gradient -------------------------------------------------------------------------------------------


def test_no_gradient_is_left_behind_and_the_graph_stays() -> None:
    model = Shared()
    losses = {t: loss_of(model, t) for t in range(2)}
    record_of(model, lambda m: losses)
    assert all(parameter.grad is None for parameter in model.parameters())
    sum(losses.values()).backward()
    assert model.encoder.weight.grad is not None


# -- what cannot be ---------------------------------------------------------------------------------------------------


class Checkpointed(Shared):
    def forward(self, data: Tensor) -> Tensor:
        out: Tensor = checkpoint(self.encoder, data, use_reentrant=True)
        return out


def test_reentrant_checkpointing_switches_it_off_and_training_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    weights = []
    for watched in (False, True):
        torch.manual_seed(3)
        model = Checkpointed()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        monitor = Monitor(model, {'monitor_norm_freq': 1}, num_tasks=2, metrics=[GradientConflict()])
        for iteration in range(3):
            optimizer.zero_grad()
            data = torch.ones(2, 40, requires_grad=True)
            losses = {t: model.head_value[t](model(data)).square().sum() for t in range(2)}
            if watched:
                with monitor.step(iteration) as step:
                    step.forward_end(losses)
            sum(losses.values()).backward()
            optimizer.step()
        monitor.close()
        weights.append([parameter.detach().clone() for parameter in model.parameters()])
        if watched:
            assert monitor.lost_data.total == {'metric_gradient_conflict': 1}
            assert not [name for r in monitor.take_records() for name in r.scalars if name.startswith('conflict')]
    assert all(torch.equal(*pair) for pair in zip(*weights, strict=True))
    said = [entry.getMessage() for entry in caplog.records if 'Gradient conflict is switched off' in entry.getMessage()]
    assert len(said) == 1
    assert 'checkpoint' in said[0].lower()


def test_losses_that_are_not_given_are_missed_once(caplog: pytest.LogCaptureFixture) -> None:
    model = Shared()
    monitor = Monitor(model, {'monitor_norm_freq': 1}, num_tasks=2, metrics=[GradientConflict()])
    for iteration in range(3):
        with monitor.step(iteration) as step:
            step.forward_end()
    monitor.close()
    said = [entry for entry in caplog.records if 'gives no losses per task' in entry.getMessage()]
    assert len(said) == 1


@pytest.mark.parametrize(
    ('key', 'value'),
    [('conflict_freq', -1), ('conflict_freq', 7), ('conflict_exact', 'yes'), ('sketch_size', 100), ('sketch_size', 0)],
)
def test_values_that_cannot_be_are_refused(key: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=f'monitor.{key}'):
        Monitor(Shared(), {'monitor_norm_freq': 5, key: value}, num_tasks=2)


# -- when, and what it costs -----------------------------------------------------------------------------------------


def test_the_cost_is_announced(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger='ding_normmon'):
        record_of(Shared(), lambda m: {t: loss_of(m, t) for t in range(2)}, sketch_size=64)
    (said,) = [entry.getMessage() for entry in caplog.records if 'gradient conflict costs' in entry.getMessage()]
    assert '2 more backward passes every 1 iterations' in said
    assert 'at most 0.12' in said


def test_26_tasks_of_50_million_shared_parameters_keep_less_than_8_megabytes() -> None:
    class Large(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Linear(2_000, 2_500, device='meta')
            self.transformer = nn.Linear(9_000, 5_000, device='meta')
            self.task_embedding = nn.Embedding(26, 768, device='meta')
            self.pos_emb = nn.Embedding(100, 768, device='meta')

    from ding_normmon.core.parameter_groups import find_groups
    from ding_normmon.metrics import Setup

    model = Large()
    from ding_normmon.core.config import MonitorConfig

    groups = find_groups(model, 26)
    assert sum(parameter.numel() for parameter in model.parameters()) > 50_000_000
    setup = Setup(
        model, MonitorConfig(), groups, groups, 26, tuple(range(26)), torch.device('cpu'), rank=0, world_size=1
    )
    metric = GradientConflict()
    metric.prepare(setup)
    from ding_normmon.rows.buffer import RowBuffer

    # On an accelerator the cells are there once more for every copy that may be under way.
    assert 8 * metric.num_cells * (1 + RowBuffer.SLOTS) + metric.state_bytes() < 8 * 2**20


def test_shares_are_not_those_of_the_ranks_that_happened_to_measure() -> None:
    metric = GradientConflict()
    monitor = Monitor(Shared(), {'monitor_norm_freq': 1}, num_tasks=4, metrics=[metric])
    key = RowKey('gradient_conflict', 'encoder')
    batches = []
    for rank in range(2):
        keys = [RowKey('own_cost', 'monitor', part='ms')]
        vectors = {}
        if rank == 0:
            keys = [RowKey('own_cost', 'gradient_conflict', part='ms'), *(key._replace(task_id=t) for t in (0, 1))]
            vectors = {key._replace(task_id=t, part='sketch'): np.ones(1230, dtype=np.float32) for t in (0, 1)}
        rows = np.stack([square_sum_row(1, 1230.0) for _ in keys])
        batches.append(Batch(0, tuple(keys), rows, vectors))
    table = RowTable(batches)
    assert table.complete
    assert not list(metric.derive(table))
    assert dict(metric.matrices(table))['conflict/encoder/cosine'].rows == (0, 1)
    monitor.close()
