"""Faults of one rank: the second half of the tasks is what another rank would train.

What ranks have to agree on (weights, gradients, batches) is checked by invariants on real ranks
(``python -m benchmarks.silent_errors``); here is what one rank alone does wrong to its tasks.
"""

from __future__ import annotations

import numpy as np

from benchmarks.faults.kinds.fault import Batches
from benchmarks.faults.kinds.losses import _TaskWeight


class RankStops(_TaskWeight):
    """A rank delivers no more batches."""

    scopes = ('rank',)

    def alter(self, data: Batches) -> Batches:
        return [batch for batch in data if batch[2] not in self.tasks]


class RankWeight(_TaskWeight):
    """A rank's losses are summed over its batch where the other ranks average."""

    scopes = ('rank',)
    strengths = (8.0, 64.0)

    def begin(self) -> None:
        self.set_weight(self.strength)


class RankPixels(_TaskWeight):
    """A rank's observations are not normalised."""

    scopes = ('rank',)
    strengths = (10.0, 255.0)

    def alter(self, data: Batches) -> Batches:
        def change(current: list[object], _: list[object]) -> None:
            current[0] = np.asarray(current[0], np.float32) * self.strength

        return self.replaced(data, change)
