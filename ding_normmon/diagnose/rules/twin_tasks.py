"""Two tasks are trained on the same data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from ding_normmon.core.finding import Severity
from ding_normmon.diagnose.rule import Rule, Sign
from ding_normmon.diagnose.window import Window

__all__ = ['TwinTasks']

_FIGURES = ('norm_mean', 'norm_max', 'norm_min')


@dataclass
class TwinTasks(Rule):
    """The embeddings of two tasks have the same mean, minimum and maximum: the encoder gets the same data twice.

    Batches of different environments never agree in all three, so this needs no threshold. The task whose figures have
    changed more is the one that gets the other's data.

    Options:
        tolerance: relative difference up to which two figures count as equal.
    """

    name: ClassVar[str] = 'twin_tasks'
    advice: ClassVar[str] = "Look at how batches are assigned to tasks: one of the two is trained on the other's data."
    reads: ClassVar[tuple[str, ...]] = ('embeddings/obs_task',)
    follows: ClassVar[bool] = False

    severity: Severity = 'error'
    warmup: int = 10
    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        self._decided: dict[tuple[int, int], tuple[int, int]] = {}

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign per pair."""
        figures: dict[int, list[float]] = {}
        for figure in _FIGURES:
            for task_id, row in window.by_task(f'embeddings/obs/{figure}').items():
                if window.points.latest[row] == window.points.records - 1:
                    figures.setdefault(task_id, []).append(float(window.points.last(_one(row), 1)[0, 0]))
        tasks = [task_id for task_id, values in figures.items() if len(values) == len(_FIGURES)]
        for position, first in enumerate(tasks):
            for second in tasks[position + 1 :]:
                pairs = list(zip(figures[first], figures[second], strict=True))
                same = all(abs(a - b) <= self.tolerance * max(abs(a), abs(b)) for a, b in pairs)
                # Skip constant embeddings: an encoder with a constant output is found by another rule.
                if same and figures[first][1] > figures[first][2]:
                    # Decide once: after a while neither task changes any more.
                    pair = (first, second)
                    odd, other = self._decided.setdefault(pair, self._stranger(window, first, second))
                    yield Sign(
                        f'{window.call(odd)} is trained on the same observations as {window.mention(other)}.',
                        tasks=(odd,),
                        group='embeddings/obs',
                        evidence={f'embeddings/obs_task{odd}/norm_mean': figures[odd][0]},
                    )

    @staticmethod
    def _stranger(window: Window, first: int, second: int) -> tuple[int, int]:
        rows = window.by_task('embeddings/obs/norm_mean')
        past = {task_id: window.points.last(_one(rows[task_id]), 40)[0, :-6] for task_id in (first, second)}
        now = float(window.points.last(_one(rows[first]), 1)[0, 0])
        moved = {task_id: _distance(now, values) for task_id, values in past.items()}
        return (first, second) if moved[first] >= moved[second] else (second, first)


def _one(row: int) -> npt.NDArray[np.intp]:
    return np.array([row], np.intp)


def _distance(now: float, past: npt.NDArray[np.float64]) -> float:
    known = past[~np.isnan(past)]
    return abs(now - float(np.median(known))) if known.size else 0.0
