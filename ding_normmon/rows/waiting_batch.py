"""A batch whose rows are named later, off the learner's thread."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ding_normmon.rows.table import Batch

__all__ = ['WaitingBatch']


class WaitingBatch:
    """A batch that is made when somebody asks for it first: the learner does not wait for the names of its numbers.

    Arguments:
        make: makes it; called once, in whichever thread asks first.
        nbytes: bytes of its numbers.

    Example:
        >>> import numpy as np
        >>> waiting = WaitingBatch(lambda: Batch(5, (), np.zeros((0, 6))))
        >>> waiting.is_made, waiting.get().iteration, waiting.is_made
        (False, 5, True)
    """

    def __init__(self, make: Callable[[], Batch], nbytes: int = 0) -> None:
        self.nbytes = nbytes
        self._make: Callable[[], Batch] | None = make
        self._lock = threading.Lock()
        self._batch: Batch | None = None

    @property
    def is_made(self) -> bool:
        """Whether somebody has asked."""
        return self._batch is not None

    def get(self) -> Batch:
        """Return the batch."""
        with self._lock:
            if self._batch is None:
                assert self._make is not None
                self._batch, self._make = self._make(), None
            return self._batch
