"""Mistakes in published tensors and in the configuration, and unusual inputs of healthy runs."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ding_normmon import ConfigurationError, GroupError, Monitor
from ding_normmon.core.step import SignalError
from ding_normmon.ranks.transport import LocalTransport
from tests.models import SmallModel, finished, learn, make_batches, small_monitor
from tests.monitor.steps import measure, publish_and_end

# -- mistakes and healthy oddities -------------------------------------------------------------------------------------


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    'integers': (
        {'tensor': torch.zeros(2, 3, dtype=torch.int64), 'task_id': 0},
        'floating-point tensor, got torch.int64',
    ),
    'booleans': ({'tensor': torch.zeros(2, 3) > 0, 'task_id': 0}, 'floating-point tensor, got torch.bool'),
    'an array': ({'tensor': np.zeros((2, 3)), 'task_id': 0}, 'floating-point tensor, got ndarray'),
    'task 3 of 3': ({'tensor': torch.zeros(2, 3), 'task_id': 3}, 'unknown task id 3; this rank trains'),
    'task -1': ({'tensor': torch.zeros(2, 3), 'task_id': -1}, 'unknown task id -1'),
    'a name as task': ({'tensor': torch.zeros(2, 3), 'task_id': 'pong'}, "unknown task id 'pong'"),
    'task 1.0': ({'tensor': torch.zeros(2, 3), 'task_id': 1.0}, 'unknown task id 1.0'),
    'longer mask': (
        {'tensor': torch.zeros(2, 3, 4), 'task_id': 0, 'mask': torch.ones(2, 5)},
        r'mask of shape \(2, 5\)',
    ),
    'wider mask': ({'tensor': torch.zeros(2, 3, 4), 'task_id': 0, 'mask': torch.ones(3, 3)}, r'mask of shape \(3, 3\)'),
    'flat mask': ({'tensor': torch.zeros(2, 3, 4), 'task_id': 0, 'mask': torch.ones(6)}, r'must have shape \(B, T\)'),
    'mask of lists': ({'tensor': torch.zeros(2, 3), 'task_id': 0, 'mask': [[1, 1, 1]] * 2}, 'a mask that is a tensor'),
    'sparse': ({'tensor': lambda: torch.eye(2).to_sparse(), 'task_id': 0}, 'a strided tensor, got a sparse_coo one'),
    'nested': (
        {'tensor': lambda: torch.nested.nested_tensor([torch.zeros(2)] * 2, layout=torch.jagged), 'task_id': 0},
        'a strided tensor, got a nested one',
    ),
    'functional': (
        {'tensor': lambda: torch._to_functional_tensor(torch.zeros(2, 3)), 'task_id': 0},
        'inside torch.func.functionalize has no values',
    ),
    'another device': ({'tensor': torch.zeros(2, 3, device='meta'), 'task_id': 0}, 'the tensor is on meta'),
}


def arguments_of(mistake: str) -> tuple[dict[str, Any], str]:
    """A published tensor and its error message; unusual tensors are made here, so that none stays for other tests."""
    kwargs, complaint = MISTAKES[mistake]
    return {name: value() if callable(value) else value for name, value in kwargs.items()}, complaint


@pytest.mark.parametrize('mistake', MISTAKES)
def test_a_mistake_raises_in_the_first_due_step_before_backward(mistake: str) -> None:
    kwargs, complaint = arguments_of(mistake)
    monitor = small_monitor(SmallModel(), frequency=2)
    with monitor.step(1):
        pass
    reached = []
    with pytest.raises(SignalError, match=rf'logits/odd: .*{complaint}'), monitor.step(2) as step:  # noqa: PT012
        step.publish('logits/odd', **kwargs)
        reached.append('published')
        step.forward_end()
        reached.append('backward')
    assert reached == ['published']


@pytest.mark.parametrize('mistake', MISTAKES)
def test_a_later_mistake_is_left_out_and_counted(mistake: str, caplog: pytest.LogCaptureFixture) -> None:
    kwargs, _ = arguments_of(mistake)
    model = SmallModel()
    monitor = small_monitor(model)
    measure(model, monitor, 0)
    with caplog.at_level(logging.WARNING, 'ding_normmon'):
        for iteration in (1, 2):
            publish_and_end(monitor, 'logits/odd', iteration=iteration, **kwargs)
        records = finished(monitor)
    assert len([record for record in caplog.records if 'logits/odd' in record.getMessage()]) == 1
    assert sum(record.scalars.get('monitor/lost/mistake', 0) for record in records) == 2
    assert not [name for record in records for name in record.scalars if 'logits/odd' in name]
    assert 'norm/encoder/_total_norm' in records[2].scalars


def test_all_mistakes_of_the_first_step_are_named() -> None:
    monitor = small_monitor(SmallModel())
    with pytest.raises(SignalError, match=r'first.*; second') as caught, monitor.step(0) as step:  # noqa: PT012
        step.publish('first', torch.zeros(2, dtype=torch.int64), task_id=0)
        step.publish('second', torch.zeros(2), task_id=9)
        step.forward_end()
    assert 'second' in str(caught.value)


def test_the_same_signal_twice_in_one_forward_pass() -> None:
    monitor = small_monitor(SmallModel())
    twice = 'logits/value: published twice for task 1'
    with pytest.raises(SignalError, match=twice), monitor.step(0) as step:  # noqa: PT012
        step.publish('logits/value', torch.zeros(2), task_id=1)
        step.publish('logits/value', torch.zeros(2), task_id=1)
        step.forward_end()


def test_what_is_published_after_the_step_is_counted_and_goes_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    model = SmallModel()
    monitor = small_monitor(model)
    with monitor.step(0) as first:
        learn(model, make_batches(), first)
    with monitor.step(1) as second:
        first.publish('late', torch.ones(3), task_id=0)
        first.publish_loss('late_loss', 1.0, task_id=0)
        first.clipped(1.0, 2.0)
        first.backward_end()
        learn(model, make_batches(), second)
    dropped = monitor.begin_step(2)
    monitor.drop_step(dropped)
    dropped.publish('late', torch.ones(3), task_id=0)
    records = finished(monitor)
    assert [record.iteration for record in records] == [0, 1]
    assert not [name for record in records for name in record.scalars if 'late' in name and 'monitor/lost' not in name]
    assert monitor.lost_data.total == {'after_step': 5}
    said = [line.getMessage() for line in caplog.records if 'had ended' in line.getMessage()]
    assert len(said) == 1
    assert 'late was published on a learner step that had ended' in said[0]


@pytest.mark.parametrize('name', [5, None, b'x', ('x',)])
def test_a_name_that_is_no_text(name: Any) -> None:
    model = SmallModel()
    monitor = small_monitor(model)
    with pytest.raises(SignalError, match='the name of a signal is text, got'), monitor.step(0) as step:  # noqa: PT012
        step.publish(name, torch.ones(3), task_id=0)
        step.forward_end()
    # Whoever goes on has another first step, with statements of its own.
    measure(model, monitor, 1)
    with monitor.step(2) as step:
        step.publish(name, torch.ones(3), task_id=0)
        step.publish_loss(name, 1.0, task_id=0)
        step.forward_end()
    finished(monitor)
    assert monitor.lost_data.total == {'mistake': 2}


class Statements(LocalTransport):
    """Keeps what was stated under which topic."""

    def __init__(self) -> None:
        self.topics: list[str] = []

    def agree(self, topic: str, statement: Any, timeout: float) -> Any:
        self.topics.append(topic)
        return super().agree(topic, statement, timeout)


def test_every_attempt_at_a_first_step_has_a_topic_of_its_own() -> None:
    model = SmallModel()
    transport = Statements()
    monitor = Monitor(model, {'monitor_norm_freq': 1}, num_tasks=3, transport=transport)
    for iteration in range(2):
        with pytest.raises(SignalError), monitor.step(iteration) as step:  # noqa: PT012
            step.publish('x', torch.ones(3), task_id=7)
            step.forward_end()
    measure(model, monitor, 2)
    measure(model, monitor, 3)
    finished(monitor)
    assert [topic for topic in transport.topics if 'first_step' in topic] == [f'first_step/{n}' for n in (1, 2, 3)]


@pytest.mark.parametrize('names', [(('x', 1), ('x_task1', None)), (('x_task1', None), ('x', 1))])
def test_a_name_that_is_that_of_a_task_is_the_same_name(names: Any) -> None:
    monitor = small_monitor(SmallModel())
    with pytest.raises(SignalError, match='published twice'), monitor.step(0) as step:  # noqa: PT012
        for name, task_id in names:
            step.publish(name, torch.ones(3), task_id=task_id)
        step.forward_end()


def test_a_name_of_ones_own_for_each_task_is_allowed() -> None:
    monitor = small_monitor(SmallModel())
    with monitor.step(0) as step:
        step.publish('x_task0', torch.ones(3))
        step.publish('x_task1', torch.zeros(3))
        step.publish('x', torch.full((3,), 2.0), task_id=2)
        step.publish_loss('x_task0', 3.0)
        step.forward_end()
    scalars = finished(monitor)[0].scalars
    assert [scalars[f'x_task{task}/mean'] for task in range(3)] == [1.0, 0.0, 2.0]


def test_a_loss_may_be_named_like_a_signal() -> None:
    monitor = small_monitor(SmallModel())
    with monitor.step(0) as step:
        step.publish('value', torch.zeros(2), task_id=1)
        step.publish_loss('value', 2.0, task_id=1)
        step.forward_end()
        step.backward_end()
    scalars = finished(monitor)[0].scalars
    assert scalars['value_task1'] == 2
    assert scalars['value_task1/mean'] == 0


@pytest.mark.parametrize('task_id', [np.int64(1), np.int32(1), torch.tensor(1)])
def test_task_ids_may_be_any_integer(task_id: Any) -> None:
    monitor = small_monitor(SmallModel())
    publish_and_end(monitor, 'logits/value', torch.ones(2), task_id=task_id)
    assert finished(monitor)[0].scalars['logits/value_task1/mean'] == 1


def test_a_mistake_without_a_forward_end_is_counted() -> None:
    monitor = small_monitor(SmallModel())
    with monitor.step(0) as step:
        step.publish('first', torch.zeros(2, dtype=torch.int64), task_id=0)
        step.backward_end()
    assert finished(monitor)[0].scalars['monitor/lost/mistake'] == 1


@pytest.mark.parametrize(
    'kwargs',
    [
        {'tensor': torch.zeros(0, 3), 'task_id': 0},
        {'tensor': torch.zeros(2, 3, 4), 'task_id': 0, 'mask': torch.zeros(2, 3)},
        {'tensor': torch.zeros(0, 6, 4), 'task_id': 0, 'mask': torch.zeros(0, 3)},
        {'tensor': None, 'task_id': 0},
    ],
    ids=['empty', 'no valid step', 'empty with mask', 'not produced'],
)
@pytest.mark.parametrize('name', ['logits/value', 'x_token'])
def test_what_happens_in_healthy_runs_does_not_raise(name: str, kwargs: dict[str, Any]) -> None:
    monitor = small_monitor(SmallModel())
    with monitor.step(0) as step:
        step.publish(name, **kwargs)
        step.publish(name, torch.ones(2, 3, 4), task_id=1)
        step.forward_end()
        step.backward_end()
    scalars = finished(monitor)[0].scalars
    family = 'norm/x_token' if name == 'x_token' else name
    assert f'{family}_task0/mean' not in scalars
    assert scalars[f'{family}/mean'] == scalars[f'{family}_task1/mean']
    assert not monitor.lost_data.total


def test_a_signal_may_appear_late() -> None:
    model = SmallModel()
    monitor = small_monitor(model)
    measure(model, monitor, 0)
    publish_and_end(monitor, 'late', torch.ones(2), task_id=0, iteration=1)
    first, second = finished(monitor)
    assert 'late/mean' not in first.scalars
    assert second.scalars['late_task0/mean'] == 1
    assert not monitor.lost_data.total


# -- set-up ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('kwargs', 'complaint'),
    [
        ({'num_tasks': 3, 'task_ids': [0, 3]}, 'task id 3 is out of range; with 3 tasks the nearest is 2'),
        ({'num_tasks': 3, 'task_ids': [-1]}, 'task id -1 is out of range; with 3 tasks the nearest is 0'),
        ({'num_tasks': 3, 'task_ids': [1, 1]}, 'are not unique'),
        ({'task_ids': [0]}, 'need num_tasks'),
    ],
)
def test_task_ids_that_cannot_be(kwargs: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        Monitor(SmallModel(), {'monitor_norm_freq': 1}, **kwargs)


def test_a_model_without_parameters_is_refused() -> None:
    with pytest.raises(ConfigurationError, match='ReLU has no parameters'):
        Monitor(nn.ReLU(), {'monitor_norm_freq': 1})


def test_a_group_that_names_no_module_is_refused() -> None:
    with pytest.raises(GroupError, match='encodr'):
        small_monitor(SmallModel(), module_groups={'mine': 'tokenizer.encodr'})


@pytest.mark.parametrize(
    'kwargs',
    [
        {'num_tasks': '2'},
        {'num_tasks': 2.0},
        {'num_tasks': 0},
        {'num_tasks': -1},
        {'num_tasks': True},
        {'num_tasks': 3, 'task_ids': 3},
        {'num_tasks': 3, 'task_ids': [None]},
        {'num_tasks': 3, 'task_ids': [0.5, 1]},
        {'num_tasks': 3, 'task_ids': '01'},
        {'task_names': 5},
        {'task_names': 'Pong'},
        {'destinations': None},
        {'rules': 5},
        {'optimizer': 5},
        {'optimizer': [5]},
    ],
)
def test_arguments_that_cannot_be(kwargs: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match='monitor: '):
        Monitor(SmallModel(), {'monitor_norm_freq': 1}, **kwargs)


def test_what_is_no_model() -> None:
    with pytest.raises(ConfigurationError, match=r'expected a model, an nn\.Module, got NoneType'):
        Monitor(None, {'monitor_norm_freq': 1})  # type: ignore[arg-type]
