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

_ABSENT, _ZERO = 5, 10
"""Records in a row with a gradient after which it is expected. One of exactly 0 may be right for one batch."""

_GROUP = re.compile(r'(?:monitor/no_gradient|grad)/(.+?)(?:_task(\d+))?(?:/_total_norm)?')


@dataclass
class NoGradient(Rule):
    """A group that has been trained gets no gradient, or a gradient of exactly 0, in every record.

    What has never had a gradient other than 0 was never trained, and a task whose data no longer comes has left
    (``missing_data``). One that rests now and then, as a delayed actor does, or a policy head whose targets are what it
    predicts already, may rest three times as long as it ever has.
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
        self._groups: dict[str, _Rests] = {}

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign per task, listing all its groups, and one per shared group."""
        gone = dict.fromkeys(window.matching(r'monitor/no_gradient/.+'), _ABSENT)
        for name, value in window.matching(r'grad/.+/_total_norm').items():
            group = name.removesuffix('/_total_norm')
            if 'all_tasks' in name or f'monitor/nonfinite/{group}' in window.record.scalars:
                continue
            if value == 0.0:
                gone[name] = _ZERO
            else:
                self._groups.setdefault(group, _Rests(self.confirm)).note_gradient()
        if not gone:
            return
        missing, of_tasks = window.missing_tasks(), dict[int, list[str]]()
        for name, trained in gone.items():
            found = _GROUP.fullmatch(name)
            if found is None or found[1] == 'model':
                continue
            task = None if found[2] is None else int(found[2])
            group = found[1] if task is None else f'{found[1]}_task{task}'
            rests = self._groups.get(f'grad/{group}')
            if rests is None or task in missing or not rests.is_too_long(trained):
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


class _Rests:
    """In how many records in a row a group had a gradient, and had none.

    Arguments:
        confirm: records by which a rest has to be too long before it is told of.
    """

    def __init__(self, confirm: int) -> None:
        self._streak = self._longest_streak = self._rest = self._longest_rest = 0
        self._confirm = confirm

    def note_gradient(self) -> None:
        # A rest that was told of is not to be expected from then on.
        if self._rest < 3 * self._longest_rest + self._confirm:
            self._longest_rest = max(self._longest_rest, self._rest)
        self._rest = 0
        self._streak += 1
        self._longest_streak = max(self._longest_streak, self._streak)

    def is_too_long(self, trained: int) -> bool:
        """Count a record without a gradient; tell whether it rests longer than it ever did.

        Arguments:
            trained: records in a row in which it must have had a gradient.
        """
        self._streak = 0
        self._rest += 1
        return self._longest_streak >= trained and self._rest > 3 * self._longest_rest
