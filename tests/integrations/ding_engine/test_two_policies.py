"""Two monitored policies in one task of DI-engine, as in self-play."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ding.framework import task
from ding.framework.context import OnlineRLContext
from ding.utils import DistributedWriter
from easydict import EasyDict
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from ding_normmon import ConfigurationError, NormMonitor, init_writer
from ding_normmon.runs import read_run

NORM = 'norm/model/_total_norm'


@pytest.fixture
def folder(tmp_path: Path) -> Any:
    yield tmp_path / 'run'
    DistributedWriter.root = None


class Policy:
    """Its weights' norm before step k is 2 * (scale + k)."""

    def __init__(self, scale: float) -> None:
        self._learn_model = nn.ModuleDict({'head': nn.Linear(4, 1, bias=False)})
        nn.init.constant_(self._learn_model['head'].weight, scale)
        self._optimizer = torch.optim.SGD(self._learn_model.parameters(), lr=1.0)

    def _forward_learn(self, data: Any) -> dict[str, Any]:
        self._optimizer.zero_grad()
        (-self._learn_model['head'](torch.ones(1, 4))).sum().backward()
        self._optimizer.step()
        return {}


def trainer(policy: Policy, steps: int = 1) -> Callable[[Any], None]:
    def train(ctx: Any) -> None:
        for _ in range(steps):
            policy._forward_learn(None)
            ctx.train_iter += 1

    return train


def right(scale: float, steps: int, frequency: int, first: int = 0) -> list[tuple[int, float]]:
    return [(first + k, 2.0 * (scale + k)) for k in range(steps) if (first + k) % frequency == 0]


def points(folder: Path, tag: str) -> list[tuple[int, float]]:
    (path,) = folder.glob('events*')
    events = EventAccumulator(str(path), size_guidance={'scalars': 0})
    events.Reload()
    return [(point.step, point.value) for point in events.Scalars(tag)]


def history(folder: Path) -> list[tuple[int, float]]:
    series = read_run(folder).series[NORM]
    return list(zip(series.iterations.tolist(), series.values.tolist(), strict=True))


@pytest.mark.parametrize(
    ('first', 'monitors_first', 'steps_of_the_second'), [(0, False, 1), (30, True, 2), (7, False, 3)], ids=str
)
def test_each_policy_has_its_own_iterations_names_and_history(
    folder: Path, first: int, monitors_first: bool, steps_of_the_second: int
) -> None:
    init_writer(EasyDict(exp_name=str(folder)))
    main, opponent = Policy(1.0), Policy(100.0)
    seen: dict[str, list[tuple[int, float]]] = {'main': [], 'opponent': []}
    ctx = OnlineRLContext()
    ctx.train_iter = first
    with task.start(ctx=ctx):
        one = NormMonitor({'monitor_norm_freq': 2}, main)
        other = NormMonitor({'monitor_norm_freq': 2}, opponent, name='opponent')

        def noted(monitor: NormMonitor, name: str, prefix: str) -> Callable[[Any], None]:
            def run(ctx: Any) -> None:
                monitor(ctx)
                assert ctx.monitor_records is monitor.records
                seen[name] += [(record.iteration, record.scalars[prefix + NORM]) for record in monitor.records]

            return run

        middleware = [
            noted(one, 'main', ''),
            trainer(main),
            noted(other, 'opponent', 'opponent/'),
            trainer(opponent, steps_of_the_second),
        ]
        for entry in middleware[::2] + middleware[1::2] if monitors_first else middleware:
            task.use(entry)
        task.run(max_step=10)
    expected = {
        'main': right(1.0, 10, 2, first),
        'opponent': right(100.0, 10 * steps_of_the_second, 2, first),
    }
    assert points(folder, NORM) == history(folder) == expected['main']
    assert points(folder, f'opponent/{NORM}') == history(folder / 'opponent') == expected['opponent']
    for name, found in seen.items():
        assert found == expected[name][: len(found)] != []


def test_a_second_policy_without_a_name_is_given_one(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    init_writer(EasyDict(exp_name=str(folder)))
    first, second = Policy(1.0), Policy(100.0)
    with caplog.at_level(logging.WARNING, 'ding_normmon'), task.start(ctx=OnlineRLContext()):
        for policy in (first, second):
            task.use(NormMonitor({'monitor_norm_freq': 1}, policy))
            task.use(trainer(policy))
        task.run(max_step=3)
    assert points(folder, NORM) == right(1.0, 3, 1)
    assert points(folder, f'policy2/{NORM}') == history(folder / 'policy2') == right(100.0, 3, 1)
    assert [message for message in caplog.messages if "name='opponent'" in message]


def test_two_of_one_name_are_refused(folder: Path) -> None:
    init_writer(EasyDict(exp_name=str(folder)))
    with task.start(ctx=OnlineRLContext()):
        for policy in (Policy(1.0), Policy(2.0)):
            task.use(NormMonitor({'monitor_norm_freq': 1}, policy, name='a'))
        with pytest.raises(ConfigurationError, match=r"two monitors of one task are called 'a'"):
            task.run(max_step=1)
    with pytest.raises(ConfigurationError, match=r'cannot be a name'):
        NormMonitor({'monitor_norm_freq': 1}, Policy(1.0), name='a/b')


def test_a_pipeline_whose_steps_are_not_seen_says_so_while_it_runs(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    init_writer(EasyDict(exp_name=str(folder)))
    policy = Policy(1.0)
    forward = policy._forward_learn
    said_at: list[int] = []

    def train(ctx: Any) -> None:
        if not said_at and any('nothing was measured' in message for message in caplog.messages):
            said_at.append(ctx.train_iter)
        forward(None)
        ctx.train_iter += 1

    with caplog.at_level(logging.WARNING, 'ding_normmon'), task.start(ctx=OnlineRLContext()):
        task.use(NormMonitor({'monitor_norm_freq': 1}, policy))
        task.use(train)
        task.run(max_step=6)
    said = [message for message in caplog.messages if 'nothing was measured' in message]
    assert len(said) == 1
    assert 'ctx.train_iter went from 0 to 1' in said[0]
    assert 'learn_mode was taken before' in said[0]
    assert said_at == [1]


def test_a_monitor_that_takes_the_place_of_a_closed_one_has_its_names_and_the_iterations_of_the_task(
    caplog: pytest.LogCaptureFixture,
) -> None:
    context = OnlineRLContext()
    found: list[tuple[int, float]] = []
    for scale in (1.0, 5.0, 9.0):
        policy = Policy(scale)
        monitor = NormMonitor(EasyDict(monitor_norm_freq=2), policy, destinations=[])
        for _ in range(5):
            monitor(context)
            found += [(record.iteration, record.scalars[NORM]) for record in context.monitor_records]
            trainer(policy)(context)
        monitor.close()
        found += [(record.iteration, record.scalars[NORM]) for record in monitor.monitor.take_records()]
    assert found == [*right(1.0, 5, 2), *right(5.0, 5, 2, first=5), *right(9.0, 5, 2, first=10)]
    assert 'policy2' not in caplog.text
