"""The shared representation has lost dimensions."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ding_normmon.diagnose.points import Rows, median
from ding_normmon.diagnose.rule import Rule, Sign
from ding_normmon.diagnose.window import Window

__all__ = ['RepresentationCollapse']


@dataclass
class RepresentationCollapse(Rule):
    """The effective rank of tokens or embeddings, over all tasks or of one, has fallen to a fraction of its past.

    Options:
        factor: fall against the median of the past.
    """

    name: ClassVar[str] = 'representation_collapse'
    advice: ClassVar[str] = (
        'Look at the encoder (dead units, learning rate, normalisation) and, where it is one task, at its '
        'observations; lower the learning rate or go back to a checkpoint from before.'
    )
    reads: ClassVar[tuple[str, ...]] = ('plasticity/',)

    factor: float = 2.0

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign per signal over all tasks, and one per signal and task."""
        for signal in ('embeddings/obs', 'x_token'):
            name = f'plasticity/{signal}/effective_rank'
            yield from self._fallen(window, name, window.shared(name, 7, age=64), None, signal)
            tasks, rows = window.ready(name, 7, age=64)
            for task_id, row in zip(tasks, rows, strict=True):
                full = f'plasticity/{signal}_task{task_id}/effective_rank'
                yield from self._fallen(window, full, np.array([row]), task_id, signal)

    def _fallen(self, window: Window, name: str, rows: Rows, task_id: int | None, signal: str) -> Iterable[Sign]:
        if not rows.size:
            return
        points = window.points.last(rows, 12)[0]
        points = points[~np.isnan(points)]
        now, past = float(np.max(points[-2:])), median(points[:-2])
        # The rank of one task fluctuates more from batch to batch than that of all tasks.
        factor = self.factor if task_id is None else 1.5 * self.factor
        strength = math.log(max(past / max(now, 1e-12), 1e-12)) / math.log(factor)
        if strength >= self.release:
            whose = 'The' if task_id is None else f'{window.call(task_id)}: the'
            yield Sign(
                f'{whose} effective rank of {signal} has fallen from {past:.3g} to {now:.3g}.',
                strength,
                () if task_id is None else (task_id,),
                signal,
                {name: now, 'usual level': past},
            )
