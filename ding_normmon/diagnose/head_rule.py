"""What rules about the heads of tasks have in common: each head against its past and against that of other tasks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from ding_normmon.diagnose.contrast import HEADS, Contrast, contrasts
from ding_normmon.diagnose.points import Rows
from ding_normmon.diagnose.rule import Rule, Sign
from ding_normmon.diagnose.window import Window

__all__ = ['HeadRule', 'of_heads', 'strongest_of_tasks']


def of_heads(window: Window, family: str, points: int) -> Iterator[tuple[str, list[int], Rows]]:
    """Yield each head that several tasks have, with those tasks and their rows in ``window.points``.

    Arguments:
        window: the run.
        family: the figure's name without its task, with ``{}`` for the head.
        points: the fewest that a task must have had.
    """
    for head in HEADS:
        tasks, rows = window.ready(family.format(head), points)
        if len(tasks) > 1:
            yield head, tasks, rows


@dataclass
class HeadRule(Rule):
    """Base of rules that find a per-task figure far above its own past and far above the other tasks'.

    Attributes:
        family: the figure's name without its task, with ``{}`` for the head.
        heads: what stands for ``{}``.
        group: what findings call a head's figures, with ``{}`` for the head.
        baseline: points that are the past.
        floor: smallest spread that is believed.

    Options:
        factor: rise against the past and against the other tasks.
        spreads: the same rise in units of the past's spread.
    """

    family: ClassVar[str]
    heads: ClassVar[tuple[str, ...]] = HEADS
    group: ClassVar[str] = '{}'
    baseline: ClassVar[int] = 40
    floor: ClassVar[float] = 0.15

    factor: float = 5.0
    spreads: float = 5.0

    def strength(self, compared: Contrast, index: int) -> float:
        """Return how strong the sign of one task is; 1 at the threshold."""
        change = compared.least_change(index)
        return min(change / math.log(self.factor), change / float(compared.spread[index]) / self.spreads)

    def sentence(self, head: str, compared: Contrast, index: int) -> str:
        """Return what is wrong with a task's head, without the task."""
        raise NotImplementedError

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign per task and head."""
        families = [self.family.format(head) for head in self.heads]
        for head, compared in zip(self.heads, contrasts(window, families, self.baseline, self.floor), strict=True):
            for index, task_id in enumerate(compared.tasks):
                strength = self.strength(compared, index)
                if strength >= self.release:
                    name = compared.names[index]
                    yield Sign(
                        f'{window.call(task_id)}: {self.sentence(head, compared, index)}',
                        strength,
                        (task_id,),
                        self.group.format(head),
                        {name: compared.level[index], 'usual level': compared.past[index]},
                        (name,),
                    )


def strongest_of_tasks(signs: Iterable[Sign]) -> list[Sign]:
    """Return the strongest sign of each task, of equal ones the first."""
    best: dict[tuple[int, ...], Sign] = {}
    for sign in signs:
        if sign.tasks not in best or sign.strength > best[sign.tasks].strength:
            best[sign.tasks] = sign
    return list(best.values())
