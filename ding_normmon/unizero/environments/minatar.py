"""MinAtar: five small games on a 10x10 grid, one binary channel per kind of object."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from ding_normmon.unizero.environments.base import TaskEnvironment
from ding_normmon.unizero.environments.packages import require_package

__all__ = ['GAMES', 'PREFIX', 'MinAtarEnvironment', 'names']

PREFIX = 'MinAtar-'
PACKAGE = 'MinAtar'
GAMES = ('asterix', 'breakout', 'freeway', 'seaquest', 'space_invaders')
MAXIMUM_STEPS = 2500
"""Freeway ends by itself after 2,500 frames; the other games need a limit that does not depend on the player."""


def names() -> tuple[str, ...]:
    """Return the names of all MinAtar tasks."""
    return tuple(PREFIX + game for game in GAMES)


class MinAtarEnvironment(TaskEnvironment):
    """One MinAtar game with its minimal action set; observation (channels, 10, 10).

    Arguments:
        name: such as ``'MinAtar-space_invaders'``.
        seed: seed of the sequence of episodes.
        sticky_action_probability: probability of the previous action being repeated, 0.1 as MinAtar recommends.
    """

    def __init__(self, name: str, seed: int = 0, sticky_action_probability: float = 0.1) -> None:
        minatar = require_package('minatar', PACKAGE, name)
        self._environment = minatar.Environment(
            name[len(PREFIX) :], sticky_action_prob=sticky_action_probability, difficulty_ramping=True
        )
        self._actions = self._environment.minimal_action_set()
        height, width, channels = self._environment.state_shape()
        super().__init__(name, (channels, height, width), len(self._actions), seed)

    def _begin_episode(self, seed: int) -> NDArray[Any]:
        self._environment.seed(seed)
        self._environment.reset()
        return self._image()

    def _advance(self, action: int) -> tuple[NDArray[Any], float, bool]:
        reward, done = self._environment.act(self._actions[action])
        return self._image(), float(reward), bool(done) or self._timestep + 1 >= MAXIMUM_STEPS

    def _image(self) -> NDArray[Any]:
        return self._environment.state().transpose(2, 0, 1)
