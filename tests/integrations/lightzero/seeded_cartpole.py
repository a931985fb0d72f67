"""LightZero's CartPole, the same episodes in every run: the zoo's own resets gymnasium's environment without a seed."""

from __future__ import annotations

import itertools
from typing import Any

from ding.utils import ENV_REGISTRY
from zoo.classic_control.cartpole.envs.cartpole_lightzero_env import CartPoleEnv

_instances = itertools.count()


@ENV_REGISTRY.register('seeded_cartpole')
class SeededCartPole(CartPoleEnv):
    """Episode k of the n-th environment of a process begins in the same state in every run."""

    def __init__(self, cfg: Any = None) -> None:
        super().__init__(cfg or {})
        self._seeds = itertools.count(1000 * next(_instances))

    def reset(self) -> dict[str, Any]:
        """Begin an episode."""
        if not self._init_flag:
            super().reset()
        reset = self._env.reset
        self._env.reset = lambda: reset(seed=next(self._seeds))
        try:
            return super().reset()
        finally:
            del self._env.reset
