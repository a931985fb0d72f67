"""Signals and metrics of the user's."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from ding_normmon import ConfigurationError, Monitor
from ding_normmon.core.step import LearnerStep
from ding_normmon.metrics import GradientNorms, Metric, ParameterNorms, TaskLosses, default_metrics
from ding_normmon.metrics.mixins import ClipListener, DeviceCells, Finishing
from ding_normmon.rows import RowBuffer, RowKey, RowTable
from ding_normmon.rows.moments import constant_row, row_of
from tests.models import SmallModel, assert_same, finished, reference, small_monitor
from tests.monitor.steps import measure
from tests.sampling import sampled

pytestmark = pytest.mark.slow


def test_a_signal_under_a_new_name_gets_the_same_treatment() -> None:
    monitor = small_monitor(SmallModel())
    values = {0: torch.randn(3, 2), 1: torch.randn(1, 2) + 5}
    with monitor.step(0) as step:
        for task_id, tensor in values.items():
            step.publish('plasticity/rank', tensor.requires_grad_(), task_id=task_id)
        step.forward_end()
        step.backward_end()
    scalars = finished(monitor)[0].scalars
    everything = torch.cat([tensor.detach().double().flatten() for tensor in values.values()])
    assert scalars['plasticity/rank/std'] == pytest.approx(everything.std().item(), rel=1e-6)
    assert scalars['plasticity/rank/abs_max'] == everything.abs().max().item()
    assert scalars['plasticity/rank_task1/mean'] == pytest.approx(values[1].double().mean().item(), rel=1e-6)
    names = {name for name in scalars if name.startswith('plasticity/')}
    assert names == {
        f'plasticity/rank{suffix}/{statistic}'
        for suffix in ('', '_task0', '_task1')
        for statistic in ('mean', 'std', 'max', 'min', 'abs_max')
    }


class LargestWeight(Metric):
    """The largest weight after the step, and how much of an embedding is zero."""

    name: ClassVar[str] = 'largest_weight'
    hook_points: ClassVar[tuple[str, ...]] = ('step_end',)

    def on_publish(self, name: str, tensor: Tensor, task_id: int | None, mask: Tensor | None, rows: RowBuffer) -> None:
        if name == 'embeddings/obs':
            rows.write(RowKey(self.name, 'zeros', task_id), row_of((tensor == 0).float()))

    def measure(self, hook_point: str, step: LearnerStep, rows: RowBuffer) -> None:
        weights = torch.cat([p.detach().flatten() for p in self.setup.model.parameters()])
        rows.write(RowKey(self.name, 'weights'), row_of(weights))

    def derive(self, table: RowTable) -> Iterator[tuple[str, float]]:
        for name, tasks in table.of(self.name).items():
            for task_id, row in tasks.items():
                suffix = '' if task_id is None else f'_task{task_id}'
                yield f'{self.name}/{name}{suffix}', float(row[4] if name == 'weights' else row[1])

    def notes(self, table: RowTable) -> Iterator[tuple[str, str]]:
        yield 'largest_weight', 'seen'


def test_a_new_metric_is_one_class() -> None:
    model = SmallModel()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = Monitor(model, {'monitor_norm_freq': 1}, num_tasks=3, metrics=[*default_metrics(), LargestWeight()])
    measure(model, monitor, optimizer=optimizer)
    (record,) = finished(monitor)
    assert record.scalars['largest_weight/weights'] == max(p.max().item() for p in model.parameters())
    assert record.scalars['largest_weight/zeros_task2'] == 0
    assert record.notes['largest_weight'] == 'seen'
    assert 'norm/encoder/_total_norm' in record.scalars


class SeenSignals(Metric):
    """Notes what it is given."""

    name: ClassVar[str] = 'seen_signals'

    def __init__(self) -> None:
        self.graphs: list[bool] = []

    def on_publish(self, name: str, tensor: Tensor, task_id: int | None, mask: Tensor | None, rows: RowBuffer) -> None:
        self.graphs += [tensor.requires_grad, (tensor * 2).requires_grad, torch.is_grad_enabled()]

    def on_publish_loss(self, name: str, value: Tensor | float, task_id: int | None, rows: RowBuffer) -> None:
        self.graphs.append(isinstance(value, Tensor) and value.requires_grad)


class MyLosses(TaskLosses):
    """Derives from a metric that takes graphs, and does not."""

    name: ClassVar[str] = 'my_losses'

    def on_publish_loss(self, name: str, value: Tensor | float, task_id: int | None, rows: RowBuffer) -> None:
        assert isinstance(value, Tensor)
        super().on_publish_loss('my_' + name, value.numpy().max().item(), task_id, rows)


def test_a_subclass_of_a_metric_that_takes_graphs_gets_no_graph() -> None:
    metrics = [*default_metrics(), MyLosses()]
    monitor = Monitor(SmallModel(), {'monitor_norm_freq': 1}, num_tasks=3, metrics=metrics)
    with monitor.step(0) as step:
        step.publish_loss('loss', torch.ones(1, requires_grad=True) * 3, task_id=1)
        step.forward_end()
    (record,) = finished(monitor)
    assert record.scalars['my_loss_task1'] == record.scalars['loss_task1'] == 3.0
    assert not monitor.lost_data.total


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('transposed', sampled([False, True]))
def test_a_metric_gets_no_graph_and_keeps_none(dtype: torch.dtype, transposed: bool) -> None:
    model, seen = SmallModel(), SeenSignals()
    monitor = Monitor(model, {'monitor_norm_freq': 1}, num_tasks=3, metrics=[*default_metrics(), seen])
    weight = torch.randn(4, 6, requires_grad=True)
    with monitor.step(0) as step:
        tensor = (weight * 3).to(dtype)
        # Not every layout is read in C.
        tensor = tensor.t().unsqueeze(0)[:, ::2] if transposed else tensor
        step.publish('mine', tensor, task_id=1)
        step.publish_loss('loss', tensor.float().sum(), task_id=1)
        kept = weakref.ref(tensor)
        total, numbers = tensor.float().sum().item(), tensor.detach().double()
        assert torch.is_grad_enabled()
        del tensor
        gc.collect()
        assert kept() is None
        step.forward_end()
    (record,) = finished(monitor)
    assert seen.graphs == [False] * 4
    assert record.scalars['mine_task1/mean'] == pytest.approx(numbers.mean().item(), rel=1e-6)
    assert record.scalars['loss_task1'] == pytest.approx(total, rel=1e-6)
    assert not monitor.lost_data.total


def test_only_the_requested_metrics_are_measured() -> None:
    model = SmallModel()
    monitor = Monitor(model, {'monitor_norm_freq': 1}, num_tasks=3, metrics=[LargestWeight()])
    measure(model, monitor)
    names = set(finished(monitor)[0].scalars) - {'monitor/cost/ms_diagnosis'}
    assert {name.split('/')[0] for name in names} == {'largest_weight'}


def test_two_metrics_with_one_name_are_refused() -> None:
    with pytest.raises(ConfigurationError, match='same name'):
        Monitor(SmallModel(), {'monitor_norm_freq': 1}, num_tasks=3, metrics=[ParameterNorms(), ParameterNorms()])


class Failing(DeviceCells, Finishing):
    """Fails wherever it is told to."""

    name: ClassVar[str] = 'failing'
    hook_points: ClassVar[tuple[str, ...]] = ('forward_end', 'backward_end', 'step_end')

    def __init__(self, where: str) -> None:
        self.where = where

    def _maybe(self, where: str) -> None:
        if self.where == where:
            raise FloatingPointError(f'on purpose in {where}')

    def on_publish(self, *args: Any) -> None:
        self._maybe('on_publish')

    def on_publish_loss(self, *args: Any) -> None:
        self._maybe('on_publish_loss')

    def measure(self, hook_point: str, step: LearnerStep, rows: RowBuffer) -> None:
        self._maybe('measure')
        if self.where == 'row':
            rows.write(RowKey(self.name, 'bad'), np.zeros(3))

    def finish(self, rows: RowBuffer) -> None:
        self._maybe('finish')

    def unpack(self, cells: Any) -> Iterator[Any]:
        self._maybe('unpack')
        if self.where == 'unpacked row':
            yield RowKey(self.name, 'bad'), np.zeros(3)

    def derive(self, table: RowTable) -> Iterator[tuple[str, float]]:
        self._maybe('derive')
        yield 'failing/fine', 1.0

    def notes(self, table: RowTable) -> Iterator[tuple[str, str]]:
        self._maybe('notes')
        yield from ()


@pytest.mark.parametrize(
    'where',
    ['on_publish', 'on_publish_loss', 'measure', 'finish', 'unpack', 'derive', 'notes', 'row', 'unpacked row'],
)
def test_a_metric_that_fails_is_logged_once_and_counted(where: str, caplog: pytest.LogCaptureFixture) -> None:
    model = SmallModel()
    monitor = Monitor(model, {'monitor_norm_freq': 1}, num_tasks=3, metrics=[Failing(where), *default_metrics()])
    with caplog.at_level(logging.WARNING, 'ding_normmon'):
        measured = [measure(model, monitor, iteration) for iteration in range(3)]
        records = finished(monitor)
    said = [record.getMessage() for record in caplog.records if 'failing failed at' in record.getMessage()]
    assert len(said) == 1
    assert monitor.lost_data.total['metric_failing'] >= 3
    assert sum(record.scalars.get('monitor/lost/metric_failing', 0) for record in records) >= 2
    for record, one in zip(records, measured, strict=True):
        scalars = {name: value for name, value in record.scalars.items() if 'failing' not in name}
        assert_same(scalars, reference(model, one))


class Odd(ClipListener):
    """Does what a new metric might, once it has been prepared."""

    name: ClassVar[str] = 'odd'
    hook_points: ClassVar[tuple[str, ...]] = ('forward_end',)

    def __init__(self, **what: Any) -> None:
        self.what = what
        self.every_step = 'begin_any_step' in what
        self.prepared = 0

    def prepare(self, setup: Any) -> int:
        self.prepared += 1
        if 'prepare' in self.what and self.prepared > 1:
            raise RuntimeError('on purpose')
        return super().prepare(setup)

    def begin_any_step(self) -> None:
        raise RuntimeError('on purpose')

    def state_bytes(self) -> Any:
        return self.what.get('state_bytes', 0)

    def measure(self, hook_point: str, step: LearnerStep, rows: RowBuffer) -> None:
        if 'key' in self.what:
            rows.write(self.what['key'], constant_row(1.0))
        if 'row' in self.what:
            rows.write(RowKey(self.name, 'row'), self.what['row'])
        if 'vector' in self.what:
            rows.write_vector(self.what['vector'], np.ones(3))

    def derive(self, table: RowTable) -> Iterator[Any]:
        yield 'odd/fine', 1
        if 'figure' in self.what:
            yield self.what['figure']


ODD = {
    'state of None': {'state_bytes': None},
    'state of text': {'state_bytes': 'x'},
    'begin_any_step': {'begin_any_step': True},
    'value None': {'figure': ('odd/none', None)},
    'value of text': {'figure': ('odd/text', '1')},
    'two values': {'figure': ('odd/two', np.ones(2))},
    'too large': {'figure': ('odd/large', 10**400)},
    'no name': {'figure': (5, 1.0)},
    'unknown metric': {'key': RowKey('typo', 'a')},
    'plain tuple': {'key': ('odd', 'a', None, '')},
    'no text': {'key': RowKey('odd', None, None)},  # type: ignore[arg-type]
    'task of text': {'key': RowKey('odd', 'a', 'b')},  # type: ignore[arg-type]
    'a list in it': {'key': RowKey('odd', ['a'])},  # type: ignore[arg-type]
    'vector of nobody': {'vector': RowKey('typo', 'a')},
    'complex row': {'row': np.zeros(6, dtype=np.complex128)},
    'row of objects': {'row': np.array([None] * 6)},
}


@pytest.mark.parametrize('what', ODD)
def test_a_faulty_metric_loses_only_its_own_figures(what: str) -> None:
    model = SmallModel()
    metrics = [Odd(**ODD[what]), *default_metrics()]
    monitor = Monitor(model, {'monitor_norm_freq': 1}, num_tasks=3, metrics=metrics)
    measured = [measure(model, monitor, iteration) for iteration in range(2)]
    records = finished(monitor)
    assert [record.iteration for record in records] == [0, 1]
    assert set(monitor.lost_data.total) in ({'metric_odd'}, {'row_key'})
    for record, one in zip(records, measured, strict=True):
        own = ('odd/', 'monitor/lost/', 'monitor/cost/')
        assert_same({k: v for k, v in record.scalars.items() if not k.startswith(own)}, reference(model, one))
        assert {type(value) for value in record.scalars.values()} == {float}
        assert all(isinstance(name, str) for name in record.scalars)


@pytest.mark.parametrize('task_id', [np.int64(1), np.int32(1)])
def test_the_task_of_a_row_may_be_an_integer_of_numpy(task_id: Any) -> None:
    model = SmallModel()
    metrics = [Odd(key=RowKey('odd', 'a', task_id)), *default_metrics()]
    monitor = Monitor(model, {'monitor_norm_freq': 1}, num_tasks=3, metrics=metrics)
    measure(model, monitor)
    assert len(finished(monitor)) == 1
    assert not monitor.lost_data.total


def test_a_metric_that_cannot_be_prepared_again_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    model = SmallModel()
    metrics = [Odd(prepare=True), *default_metrics()]
    monitor = Monitor(model, {'monitor_norm_freq': 1}, num_tasks=3, metrics=metrics)
    measure(model, monitor, 0)
    monitor.reassign([[0, 1, 2]])
    measured = measure(model, monitor, 1)
    _, second = finished(monitor)
    assert 'odd/fine' not in second.scalars
    assert monitor.lost_data.total == {'metric_odd': 1}
    assert 'odd failed at prepare' in caplog.text
    told = {name: value for name, value in second.scalars.items() if not name.startswith('monitor/lost/')}
    assert_same(told, reference(model, measured))


@pytest.mark.parametrize('name', ['my metric', '', 5, 'a/b', None])
def test_invalid_metric_names_are_refused(name: Any) -> None:
    metric = Odd()
    metric.name = name  # type: ignore[misc]
    with pytest.raises(ConfigurationError, match='cannot be the name of a metric'):
        Monitor(SmallModel(), {'monitor_norm_freq': 1}, num_tasks=3, metrics=[metric])


def test_what_failed_does_not_show_the_figures_of_an_earlier_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model = SmallModel()
    monitor = small_monitor(model)
    measure(model, monitor, 0)

    def fail(*args: Any) -> None:
        raise MemoryError

    for metric in monitor.metrics:
        if isinstance(metric, (ParameterNorms, GradientNorms)):
            monkeypatch.setattr(metric, 'measure', fail)
    measure(model, monitor, 1)
    first, second = finished(monitor)
    assert 'norm/encoder/_total_norm' in first.scalars
    assert not [name for name in second.scalars if name.startswith('grad/') or name.endswith('_total_norm')]
    assert 'logits/value/mean' in second.scalars


@pytest.mark.parametrize(('hook', 'mixin'), [('finish', 'Finishing'), ('unpack', 'DeviceCells'), ('on_clip', 'Clip')])
def test_a_hook_that_nobody_would_call_is_refused(hook: str, mixin: str) -> None:
    kind = type('Forgetful', (Metric,), {'name': 'forgetful', hook: lambda self, *args: None})
    with pytest.raises(ConfigurationError, match=rf'Forgetful has {hook}\(\).*{mixin}'):
        Monitor(SmallModel(), {'monitor_norm_freq': 1}, num_tasks=3, metrics=[kind()])
