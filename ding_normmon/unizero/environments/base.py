"""Base class of the environments of a multi-task run: observation dictionaries, returns, seeds."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
from ding.envs import BaseEnv, BaseEnvTimestep
from numpy.typing import NDArray

from ding_normmon.unizero.quiet import import_quietly

gymnasium = import_quietly('gymnasium')

__all__ = ['Observation', 'TaskEnvironment']


class Observation(TypedDict):
    """LightZero's observation dictionary."""

    observation: NDArray[Any]
    action_mask: NDArray[Any]
    to_play: int
    timestep: int


class TaskEnvironment(BaseEnv):
    """An environment in DI-engine's interface with LightZero's observation dictionary.

    A subclass implements :meth:`_begin_episode` and :meth:`_advance`; this class counts time steps, sums the return
    and draws a new seed for every episode, so that a seed determines the whole sequence of episodes and no two
    episodes are alike.

    Arguments:
        name: the name of the task.
        observation_shape: (channels, height, width) of an image or (size,) of a vector.
        action_space_size: number of discrete actions.
        seed: seed of the sequence of episodes.
    """

    def __init__(self, name: str, observation_shape: Sequence[int], action_space_size: int, seed: int = 0) -> None:
        self.name = name
        self.observation_shape = tuple(int(size) for size in observation_shape)
        self.action_space_size = int(action_space_size)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, self.observation_shape, np.float32)
        self.action_space = gymnasium.spaces.Discrete(self.action_space_size)
        self.reward_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self._episode_return = 0.0
        self._timestep = 0
        self.seed(seed)

    def seed(self, seed: int, dynamic_seed: bool = True) -> None:
        """Restart the sequence of episodes; with ``dynamic_seed=False`` every episode uses the same seed."""
        self._seed = int(seed)
        self._dynamic_seed = dynamic_seed
        self._seed_generator = np.random.default_rng(self._seed)

    def reset(self) -> Observation:
        """Begin an episode and return its first observation."""
        self._episode_return = 0.0
        self._timestep = 0
        seed = int(self._seed_generator.integers(2**31 - 1)) if self._dynamic_seed else self._seed
        return self._observe(self._begin_episode(seed))

    def step(self, action: int) -> BaseEnvTimestep:
        """Take one action.

        Returns:
            ``BaseEnvTimestep(obs, reward, done, info)``; at the end of an episode ``info['eval_episode_return']`` is
            its undiscounted, unclipped return.

        Raises:
            ValueError: ``action`` is not in [0, action_space_size).
        """
        action = int(action)
        if not 0 <= action < self.action_space_size:
            raise ValueError(f'{self.name}: action {action} is not in [0, {self.action_space_size})')
        image, reward, done = self._advance(action)
        self._episode_return += reward
        self._timestep += 1
        info: dict[str, Any] = {'eval_episode_return': self._episode_return} if done else {}
        return BaseEnvTimestep(self._observe(image), np.float32(self._training_reward(reward)), done, info)

    def close(self) -> None:
        """Release the environment's resources."""

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.name!r}, {self.observation_shape}, {self.action_space_size} actions)'

    def _observe(self, image: NDArray[Any]) -> Observation:
        return Observation(
            observation=np.ascontiguousarray(image, dtype=np.float32),
            action_mask=np.ones(self.action_space_size, dtype=np.int8),
            to_play=-1,
            timestep=self._timestep,
        )

    def _training_reward(self, reward: float) -> float:
        """Return the reward that the learner sees."""
        return reward

    @abstractmethod
    def _begin_episode(self, seed: int) -> NDArray[Any]:
        """Begin an episode and return the first image or vector, shape ``observation_shape``."""

    @abstractmethod
    def _advance(self, action: int) -> tuple[NDArray[Any], float, bool]:
        """Take one action and return (image or vector, reward, whether the episode is over)."""
