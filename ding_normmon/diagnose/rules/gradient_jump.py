"""The gradient of one task's head changes suddenly."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ding_normmon.diagnose.contrast import HEADS, contrasts
from ding_normmon.diagnose.rule import Rule, Sign
from ding_normmon.diagnose.window import Window

__all__ = ['GradientJump']


@dataclass
class GradientJump(Rule):
    """The gradient norm of a task's head is far from its own past, and the other tasks' are not.

    Something has changed what this task asks of the model: its loss weight, its rewards, its targets, its data.

    Options:
        factor: change against the past and against the other tasks, in either direction.
        spreads: the same change in units of the past's spread (robust standard deviation).
    """

    name: ClassVar[str] = 'gradient_jump'
    advice: ClassVar[str] = (
        'Look at what has changed for this task: its loss weight, reward scale, targets and data; if nothing was meant '
        'to change, lower its loss weight or its learning rate.'
    )
    reads: ClassVar[tuple[str, ...]] = ('grad/',)

    factor: float = 5.0
    spreads: float = 7.0

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign per task, for the head that has changed most in units of its spread."""
        best: dict[int, tuple[float, Sign]] = {}
        families = [f'grad/{head}/_total_norm' for head in HEADS]
        for head, compared in zip(HEADS, contrasts(window, families), strict=True):
            for index, task_id in enumerate(compared.tasks):
                change = compared.least_change(index)
                strength = min(abs(change) / math.log(self.factor), abs(change) / compared.spread[index] / self.spreads)
                if strength < self.release or strength <= best.get(task_id, (0.0,))[0]:
                    continue
                times = math.exp(abs(change))
                amount = f'{times:.3g} times' if change > 0 else f'1/{times:.3g} of'
                sentence = (
                    f'{window.call(task_id)}: the gradient norm of its {head} is {amount} its usual level; the other '
                    f"tasks' are not."
                )
                evidence = {compared.names[index]: compared.level[index], 'usual level': compared.past[index]}
                names = tuple(f'grad/{each}_task{task_id}/_total_norm' for each in HEADS)
                best[task_id] = strength, Sign(sentence, strength, (task_id,), None, evidence, names)
        return [sign for _, sign in best.values()]
