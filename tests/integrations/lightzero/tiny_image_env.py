"""An environment for LightZero: a bright square that the right action moves on, episodes of twelve steps."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from ding.envs import BaseEnv, BaseEnvTimestep
from ding.utils import ENV_REGISTRY
from easydict import EasyDict

ACTIONS, LENGTH = 3, 12


@ENV_REGISTRY.register('tiny_image')
class TinyImage(BaseEnv):
    """The same episode again and again."""

    config: dict[str, Any] = {}

    @classmethod
    def default_config(cls) -> EasyDict:
        return EasyDict(cfg_type='TinyImageDict')

    def __init__(self, cfg: Any = None) -> None:
        self._time, self._return = 0, 0.0
        self._observation_space = gym.spaces.Box(0.0, 1.0, (3, 64, 64), np.float32)
        self._action_space = gym.spaces.Discrete(ACTIONS)
        self._reward_space = gym.spaces.Box(0.0, 1.0, (1,), np.float32)

    def _look(self) -> dict[str, Any]:
        image = np.zeros((3, 64, 64), np.float32)
        image[:, 4 * self._time : 4 * self._time + 8] = 1.0
        mask = np.ones(ACTIONS, 'int8')
        return {'observation': image, 'action_mask': mask, 'to_play': np.array(-1), 'timestep': np.array(self._time)}

    def reset(self) -> dict[str, Any]:
        self._time, self._return = 0, 0.0
        return self._look()

    def step(self, action: Any) -> BaseEnvTimestep:
        reward = float(int(action) == self._time % ACTIONS)
        self._time += 1
        self._return += reward
        done = self._time == LENGTH
        info = {'eval_episode_return': np.float32(self._return)} if done else {}
        return BaseEnvTimestep(self._look(), np.float32(reward), done, info)

    def seed(self, seed: int, dynamic_seed: bool = True) -> None: ...

    def close(self) -> None: ...

    @property
    def observation_space(self) -> Any:
        return self._observation_space

    @property
    def action_space(self) -> Any:
        return self._action_space

    @property
    def reward_space(self) -> Any:
        return self._reward_space

    def __repr__(self) -> str:
        return 'TinyImage'
