"""DI-engine's examples for DQN, PPO and SAC as they stand in its package, shortened, with one line added."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import gym
from ding.config import compile_config
from ding.data import DequeBuffer
from ding.envs import BaseEnvManagerV2, DingEnvWrapper
from ding.framework import ding_init, task
from ding.framework.context import OnlineRLContext
from ding.framework.middleware import (
    OffPolicyLearner,
    StepCollector,
    data_pusher,
    eps_greedy_handler,
    gae_estimator,
    multistep_trainer,
    online_logger,
)
from ding.model import DQN, VAC, ContinuousQAC
from ding.policy import DQNPolicy, PPOPolicy, SACPolicy
from ding.utils import set_pkg_seed
from dizoo.classic_control.cartpole.config.cartpole_dqn_config import create_config as dqn_create
from dizoo.classic_control.cartpole.config.cartpole_dqn_config import main_config as dqn_main
from dizoo.classic_control.cartpole.config.cartpole_ppo_config import create_config as ppo_create
from dizoo.classic_control.cartpole.config.cartpole_ppo_config import main_config as ppo_main
from dizoo.classic_control.pendulum.config.pendulum_sac_config import create_config as sac_create
from dizoo.classic_control.pendulum.config.pendulum_sac_config import main_config as sac_main
from dizoo.classic_control.pendulum.envs.pendulum_env import PendulumEnv
from easydict import EasyDict

from ding_normmon import NormMonitor


def settings(main: EasyDict, create: EasyDict, folder: Path, frequency: int, **changes: Any) -> EasyDict:
    config = copy.deepcopy(main)
    config.exp_name = str(folder)
    config.env.update(collector_env_num=2, evaluator_env_num=1, n_evaluator_episode=1)
    config.policy.monitor = {'monitor_norm_freq': frequency}
    for part, values in changes.items():
        if isinstance(values, dict):
            config.policy[part].update(values)
        else:
            config.policy[part] = values
    cfg = compile_config(config, create_cfg=copy.deepcopy(create), auto=True, save_cfg=False)
    ding_init(cfg)
    return cfg


def cartpole(cfg: EasyDict) -> BaseEnvManagerV2:
    def env() -> DingEnvWrapper:
        return DingEnvWrapper(gym.make('CartPole-v0'))

    return BaseEnvManagerV2(env_fn=[env] * cfg.env.collector_env_num, cfg=cfg.env.manager)


def dqn(folder: Path, loops: int, frequency: int) -> None:
    cfg = settings(dqn_main, dqn_create, folder, frequency, learn={'update_per_collect': 3, 'batch_size': 16})
    with task.start(async_mode=False, ctx=OnlineRLContext()):
        env = cartpole(cfg)
        set_pkg_seed(0, use_cuda=False)
        model = DQN(**cfg.policy.model)
        buffer = DequeBuffer(size=1000)
        policy = DQNPolicy(cfg.policy, model=model)
        task.use(eps_greedy_handler(cfg))
        task.use(StepCollector(cfg, policy.collect_mode, env))
        task.use(data_pusher(cfg, buffer))
        task.use(NormMonitor(cfg.policy.monitor, policy))
        task.use(OffPolicyLearner(cfg, policy.learn_mode, buffer))
        task.use(online_logger(train_show_freq=10))
        task.run(max_step=loops)


def ppo(folder: Path, loops: int, frequency: int) -> None:
    changes = {'learn': {'batch_size': 16}, 'collect': {'n_sample': 48}}
    cfg = settings(ppo_main, ppo_create, folder, frequency, **changes)
    with task.start(async_mode=False, ctx=OnlineRLContext()):
        env = cartpole(cfg)
        set_pkg_seed(0, use_cuda=False)
        model = VAC(**cfg.policy.model)
        policy = PPOPolicy(cfg.policy, model=model)
        task.use(StepCollector(cfg, policy.collect_mode, env))
        task.use(gae_estimator(cfg, policy.collect_mode))
        task.use(NormMonitor(cfg.policy.monitor, policy))
        task.use(multistep_trainer(policy.learn_mode, log_freq=50))
        task.use(online_logger(train_show_freq=3))
        task.run(max_step=loops)


def sac(folder: Path, loops: int, frequency: int) -> None:
    changes = {'learn': {'batch_size': 16, 'update_per_collect': 2}, 'random_collect_size': 32}
    cfg = settings(sac_main, sac_create, folder, frequency, **changes)
    with task.start(async_mode=False, ctx=OnlineRLContext()):
        make = [lambda: PendulumEnv(cfg.env)] * cfg.env.collector_env_num
        env = BaseEnvManagerV2(env_fn=make, cfg=cfg.env.manager)
        set_pkg_seed(0, use_cuda=False)
        model = ContinuousQAC(**cfg.policy.model)
        buffer = DequeBuffer(size=1000)
        policy = SACPolicy(cfg.policy, model=model)
        task.use(StepCollector(cfg, policy.collect_mode, env, random_collect_size=cfg.policy.random_collect_size))
        task.use(data_pusher(cfg, buffer))
        task.use(NormMonitor(cfg.policy.monitor, policy))
        task.use(OffPolicyLearner(cfg, policy.learn_mode, buffer))
        task.use(online_logger(train_show_freq=2))
        task.run(max_step=loops)
