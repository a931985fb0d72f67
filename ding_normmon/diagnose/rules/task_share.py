"""One task dominates the shared gradient, or hardly contributes to it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ding_normmon.core.finding import Severity
from ding_normmon.diagnose.points import median_of_rows
from ding_normmon.diagnose.rule import Rule, Sign
from ding_normmon.diagnose.window import Window
from ding_normmon.diagnose.wording import Words

__all__ = ['TaskDominates', 'TaskStarves']

_GROUPS = ('encoder', 'transformer')


@dataclass
class _TaskShare(Rule):
    reads: ClassVar[tuple[str, ...]] = ('conflict/',)

    clear: int = 20
    measurements: int = 6

    def shares(self, window: Window, group: str) -> list[tuple[int, float, int]]:
        """Return (task id, median share of a group's gradient norms, number of tasks) for each task."""
        tasks, rows = window.ready(f'conflict/{group}/share', self.measurements, age=64)
        if len(tasks) < 2:
            return []
        shares = median_of_rows(window.points.last(rows, self.measurements))
        return [(task_id, float(share), len(tasks)) for task_id, share in zip(tasks, shares, strict=True)]


@dataclass
class TaskDominates(_TaskShare):
    """The gradient of one task makes up nearly all of the tasks' gradient norms on a shared group.

    Options:
        share: threshold of the share of the sum of the tasks' norms.
        measurements: number of measurements in the median.
    """

    name: ClassVar[str] = 'task_dominates'
    advice: ClassVar[str] = "Lower this task's loss weight, or normalise the gradients of the tasks (GradNorm, IMTL)."
    words: ClassVar[Words] = {
        'en': {'share': '{task} makes up {share:.0%} of the gradient of the {group}.'},
        'zh': {
            'share': '{task}占 {group} 梯度的 {share:.0%}。',
            'advice': '降低该任务的损失权重，或归一化各任务的梯度（GradNorm、IMTL）。',
        },
    }

    severity: Severity = 'info'
    share: float = 0.95

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign per task."""
        for group in _GROUPS:
            for task_id, share, number in self.shares(window, group):
                # With two tasks a share of 90% is not unusual; what matters is how much the others have left.
                strength = (share - 1 / number) / (self.share - 1 / number)
                if strength >= self.release:
                    evidence = {f'conflict/{group}_task{task_id}/share': share}
                    yield Sign('share', strength, (task_id,), group, evidence, {'group': group, 'share': share})
                    return


@dataclass
class TaskStarves(_TaskShare):
    """The gradient of one task is tiny beside those of the other tasks, on every shared group.

    Options:
        part: threshold as a fraction of an equal share.
        measurements: number of measurements in the median.
    """

    name: ClassVar[str] = 'task_starves'
    advice: ClassVar[str] = (
        "Raise this task's loss weight if it is not solved; check that its data still varies and that it still gets "
        'rewards.'
    )
    words: ClassVar[Words] = {
        'en': {'share': '{task} makes up only {share:.2%} of the gradient of the {group}.'},
        'zh': {
            'share': '{task}只占 {group} 梯度的 {share:.2%}。',
            'advice': '若任务尚未解决，提高它的损失权重；确认它的数据仍有变化、仍能得到奖励。',
        },
    }

    severity: Severity = 'info'
    part: float = 0.05

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign per task."""
        for group in _GROUPS:
            for task_id, share, number in self.shares(window, group):
                strength = self.part / max(share * number, 1e-12)
                if strength >= 0.8:
                    evidence = {f'conflict/{group}_task{task_id}/share': share}
                    yield Sign('share', strength, (task_id,), group, evidence, {'group': group, 'share': share})
