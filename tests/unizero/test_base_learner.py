"""The multi-task policy in DI-engine's ``BaseLearner``: its per-task losses and the monitor's figures are written."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from ding.worker import BaseLearner
from easydict import EasyDict
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ding_normmon import NormMonitorHook
from tests.unizero.builders import random_batch, tiny_policy


def test_a_base_learner_takes_every_name_of_this_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # A rank that trains tasks 0 and 2 of three: the names are those of the global ids.
    policy = tiny_policy(3, [0, 2])
    config = copy.deepcopy(BaseLearner.default_config())
    config.hook = EasyDict(log_show_after_iter=1)
    learner = BaseLearner(config, policy.learn_mode, exp_name='run')
    hook = NormMonitorHook(EasyDict(monitor_norm_freq=2))
    learner.register_hook(hook)
    for seed in range(4):
        learner.train([random_batch(policy, task_id, seed) for task_id in policy.task_ids], 10 * seed)
    hook.close()
    learner.tb_logger.flush()
    events = EventAccumulator(str(tmp_path / 'run' / 'log' / 'learner' / 'learner_tb_logger'))
    events.Reload()
    written = set(events.Tags()['scalars'])
    for loss in ('obs', 'value', 'policy', 'reward'):
        found = {name for name in written if f'noreduce_{loss}_loss_task' in name and name.startswith('learner_iter/')}
        assert {name.rpartition('task')[2].removesuffix('_avg') for name in found} == {'0', '2'}
    assert [point.step for point in events.Scalars('norm/head_value_task2/_total_norm')] == [0, 2]
