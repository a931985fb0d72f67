"""The learning rate is no longer what the scheduler says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ding_normmon.diagnose.invariants.invariant import ExpectedInvariant
from ding_normmon.diagnose.invariants.keeps_value import KeepsValue
from ding_normmon.diagnose.rule import Sign, Words
from ding_normmon.diagnose.window import Window

__all__ = ['RateOffSchedule', 'SchedulerStepsChange']


@dataclass
class RateOffSchedule(ExpectedInvariant):
    """An optimizer steps with a learning rate that its scheduler has not set, or with one that no scheduler sets.

    Expected where a scheduler of torch's has set the rates in all records of the beginning. A rate that is set by hand
    later, on purpose, is a break too: the scheduler knows nothing of it.
    """

    name: ClassVar[str] = 'rate_off_schedule'
    advice: ClassVar[str] = (
        "Look at what sets the rate beside the scheduler: an optimizer's state loaded without the scheduler's, "
        'a second schedule, or an optimizer that was made anew.'
    )
    words: ClassVar[Words] = {
        'en': {
            'rate': 'The learning rate is {how} as the scheduler has set it.',
            'optimizer': 'The optimizer that steps has no scheduler; the scheduler sets the rate of an earlier one.',
        },
        'zh': {
            'rate': '学习率与调度器所设的不一致（{how}）。',
            'optimizer': '正在更新的优化器没有调度器；调度器设置的是先前那个优化器的学习率。',
            'advice': '查看除调度器外还有谁在设置学习率：加载了优化器状态却没有加载调度器、'
            '第二个调度，或重新构建的优化器。',
        },
    }
    reads: ClassVar[tuple[str, ...]] = ('step/scheduler_steps',)

    def __post_init__(self) -> None:
        self._held = dict.fromkeys(('rate', 'optimizer'), 0)

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign for rates that are off, one for an optimizer without its scheduler."""
        record = window.record
        for what, times in self._held.items():
            name = f'broken/schedule/{what}'
            if name not in record.scalars:
                self._held[what] = times + ('learning_rate/model' in record.scalars)
            elif times >= self.settled:
                values = {'how': record.notes.get(name, 'not')} if what == 'rate' else {}
                yield Sign(what, group=f'schedule {what}', evidence={name: record.scalars[name]}, values=values)
            else:
                # It was so from the beginning.
                self._held[what] = -(10**9)


@dataclass
class SchedulerStepsChange(KeepsValue):
    """The learning rate scheduler steps more or less often in a learner step than it always did, or no more at all.

    A scheduler that has come to its end need not step: that of torch's classes that have one, and otherwise where the
    rate is 0 or that before the warm-up.
    """

    name: ClassVar[str] = 'scheduler_steps_change'
    advice: ClassVar[str] = "Look at what calls the scheduler's step(): twice in a learner step, or nobody any more."
    words: ClassVar[Words] = {
        'en': {
            'changed': 'The learning rate scheduler steps {now:g} times in a learner step; before it was {usual:g}.',
        },
        'zh': {
            'changed': '学习率调度器在一个学习步中调用 {now:g} 次；此前为 {usual:g} 次。',
            'advice': '查看是谁在调用调度器的 step()：一个学习步中调用了两次，或不再有人调用。',
        },
    }
    reads: ClassVar[tuple[str, ...]] = ('step/scheduler_steps',)
    figures: ClassVar[str] = r'step/scheduler_steps'

    confirm: int = 3
    settled: int = 20
