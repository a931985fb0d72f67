"""A group that was trained gets no gradient any more."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ding_normmon.core.finding import Severity
from ding_normmon.diagnose.rule import Rule, Sign
from ding_normmon.diagnose.window import Window

__all__ = ['NoGradient']

_GROUP = re.compile(r'(?:monitor/no_gradient|grad)/(.+?)(?:_task(\d+))?(?:/_total_norm)?')


@dataclass
class NoGradient(Rule):
    """A group that has been trained gets no gradient, or a gradient of exactly 0, in every record.

    Groups that never had a gradient are ignored, because a model may have parts that are not meant to be trained.
    """

    name: ClassVar[str] = 'no_gradient'
    advice: ClassVar[str] = (
        'Look at requires_grad of the group, at whether the optimizer still holds it, at a detach() on its way to the '
        "loss, and at the task's loss weight."
    )
    reads: ClassVar[tuple[str, ...]] = ('grad/',)
    follows: ClassVar[bool] = False

    severity: Severity = 'error'
    clear: int = 4
    warmup: int = 10

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign per task, listing all its groups, and one per shared group."""
        absent = window.matching(r'monitor/no_gradient/.+')
        zero = {
            name: value
            for name, value in window.matching(r'grad/.+/_total_norm').items()
            if value == 0.0
            and 'all_tasks' not in name
            and f'monitor/nonfinite/{name}'.removesuffix('/_total_norm') not in window.record.scalars
        }
        of_tasks: dict[int, list[str]] = {}
        for name in (*absent, *zero):
            found = _GROUP.fullmatch(name)
            if found is None or found[1] == 'model' or not self._was_trained(window, found[1], found[2]):
                continue
            if found[2] is None:
                sentence = f'The {found[1]} gets no gradient any more.'
                yield Sign(sentence, group=found[1], evidence={name: window.record.scalars[name]})
            else:
                of_tasks.setdefault(int(found[2]), []).append(found[1])
        for task_id, groups in sorted(of_tasks.items()):
            what, verb = ', '.join(groups), 'gets' if len(groups) == 1 else 'get'
            yield Sign(
                f'{window.call(task_id)}: {what} {verb} no gradient although the task is trained.',
                tasks=(task_id,),
                group=groups[0] if len(groups) == 1 else None,
                evidence={f'groups of task {task_id} without a gradient': float(len(groups))},
            )

    @staticmethod
    def _was_trained(window: Window, group: str, task: str | None) -> bool:
        suffix = '' if task is None else f'_task{task}'
        row = window.points.row(f'grad/{group}{suffix}/_total_norm')
        return row is not None and window.points.counts[row] >= 5
