"""Checks whether the sums of sharded groups include every rank."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from ding_normmon.core.parameter_groups import Group
from ding_normmon.core.sharding import is_sharded
from ding_normmon.rows.table import Batch, RowKey

__all__ = ['ShardedGroups']


class ShardedGroups:
    """The sharded groups: every rank sends rows of its part, and only the sum over all ranks is meaningful.

    Arguments:
        groups: every group of the model.
        metrics: names of the metrics whose rows belong to parameter groups.
        world_size: number of ranks.
    """

    def __init__(self, groups: Iterable[Group], metrics: Collection[str], world_size: int) -> None:
        self.keys = frozenset((g.name, g.task_id) for g in groups if any(is_sharded(p) for p in g.parameters))
        self._metrics = frozenset(metrics)
        self._world_size = world_size

    def whole(self, batches: Sequence[Batch]) -> Sequence[Batch]:
        """Leave out rows of sharded groups that not every rank has sent.

        Arguments:
            batches: the ranks' batches of one iteration.

        Example:
            >>> import numpy as np
            >>> sharded = ShardedGroups([], {'gradient_norms'}, world_size=2)
            >>> sharded.keys = frozenset({('encoder', None)})
            >>> keys = (RowKey('gradient_norms', 'encoder'), RowKey('gradient_norms', 'transformer'))
            >>> batch = Batch(0, keys, np.zeros((2, 6)))
            >>> [key.name for key in sharded.whole([batch])[0].keys]
            ['transformer']
            >>> len(sharded.whole([batch, batch])[1].keys)
            2
        """
        if not self.keys:
            return batches
        senders: Counter[RowKey] = Counter()
        for batch in batches:
            senders.update({key._replace(part='') for key in batch.keys if self._is_partial(key)})
        missing = {key for key, count in senders.items() if count < self._world_size}
        return [_without(batch, missing) for batch in batches] if missing else batches

    def _is_partial(self, key: RowKey) -> bool:
        return key.metric in self._metrics and (key.name, key.task_id) in self.keys


def _without(batch: Batch, missing: Collection[RowKey]) -> Batch:
    kept = [index for index, key in enumerate(batch.keys) if key._replace(part='') not in missing]
    return Batch(batch.iteration, tuple(batch.keys[index] for index in kept), batch.rows[kept], batch.vectors)
