"""The rewards or value targets of one task are suddenly on another scale."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ding_normmon.diagnose.rule import Rule, Sign
from ding_normmon.diagnose.window import Window

__all__ = ['RewardScale']

_NEW = 12
"""The newest points, of which one may show the new scale: rewards are rare in many tasks."""


@dataclass
class RewardScale(Rule):
    """The largest reward of a batch is many times the largest there has been.

    Options:
        factor: rise against the largest of the past.
    """

    name: ClassVar[str] = 'reward_scale'
    advice: ClassVar[str] = (
        'Look at the reward wrapper of this task and at what has changed in it; clip or scale its rewards, or give the '
        'value support more room.'
    )
    reads: ClassVar[tuple[str, ...]] = ('data/reward',)
    follows: ClassVar[bool] = False

    confirm: int = 2
    factor: float = 10.0

    def __post_init__(self) -> None:
        self._before: dict[tuple[str, int], float] = {}

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign per task, of rewards or else of value targets."""
        told: set[int] = set()
        for signal in ('reward', 'value_target'):
            tasks, rows = window.ready(f'data/{signal}/abs_max', _NEW + 12)
            for task_id, points in zip(tasks, window.points.last(rows, 96), strict=True):
                # What was usual when the scale changed: the new one does not become its own past.
                now = np.nanmax(points[-_NEW:])
                past = self._before.get((signal, task_id), np.nanmax(points[:-_NEW]))
                if past <= 0 or now <= past:
                    self._before.pop((signal, task_id), None)
                    continue
                if task_id in told:
                    continue
                strength = math.log(now / past) / math.log(self.factor)
                if strength >= 1:
                    self._before[signal, task_id] = float(past)
                if strength >= self.release:
                    told.add(task_id)
                    what = signal.replace('_', ' ')
                    yield Sign(
                        f'{window.call(task_id)}: the largest {what} of its batches has risen from {past:.3g} to '
                        f'{now:.3g}.',
                        strength,
                        (task_id,),
                        f'data/{signal}',
                        {f'data/{signal}_task{task_id}/abs_max': float(now), 'largest before': float(past)},
                    )
