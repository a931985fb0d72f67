"""The same data again: on several ranks, or in one record after the other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ding_normmon.core.metric_names import task_in
from ding_normmon.diagnose.invariants.invariant import ExpectedInvariant
from ding_normmon.diagnose.rule import Sign
from ding_normmon.diagnose.window import Window

__all__ = ['BatchRepeats', 'RanksShareBatch']


@dataclass
class RanksShareBatch(ExpectedInvariant):
    """Two ranks have drawn the same batch, to the last bit, in several records in a row.

    Not expected of ranks that share one replica (sharded parameters).
    """

    name: ClassVar[str] = 'ranks_share_batch'
    advice: ClassVar[str] = (
        "Give every rank a part of the data of its own: a DistributedSampler, or a seed that depends on the rank."
    )
    reads: ClassVar[tuple[str, ...]] = ('inputs/',)

    confirm: int = 3

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign."""
        count = window.record.scalars.get('broken/same_batch', 0.0)
        if count:
            yield Sign(f'{count:g} ranks are trained on the same batch.', evidence={'broken/same_batch': count})


@dataclass
class BatchRepeats(ExpectedInvariant):
    """The batch of the last record has come back, again and again, although batches differed at the beginning.

    Told by the fingerprint of the model's inputs, or by figures of the data that are equal to the last bit.
    """

    name: ClassVar[str] = 'batch_repeats'
    advice: ClassVar[str] = (
        'Look at what draws the batch: an iterator made anew in every step, a generator seeded again, a '
        'replay buffer that is no longer filled.'
    )
    reads: ClassVar[tuple[str, ...]] = ('inputs/', 'data/')

    confirm: int = 3

    def __post_init__(self) -> None:
        self._last: dict[int | None, tuple[float, ...]] = {}
        self._differed: dict[int | None, int] = {}

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign per task, and one for the model's inputs."""
        for task_id, batch in _batches(window).items():
            last, self._last[task_id] = self._last.get(task_id), batch
            if last is None or last != batch:
                self._differed[task_id] = self._differed.get(task_id, 0) + (last is not None)
            elif self._differed.get(task_id, 0) >= self.settled:
                whose = 'The model' if task_id is None else window.call(task_id)
                tasks = () if task_id is None else (task_id,)
                yield Sign(f'{whose} is given the same batch in every record.', tasks=tasks)


def _batches(window: Window) -> dict[int | None, tuple[float, ...]]:
    """Return what tells the batches of this record from others, by task."""
    scalars = window.record.scalars
    found: dict[int | None, list[float]] = {}
    if 'monitor/fingerprint/inputs' in scalars:
        found[None] = [scalars['monitor/fingerprint/inputs']]
    for name, value in scalars.items():
        if name.startswith('data/') and name.endswith(('/mean', '/std')) and (task_id := task_in(name)) is not None:
            found.setdefault(task_id, []).append(value)
    # Figures that are all the same number are those of data that never differ.
    return {task: tuple(values) for task, values in found.items() if task is None or len(set(values)) > 2}
