"""What is differentiated is made of the tasks' losses in another way than before."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ding_normmon.core.metric_names import task_in, without_task
from ding_normmon.diagnose.rule import Rule, Sign, Words
from ding_normmon.diagnose.weighted_sum import Change, WeightedSum
from ding_normmon.diagnose.window import Window

__all__ = ['LossWeights']

_PARTS = r'noreduce_\w+_loss(?:_task\d+)?'
_TOTAL = 'loss/backward'

_WAITS = 12
"""After so many records what has changed is told, even if it is not clear whose weight it is."""

_NOTHING = 0.005
"""A factor as small as this is as good as 0."""

_LARGEST = 1e75
"""Of what is larger, the square of a ratio may be no number."""


@dataclass
class LossWeights(Rule):
    """A loss counts for many times more, or less, than it did in what is differentiated, or with another sign.

    The rule learns with which weights ``loss/backward`` is the sum of the losses of parts and tasks, and says nothing
    unless these weights foretell it to a percent. So weights that always change, and losses that are no such sum, are
    not judged. A task that joins or leaves begins a new sum. Whose weight it is, is told by the factor that is steady.

    Options:
        factor: how many times more or less.
    """

    name: ClassVar[str] = 'loss_weights'
    advice: ClassVar[str] = (
        'If this was not meant: look at what sets the weights of losses (a schedule, a curriculum, an option of one '
        'task), at their signs, at a detach() on the way to the sum, and at a sum that has become a mean.'
    )
    words: ClassVar[Words] = {
        'en': {
            'task': '{task}: its losses count for {factor:.3g} times what they did.',
            'tasks': '{tasks}: their losses count for {factor:.3g} times what they did.',
            'task_part': '{task}: its {part} counts for {factor:.3g} times what it did.',
            'part': 'The {part} counts for {factor:.3g} times what it did.',
            'all': 'What is differentiated is {factor:.3g} times what the same losses made before.',
            'unclear': 'What is differentiated is no longer the sum of the losses that it was: {times:.3g} times that.',
        },
        'zh': {
            'task': '{task}：其损失的权重变为原来的 {factor:.3g} 倍。',
            'tasks': '{tasks}：其损失的权重变为原来的 {factor:.3g} 倍。',
            'task_part': '{task}：其 {part} 的权重变为原来的 {factor:.3g} 倍。',
            'part': '{part} 的权重变为原来的 {factor:.3g} 倍。',
            'all': '对相同的损失，反向传播的总损失变为原来的 {factor:.3g} 倍。',
            'unclear': '反向传播的总损失不再是原来那样的损失之和：是其 {times:.3g} 倍。',
            'advice': '如果并非有意为之：查看损失权重的来源（调度、课程学习、某个任务的选项）、损失的符号、'
            '求和路径上的 detach()，以及求和是否变成了平均。',
        },
    }
    reads: ClassVar[tuple[str, ...]] = (_TOTAL,)
    follows: ClassVar[bool] = False

    confirm: int = 1
    warmup: int = 0
    factor: float = 3.0

    def __post_init__(self) -> None:
        self._sum = WeightedSum()
        self._keys: dict[str, tuple[str, int | None]] = {}
        self._since = -1
        self._told: Change | None = None

    def _key(self, name: str) -> tuple[str, int | None]:
        key = self._keys.get(name)
        if key is None:
            key = self._keys[name] = without_task(name).removeprefix('noreduce_'), task_in(name)
        return key

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign."""
        scalars = window.record.scalars
        parts = {self._key(name): value for name, value in window.matching(_PARTS).items()}
        total = scalars.get(_TOTAL, math.nan) / scalars.get('step/loss_scale', 1.0)
        if f'{_TOTAL}_1' in scalars or not parts or not total:
            return
        if not all(abs(value) < _LARGEST for value in (total, 1 / total, *parts.values())):
            return
        if any(task is not None for _, task in parts):
            parts = {key: value for key, value in parts.items() if key[1] is not None}
        self._sum.add(total, parts)
        if self._sum.unexplained <= 1:
            self._since, self._told = window.iteration, None
        if not self._sum.unexplained:
            return
        change = self._sum.followed(self._told) if self._told else self._sum.change()
        if change is None or not (change.is_clear or self._sum.unexplained >= _WAITS):
            return
        if change.is_clear:
            self._told = change
        expected = self._sum.expected
        times = total / expected if expected else math.inf
        factor, key = change.factor if abs(change.factor) > _NOTHING else 0.0, 'all'
        if not change.is_clear:
            factor, key = times, 'unclear'
        elif change.tasks:
            key = 'tasks' if len(change.tasks) > 1 else 'task_part' if change.part else 'task'
        elif change.part:
            key = 'part'
        size = abs(math.log(abs(factor))) if factor else math.inf
        limit = math.log(max(self.factor, 1 + 1e-6))
        yield Sign(
            key,
            min(max(size / limit, 2.0 if factor < 0 else 0.0), 100.0),
            change.tasks if change.is_clear else (),
            evidence={_TOTAL: total, 'expected': expected},
            severity=None if change.is_clear else 'info',
            values={'factor': factor, 'times': times, 'part': change.part},
            since=self._since,
        )
