"""A group that was trained gets no gradient any more."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ding_normmon.core.finding import Severity
from ding_normmon.diagnose.rule import Rule, Sign
from ding_normmon.diagnose.window import Window
from ding_normmon.diagnose.wording import Words

__all__ = ['NoGradient']

_GROUP = re.compile(r'(?:monitor/no_gradient|grad)/(.+?)(?:_task(\d+))?(?:/_total_norm)?')


@dataclass
class NoGradient(Rule):
    """A group that has been trained gets no gradient, or a gradient of exactly 0, in every record.

    What has never had a gradient other than 0 was never trained, and a task whose data no longer comes has left
    (``missing_data``).
    """

    name: ClassVar[str] = 'no_gradient'
    advice: ClassVar[str] = (
        "Look at requires_grad of the group, at a detach() on its way to the loss, and at the task's loss weight."
    )
    words: ClassVar[Words] = {
        'en': {
            'shared': 'The {groups} gets no gradient any more.',
            'task': '{task}: no gradient any more in {groups}, although its data comes.',
        },
        'zh': {
            'shared': '{groups} 不再有梯度。',
            'task': '{task}：数据仍在到达，但 {groups} 不再有梯度。',
            'advice': '查看该组的 requires_grad、通往损失的路径上是否有 detach()，以及该任务的损失权重。',
        },
    }
    reads: ClassVar[tuple[str, ...]] = ('grad/',)
    follows: ClassVar[bool] = False

    severity: Severity = 'error'
    clear: int = 4
    warmup: int = 0

    def __post_init__(self) -> None:
        self._trained: dict[str, int] = {}

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign per task, listing all its groups, and one per shared group."""
        gone = [*window.matching(r'monitor/no_gradient/.+')]
        for name, value in window.matching(r'grad/.+/_total_norm').items():
            group = name.removesuffix('/_total_norm')
            if 'all_tasks' in name or f'monitor/nonfinite/{group}' in window.record.scalars:
                continue
            if value == 0.0:
                gone.append(name)
            else:
                self._trained[group] = self._trained.get(group, 0) + 1
        if not gone:
            return
        missing, of_tasks = window.missing_tasks(), dict[int, list[str]]()
        for name in gone:
            found = _GROUP.fullmatch(name)
            if found is None or found[1] == 'model':
                continue
            task = None if found[2] is None else int(found[2])
            group = found[1] if task is None else f'{found[1]}_task{task}'
            if self._trained.get(f'grad/{group}', 0) < 5 or task in missing:
                continue
            if task is None:
                evidence = {name: window.record.scalars[name]}
                yield Sign('shared', group=found[1], evidence=evidence, values={'groups': found[1]})
            else:
                of_tasks.setdefault(task, []).append(found[1])
        for task, groups in sorted(of_tasks.items()):
            yield Sign(
                'task',
                tasks=(task,),
                group=groups[0] if len(groups) == 1 else None,
                evidence={f'groups of task {task} without a gradient': float(len(groups))},
                values={'groups': ', '.join(groups)},
            )
