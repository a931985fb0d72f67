"""Middleware that stops all ranks in the same loop: at the last iteration, a time limit, a signal or a finding."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from ding.framework import task
from ding.framework.context import OnlineRLContext

from ding_normmon.unizero.ranks import gather_objects

__all__ = ['FinishWhenAgreed', 'InterruptFlag', 'StopAgreement']

FORCE_AFTER_SECONDS = 2.0
"""Seconds after which another signal counts as the second: torchrun and the terminal may both deliver one Ctrl-C."""


class InterruptFlag:
    """A flag set by SIGINT and SIGTERM, so that a loop can end at a safe point.

    A second Ctrl-C, a moment after the first, interrupts at once.
    """

    def __init__(self) -> None:
        self._since: float | None = None
        self._previous: dict[int, Any] = {}

    def __bool__(self) -> bool:
        return self._since is not None

    def install(self) -> None:
        """Handle both signals; does nothing outside the main thread, where that is impossible."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._raise)

    def uninstall(self) -> None:
        """Restore the previous handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _raise(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._since is None:
            self._since = now
        elif now - self._since > FORCE_AFTER_SECONDS:
            raise KeyboardInterrupt


class StopAgreement:
    """Set ``ctx.stop_reason`` on every rank as soon as one rank has a reason; '' means continue.

    One exchange per loop. Reasons: ``'finished'`` (the last iteration is done), ``'time'``, ``'interrupted'``,
    ``'finding'`` (the monitor asked for it).

    Arguments:
        max_train_iter: learner iteration to stop at; None for no limit.
        max_minutes: minutes after which to stop; 0 for no limit.
        is_interrupted: returns whether this rank has been asked to stop.
    """

    def __init__(
        self,
        max_train_iter: int | None,
        max_minutes: float = 0.0,
        is_interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        self._max_train_iter = max_train_iter
        self._max_seconds = 60.0 * max_minutes
        self._is_interrupted = is_interrupted
        self._start = time.monotonic()
        self._is_asked = False

    def seconds_left(self) -> float | None:
        """Return the seconds until the time limit; None if there is none."""
        return max(0.0, self._start + self._max_seconds - time.monotonic()) if self._max_seconds else None

    def ask(self, ctx: OnlineRLContext) -> None:
        """Request a stop at the end of this loop because of a finding; one rank is enough."""
        self._is_asked = True

    def __call__(self, ctx: OnlineRLContext) -> None:
        reasons = gather_objects(self._reason(ctx))
        order = ('interrupted', 'finding', 'finished', 'time')
        ctx.stop_reason = next((name for name in order if name in reasons), '')

    def _reason(self, ctx: OnlineRLContext) -> str:
        if self._is_interrupted():
            return 'interrupted'
        if self._is_asked:
            return 'finding'
        if self._max_train_iter is not None and ctx.train_iter >= self._max_train_iter:
            return 'finished'
        if self._max_seconds and time.monotonic() - self._start >= self._max_seconds:
            return 'time'
        return ''


class FinishWhenAgreed:
    """Finish the task when there is a ``ctx.stop_reason``.

    It must be the last middleware of a loop: DI-engine's logger closes its writer as soon as the task is finished, and
    a later write would open a second event file.
    """

    def __call__(self, ctx: OnlineRLContext) -> None:
        if getattr(ctx, 'stop_reason', ''):
            task.finish = True
