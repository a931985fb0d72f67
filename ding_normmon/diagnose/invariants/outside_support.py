"""Data that cannot be."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ding_normmon.core.metric_names import task_in, without_task
from ding_normmon.diagnose.invariants.invariant import Invariant
from ding_normmon.diagnose.rule import Sign, Words
from ding_normmon.diagnose.window import Window

__all__ = ['OutsideSupport']


@dataclass
class OutsideSupport(Invariant):
    """Rewards, targets, actions or masks of the batch are not finite, or outside of what the policy declares.

    A policy says how many there are with ``step.publish_loss('data/outside/reward', count, task_id)``. Whatever else is
    not finite is told by ``non_finite``.
    """

    name: ClassVar[str] = 'outside_support'
    advice: ClassVar[str] = (
        "Look at this task's environment and replay buffer, and at the support of the model: values beyond it are cut "
        'off in silence.'
    )
    words: ClassVar[Words] = {
        'en': {
            'task': '{task}: {count:g} entries of {part} in the batch are not finite, or outside of what is declared.',
            'shared': '{count:g} entries of {part} in the batch are not finite, or outside of what is declared.',
        },
        'zh': {
            'task': '{task}：批次中 {part} 有 {count:g} 个元素不是有限值，或超出声明的范围。',
            'shared': '批次中 {part} 有 {count:g} 个元素不是有限值，或超出声明的范围。',
            'advice': '查看该任务的环境和回放缓冲区，以及模型的支持集：超出的值会被悄悄截断。',
        },
    }
    reads: ClassVar[tuple[str, ...]] = ('data/',)

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign per task and part of the batch."""
        for name, count in window.matching('data/outside/.*').items():
            if not count:
                continue
            task_id = task_in(name)
            part = (name if task_id is None else without_task(name)).removeprefix('data/outside/')
            yield Sign(
                'shared' if task_id is None else 'task',
                tasks=() if task_id is None else (task_id,),
                group=f'data/{part}',
                evidence={name: count},
                values={'count': count, 'part': part},
            )
