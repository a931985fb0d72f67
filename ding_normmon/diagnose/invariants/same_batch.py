"""The same data again: on several ranks, or in one record after the other."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ding_normmon.core.metric_names import task_in
from ding_normmon.diagnose.invariants.invariant import ExpectedInvariant
from ding_normmon.diagnose.rule import Sign, Words
from ding_normmon.diagnose.window import Window

__all__ = ['BatchRepeats', 'RanksShareBatch', 'TasksShareData']


@dataclass
class RanksShareBatch(ExpectedInvariant):
    """Two ranks have drawn the same batch, to the last bit, in several records in a row.

    Not expected of ranks that share one replica (sharded parameters).
    """

    name: ClassVar[str] = 'ranks_share_batch'
    advice: ClassVar[str] = (
        'Give every rank a part of the data of its own: a DistributedSampler, or a seed that depends on the rank.'
    )
    words: ClassVar[Words] = {
        'en': {
            'same': '{count:g} ranks are trained on the same batch.',
        },
        'zh': {
            'same': '{count:g} 个 rank 在用同一个批次训练。',
            'advice': '让每个 rank 使用各自的数据：DistributedSampler，或随 rank 变化的随机种子。',
        },
    }
    reads: ClassVar[tuple[str, ...]] = ('inputs/',)

    confirm: int = 3

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign."""
        count = window.record.scalars.get('broken/same_batch', 0.0)
        if count:
            yield Sign('same', evidence={'broken/same_batch': count}, values={'count': count})


@dataclass
class BatchRepeats(ExpectedInvariant):
    """Batches come back, three times within eight records: at once, and longer than any did before, or much sooner.

    Told by the fingerprint of the model's inputs, or by figures of the data that are equal to the last bit. Learnt from
    the first changes of the batch: a loop that learns four times from each may do so, and one that has the same batch
    from the beginning too. A batch comes back too soon if there have been four times as many others in the run, and
    none has come back as soon before; so the second epoch of a data set in one order is none.

    Or the samples of a batch repeat each other: in three records in a row the share of different ones is at most half
    of the smallest of up to 64 records before.

    Options:
        factor: how many times longer.
    """

    name: ClassVar[str] = 'batch_repeats'
    advice: ClassVar[str] = (
        'Look at what draws the batch: an iterator made anew in every step, a generator seeded again, workers with the '
        'same seed, a replay buffer that is no longer filled.'
    )
    words: ClassVar[Words] = {
        'en': {
            'task': '{task} is given the same batch again and again.',
            'model': 'The model is given the same batch again and again.',
            'samples': 'The samples of a batch repeat each other: {now:.0%} of them are different; before it was at '
            'least {usual:.0%}.',
        },
        'zh': {
            'task': '{task}反复得到同一个批次。',
            'model': '模型反复得到同一个批次。',
            'samples': '批次中的样本相互重复：{now:.0%} 各不相同；此前至少为 {usual:.0%}。',
            'advice': '查看批次的来源：每步重建的迭代器、反复设种子的生成器、种子相同的 worker、不再填充的回放缓冲区。',
        },
    }
    reads: ClassVar[tuple[str, ...]] = ('monitor/fingerprint/inputs', 'inputs/distinct', 'data/')

    factor: float = 4.0

    def __post_init__(self) -> None:
        self._runs: dict[int | None, _Run] = {}
        self._distinct = deque[float](maxlen=64)
        self._alike = 0

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign per task, one for the model's inputs, and one for samples that repeat each other."""
        for task_id, batch in _batches(window).items():
            # Figures of few numbers, such as rewards, are the same now and then by chance.
            is_exact = task_id is None and _FINGERPRINT in window.record.scalars
            run = self._runs.setdefault(task_id, _Run(batch, is_exact))
            run.note_iteration(window.iteration)
            if run.is_too_often(batch, self.settled, self.factor):
                tasks = () if task_id is None else (task_id,)
                yield Sign('task' if tasks else 'model', tasks=tasks)
        distinct = window.record.scalars.get(_DISTINCT)
        if distinct is not None:
            yield from self._repeated(distinct)

    def _repeated(self, distinct: float) -> Iterable[Sign]:
        usual = min(self._distinct, default=0.0)
        is_less = len(self._distinct) >= 20 and distinct <= usual / 2
        self._alike = self._alike + 1 if is_less else 0
        if not is_less:
            self._distinct.append(distinct)
        if self._alike >= 3:
            evidence = {_DISTINCT: distinct, 'before': usual}
            yield Sign('samples', group=_DISTINCT, evidence=evidence, values={'now': distinct, 'usual': usual})


