"""Two tasks are trained on the same data."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ding_normmon.core.finding import Severity
from ding_normmon.diagnose.rule import Rule, Sign
from ding_normmon.diagnose.window import Window
from ding_normmon.diagnose.wording import Words

__all__ = ['TwinTasks']

_FIGURES = ('norm_mean', 'norm_max', 'norm_min')


@dataclass
class TwinTasks(Rule):
    """The embeddings of two tasks have the same mean, minimum and maximum: the encoder gets the same data twice.

    Batches of different environments never agree in all three, so this needs no threshold. The task whose figures are
    further from their own past, on average over all its figures of data, is the one that gets the other's.

    Options:
        tolerance: relative difference up to which two figures count as equal.
    """

    name: ClassVar[str] = 'twin_tasks'
    advice: ClassVar[str] = "Look at how batches are assigned to tasks: one of the two is trained on the other's data."
    words: ClassVar[Words] = {
        'en': {'same': '{task} is trained on the same observations as {other}.'},
        'zh': {
            'same': '{task}与{other}用的是同样的观测。',
            'advice': '查看批次是如何分配给任务的：两者之一在用另一个任务的数据训练。',
        },
    }
    reads: ClassVar[tuple[str, ...]] = ('embeddings/obs_task',)
    follows: ClassVar[bool] = False

    severity: Severity = 'error'
    warmup: int = 10
    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        self._apart: dict[tuple[int, int], list[tuple[float, ...]]] = {}

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign per pair."""
        scalars = window.record.scalars
        figures = {
            task: values
            for task in window.by_task('embeddings/obs/norm_mean')
            if len(values := [v for n in _FIGURES if (v := scalars.get(f'embeddings/obs_task{task}/{n}')) is not None])
            == len(_FIGURES)
        }
        for first, second in itertools.combinations(figures, 2):
            pairs = zip(figures[first], figures[second], strict=True)
            same = all(abs(a - b) <= self.tolerance * max(abs(a), abs(b)) for a, b in pairs)
            # Constant embeddings are not meant: a dead encoder is found by another rule.
            if not (same and figures[first][1] > figures[first][2]):
                continue
            # Only the first records tell: after a while the other's data is the task's own past.
            apart = self._apart.setdefault((first, second), [])
            if len(apart) <= self.confirm:
                apart.append(tuple(window.departures.distance(task, scalars) for task in (first, second)))
            firsts, seconds = (sum(column) for column in zip(*apart, strict=True))
            odd, other = (first, second) if firsts >= seconds else (second, first)
            yield Sign(
                'same',
                tasks=(odd,),
                group=f'embeddings/obs of {min(first, second)} and {max(first, second)}',
                evidence={f'embeddings/obs_task{odd}/norm_mean': figures[odd][0]},
                values={'other': other},
            )
