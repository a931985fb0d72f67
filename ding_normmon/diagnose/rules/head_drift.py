"""The weights of one task's head grow or shrink while the other tasks' do not."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ding_normmon.diagnose.contrast import median_of_others
from ding_normmon.diagnose.head_rule import of_heads, strongest_of_tasks
from ding_normmon.diagnose.rule import Rule, Sign
from ding_normmon.diagnose.window import Window

__all__ = ['HeadDrift']


@dataclass
class HeadDrift(Rule):
    """Within a few records the norm of one task's head has changed a lot, and the other tasks' same head has not.

    Options:
        factor: change within ``records`` records against the other tasks' change.
        records: number of records.
    """

    name: ClassVar[str] = 'head_drift'
    advice: ClassVar[str] = (
        'Growth: lower the learning rate or raise the weight decay of this task, or lower its loss weight. Shrinking: '
        'look at the weight decay of its parameters, and at whether its loss still reaches them.'
    )
    reads: ClassVar[tuple[str, ...]] = ('norm/head_',)

    factor: float = 1.3
    records: int = 8

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign per task, for the head that has changed most."""
        yield from strongest_of_tasks(self._of_every_head(window))

    def _of_every_head(self, window: Window) -> Iterable[Sign]:
        for head, tasks, rows in of_heads(window, 'norm/{}/_total_norm', self.records + 20):
            points = np.log(np.maximum(window.points.last(rows, self.records + 1), 1e-30))
            change = points[:, -1] - points[:, 0]
            usual = median_of_others(change)
            for index, task_id in enumerate(tasks):
                relative = float(change[index] - usual[index])
                if abs(relative) < self.release * math.log(self.factor):
                    continue
                # The other tasks must agree with each other: early in training every head moves differently.
                apart = float(np.abs(np.delete(change, index) - usual[index]).max(initial=0.0))
                own = float(change[index])
                least = 0.0 if own * relative <= 0 else min(abs(own), abs(relative))
                strength = min(least / math.log(self.factor), least / max(3 * apart, 1e-12))
                if strength < self.release:
                    continue
                now = math.exp(points[index, -1])
                verb = 'grown' if own > 0 else 'shrunk'
                sentence = (
                    f'{window.call(task_id)}: the norm of its {head} has {verb} from {math.exp(points[index, 0]):.3g} '
                    f"to {now:.3g} within {self.records} records; the other tasks' has not."
                )
                evidence = {
                    f'norm/{head}_task{task_id}/_total_norm': now,
                    'change of the others': math.exp(usual[index]),
                }
                yield Sign(sentence, strength, (task_id,), None, evidence)
