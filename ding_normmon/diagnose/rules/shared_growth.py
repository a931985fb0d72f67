"""The norm of a shared group keeps growing."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ding_normmon.diagnose.rule import Rule, Sign
from ding_normmon.diagnose.window import Window

__all__ = ['SharedGrowth']


@dataclass
class SharedGrowth(Rule):
    """The parameter norm of the encoder or the transformer has grown by half within 90 records, and ever faster.

    Options:
        factor: growth over the records.
        records: number of records.
    """

    name: ClassVar[str] = 'shared_growth'
    advice: ClassVar[str] = (
        'Raise the weight decay, lower the learning rate, and look at which task drives the gradient.'
    )
    reads: ClassVar[tuple[str, ...]] = ('norm/',)

    factor: float = 1.5
    records: int = 90

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign per group."""
        for group in ('encoder', 'transformer'):
            name = f'norm/{group}/_total_norm'
            rows = window.shared(name, self.records)
            if not rows.size:
                continue
            points = np.log(np.maximum(window.points.last(rows, self.records)[0], 1e-30))
            middle = len(points) // 2
            growth, before, lately = points[-1] - points[0], points[middle] - points[0], points[-1] - points[middle]
            strength = growth / math.log(self.factor) if lately >= before else 0.0
            if strength >= self.release:
                yield Sign(
                    f'The parameter norm of the {group} has grown from {math.exp(points[0]):.3g} to '
                    f'{math.exp(points[-1]):.3g} in {self.records} records, and ever faster.',
                    strength,
                    group=group,
                    evidence={name: math.exp(points[-1]), 'before': math.exp(points[0])},
                )
