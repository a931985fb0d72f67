"""Returns and environment steps as figures that rules can read: of pipelines, and of what serial collectors write."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from easydict import EasyDict
from torch import nn

from ding_normmon import NormMonitor
from ding_normmon.core.record import Record
from ding_normmon.diagnose import Sign, Window
from ding_normmon.diagnose.invariants import Invariant
from ding_normmon.integrations.ding_engine.collected import observe_writer
from ding_normmon.metrics.collection import Collection


class Policy:
    """The smallest policy that learns."""

    def __init__(self) -> None:
        self._learn_model = nn.Linear(2, 1)
        self._optimizer = torch.optim.SGD(self._learn_model.parameters(), lr=0.1)

    def _forward_learn(self, data: Any) -> None:
        self._optimizer.zero_grad()
        self._learn_model(torch.ones(3, 2)).sum().backward()
        self._optimizer.step()


class FallingReturn(Invariant):
    """A rule of a user's that reads returns."""

    name: ClassVar[str] = 'falling_return'
    advice: ClassVar[str] = 'Look at the last checkpoint.'

    def signs(self, window: Window) -> Any:
        if window.record.scalars.get('return/eval/mean', 0.0) < -5:
            yield Sign('The return is below -5.')


def test_returns_of_a_pipeline_are_in_the_next_record_and_in_no_other() -> None:
    policy = Policy()
    monitor = NormMonitor(EasyDict(monitor_norm_freq=2), policy, destinations=[], rules=[FallingReturn()])
    evaluated = {1: 3.5, 4: -7.0}
    records: list[Record] = []
    for iteration in range(6):
        value = evaluated.get(iteration, -np.inf)
        ctx = SimpleNamespace(train_iter=iteration, env_step=10 + iteration**2, eval_value=value)
        monitor(ctx)
        # Those that are complete by now.
        records += ctx.monitor_records
        policy._forward_learn(None)
    monitor.close()
    records += monitor.monitor.take_records()
    returns = {record.iteration: record.scalars.get('return/eval/mean') for record in records}
    assert returns == {0: None, 2: 3.5, 4: -7.0}
    rates = {record.iteration: record.scalars.get('data/env_steps_per_iteration') for record in records}
    assert rates == {0: None, 2: 2.0, 4: 6.0}
    assert [finding.found for record in records for finding in record.findings] == [4]


def test_moments_of_many_episodes_are_those_of_float64() -> None:
    generator = np.random.default_rng(0)
    policy = Policy()
    monitor = NormMonitor(EasyDict(monitor_norm_freq=1), policy, destinations=[])
    monitor(SimpleNamespace(train_iter=0))
    (collection,) = [metric for metric in monitor.monitor.metrics if isinstance(metric, Collection)]
    parts = [generator.normal(1e4, 3.0, count) for count in (1, 17, 40)]
    for part in parts:
        collection.note_returns('collect', part)
    policy._forward_learn(None)
    monitor.close()
    (record,) = monitor.monitor.take_records()
    whole = np.concatenate(parts)
    expected = {'mean': whole.mean(), 'std': whole.std(ddof=1), 'max': whole.max(), 'min': whole.min()}
    for statistic, value in expected.items():
        assert record.scalars[f'return/collect/{statistic}'] == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize(
    ('tag', 'kept'),
    [
        ('evaluator_iter/reward_mean', ('eval', None)),
        ('collector_iter/reward_mean', ('collect', None)),
        ('evaluator_iter/reward_mean_task3', ('eval', 3)),
        ('evaluator_step/reward_mean', None),
        ('evaluator_iter/reward_std', None),
        ('learner_iter/reward_mean', None),
    ],
)
def test_what_collectors_write_is_noted_and_written(tag: str, kept: Any) -> None:
    written: list[Any] = []
    writer = SimpleNamespace(add_scalar=lambda *entry, **named: written.append((entry, named)))
    before = writer.add_scalar
    collection = Collection()
    undo = observe_writer(collection, writer)
    writer.add_scalar(tag, np.float32(1.5), 7)
    writer.add_scalar(tag=tag, scalar_value=2.5, global_step=8)
    writer.add_scalar(tag, float('nan'), 9)
    undo()
    assert len(written) == 3
    assert writer.add_scalar is before
    assert collection._returns == ({} if kept is None else {kept: [1.5, 2.5]})