class _Run:
    """How often the last batch has come back.

    Arguments:
        batch: the first one.
        is_exact: whether no two batches look the same by chance.
    """

    def __init__(self, batch: tuple[float, ...], is_exact: bool) -> None:
        self._batch, self._is_exact = batch, is_exact
        self._repeats, self._longest, self._changes = -1, 0, 0
        self._returns: deque[bool] = deque(maxlen=_MOST_RETURNS)
        self._unusual: deque[bool] = deque(maxlen=8)
        # At which change each batch was there last, and after how many changes one has come back at the earliest.
        self._seen: dict[tuple[float, ...], int] = {}
        self._soonest = math.inf
        self._iteration, self._spacing = -1, math.inf

    def note_iteration(self, iteration: int) -> None:
        """Begin to learn anew where records lie closer together than ever: one batch may last for several now."""
        spacing = iteration - self._iteration if self._iteration >= 0 else math.inf
        self._iteration = iteration
        if spacing < self._spacing < math.inf:
            self._longest = self._changes = 0
            self._seen.clear()
            self._soonest = math.inf
        self._spacing = min(spacing, self._spacing)

    def is_too_often(self, batch: tuple[float, ...], settled: int, factor: float) -> bool:
        is_settled = self._changes >= settled
        too_soon = False
        if batch == self._batch:
            self._repeats += 1
        else:
            if not (is_settled and self._repeats > factor * self._longest):
                self._longest = max(self._longest, self._repeats)
            self._seen[self._batch] = self._changes
            self._batch, self._repeats = batch, 0
            self._changes += 1
            last = self._seen.pop(batch, None)
            self._returns.append(last is not None)
            too_soon = self._is_exact and self._is_too_soon(last, settled, factor)
            if len(self._seen) > _MOST_KEPT:
                del self._seen[next(iter(self._seen))]
        is_long = is_settled and self._repeats > factor * self._longest and not self._is_chance()
        self._unusual.append(too_soon or is_long)
        return sum(self._unusual) >= 3

    def _is_chance(self) -> bool:
        """Return whether batches out of so little data often look the same: they do after others in between, too."""
        share = sum(self._returns) / max(len(self._returns), 1)
        return not self._is_exact and share**self._repeats > _RARE

    def _is_too_soon(self, last: int | None, settled: int, factor: float) -> bool:
        if last is None:
            return False
        rounds = self._changes - last
        if self._changes >= factor * max(settled, rounds) and rounds < self._soonest:
            return True
        self._soonest = min(self._soonest, rounds)
        return False


@dataclass
class TasksShareData(ExpectedInvariant):
    """Tasks are given the same data, to the last bit, although each had its own at the beginning."""

    name: ClassVar[str] = 'tasks_share_data'
    advice: ClassVar[str] = 'Look at how batches are assigned to tasks, and at whether tasks share a replay buffer.'
    words: ClassVar[Words] = {
        'en': {
            'same': 'These tasks are given the same data: {tasks}.',
        },
        'zh': {
            'same': '这些任务得到了相同的数据：{tasks}。',
            'advice': '查看批次如何分配给任务，以及任务是否共用回放缓冲区。',
        },
    }
    reads: ClassVar[tuple[str, ...]] = ('data/',)

    confirm: int = 3

    def __post_init__(self) -> None:
        self._alone: dict[int, int] = {}

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign for all tasks with the same data."""
        sharing: dict[tuple[float, ...], list[int]] = {}
        for task_id, batch in _batches(window).items():
            if task_id is not None:
                sharing.setdefault(batch, []).append(task_id)
        for tasks in sharing.values():
            if len(tasks) == 1:
                self._alone[tasks[0]] = self._alone.get(tasks[0], 0) + 1
            elif all(self._alone.get(task_id, 0) >= self.settled for task_id in tasks):
                yield Sign('same', tasks=tuple(tasks))


_FINGERPRINT, _DISTINCT = 'monitor/fingerprint/inputs', 'inputs/distinct'
_MOST_RETURNS, _RARE = 32, 1e-3
"""Changes of the batch from which chance is judged, and how improbable it must be."""
_MOST_KEPT = 4096
"""Batches that are remembered."""

_MOMENTS = r'data/(?!age_).*/(?:mean|std|max|min)'
"""Figures of the data; how old a batch is changes although the batch does not."""


def _batches(window: Window) -> dict[int | None, tuple[float, ...]]:
    """Return what tells the batches of this record from others, by task; None for the model's inputs."""
    scalars = window.record.scalars
    found: dict[int | None, list[float]] = {}
    for name, value in window.matching(_MOMENTS).items():
        found.setdefault(task_in(name), []).append(value)
    # Figures that are all the same number are those of data that never differ.
    batches = {task: tuple(values) for task, values in found.items() if len(set(values)) > 2}
    if _FINGERPRINT in scalars:
        batches[None] = (scalars[_FINGERPRINT],)
    elif any(task is not None for task in batches):
        batches.pop(None, None)
    return batches
