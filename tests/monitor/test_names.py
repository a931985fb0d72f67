"""Two sources of one name: the figure of whoever declares it stays, the other one is counted and logged with both."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import torch

from ding_normmon import ConfigurationError, Monitor
from ding_normmon.core.figure import Figure
from ding_normmon.metrics import Metric, default_metrics
from ding_normmon.rows.table import RowTable
from tests.models import SmallModel, assert_same, finished, reference
from tests.monitor.steps import measure


class Yields(Metric):
    """Yields what it is told to."""

    hook_points: ClassVar[tuple[str, ...]] = ('backward_end',)

    def __init__(self, *pairs: tuple[str, float], name: str = 'mine') -> None:
        self.pairs = pairs
        self.name = name  # type: ignore[misc]

    def derive(self, table: RowTable) -> Iterator[tuple[str, float]]:
        yield from self.pairs


def monitor_with(*metrics: Metric, first: bool = False, **arguments: Any) -> Monitor:
    together = [*metrics, *default_metrics()] if first else [*default_metrics(), *metrics]
    return Monitor(SmallModel(), {'monitor_norm_freq': 1}, num_tasks=3, metrics=together, **arguments)


@pytest.mark.parametrize('first', [False, True])
@pytest.mark.parametrize(
    'name',
    [
        'norm/model/_total_norm',
        'grad/encoder/_total_norm',
        'grad/head_value_task1/_total_norm',
        'logits/value/mean',
        'monitor/cost/bytes',
    ],
)
def test_our_figure_stays_wherever_the_users_metric_stands(
    name: str, first: bool, caplog: pytest.LogCaptureFixture
) -> None:
    model = SmallModel()
    together = [Yields((name, -1.0)), *default_metrics()] if first else [*default_metrics(), Yields((name, -1.0))]
    monitor = Monitor(model, {'monitor_norm_freq': 1}, num_tasks=3, metrics=together)
    measured = [measure(model, monitor, iteration) for iteration in range(2)]
    records = finished(monitor)
    for record, one in zip(records, measured, strict=True):
        assert record.scalars[name] != -1.0
        told = {name: value for name, value in record.scalars.items() if not name.startswith('monitor/lost/')}
        assert_same(told, reference(model, one))
        assert record.scalars['monitor/lost/name_taken'] == 1
    said = [entry.getMessage() for entry in caplog.records if name in entry.getMessage()]
    assert len(said) == 1
    assert 'mine' in said[0]


def test_the_monitors_own_figures_are_nobodys() -> None:
    monitor = monitor_with(Yields(('monitor/missing_ranks', 7.0), ('monitor/lost/nothing', 7.0), ('mine/fine', 1.0)))
    measure(monitor.model, monitor)
    (record,) = finished(monitor)
    assert 'monitor/missing_ranks' not in record.scalars
    assert 'monitor/lost/nothing' not in record.scalars
    assert record.scalars['mine/fine'] == 1.0
    assert monitor.lost_data.total['name_taken'] == 2


def test_of_two_metrics_of_a_user_the_first_stays(caplog: pytest.LogCaptureFixture) -> None:
    monitor = monitor_with(Yields(('mine/a', 1.0)), Yields(('mine/a', 2.0), ('mine/b', 3.0), name='other'))
    measure(monitor.model, monitor)
    (record,) = finished(monitor)
    assert (record.scalars['mine/a'], record.scalars['mine/b']) == (1.0, 3.0)
    assert 'mine/a comes from mine and from other' in caplog.text


def test_every_name_that_is_taken_is_said_once_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    monitor = monitor_with(Yields(('norm/model/_total_norm', 1.0), ('grad/model/_total_norm', 1.0)))
    with caplog.at_level(logging.WARNING, 'ding_normmon'):
        for iteration in range(3):
            measure(monitor.model, monitor, iteration)
        finished(monitor)
    said = [entry.getMessage() for entry in caplog.records if 'comes from' in entry.getMessage()]
    assert len(said) == 2
    assert monitor.lost_data.total['name_taken'] == 6


class Declares(Yields):
    """Says beforehand what it yields."""

    figures: ClassVar[tuple[Figure, ...]] = (Figure('norm/model/_total_norm', 'mine', 'weight'),)


def test_what_is_declared_twice_is_refused_at_set_up() -> None:
    with pytest.raises(ConfigurationError, match=r'norm/model/_total_norm comes from parameter_norms and from mine'):
        monitor_with(Declares())


PUBLISHED = {
    'a signal named like the norms of another': ('signal', 'norm/x_token', 'norms of x_token'),
    'a signal named like figures over the tasks': ('signal', 'grad/head_value_all_tasks', 'gradient_norms'),
    'a loss named like a norm': ('loss', 'grad/model/_total_norm', 'gradient_norms'),
    'a loss named like a norm of one group': ('loss', 'norm/encoder/_total_norm', 'parameter_norms'),
    'a loss named like a figure of the monitor': ('loss', 'monitor/missing_ranks', 'the monitor'),
    'a loss named like a statistic': ('loss', 'logits/value/mean', 'tensor_statistics'),
}


@pytest.mark.parametrize('what', PUBLISHED)
@pytest.mark.parametrize('backward', [True, False])
def test_what_is_published_under_a_name_of_ours_is_left_out(
    what: str, backward: bool, caplog: pytest.LogCaptureFixture
) -> None:
    kind, name, owner = PUBLISHED[what]
    model = SmallModel()
    monitor = Monitor(model, {'monitor_norm_freq': 1}, num_tasks=3)
    tokens = torch.ones(2, 3, 4)
    with monitor.step(0) as step:
        step.publish('x_token', tokens, task_id=0)
        if kind == 'signal':
            step.publish(name, torch.full((2, 3), 7.0), task_id=None)
        else:
            step.publish_loss(name, 7.0)
        step.forward_end()
        if backward:
            sum(parameter.square().sum() for parameter in model.parameters()).backward()
            step.backward_end()
    records = finished(monitor)
    assert monitor.lost_data.total['name_taken'] == 1
    assert name in caplog.text
    assert owner in caplog.text
    for record in records:
        assert 7.0 not in record.scalars.values()
        assert record.scalars['norm/x_token/mean'] == 2.0


def test_a_name_of_ones_own_is_not_refused() -> None:
    monitor = Monitor(SmallModel(), {'monitor_norm_freq': 1}, num_tasks=3)
    with monitor.step(0) as step:
        step.publish('grad/decoder', torch.ones(2, 3))
        step.publish('norm/tokens', torch.ones(2, 3), task_id=1)
        step.publish_loss('grad/decoder/_total_norm', 3.0)
        step.publish_loss('total_loss', 2.0)
        step.forward_end()
    (record,) = finished(monitor)
    assert not monitor.lost_data.total
    assert record.scalars['grad/decoder/_total_norm'] == 3.0
    assert record.scalars['grad/decoder/mean'] == 1.0
    assert record.scalars['norm/tokens_task1/max'] == 1.0


@pytest.mark.parametrize('given', ['full', 5, [Yields], [object()], Yields()])
def test_metrics_that_are_none_are_named(given: Any) -> None:
    with pytest.raises(ConfigurationError, match='metric'):
        Monitor(SmallModel(), {'monitor_norm_freq': 1}, num_tasks=3, metrics=given)
