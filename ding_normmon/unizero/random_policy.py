"""Returns of a random policy, the baseline for a trained one."""

from __future__ import annotations

import time

import numpy as np

from ding_normmon.unizero.environments import TaskEnvironment

__all__ = ['random_returns']


def random_returns(environment: TaskEnvironment, episodes: int, seconds: float) -> list[float]:
    """Return the returns of episodes played with uniformly random actions, and close the environment.

    Arguments:
        environment: where to play.
        episodes: largest number of episodes.
        seconds: time after which no new episode begins.
    """
    generator = np.random.default_rng(0)
    returns: list[float] = []
    start = time.monotonic()
    while len(returns) < episodes and (not returns or time.monotonic() - start < seconds):
        environment.reset()
        result = environment.step(int(generator.integers(environment.action_space_size)))
        while not result.done:
            result = environment.step(int(generator.integers(environment.action_space_size)))
        returns.append(float(result.info['eval_episode_return']))
    environment.close()
    return returns
