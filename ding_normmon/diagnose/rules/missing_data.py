"""Tasks whose data no longer reaches the learner."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ding_normmon.core.finding import Severity
from ding_normmon.diagnose.rule import Rule, Sign
from ding_normmon.diagnose.window import Window
from ding_normmon.diagnose.wording import Words

__all__ = ['MissingData']


@dataclass
class MissingData(Rule):
    """Tasks that used to be in the batches are missing from the last records, while others are present.

    One task may have been taken out on purpose, when it was solved: that is information. Several that go in the same
    record are those of one collector or of one rank: a warning.
    """

    name: ClassVar[str] = 'missing_data'
    advice: ClassVar[str] = (
        'If it was not taken out of training: look at its collector, environment processes and replay buffer, and at '
        'the rank that trains it.'
    )
    words: ClassVar[Words] = {
        'en': {
            'one': '{task}: none of its data has reached the learner for {since:g} records.',
            'several': '{task}: none of its data has reached the learner for {since:g} records, and of {others:g} '
            'other tasks none either.',
        },
        'zh': {
            'one': '{task}：已有 {since:g} 条记录没有任何数据到达学习器。',
            'several': '{task}：已有 {since:g} 条记录没有任何数据到达学习器，另有 {others:g} 个任务也是如此。',
            'advice': '如果不是有意移出训练：查看该任务的采集器、环境进程和回放缓冲区，以及训练它的 rank。',
        },
    }
    reads: ClassVar[tuple[str, ...]] = ('noreduce_', 'embeddings/', 'logits/')
    follows: ClassVar[bool] = False

    severity: Severity = 'warning'
    clear: int = 2
    warmup: int = 5

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign per task."""
        if window.record.scalars.get('monitor/missing_ranks', 0.0):
            # The rank that trains the task may just be slow.
            return
        missing = window.missing_tasks()
        for task, since in missing.items():
            together = [other for other, its in missing.items() if other != task and its == since]
            yield Sign(
                'several' if together else 'one',
                tasks=(task,),
                evidence={'records without data': float(since)},
                values={'since': float(since), 'others': float(len(together))},
                severity=None if together else 'info',
            )
