"""``NormMonitorHook`` on DI-engine's ``BaseLearner``: exact values at their iteration, everything else untouched."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorboardX
import torch
import torch.utils.tensorboard as torch_tensorboard
from ding.worker import BaseLearner
from ding.worker.learner import learner_hook
from ding.worker.learner.learner_hook import LearnerHook
from easydict import EasyDict
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ding_normmon import ConfigurationError, NormMonitorHook, attach
from ding_normmon.core.step import INERT
from ding_normmon.runs import read_run
from tests.integrations.ding_engine.learners import make_learner
from tests.integrations.ding_engine.policies import CASES


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(learner: BaseLearner, name: str, calls: int) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(calls):
        learner.train(*CASES[name].batch(generator))


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    accumulator = EventAccumulator(
        str(folder / folder.name / 'log' / 'learner' / 'learner_tb_logger'), size_guidance={'scalars': 0}
    )
    accumulator.Reload()
    return {
        tag: [(point.step, point.value) for point in accumulator.Scalars(tag)] for tag in accumulator.Tags()['scalars']
    }


def seeded(name: str) -> Any:
    torch.manual_seed(0)
    np.random.seed(0)  # PPO shuffles with it
    return CASES[name].make()


def expected_figures(name: str, calls: int, **config: Any) -> dict[int, dict[str, float]]:
    policy = seeded(name)
    attachment = attach(policy, config)
    generator = torch.Generator().manual_seed(0)
    for _ in range(calls):
        policy._forward_learn(*CASES[name].batch(generator))
    attachment.detach()
    return {record.iteration: record.scalars for record in attachment.monitor.take_records()}


@pytest.mark.parametrize(('name', 'calls'), [('DQN', 5), ('PPO', 2)])
def test_values_are_written_exactly_where_they_were_measured(folder: Path, name: str, calls: int) -> None:
    policy = seeded(name)
    learner = make_learner(policy)
    hook = NormMonitorHook(EasyDict(monitor_norm_freq=2))
    learner.register_hook(hook)
    train(learner, name, calls)
    hook.close()
    learner.tb_logger.flush()
    written = curves(folder)
    for iteration, scalars in expected_figures(name, calls, monitor_norm_freq=2).items():
        for tag, value in scalars.items():
            if not tag.startswith('monitor/cost'):
                assert dict(written[tag])[iteration] == pytest.approx(value, rel=1e-7), tag
    due = list(range(0, 5 if name == 'DQN' else 12, 2))
    assert [step for step, _ in written['norm/encoder/_total_norm']] == due


def test_the_console_and_the_learners_own_curves_stay_as_they_are(folder: Path) -> None:
    tables = []
    for watch in (False, True):
        torch.manual_seed(0)
        policy = CASES['DQN'].make()
        learner = make_learner(policy)
        shown: list[list[str]] = []
        table = learner.logger.get_tabulate_vars_hor
        learner.logger.get_tabulate_vars_hor = lambda values, shown=shown, table=table: (
            shown.append(list(values)) or table(values)
        )
        hook = NormMonitorHook(EasyDict(monitor_norm_freq=1)) if watch else None
        if hook is not None:
            learner.register_hook(hook)
        train(learner, 'DQN', 3)
        if hook is not None:
            hook.close()
        tables.append((shown, [p.detach().clone() for p in policy._model.parameters()]))
    assert tables[0][0] == tables[1][0]
    assert all(torch.equal(first, second) for first, second in zip(tables[0][1], tables[1][1], strict=True))


def test_nothing_of_ours_is_in_what_the_ranks_reduce(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    keys: list[set[str]] = []

    def all_reduce(tensor: torch.Tensor) -> None:
        sent.append(tensor.numel())
        tensor.mul_(2).div_(2)

    monkeypatch.setattr(learner_hook, 'allreduce', all_reduce)
    monkeypatch.setattr(learner_hook, 'get_rank', lambda: 'cpu')
    counts = []
    for watch in (False, True):
        learner = make_learner(CASES['DQN'].make(), rank=(0, 2))
        assert 'log_reduce_after_iter' in [hook.name for hook in learner._hooks['after_iter']]
        hook = NormMonitorHook(EasyDict(monitor_norm_freq=1)) if watch else None
        if hook is not None:
            learner.register_hook(hook)
        learner._hooks['after_iter'].insert(0, lambda engine: keys.append(set(engine.log_buffer['scalar'])))
        train(learner, 'DQN', 2)
        if hook is not None:
            hook.close()
        counts.append(len(sent))
        sent.clear()
        del learner._hooks['after_iter'][0]
    assert counts[0] == counts[1] > 0
    assert keys[0] == keys[2]
    assert not [key for found in keys for key in found if '/' in key]


def test_dis_own_reduction_still_raises_on_a_cpu(folder: Path) -> None:
    for watch in (False, True):
        learner = make_learner(CASES['DQN'].make(), rank=(0, 2))
        hook = NormMonitorHook(EasyDict(monitor_norm_freq=1)) if watch else None
        if hook is not None:
            learner.register_hook(hook)
        with pytest.raises((RuntimeError, AssertionError, ValueError)):
            train(learner, 'DQN', 1)
        if hook is not None:
            hook.close()


def test_closing_leaves_learner_and_policy_as_they_were(folder: Path) -> None:
    policy = CASES['DQN'].make()
    learner = make_learner(policy)
    view, hooks = learner.policy, {position: list(entries) for position, entries in learner._hooks.items()}
    hook = NormMonitorHook(EasyDict(monitor_norm_freq=1))
    learner.register_hook(hook)
    train(learner, 'DQN', 1)
    assert learner.policy is not view
    learner.call_hook('after_run')
    assert learner.policy is view
    assert learner._hooks == hooks
    assert '_forward_learn' not in vars(policy)
    hook.close()


def test_the_hook_of_a_configuration_file(folder: Path) -> None:
    entry = {
        'name': 'monitor',
        'type': 'norm_monitor',
        'position': 'before_iter',
        'priority': 30,
        'ext_args': {'monitor_norm_freq': 1},
    }
    learner = make_learner(CASES['DQN'].make(), monitor=entry)
    train(learner, 'DQN', 2)
    learner.call_hook('after_run')
    learner.tb_logger.flush()
    assert [step for step, _ in curves(folder)['grad/model/_total_norm']] == [0, 1]


def test_other_ranks_have_no_writer(folder: Path) -> None:
    learner = make_learner(CASES['DQN'].make(), rank=(1, 2), log_reduce_after_iter=True)
    learner._hooks['after_iter'] = [h for h in learner._hooks['after_iter'] if 'reduce' not in h.name]
    hook = NormMonitorHook(EasyDict(monitor_norm_freq=1))
    learner.register_hook(hook)
    train(learner, 'DQN', 1)
    hook.close()
    assert not list(folder.rglob('*tfevents*'))


def test_switched_off_the_learner_is_left_alone(folder: Path) -> None:
    policy = CASES['DQN'].make()
    learner = make_learner(policy)
    view = learner.policy
    hook = NormMonitorHook(EasyDict(monitor_norm_freq=0))
    learner.register_hook(hook)
    train(learner, 'DQN', 1)
    assert learner.policy is view
    assert '_forward_learn' not in vars(policy)
    hook.close()


def test_what_the_learner_cannot_do_is_refused() -> None:
    with pytest.raises(ConfigurationError, match='merge_train_output'):
        NormMonitorHook(EasyDict(merge_train_output=True))
    with pytest.raises(ConfigurationError, match='before_iter'):
        NormMonitorHook(EasyDict(), position='after_iter')
    with pytest.raises(RuntimeError, match='first iteration'):
        _ = NormMonitorHook(EasyDict()).monitor


# -- writers and other hooks -----------------------------------------------------------------------------------------


class Foreign:
    """A writer with nothing but what DI-engine asks for."""

    def add_scalar(self, *_: Any) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


def no_writer(path: Path) -> None:
    return None


WRITERS: dict[str, Callable[[Path], Any]] = {
    'tensorboardX': lambda path: tensorboardX.SummaryWriter(str(path)),
    'torch': lambda path: torch_tensorboard.SummaryWriter(str(path)),
    'torch, of a path': torch_tensorboard.SummaryWriter,
    'none': no_writer,
    'foreign': lambda path: Foreign(),
}


@pytest.mark.parametrize('kind', WRITERS)
def test_every_writer_has_the_history_beside_it_and_no_figure_is_lost(
    folder: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    writer = WRITERS[kind](folder / 'events')
    config = copy.deepcopy(BaseLearner.default_config())
    config.hook = EasyDict()
    learner = BaseLearner(config, seeded('DQN').learn_mode, writer, exp_name='run')
    if writer is None:
        learner._tb_logger = None  # DI-engine makes one of its own otherwise
    learner.register_hook(NormMonitorHook(dict(monitor_norm_freq=2)))
    train(learner, 'DQN', 5)
    learner.call_hook('after_run')
    [history] = folder.rglob('history.arrows')
    recorded = read_run(history).series
    expected = expected_figures('DQN', 5, monitor_norm_freq=2)
    assert recorded['grad/model/_total_norm'].iterations.tolist() == [0, 2, 4]
    for index, iteration in enumerate((0, 2, 4)):
        for tag, value in expected[iteration].items():
            if not tag.startswith('monitor/cost'):
                assert recorded[tag].values[index] == value, tag
    assert not [tag for tag in recorded if tag.startswith('monitor/lost')]
    if kind in ('none', 'foreign'):
        assert history.parent == Path('run').resolve()
        assert caplog.text.count('no event file gets the figures') == 1
        assert 'they are in run/history.arrows' in caplog.text
        return
    assert history.parent == folder / 'events'
    writer.flush()
    accumulator = EventAccumulator(str(folder / 'events'), size_guidance={'scalars': 0})
    accumulator.Reload()
    written = accumulator.Scalars('grad/model/_total_norm')
    assert [point.step for point in written] == [0, 2, 4]
    assert [point.value for point in written] == pytest.approx(
        [expected[iteration]['grad/model/_total_norm'] for iteration in (0, 2, 4)], rel=1e-6
    )


def test_the_learners_other_hooks_all_run_in_their_order(folder: Path) -> None:
    orders, checkpoints = [], []
    for watch in (False, True):
        learner = make_learner(seeded('DQN'), save_ckpt_after_run=True, save_ckpt_after_iter=2)
        learner._exp_name = f'run_{watch}'
        order: list[str] = []
        for position in ('before_iter', 'after_iter', 'after_run'):
            for priority in (0, 10, 20, 30, 40, 100):
                learner.register_hook(Noting(f'{position} {priority}', priority, position=position, order=order))
        if watch:
            learner.register_hook(NormMonitorHook(dict(monitor_norm_freq=1)))
        train(learner, 'DQN', 3)
        learner.call_hook('after_run')
        orders.append(order)
        checkpoints.append(sorted(path.name for path in folder.glob(f'run_{watch}/ckpt/*')))
    assert orders[0] == orders[1]
    assert len(orders[0]) == 3 * 6 * 2 + 6
    assert checkpoints[0] == checkpoints[1] == ['iteration_0.pth.tar', 'iteration_2.pth.tar', 'iteration_3.pth.tar']


class Noting(LearnerHook):
    """Notes when it is called."""

    def __init__(self, *args: Any, order: list[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._order = order

    def __call__(self, engine: Any) -> None:
        self._order.append(self.name)


def test_a_hook_of_a_configuration_file_takes_the_names_of_the_tasks_of_all_ranks(folder: Path) -> None:
    """From the configurations that a multi-task entry is given; what the monitor's own says counts more."""
    configs = [
        [task, [EasyDict(env=dict(env_id=name), policy=dict(task_id=task)), EasyDict(policy=dict(type='dqn'))]]
        for task, name in enumerate(['Pong', 'Boxing', 'Alien'])
    ]

    def entry(configs: list[Any], ext_args: dict[str, Any]) -> dict[int, str]:
        policy = seeded('DQN')
        policy.learner_step, policy.num_tasks = INERT, 3
        hook = {'name': 'norm_monitor', 'type': 'norm_monitor', 'position': 'before_iter', 'ext_args': ext_args}
        learner = make_learner(policy, norm_monitor=EasyDict(hook))
        train(learner, 'DQN', 1)
        [monitor] = [hook for hook in learner._hooks['before_iter'] if isinstance(hook, NormMonitorHook)]
        names = monitor.monitor.tasks
        learner.call_hook('after_run')
        return dict(names)

    assert entry(configs, {'monitor_norm_freq': 1}) == {0: 'Pong', 1: 'Boxing', 2: 'Alien'}
    own = {'monitor_norm_freq': 1, 'task_names': ['a', 'b', 'c']}
    assert entry(configs, own) == {0: 'a', 1: 'b', 2: 'c'}
