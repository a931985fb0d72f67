"""Saying that nothing was measured, and why that probably is."""

from __future__ import annotations

import logging
import weakref
from typing import Any

__all__ = ['NothingMeasured']

logger = logging.getLogger('ding_normmon')


class NothingMeasured:
    """Logs one warning when its owner is closed, is let go of or the process ends, unless something was measured.

    Arguments:
        owner: whose end it is; it is not kept alive.
        cause: the likely cause, as a sentence, and what to do.

    Attributes:
        cause: the likely cause as things stand; None where all is well.
    """

    def __init__(self, owner: Any, cause: str | None) -> None:
        self.cause = cause
        self._end = weakref.finalize(owner, _Warning(self))

    def say(self) -> None:
        """Log it now, if it has not been logged."""
        self._end()


class _Warning:
    def __init__(self, nothing: NothingMeasured) -> None:
        self._nothing = nothing

    def __call__(self) -> None:
        if self._nothing.cause is not None:
            logger.warning('monitor: nothing was measured: %s', self._nothing.cause)
