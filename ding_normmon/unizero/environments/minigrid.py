"""MiniGrid: the agent's 7x7 view as eight small image channels."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ding_normmon.unizero.environments.base import TaskEnvironment
from ding_normmon.unizero.environments.packages import require_package
from ding_normmon.unizero.quiet import import_quietly

__all__ = ['PREFIX', 'MiniGridEnvironment', 'names']

PREFIX = 'MiniGrid-'
PACKAGE = 'minigrid'

CHANNELS = ('unseen', 'wall', 'door', 'key', 'ball', 'box', 'goal', 'lava')
"""One channel per kind of object; an empty cell is zero in all of them. Colours are left out: in the tasks that can
be learnt within minutes they add nothing to the kind of object."""

NAVIGATION = ('Empty', 'LavaGap', 'LavaCrossing', 'SimpleCrossing', 'FourRooms', 'DistShift', 'Dynamic-Obstacles')
"""Families in which only turning and walking have an effect. With three actions instead of seven the search is twice
as deep for the same number of simulations, and all these tasks have heads of one size."""

NAVIGATION_ACTIONS = 3
ALL_ACTIONS = 7
VIEW_SIZE = 7


@functools.cache
def names() -> tuple[str, ...]:
    """Return the names of all MiniGrid environments of the installed version."""
    require_package('minigrid', PACKAGE, 'a MiniGrid environment')
    return tuple(sorted(name for name in import_quietly('gymnasium').envs.registry if name.startswith(PREFIX)))


class MiniGridEnvironment(TaskEnvironment):
    """One MiniGrid environment; observation (8, 7, 7), the agent at the bottom centre looking up.

    Arguments:
        name: MiniGrid's own name, such as ``'MiniGrid-FourRooms-v0'``.
        seed: seed of the sequence of episodes.
    """

    def __init__(self, name: str, seed: int = 0) -> None:
        minigrid = require_package('minigrid', PACKAGE, name)
        self._environment = import_quietly('gymnasium').make(name, disable_env_checker=True)
        kinds = minigrid.core.constants.OBJECT_TO_IDX
        self._lookup = np.zeros((max(kinds.values()) + 1, len(CHANNELS)), dtype=np.float32)
        for channel, kind in enumerate(CHANNELS):
            self._lookup[kinds[kind], channel] = 1.0
        self._door = kinds['door']
        is_navigation = name[len(PREFIX) :].startswith(NAVIGATION)
        actions = NAVIGATION_ACTIONS if is_navigation else ALL_ACTIONS
        super().__init__(name, (len(CHANNELS), VIEW_SIZE, VIEW_SIZE), actions, seed)

    def close(self) -> None:
        self._environment.close()

    def _begin_episode(self, seed: int) -> NDArray[Any]:
        observation, _ = self._environment.reset(seed=seed)
        return self._encode(observation['image'])

    def _advance(self, action: int) -> tuple[NDArray[Any], float, bool]:
        observation, reward, terminated, truncated, _ = self._environment.step(action)
        return self._encode(observation['image']), float(reward), bool(terminated or truncated)

    def _encode(self, image: NDArray[Any]) -> NDArray[Any]:
        """Turn MiniGrid's (width, height, [kind, colour, state]) into (8, height, width)."""
        kinds = image[..., 0]
        channels = self._lookup[kinds]
        doors = kinds == self._door
        if doors.any():  # open 1/3, closed 2/3, locked 1
            channels[doors, CHANNELS.index('door')] = (image[doors, 2] + 1) / 3
        return channels.transpose(2, 1, 0)
