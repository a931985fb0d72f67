"""The rewards of one task suddenly have another scale."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ding_normmon.diagnose.points import KEPT
from ding_normmon.diagnose.rule import Rule, Sign
from ding_normmon.diagnose.window import Window

__all__ = ['RewardScale']

_NEW = 12
"""Newest points that are searched for the new scale; one suffices, because rewards are rare in many tasks."""


@dataclass
class RewardScale(Rule):
    """The largest reward of a batch is many times the largest reward so far.

    Options:
        factor: rise against the largest reward of the past.
    """

    name: ClassVar[str] = 'reward_scale'
    advice: ClassVar[str] = (
        'Look at the reward wrapper of this task and at what has changed in it; clip or scale its rewards, or give the '
        'value support more room.'
    )
    reads: ClassVar[tuple[str, ...]] = ('data/reward',)
    follows: ClassVar[bool] = False

    confirm: int = 2
    factor: float = 30.0

    def __post_init__(self) -> None:
        self._before: dict[int, float] = {}

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign per task."""
        tasks, rows = window.ready('data/reward/abs_max', _NEW + 12)
        for task_id, points in zip(tasks, window.points.last(rows, KEPT), strict=True):
            # Keep the past from when the scale changed, so that the new scale does not become part of it.
            now = float(np.nanmax(points[-_NEW:]))
            past = self._before.get(task_id, float(np.nanmax(points[:-_NEW])))
            if past <= 0 or now <= past:
                self._before.pop(task_id, None)
                continue
            strength = math.log(now / past) / math.log(self.factor)
            if strength >= 1:
                self._before[task_id] = past
            if strength >= self.release:
                yield Sign(
                    f'{window.call(task_id)}: the largest reward of a batch has risen from {past:.3g} to {now:.3g}.',
                    strength,
                    (task_id,),
                    'data/reward',
                    {f'data/reward_task{task_id}/abs_max': now, 'largest before': past},
                )
