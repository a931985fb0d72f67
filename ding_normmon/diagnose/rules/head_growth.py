"""The head of one task keeps growing while the other tasks' do not."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ding_normmon.diagnose.contrast import median_of_others
from ding_normmon.diagnose.head_rule import of_heads
from ding_normmon.diagnose.rule import Rule, Sign
from ding_normmon.diagnose.window import Window

__all__ = ['HeadGrowth']


@dataclass
class HeadGrowth(Rule):
    """Over many records the norm of one task's head has grown far more than that of the others.

    Options:
        factor: growth relative to the growth of the other tasks' same head.
        records: number of records.
    """

    name: ClassVar[str] = 'head_growth'
    advice: ClassVar[str] = (
        "Lower this task's loss weight or learning rate, or raise its weight decay; for a policy head, scale its "
        'temperature.'
    )
    reads: ClassVar[tuple[str, ...]] = ('norm/head_',)

    factor: float = 1.8
    records: int = 60

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign per task and head."""
        for head, tasks, rows in of_heads(window, 'norm/{}/_total_norm', self.records + 10):
            points = np.log(np.maximum(window.points.last(rows, self.records), 1e-30))
            growth = points[:, -1] - points[:, 0]
            # Skip heads whose growth has stopped.
            lately = points[:, -1] - points[:, -self.records // 4]
            usual = median_of_others(growth)
            for index, task_id in enumerate(tasks):
                relative = float(growth[index] - usual[index])
                strength = relative / math.log(self.factor) if lately[index] > 0.02 else 0.0
                if strength >= self.release:
                    yield Sign(
                        f'{window.call(task_id)}: its {head} has grown by {math.expm1(growth[index]):.0%} in '
                        f"{self.records} records, {math.exp(relative):.3g} times as much as the other tasks'.",
                        strength,
                        (task_id,),
                        head,
                        {
                            f'norm/{head}_task{task_id}/_total_norm': math.exp(points[index, -1]),
                            'growth': math.exp(growth[index]),
                        },
                    )
