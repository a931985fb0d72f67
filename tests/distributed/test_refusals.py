"""A rank that is not monitored, by choice or by an error, tells the others at once, however it was started."""

from __future__ import annotations

import tempfile
import time
from collections import namedtuple
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist

from ding_normmon import ConfigurationError
from tests.distributed.ranks import run_ranks

pytestmark = pytest.mark.distributed

FIVE = {'monitor_norm_freq': 5, 'setup_timeout': 600.0}
OTHER: dict[str, dict[str, Any]] = {
    'off': {'monitor_norm_freq': 0},
    'misspelt': {'monitor_norm_freqq': 5},
    'no such group': {**FIVE, 'module_groups': {'mine': 'encodre'}},
    'another': {**FIVE, 'deadline': 7.0},
    'alike': FIVE,
}
View = namedtuple('View', 'forward')


def middleware(config: dict[str, Any]) -> Any:
    from ding_normmon import NormMonitor
    from tests.integrations.small_policies import Policy

    return NormMonitor(config, Policy(), destinations=[])


class Engine(SimpleNamespace):
    """Stands in for a BaseLearner; a plain namespace cannot be referred to weakly."""


def learner_hook(config: dict[str, Any]) -> Any:
    from ding_normmon.integrations.ding_engine.learner_hook import NormMonitorHook
    from tests.integrations.small_policies import Policy

    view = View(Policy()._forward_learn)
    engine = Engine(
        policy=view,
        tb_logger=None,
        rank=dist.get_rank(),
        exp_name=tempfile.mkdtemp(),
        last_iter=SimpleNamespace(val=0),
        collector_envstep=0,
        register_hook=lambda hook: None,
    )
    hook = NormMonitorHook(config)
    hook(engine)
    return hook


def every_start(rank: int) -> dict[str, tuple[str, float]]:
    ways: list[Callable[[dict[str, Any]], Any]] = [middleware, learner_hook]
    results = {}
    for way in ways:
        for name, other in OTHER.items():
            begin = time.monotonic()
            try:
                monitor = way(FIVE if rank == 0 else other).monitor
                assert monitor.take_records() == []
                # Whoever posts or hears decisions need not ask whether the monitor is on.
                monitor.control.on('stop', print)
                outcome = 'started' if monitor.frequency else 'off'
                monitor.close()
            except ConfigurationError as error:
                outcome = str(error)
            except ValueError as error:
                outcome = f'{type(error).__name__}: {error}'
            results[f'{way.__name__}, {name}'] = (outcome, time.monotonic() - begin)
    return results


@pytest.fixture(scope='module')
def results() -> list[dict[str, tuple[str, float]]]:
    return run_ranks(every_start, 2, timeout=240)


@pytest.mark.parametrize('way', ['middleware', 'learner_hook'])
@pytest.mark.parametrize(
    ('name', 'on_rank_0', 'on_rank_1'),
    [
        ('off', 'disagree on monitor.monitor_norm_freq: 5 on rank 0, 0 on rank 1', 'off'),
        ('misspelt', 'rank 1 could not be set up: monitor.monitor_norm_freqq: no such key', 'no such key'),
        ('no such group', 'rank 1 could not be set up', 'encoder'),
        ('another', 'disagree on monitor.deadline: 60.0 on rank 0, 7.0 on rank 1', 'disagree on monitor.deadline'),
        ('alike', 'started', 'started'),
    ],
)
@pytest.mark.full
def test_the_other_rank_fails_at_once(
    results: list[dict[str, tuple[str, float]]], way: str, name: str, on_rank_0: str, on_rank_1: str
) -> None:
    for rank, expected in enumerate((on_rank_0, on_rank_1)):
        outcome, seconds = results[rank][f'{way}, {name}']
        assert expected in outcome
        # Far less than setup_timeout, far more than a busy machine needs.
        assert seconds < 120
