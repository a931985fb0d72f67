"""Successive observations of one task no longer differ."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ding_normmon.diagnose.contrast import median_of_others
from ding_normmon.diagnose.points import KEPT, median_of_known, median_of_rows
from ding_normmon.diagnose.rule import Rule, Sign
from ding_normmon.diagnose.window import Window

__all__ = ['ConstantData']


@dataclass
class ConstantData(Rule):
    """The mean difference of successive observations of one task falls, and that of the others does not.

    A replay buffer mixes new data with older data, so the fall is gradual.

    Options:
        factor: fall against the past and against the other tasks.
        records: number of newest points whose median is compared with the median before.
    """

    name: ClassVar[str] = 'constant_data'
    advice: ClassVar[str] = (
        "Look at what this task's environment shows: a constant picture, a stuck process, a policy that stands still."
    )
    reads: ClassVar[tuple[str, ...]] = ('data/observation_change',)
    release: ClassVar[float] = 0.8

    factor: float = 1.5
    records: int = 24

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign per task."""
        tasks, rows = window.ready('data/observation_change/mean', 2 * self.records)
        if not tasks:
            return
        points = np.log(np.maximum(window.points.last(rows, KEPT), 1e-30))
        now, past = median_of_rows(points[:, -self.records :]), median_of_known(points[:, : -self.records])
        own = now - past
        relative = own - median_of_others(own) if len(tasks) > 1 else own
        for index, task_id in enumerate(tasks):
            strength = -max(float(own[index]), float(relative[index])) / math.log(self.factor)
            if strength >= self.release:
                level, usual = math.exp(now[index]), math.exp(past[index])
                yield Sign(
                    f'{window.call(task_id)}: successive observations differ by {level:.3g}, before by {usual:.3g}, on '
                    "average; the other tasks' differ as before.",
                    strength,
                    (task_id,),
                    'data/observation_change',
                    {f'data/observation_change_task{task_id}/mean': level, 'usual level': usual},
                )
