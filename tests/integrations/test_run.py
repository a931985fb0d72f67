"""``monitored_run``: every learner gets a monitor, whatever builds it, and nothing stays changed afterwards."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ding.config.config as compiling
import pytest
import torch
from ding.framework import ding_init, task
from ding.framework.context import OnlineRLContext
from ding.policy import Policy
from ding.utils import DistributedWriter
from ding.worker import BaseLearner
from easydict import EasyDict

from ding_normmon import ConfigurationError, NormMonitor, NormMonitorHook, attach, monitored_run
from ding_normmon.runs import read_run
from tests.integrations.ding_engine.policies import CASES


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    DistributedWriter.root = None
    yield tmp_path
    DistributedWriter.root = None


def make_policy(**config: Any) -> Any:
    torch.manual_seed(0)
    policy = CASES['DQN'].make()
    policy._cfg.update(config)
    return policy


def make_learner(policy: Any, name: str = 'learner', **hooks: Any) -> BaseLearner:
    config = copy.deepcopy(BaseLearner.default_config())
    config.hook = EasyDict(save_ckpt_after_run=True, **hooks)
    return BaseLearner(config, policy.learn_mode, exp_name=f'{Path.cwd().name}_{name}')


def train(learner: BaseLearner, calls: int = 4) -> None:
    generator = torch.Generator().manual_seed(0)
    learner.call_hook('before_run')
    for _ in range(calls):
        learner.train(*CASES['DQN'].batch(generator))
    learner.call_hook('after_run')


def pipeline(policy: Any, *middleware: Callable[[Any], Any], loops: int = 3) -> None:
    generator = torch.Generator().manual_seed(0)
    learn = policy.learn_mode.forward

    def trainer(ctx: Any) -> None:
        learn(*CASES['DQN'].batch(generator))
        ctx.train_iter += 1

    with task.start(ctx=OnlineRLContext()):
        for each in middleware:
            task.use(each)
        task.use(trainer)
        task.run(max_step=loops)


def recorded(folder: Path) -> list[int]:
    return read_run(folder).series['grad/model/_total_norm'].iterations.tolist()


PLACES: list[tuple[Any, str]] = [
    (BaseLearner, '__init__'),
    (Policy, 'learn_mode'),
    (compiling, 'deep_merge_dicts'),
]


def test_nothing_stays_changed(folder: Path) -> None:
    before = [vars(owner)[name] for owner, name in PLACES]
    finders, policy = list(sys.meta_path), make_policy()
    with monitored_run(monitor_norm_freq=1):
        assert all(vars(owner)[name] is not old for (owner, name), old in zip(PLACES, before, strict=True))
        learner = make_learner(policy)
        hooks = {position: list(entries) for position, entries in learner._hooks.items()}
        view = learner.policy
        train(learner, 2)
        untrained = make_learner(make_policy(), 'untrained')
    assert [vars(owner)[name] for owner, name in PLACES] == before
    assert sys.meta_path == finders
    assert learner.policy is view
    assert '_forward_learn' not in vars(policy)
    for position, entries in learner._hooks.items():
        assert [hook.name for hook in entries] == [hook.name for hook in hooks[position] if hook.name != 'normmon_run']
    assert not [hook for hook in untrained._hooks['before_iter'] if hook.name == 'normmon_run']


def test_an_exception_goes_through_and_nothing_stays_changed(folder: Path) -> None:
    before = [vars(owner)[name] for owner, name in PLACES]

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monitored_run(monitor_norm_freq=1):
        learner = make_learner(make_policy())
        learner._hooks['after_iter'].append(interrupt)
        with pytest.raises(KeyboardInterrupt):
            learner.train(*CASES['DQN'].batch(torch.Generator().manual_seed(0)))
    assert [vars(owner)[name] for owner, name in PLACES] == before
    assert recorded(folder) == [0]


def test_a_learner_is_monitored_and_trains_the_same(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = []
    for watched in (False, True):
        policy = make_policy()
        if watched:
            with monitored_run(monitor_norm_freq=2) as run:
                train(make_learner(policy, 'watched'))
        else:
            train(make_learner(policy, 'plain'))
        weights.append([parameter.detach().clone() for parameter in policy._model.parameters()])
    assert all(torch.equal(first, second) for first, second in zip(*weights, strict=True))
    assert recorded(folder) == [0, 2]
    [line] = run.lines
    assert "learner 'learner' (DI-engine DQNPolicy) every 2 iterations" in line
    assert 'groups: encoder, head' in line
    assert 'signals: outputs/head' in line
    assert capsys.readouterr().err.count('normmon run:') == 1
    checkpoints = [sorted(path.name for path in folder.rglob(f'*_{name}/ckpt/*')) for name in ('plain', 'watched')]
    assert checkpoints[0] == checkpoints[1] != []


def test_a_pipeline_is_monitored(folder: Path) -> None:
    ding_init(EasyDict(exp_name='run'))
    with monitored_run(monitor_norm_freq=2) as run:
        pipeline(make_policy(), loops=5)
    assert recorded(folder) == [0, 2, 4]
    assert next(folder.rglob('history.arrows')).parent == next(folder.rglob('*tfevents*')).parent
    [line] = run.lines
    assert 'monitors the pipeline (DI-engine DQNPolicy) every 2 iterations' in line


def test_of_two_policies_in_a_pipeline_one_is_left_alone_and_said_so(folder: Path) -> None:
    ding_init(EasyDict(exp_name='run'))
    with monitored_run(monitor_norm_freq=1) as run:
        other, teacher = make_policy().learn_mode, make_policy().learn_mode
        teacher.state_dict()  # a view that trains nothing
        batch = CASES['DQN'].batch(torch.Generator().manual_seed(1))
        trained = make_policy()
        pipeline(trained, lambda ctx: None, lambda ctx: other.forward(*batch) and None)
    assert recorded(folder) == [0, 1, 2]
    assert len(run.lines) == 2
    assert 'another policy is being monitored' in run.lines[1]


def test_a_loop_of_ones_own_is_monitored(folder: Path) -> None:
    policy = make_policy()
    with monitored_run(monitor_norm_freq=2) as run:
        compiling.deep_merge_dicts(EasyDict(env={}, policy={}), EasyDict(env={}, policy={}))
        run.configurations.task_names()
        view, generator = policy.learn_mode, torch.Generator().manual_seed(0)
        for _ in range(3):
            view.forward(*CASES['DQN'].batch(generator))
    assert 'monitors the loop (DI-engine DQNPolicy) every 2 iterations' in run.lines[0]
    assert '_forward_learn' not in vars(policy)


@pytest.mark.parametrize('several', [1, 3])
def test_learners_that_step_several_times_in_one_loop(folder: Path, several: int) -> None:
    policy = make_policy()
    ding_init(EasyDict(exp_name='run'))
    generator = torch.Generator().manual_seed(0)
    with monitored_run(monitor_norm_freq=2), task.start(ctx=OnlineRLContext()):
        learn = policy.learn_mode.forward

        def trainer(ctx: Any) -> None:
            for _ in range(several):
                learn(*CASES['DQN'].batch(generator))
            ctx.train_iter += several

        task.use(trainer)
        task.run(max_step=4)
    assert recorded(folder) == list(range(0, 4 * several, 2))


def test_a_second_monitor_is_noticed(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    ding_init(EasyDict(exp_name='run'))
    with monitored_run(monitor_norm_freq=1) as run:
        learner = make_learner(make_policy())
        learner.register_hook(NormMonitorHook(dict(monitor_norm_freq=3)))
        train(learner)
        policy = make_policy()
        pipeline(policy, NormMonitor(dict(monitor_norm_freq=2), policy))
    assert len(run.lines) == 2
    assert all('it has a monitor already' in line for line in run.lines)
    histories = sorted(folder.rglob('history.arrows'), key=str)
    assert sorted(recorded(history) for history in histories) == [[0, 2], [0, 3]]
    # Two hooks on one learner, and a hook on a policy that is monitored by hand.
    learner = make_learner(make_policy(), 'third')
    for frequency in (2, 1):
        learner.register_hook(NormMonitorHook(dict(monitor_norm_freq=frequency), name=f'every_{frequency}'))
    train(learner)
    assert "hook 'every_1' leaves it alone" in caplog.text
    assert recorded(next(folder.glob('*_third'))) == [0, 2]
    policy = make_policy()
    attachment = attach(policy, dict(monitor_norm_freq=1))
    learner = make_learner(policy, 'fourth')
    learner.register_hook(NormMonitorHook(dict(monitor_norm_freq=1)))
    train(learner)
    attachment.detach()
    assert [record.iteration for record in attachment.monitor.take_records()] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ('policy', 'given', 'frequency', 'why'),
    [
        ({}, {}, 5000, '(the default)'),
        ({'monitor_norm_freq': 3}, {}, 3, '(policy.monitor_norm_freq)'),
        ({'monitor_norm_freq': 0}, {}, 5000, 'ignored: policy.monitor_norm_freq=0'),
        ({'monitor_norm_freq': 3}, {'monitor_norm_freq': 2}, 2, ''),
        ({'monitor_norm_freq': 3, 'monitor': {'monitor_norm_freq': 4}}, {}, 4, ''),
        ({'monitor_norm_freq': 3, 'monitor': {'preset': 'full'}}, {}, 3, '(policy.monitor_norm_freq)'),
        ({'monitor': {'monitor_norm_freq': 4, 'preset': 'full'}}, {'monitor_norm_freq': 2}, 2, ''),
    ],
)
def test_where_the_frequency_comes_from(
    folder: Path, policy: dict[str, Any], given: dict[str, Any], frequency: int, why: str
) -> None:
    with monitored_run(given) as run:
        train(make_learner(make_policy(**policy)), 1)
    [line] = run.lines
    assert f'every {frequency} iterations' in line
    assert why in line


def test_a_default_of_the_policy_is_not_the_users_word(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make_policy(monitor_norm_freq=10000)
    defaults = {**type(policy).default_config(), 'monitor_norm_freq': 10000}
    monkeypatch.setattr(type(policy), 'default_config', classmethod(lambda cls: EasyDict(defaults)))
    with monitored_run() as run:
        train(make_learner(policy, 'first'), 1)
    assert 'every 5000 iterations (the default; ignored: policy.monitor_norm_freq=10000, a default)' in run.lines[0]
    # Where the user's own file is seen, what stands in it is the user's word, a default's value too.
    for own, expected in (({}, 5000), ({'monitor_norm_freq': 10000}, 10000)):
        with monitored_run() as run:
            compiling.deep_merge_dicts(
                EasyDict(env={}, policy=dict(monitor_norm_freq=10000)), EasyDict(env={}, policy=own)
            )
            train(make_learner(policy, f'compiled_{expected}'), 1)
        assert f'every {expected} iterations' in run.lines[0]


def test_a_mistake_in_the_runs_own_configuration_ends_it_before_it_trains(folder: Path) -> None:
    with (
        pytest.raises(ConfigurationError, match=r'monitor.presett: no such key; the nearest is preset'),
        monitored_run(monitor_norm_freq=1),
    ):
        make_learner(make_policy(monitor={'presett': 'full'}))
    with pytest.raises(ConfigurationError, match='no such key'):
        monitored_run(monitor_norm_frequency=1)


def test_what_cannot_be_monitored_trains_on(folder: Path) -> None:
    policy = make_policy(monitor={'module_groups': {'nothing': 'no.such.module'}})
    with monitored_run(monitor_norm_freq=1) as run:
        learner = make_learner(policy)
        train(learner)
    assert learner.train_iter == 4
    [line] = run.lines
    assert 'leaves learner' in line
    assert 'no.such.module' in line


def test_switched_off_nothing_is_said(folder: Path) -> None:
    with monitored_run(monitor_norm_freq=0) as run:
        train(make_learner(make_policy()))
    assert run.lines == []
    assert not list(folder.rglob('history.arrows'))
