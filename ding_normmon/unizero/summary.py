"""What a run prints at its end: a table of the tasks, and where to look next."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ding_normmon.unizero.middleware.return_tracker import TaskReturns

__all__ = ['event_files', 'print_summary']

ENDINGS = {'finished': 'finished', 'time': 'stopped: the time is up', 'interrupted': 'stopped by a signal'}


def print_summary(
    tasks: Sequence[TaskReturns],
    iterations: int,
    environment_steps: int,
    seconds: float,
    stop_reason: str,
    folder: Path,
    checkpoint: Path,
    console: Console | None = None,
) -> None:
    """Print how every task fared.

    Arguments:
        tasks: the returns of every task, by global task id.
        iterations: learner iterations so far.
        environment_steps: environment steps so far, of all tasks and ranks.
        seconds: wall clock of this process.
        stop_reason: ``'finished'``, ``'time'`` or ``'interrupted'``.
        folder: the run's folder.
        checkpoint: the newest checkpoint.
        console: where to print; standard output by default.
    """
    console = console or Console(width=None if sys.stdout.isatty() else 120, soft_wrap=True)
    table = Table(title=f'{ENDINGS.get(stop_reason, "ended")} after {iterations} iterations, {seconds:.0f} s')
    table.add_column('task')
    for heading in ('train return', 'evaluation', 'random policy', 'episodes'):
        table.add_column(heading, justify='right')
    for number, task in enumerate(tasks):
        figures = (task.trained, task.evaluated, task.random)
        table.add_row(f'{number} {task.name}', *map(_show, figures), str(task.episodes))
    console.print(table)
    window = tasks[0].recent.maxlen if tasks else 0
    console.print(f'train return: mean of the last {window} episodes; {environment_steps} environment steps in all')
    for path in event_files(folder):
        console.print(f'event file:   {path}', highlight=False)
    console.print(f'checkpoint:   {checkpoint}', highlight=False)
    console.print(f'to look:      tensorboard --logdir {folder}', highlight=False)


def event_files(folder: Path) -> list[Path]:
    """Return the event files of a run, the oldest first."""
    return sorted(folder.rglob('events.out.tfevents.*'), key=lambda path: path.stat().st_mtime)


def _show(value: float | None) -> str:
    return '-' if value is None else f'{value:.2f}'
