"""NormMonitor inside DI-engine's own task pipeline, with DI-engine's own writer."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from ding.framework import task
from ding.framework.context import OnlineRLContext
from ding.framework.middleware import CkptSaver, online_logger
from ding.utils import DistributedWriter
from easydict import EasyDict
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ding_normmon import ConfigurationError, GroupError, NormMonitor, init_writer
from ding_normmon.core.record import Record
from ding_normmon.diagnose import Rule, Sign, Window
from tests.unizero.builders import random_batch, tiny_policy


@pytest.fixture
def folder(tmp_path: Path) -> Any:
    yield tmp_path / 'run'
    DistributedWriter.root = None


def trainer(policy: Any) -> Any:
    def train(ctx: OnlineRLContext) -> None:
        ctx.train_output = policy._forward_learn(
            [random_batch(policy, task_id, ctx.train_iter) for task_id in policy.task_ids]
        )
        ctx.train_iter += 1
        ctx.env_step += 10

    return train


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    accumulator = EventAccumulator(str(folder), size_guidance={'scalars': 0})
    accumulator.Reload()
    return {
        tag: [(point.step, point.value) for point in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()['scalars']
    }


def run(policy: Any, folder: Path, steps: int, *further: Any, **config: Any) -> list[list[Record]]:
    init_writer(EasyDict(exp_name=str(folder)))
    seen: list[list[Record]] = []
    with task.start(ctx=OnlineRLContext()):
        task.use(NormMonitor(EasyDict(config), policy))
        task.use(trainer(policy))
        task.use(lambda ctx: seen.append(ctx.monitor_records))
        for middleware in further:
            task.use(middleware)
        task.use(online_logger(train_show_freq=1))
        task.run(max_step=steps)
    return seen


def test_records_reach_the_writer_and_the_context_exactly_once(folder: Path) -> None:
    policy = tiny_policy(2)
    seen = run(policy, folder, 7, monitor_norm_freq=3)
    written = curves(folder)
    assert [step for step, _ in written['norm/encoder/_total_norm']] == [0, 3, 6]
    assert [step for step, _ in written['grad/head_value_task1/_total_norm']] == [0, 3, 6]
    iterations = [record.iteration for records in seen for record in records]
    assert iterations == sorted(set(iterations))
    assert set(iterations) <= {0, 3, 6}
    assert 'basic/train_noreduce_obs_loss_task0' in written
    assert '_forward_learn' not in vars(policy)


def test_merged_figures_are_drawn_by_the_logger_too(folder: Path) -> None:
    run(tiny_policy(2), folder, 3, monitor_norm_freq=2, merge_train_output=True)
    written = curves(folder)
    assert len(written['basic/train_norm/encoder/_total_norm']) == 2
    assert written['norm/encoder/_total_norm'][0][1] == written['basic/train_norm/encoder/_total_norm'][0][1]


def test_an_exception_in_the_pipeline_loses_no_record(folder: Path) -> None:
    def fail(ctx: OnlineRLContext) -> None:
        if ctx.train_iter == 3:
            raise KeyboardInterrupt

    policy = tiny_policy(2)
    with pytest.raises(KeyboardInterrupt):
        run(policy, folder, 10, fail, monitor_norm_freq=1)
    assert [step for step, _ in curves(folder)['norm/encoder/_total_norm']] == [0, 1, 2]
    assert '_forward_learn' not in vars(policy)


def test_a_task_can_be_started_again(folder: Path) -> None:
    policy = tiny_policy(2)
    for attempt in range(2):
        run(policy, folder.with_name(f'run{attempt}'), 2, monitor_norm_freq=1)
        assert len(curves(folder.with_name(f'run{attempt}'))['norm/encoder/_total_norm']) == 2


def test_off_attaches_nothing(folder: Path) -> None:
    policy = tiny_policy(2)
    seen = run(policy, folder, 2, monitor_norm_freq=0)
    assert seen == [[], []]
    assert not [name for name in curves(folder) if name.startswith('norm/')]


def test_asynchronous_tasks_are_refused() -> None:
    policy = tiny_policy(2)
    with task.start(async_mode=True, ctx=OnlineRLContext()), pytest.raises(ConfigurationError, match='async_mode'):
        NormMonitor(EasyDict(monitor_norm_freq=1), policy)


@pytest.mark.parametrize(
    ('config', 'error', 'message'),
    [
        ({'monitor_norm_frequency': 1}, ConfigurationError, 'nearest is monitor_norm_freq'),
        ({'monitor_norm_freq': -1}, ConfigurationError, 'monitor.monitor_norm_freq'),
        ({'monitor_norm_freq': 2.5}, ConfigurationError, r'got 2.5 \(float\)'),
        ({'monitor_norm_freq': 1, 'module_groups': {'a': 'world_model.transformr'}}, GroupError, 'transformer'),
        ({'monitor_norm_freq': 1, 'module_groups': {'x_token': 'transformer'}}, GroupError, 'reserved'),
    ],
)
def test_bad_configuration_is_refused_at_construction(config: Any, error: type[Exception], message: str) -> None:
    policy = tiny_policy(2)
    with pytest.raises(error, match=message):
        NormMonitor(EasyDict(config), policy)
    assert '_forward_learn' not in vars(policy)


@dataclass
class Always(Rule):
    """Finds something in every record."""

    name: ClassVar[str] = 'always'
    advice: ClassVar[str] = 'Nothing.'
    confirm: int = 1
    warmup: int = 0

    def signs(self, window: Window) -> Iterable[Sign]:
        yield Sign('It is so.', tasks=(1,))


def judged(
    policy: Any, folder: Path, steps: int, further: Any = (), *, on_finding: str, **arguments: Any
) -> tuple[int, list[list[str]], Any]:
    """Run a pipeline whose rule always finds something; return its last iteration and what its context had."""
    init_writer(EasyDict(exp_name=str(folder)))
    seen: list[list[str]] = []
    config = EasyDict(monitor_norm_freq=1, budget=None, on_finding=on_finding)
    with task.start(ctx=OnlineRLContext()):
        monitor = NormMonitor(config, policy, rules=[Always()], **arguments)
        task.use(monitor)
        task.use(trainer(policy))
        task.use(lambda ctx: seen.append([finding.rule for finding in ctx.findings]))
        task.use(lambda ctx: time.sleep(0.02))  # the rules judge in the background
        for middleware in further:
            task.use(middleware)
        task.run(max_step=steps)
        return task.ctx.train_iter, seen, monitor


def test_a_finding_is_on_the_context_and_stops_the_task(folder: Path) -> None:
    policy, told = tiny_policy(2), []
    saver = CkptSaver(policy, str(folder))
    done, seen, _ = judged(policy, folder, 200, [saver], on_finding='stop', callback=told.append)
    assert done < 200
    assert seen[0] == []
    assert seen[-1] == ['always']
    assert [finding.tasks for finding in told] == [(1,)]
    # DI-engine's own middleware sees that the task is finished.
    assert (folder / 'ckpt' / 'final.pth.tar').exists()


@pytest.mark.slow
def test_a_finding_saves_the_policy_of_one_iteration(folder: Path) -> None:
    policy = tiny_policy(2)
    done, _, _ = judged(policy, folder, 30, on_finding='checkpoint')
    assert done == 30
    [path] = (folder / 'ckpt').glob('finding_*.pth.tar')
    assert 0 < int(path.name.split('_')[1].split('.')[0]) < 30
    state = torch.load(path, weights_only=False)
    assert state.keys() == policy.learn_mode.state_dict().keys()


def test_functions_of_the_users_stop_and_save(folder: Path) -> None:
    policy, called = tiny_policy(2), []
    for action in ('stop', 'checkpoint'):
        judged(
            policy, folder.with_name(action), 15, on_finding=action,
            stop=lambda ctx: called.append(('stop', ctx.train_iter)),
            checkpoint=lambda ctx: called.append(('checkpoint', ctx.train_iter)),
        )  # fmt: skip
    assert [action for action, _ in called] == ['stop', 'checkpoint']
    assert all(0 < iteration < 15 for _, iteration in called)


def test_switched_off_the_context_has_no_findings(folder: Path) -> None:
    policy, seen = tiny_policy(2), []
    init_writer(EasyDict(exp_name=str(folder)))
    with task.start(ctx=OnlineRLContext()):
        task.use(NormMonitor({'monitor_norm_freq': 1, 'diagnose': False}, policy))
        task.use(trainer(policy))
        task.use(lambda ctx: seen.append(ctx.findings))
        task.run(max_step=3)
    assert seen == [[], [], []]
