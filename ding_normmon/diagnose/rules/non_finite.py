"""NaN and infinite values."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ding_normmon.core.finding import Severity
from ding_normmon.diagnose.rule import Rule, Sign
from ding_normmon.diagnose.window import Window
from ding_normmon.diagnose.wording import Words

__all__ = ['NonFinite']

_NAME = re.compile(r'monitor/nonfinite/(?:(norm|grad|update|conflict|clip)/)?(.+?)(?:_task(\d+))?')

_KINDS = {
    'norm': 'the parameters of ',
    'grad': 'the gradient of ',
    'update': 'the update of ',
    'conflict': 'the gradient on ',
}


@dataclass
class NonFinite(Rule):
    """Something became NaN or infinite; if it belongs to a task, the finding names the task.

    NaN spreads from one task's loss to every shared parameter within the step, so shared parts are reported only if no
    task has non-finite values of its own. Some policies mask impossible actions with logits of minus infinity, so
    policy logits that are non-finite in the first record are taken for masked actions and ignored.
    """

    name: ClassVar[str] = 'non_finite'
    advice: ClassVar[str] = (
        "Look at this task's rewards, targets and losses in the iteration named; clip or drop what is not finite "
        'before the loss, and go back to the last checkpoint if weights are affected.'
    )
    words: ClassVar[Words] = {
        'en': {
            'task': '{task}: {count:g} entries of {what} are NaN or infinite.',
            'shared': '{count:g} entries of {what} are NaN or infinite.',
        },
        'zh': {
            'task': '{task}：{what} 中有 {count:g} 个元素为 NaN 或无穷大。',
            'shared': '{what} 中有 {count:g} 个元素为 NaN 或无穷大。',
            'advice': '查看所指迭代中该任务的奖励、目标和损失；在计算损失前裁剪或丢弃非有限值；'
            '若权重已受影响，回到上一个检查点。',
        },
    }
    follows: ClassVar[bool] = False
    judges_all: ClassVar[bool] = True

    severity: Severity = 'error'
    confirm: int = 1
    clear: int = 20
    warmup: int = 0

    def __post_init__(self) -> None:
        self._masked: dict[str, float] = {}
        self._records = 0

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign per task with non-finite values of its own; if there is none, one for the shared parts."""
        self._records += 1
        of_tasks: dict[int, list[tuple[str, str, float]]] = {}
        of_shared: list[tuple[str, str, float]] = []
        for name, count in window.matching(r'monitor/nonfinite/.*').items():
            found = _NAME.fullmatch(name)
            if not count or found is None or found[1] == 'clip' or self._is_mask(name, count):
                continue
            entry = (name, f'{_KINDS.get(found[1] or "", "")}{found[2]}', count)
            if found[3] is None:
                of_shared.append(entry)
            else:
                of_tasks.setdefault(int(found[3]), []).append(entry)
        for task_id, entries in sorted(of_tasks.items()):
            _, what, count = min(entries, key=lambda entry: ('loss' not in entry[0], 'conflict' in entry[0]))
            yield Sign(
                'task',
                tasks=(task_id,),
                evidence={name: count for name, _, count in entries},
                values={'count': count, 'what': what},
            )
        if of_shared and not of_tasks:
            _, what, count = of_shared[0]
            evidence = {name: count for name, _, count in of_shared}
            yield Sign('shared', group=of_shared[0][1], evidence=evidence, values={'count': count, 'what': what})

    def _is_mask(self, name: str, count: float) -> bool:
        """Return whether these are masked actions in a policy's logits, which are there from the first record on."""
        if '/logits/policy' not in name:
            return False
        if self._records <= 1 or name in self._masked:
            self._masked[name] = count
            return True
        return False
