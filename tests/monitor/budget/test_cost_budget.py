"""Expensive metrics are measured less often, which is logged; cheap ones keep their frequency."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from ding_normmon import Monitor
from ding_normmon.core.config import ConfigurationError, MonitorConfig
from ding_normmon.core.step import LearnerStep
from ding_normmon.metrics import Metric, ParameterNorms, default_metrics, preset_metrics
from ding_normmon.metrics.base import Setup
from ding_normmon.monitor.budget import cost_budget as budget
from ding_normmon.monitor.budget.cost_budget import FACTORS, Budget, Load, factors_under, share
from ding_normmon.rows import RowBuffer, RowKey, RowTable
from ding_normmon.rows.moments import constant_row
from tests.distributed.ranks import run_ranks


def test_factors_are_the_smallest_that_do() -> None:
    loads = {'a': Load(100.0, 10, True), 'b': Load(30.0, 10, True), 'c': Load(1.0, 10, False)}
    for limit in (0.5, 0.1, 0.02, 0.005, 0.002):
        factors = factors_under(limit, loads, 100.0)
        assert share(loads, factors, 100.0) <= limit
        for name, factor in factors.items():
            assert factor == 1 or share(loads, {**factors, name: factor // 2}, 100.0) > limit


def test_nothing_is_stretched_further_where_the_others_take_nearly_all() -> None:
    fixed = {'b': Load(5.0, 1, False), 'c': Load(3.0, 1, False)}
    assert factors_under(1e-3, {'a': Load(1.9, 1, True), **fixed}, 10.0) == {'a': 1}
    assert factors_under(1e-3, {'a': Load(30.0, 1, True), **fixed}, 10.0) == {'a': 16}
    assert factors_under(1e-6, {'a': Load(30.0, 1, True)}, 10.0) == {'a': FACTORS[-1]}


def account(cost: float, seconds_per_iteration: float, records: int = 40) -> Budget:
    account = Budget(0.01, {'slow': 10}, frozenset({'slow'}))
    for record in range(records):
        account.observe(10 * record, 10 * record * seconds_per_iteration, {'slow': cost})
    return account


def test_nothing_is_decided_before_there_is_something_to_see() -> None:
    assert account(30.0, 0.1, records=2).propose({}) == {}
    assert account(30.0, 0.001).propose({}) == {}
    assert account(30.0, 0.1).propose({}) == {'slow': 4}


def test_the_budget_is_kept_too_where_records_come_many_times_a_second() -> None:
    account = Budget(0.01, {'slow': 1, 'fixed': 1}, frozenset({'slow'}))
    for iteration in range(1_000):
        account.observe(iteration, 0.05 * iteration, {'slow': 3.0, 'fixed': 0.1})
        if iteration <= 399:
            assert account.propose({}) == {}
    # 0.1 ms of 50 ms are fixed; 3 ms an iteration have to become 0.4.
    assert account.propose({}) == {'slow': 8}


def test_one_slow_measurement_changes_nothing() -> None:
    steady = account(5.0, 0.1)
    steady.observe(10_000, 1000.0, {'slow': 5_000.0})
    assert steady.propose({'slow': 1}) == {}


def test_a_factor_at_the_border_does_not_swing() -> None:
    assert account(19.9, 0.1).propose({'slow': 2}) == {}
    assert account(20.1, 0.1).propose({'slow': 2}) == {'slow': 4}
    assert account(19.9, 0.1).propose({'slow': 4}) == {}
    assert account(9.0, 0.1).propose({'slow': 4}) == {'slow': 2}


class Slow(Metric):
    name = 'slow'
    hook_points = ('forward_end',)
    stretchable = True

    def __init__(self, frequency: int = 0) -> None:
        self.own = frequency

    def prepare(self, setup: Setup) -> int:
        self.frequency = self.own
        return super().prepare(setup)

    def measure(self, hook_point: str, step: LearnerStep, rows: RowBuffer) -> None:
        self.extra_backward = 2
        time.sleep(0.01)
        rows.write(RowKey(self.name, 'x'), constant_row(1.0))

    def derive(self, table: RowTable) -> Any:
        for key in table:
            if key.metric == self.name:
                yield 'slow/x', 1.0


def train(monitor: Monitor, model: nn.Module, iterations: Sequence[int], pause: float = 0.0) -> None:
    for iteration in iterations:
        with monitor.step(iteration) as step:
            loss = model(torch.ones(1, 2)).sum()
            step.forward_end()
            loss.backward()
            step.backward_end()
            step.step_end()
        time.sleep(pause)


def test_a_metric_has_its_own_frequency_and_reports_its_cost() -> None:
    model = nn.Linear(2, 1)
    monitor = Monitor(model, {'monitor_norm_freq': 2}, metrics=[*default_metrics(), Slow(frequency=6)])
    train(monitor, model, range(13))
    monitor.close()
    records = monitor.take_records()
    assert [record.iteration for record in records] == [0, 2, 4, 6, 8, 10, 12]
    for record in records:
        measured = record.iteration % 6 == 0
        for name in ('slow/x', 'monitor/cost/slow/ms', 'monitor/cost/slow/bytes', 'monitor/cost/slow/extra_backward'):
            assert (name in record.scalars) == measured
        if measured:
            assert record.scalars['monitor/cost/slow/ms'] >= 10
            assert record.scalars['monitor/cost/slow/extra_backward'] == 2
        per_metric = sum(
            value for name, value in record.scalars.items() if name.count('/') == 3 and name.endswith('/ms')
        )
        # What is left is the monitor's own, most of the cost where metrics have next to nothing to do.
        assert (0.9 if measured else 0.0) * record.scalars['monitor/cost/ms'] < per_metric
        assert per_metric <= 1.01 * record.scalars['monitor/cost/ms']


def test_a_frequency_that_is_no_multiple_is_refused() -> None:
    with pytest.raises(ConfigurationError, match='slow every 5 iterations is no multiple of monitor_norm_freq, 2'):
        Monitor(nn.Linear(2, 1), {'monitor_norm_freq': 2}, metrics=[Slow(frequency=5)])
    with pytest.raises(ConfigurationError, match=r'plasticity_freq: expected a multiple .* 10, got 15; the next is 20'):
        MonitorConfig.read({'monitor_norm_freq': 10, 'plasticity_freq': 15})


@pytest.fixture
def no_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, 'WARM_UP_SECONDS', 0.1)


@pytest.mark.slow
@pytest.mark.usefixtures('no_warm_up')
@pytest.mark.parametrize('limit', [0.05, None])
def test_an_expensive_metric_is_measured_less_often_and_it_is_logged(
    limit: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    model = nn.Linear(2, 1)
    monitor = Monitor(model, {'monitor_norm_freq': 2, 'budget': limit}, metrics=[*default_metrics(), Slow()])
    with caplog.at_level(logging.WARNING, logger='ding_normmon'):
        train(monitor, model, range(400), pause=0.002)
        monitor.close()
    records = monitor.take_records()
    assert [record.iteration for record in records] == list(range(0, 400, 2))
    measured = [record.iteration for record in records if 'slow/x' in record.scalars]
    notes = [note for record in records for note in record.notes.values()]
    if limit is None:
        assert measured == list(range(0, 400, 2))
        assert not notes
        return
    assert len(measured) < 80
    assert all('norm/model/_total_norm' in record.scalars for record in records)
    assert notes[0].startswith('slow is measured every ')
    assert notes[0] in caplog.text
    late = [iteration for iteration in measured if iteration >= 200]
    # 10 ms at 5% of 2 to 5 ms per iteration: every 64 or 128 iterations.
    assert len(late) <= 12


def test_presets() -> None:
    names = {
        preset: [metric.name for metric in preset_metrics(preset)] for preset in ('basic', 'multitask', 'full')
    }
    assert names['basic'] == [metric.name for metric in default_metrics()]
    assert set(names['basic']) < set(names['multitask']) <= set(names['full'])
    assert {'dormant_units', 'representation_rank', 'weight_magnitude'} <= set(names['multitask'])
    assert all(preset[-1] == 'own_cost' for preset in names.values())
    for preset, expected in names.items():
        monitor = Monitor(nn.Linear(2, 1), {'preset': preset})
        assert [metric.name for metric in monitor.metrics] == expected
    with pytest.raises(ConfigurationError, match="preset: expected 'basic', 'multitask' or 'full', got 'all'"):
        MonitorConfig.read({'preset': 'all'})


def stretched(rank: int) -> list[int]:
    """Train with a metric that is slow on rank 1 only; return the iterations in which this rank measured it."""
    budget.WARM_UP_SECONDS = 1.0
    model = nn.Linear(2, 1)
    slow = Slow()
    measured: list[int] = []
    plain = slow.measure

    def measure(hook_point: str, step: LearnerStep, rows: RowBuffer) -> None:
        measured.append(step.iteration)
        if rank == 1:
            plain(hook_point, step, rows)

    slow.measure = measure  # type: ignore[method-assign]
    config = {'monitor_norm_freq': 10, 'budget': 0.02, 'setup_timeout': 30}
    monitor = Monitor(model, config, metrics=[*default_metrics(), slow])
    for iteration in range(1500):
        train(monitor, model, [iteration], pause=0.01)
        if iteration % 10 == 0:
            torch.distributed.barrier()
    monitor.close()
    return measured


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.full
def test_every_rank_stretches_at_the_same_iteration() -> None:
    first, second = run_ranks(stretched, 2, timeout=120)
    assert first == second
    assert len(first) < 120
    assert [iteration for iteration in first if iteration < 50] == [0, 10, 20, 30, 40]


def test_a_metric_costs_nothing_when_it_is_not_due() -> None:
    model = nn.Linear(2, 1)
    monitor = Monitor(model, {'monitor_norm_freq': 10}, metrics=[ParameterNorms(), Slow()])
    started = time.perf_counter()
    train(monitor, model, range(1, 10))
    assert time.perf_counter() - started < 0.01 * 9
    monitor.close()
    assert not monitor.take_records()
