"""Middleware that shows, on rank 0, how far the run has come."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable

from ding.framework.context import OnlineRLContext
from rich.console import RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from ding_normmon.core.terminal import terminal_width, wrapped
from ding_normmon.runs.terminal import make_console
from ding_normmon.unizero.middleware.returns import ReturnTracker, TaskReturns
from ding_normmon.unizero.ranks import rank

__all__ = ['Progress']


class Progress:
    """Show iteration, speed, time left and returns: a bar on a terminal, else lines every ``seconds``.

    Returns stand behind the global ids of their tasks; the names are printed once, when the run begins.

    Arguments:
        returns: the tracker whose figures are shown.
        max_train_iter: the iteration at which training ends; None if it has no end.
        seconds: time between two reports without a terminal.
        seconds_left: returns the seconds until a time limit; None if there is none.
    """

    def __init__(
        self,
        returns: ReturnTracker,
        max_train_iter: int | None,
        seconds: float = 10.0,
        seconds_left: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._returns = returns
        self._max_train_iter = max_train_iter
        self._seconds = seconds
        self._seconds_left = seconds_left
        self._last_line = -float('inf')
        self._began: tuple[float, int] | None = None
        self._mark: tuple[float, int] | None = None
        self._speed = 0.0
        self._bar: RichProgress | None = None
        self._is_visible = rank() == 0

    def start(self, ctx: OnlineRLContext) -> None:
        """Show the first line, and measure speed from here."""
        self._began = self._mark = (time.monotonic(), ctx.train_iter)
        if self._is_visible and sys.stdout.isatty():
            self._bar = _Bar(
                TextColumn('iteration'),
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TextColumn('{task.fields[speed]}'),
                console=make_console(),
                transient=False,
            )
            self._row = self._bar.add_task('', total=self._max_train_iter, speed='', returns='')
            self._bar.start()
        self(ctx)

    def __call__(self, ctx: OnlineRLContext) -> None:
        if not self._is_visible:
            return
        self._measure_speed(ctx.train_iter)
        speed = f'{self._speed:.1f} steps/s  {self._left(ctx.train_iter)} left'
        returns = '  '.join(f'{number} {describe(task)}' for number, task in enumerate(self._returns.tasks))
        if self._bar is not None:
            self._bar.update(self._row, completed=ctx.train_iter, speed=speed, returns=returns)
            return
        now = time.monotonic()
        if now - self._last_line >= self._seconds or bool(getattr(ctx, 'stop_reason', None)):
            self._last_line = now
            of = '' if self._max_train_iter is None else f'/{self._max_train_iter}'
            print(_fitted(f'iteration {ctx.train_iter}{of}  {speed}', f'return {returns}'), flush=True)

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

    def _left(self, iteration: int) -> str:
        """Return the time until the last iteration or the time limit, whichever is first."""
        limits = [self._seconds_left()]
        if self._began is not None and self._max_train_iter is not None and iteration > self._began[1]:
            since, first = self._began
            # Over the whole run: single loops differ much, because some of them evaluate.
            limits.append((self._max_train_iter - iteration) * (time.monotonic() - since) / (iteration - first))
        known = [limit for limit in limits if limit is not None]
        if not known:
            return '-'
        minutes, seconds = divmod(round(max(0.0, min(known))), 60)
        return f'{minutes}:{seconds:02d}' if minutes < 60 else f'{minutes // 60}:{minutes % 60:02d}:{seconds:02d}'


class _Bar(RichProgress):
    """A progress bar with the returns below it, broken into as many lines as the terminal needs."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        for task in self.tasks:
            if task.fields['returns']:
                yield Text(f'return {task.fields["returns"]}')


def describe(task: TaskReturns) -> str:
    """Return a task's latest training return as text."""
    return '-' if task.trained is None else f'{task.trained:.2f}'


def _fitted(begin: str, returns: str) -> str:
    """Return both on one line if they fit, else the returns below; a task and its return stay together."""
    width = terminal_width()
    if len(begin) + 2 + len(returns) <= width:
        return f'{begin}  {returns}'
    # A space that does not break a line stands between a task and its return.
    kept = returns.replace('  ', '\n').replace(' ', '\xa0').replace('\n', '  ')
    return f'{begin}\n{wrapped(kept, width, "  ", "    ")}'.replace('\xa0', ' ')
