"""A task whose data no longer reaches the learner."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ding_normmon.diagnose.rule import Rule, Sign
from ding_normmon.diagnose.window import Window

__all__ = ['MissingData']

_FAMILIES = ('noreduce_value_loss', 'noreduce_policy_loss', 'embeddings/obs/norm_mean', 'logits/value/mean')


@dataclass
class MissingData(Rule):
    """A task that used to be in the batches is missing from the last records, while others are present.

    A task that was removed from training on purpose looks the same; switch the rule off in that case.
    """

    name: ClassVar[str] = 'missing_data'
    advice: ClassVar[str] = (
        "Look at this task's collector, environment processes and replay buffer, and at the rank that trains it."
    )
    reads: ClassVar[tuple[str, ...]] = ('noreduce_', 'embeddings/', 'logits/')
    follows: ClassVar[bool] = False

    confirm: int = 5
    clear: int = 2
    warmup: int = 5

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign per task."""
        if window.record.scalars.get('monitor/missing_ranks', 0.0):
            # The rank that trains the task may just be slow.
            return
        last = window.points.records - 1
        for family in _FAMILIES:
            rows = window.by_task(family)
            present = [task_id for task_id, row in rows.items() if window.points.latest[row] == last]
            if not present:
                continue
            for task_id, row in rows.items():
                if task_id not in present and window.points.counts[row] >= 3:
                    since = last - int(window.points.latest[row])
                    sentence = f'{window.call(task_id)}: none of its data has reached the learner for {since} records.'
                    yield Sign(sentence, 1.0, (task_id,), None, {'records without data': float(since)})
            return
