"""Middleware that shows, on rank 0, how far the run has come."""

from __future__ import annotations

import sys
import time

from ding.framework.context import OnlineRLContext
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from ding_normmon.unizero.middleware.returns import ReturnTracker, TaskReturns
from ding_normmon.unizero.ranks import rank

__all__ = ['Progress']


class Progress:
    """Show iteration, learner steps per second and returns: a bar on a terminal, else a line every ``seconds``.

    Arguments:
        returns: the tracker whose figures are shown.
        max_train_iter: the iteration at which training ends; None if it has no end.
        seconds: time between two plain lines.
    """

    def __init__(self, returns: ReturnTracker, max_train_iter: int | None, seconds: float = 10.0) -> None:
        self._returns = returns
        self._max_train_iter = max_train_iter
        self._seconds = seconds
        self._last_line = -float('inf')
        self._mark: tuple[float, int] | None = None
        self._speed = 0.0
        self._bar: RichProgress | None = None
        self._is_visible = rank() == 0

    def start(self, ctx: OnlineRLContext) -> None:
        """Show the first line, and measure speed from here."""
        self._mark = (time.monotonic(), ctx.train_iter)
        if self._is_visible and sys.stdout.isatty():
            self._bar = RichProgress(
                TextColumn('iteration'),
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TextColumn('{task.fields[speed]:.1f} steps/s'),
                TimeElapsedColumn(),
                TextColumn('{task.fields[returns]}'),
                console=Console(),
                transient=False,
            )
            self._row = self._bar.add_task('', total=self._max_train_iter, speed=0.0, returns='')
            self._bar.start()
        self(ctx)

    def __call__(self, ctx: OnlineRLContext) -> None:
        if not self._is_visible:
            return
        self._measure_speed(ctx.train_iter)
        returns = '  '.join(f'{task.name} {describe(task)}' for task in self._returns.tasks)
        if self._bar is not None:
            self._bar.update(self._row, completed=ctx.train_iter, speed=self._speed, returns=returns)
            return
        now = time.monotonic()
        if now - self._last_line >= self._seconds or bool(getattr(ctx, 'stop_reason', None)):
            self._last_line = now
            of = '' if self._max_train_iter is None else f'/{self._max_train_iter}'
            print(f'iteration {ctx.train_iter}{of}  {self._speed:.1f} steps/s  return: {returns}', flush=True)

    def close(self) -> None:
        """Remove the bar from the terminal."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _measure_speed(self, iteration: int) -> None:
        """Learner steps per second of wall clock, collection included, over about the last ten seconds."""
        now = time.monotonic()
        if self._mark is None:
            self._mark = (now, iteration)
        since, first = self._mark
        if now > since:
            self._speed = (iteration - first) / (now - since)
        if now - since > self._seconds:
            self._mark = (now, iteration)


def describe(task: TaskReturns) -> str:
    """Return a task's latest training return as text."""
    return '-' if task.trained is None else f'{task.trained:.2f}'
