"""What a policy that knows nothing achieves: the floor that a trained one is compared with."""

from __future__ import annotations

import time

import numpy as np

from ding_normmon.unizero.environments import TaskEnvironment

__all__ = ['random_returns']


def random_returns(environment: TaskEnvironment, episodes: int, seconds: float, seed: int = 0) -> list[float]:
    """Return the returns of episodes played with uniformly random actions, and close the environment.

    Arguments:
        environment: where to play.
        episodes: at most so many.
        seconds: no new episode begins after so long.
        seed: seed of the actions.
    """
    generator = np.random.default_rng(seed)
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
