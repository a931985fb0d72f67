"""Classic control: small vector observations, discrete actions."""

from __future__ import annotations

import warnings
from typing import Any

from numpy.typing import NDArray

from ding_normmon.unizero.environments.base import TaskEnvironment
from ding_normmon.unizero.quiet import import_quietly

__all__ = ['NAMES', 'ClassicControlEnvironment', 'names']

NAMES = ('Acrobot-v1', 'CartPole-v0', 'CartPole-v1', 'MountainCar-v0')


def names() -> tuple[str, ...]:
    """Return the names of all classic-control tasks with discrete actions."""
    return NAMES


class ClassicControlEnvironment(TaskEnvironment):
    """One of gymnasium's classic-control environments; observation (size,).

    Arguments:
        name: gymnasium's own name, such as ``'CartPole-v0'``.
        seed: seed of the sequence of episodes.
    """

    def __init__(self, name: str, seed: int = 0) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # CartPole-v0 is 'out of date', but LightZero reports its results on it
            self._environment = import_quietly('gymnasium').make(name, disable_env_checker=True)
        size = self._environment.observation_space.shape
        super().__init__(name, size, self._environment.action_space.n, seed)

    def close(self) -> None:
        self._environment.close()

    def _begin_episode(self, seed: int) -> NDArray[Any]:
        observation, _ = self._environment.reset(seed=seed)
        return observation

    def _advance(self, action: int) -> tuple[NDArray[Any], float, bool]:
        observation, reward, terminated, truncated, _ = self._environment.step(action)
        return observation, float(reward), bool(terminated or truncated)
