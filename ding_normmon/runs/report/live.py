"""A run in the terminal, while it trains."""

from __future__ import annotations

import time

import numpy as np
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ding_normmon.core.plain_text import plain
from ding_normmon.runs import Run, Series

__all__ = ['frame', 'sparkline']

_BARS = '▁▂▃▄▅▆▇█'
_COLOURS = {'info': 'blue', 'warning': 'yellow', 'error': 'red'}
_WIDTH = 14


def sparkline(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]], width: int = _WIDTH) -> str:
    """Return a curve in one line of text.

    Example:
        >>> sparkline(np.array([0.0, 1.0, 2.0, 3.0]), 4)
        '▁▃▆█'
    """
    finite = values[np.isfinite(values)]
    if not finite.size:
        return ''
    parts = np.array_split(finite, min(width, finite.size))
    levels = np.array([float(np.median(part)) for part in parts])
    low, high = levels.min(), levels.max()
    steps = np.zeros(len(levels)) if high <= low else (levels - low) / (high - low)
    return ''.join(_BARS[round(float(step) * (len(_BARS) - 1))] for step in steps)


def frame(run: Run, now: float | None = None) -> RenderableType:
    """Return what the terminal shows of a run: tasks, shared modules, findings."""
    now = time.time() if now is None else now
    latest = max((float(series.times[-1]) for series in run.series.values()), default=now)
    reference = run.series.get('grad/model/_total_norm') or next(iter(run.series.values()))
    seconds = float(reference.times[-1] - reference.times[0])
    speed = (int(reference.iterations[-1]) - int(reference.iterations[0])) / seconds if seconds > 0 else 0.0
    age = max(0.0, now - latest)
    at = int(reference.iterations[-1])
    title = f'{plain(run.name, 200)}   iteration {at}   {speed:.1f}/s   last point {age:.0f} s ago'

    tasks = Table(expand=True)
    for heading in ('task', 'return', 'value loss', 'grad head_value', 'grad head_policy'):
        tasks.add_column(heading, overflow='fold')
    for task_id, name in run.tasks.items():
        metrics = (
            f'collect/{name}/return',
            f'noreduce_value_loss_task{task_id}',
            f'grad/head_value_task{task_id}/_total_norm',
            f'grad/head_policy_task{task_id}/_total_norm',
        )
        tasks.add_row(Text(plain(f'{task_id} {name}', 200)), *(_cell(run.series.get(metric)) for metric in metrics))
    shared = Table(expand=True)
    for heading in ('shared', 'parameter norm', 'gradient norm'):
        shared.add_column(heading)
    for group in ('encoder', 'transformer', 'model'):
        names = (f'norm/{group}/_total_norm', f'grad/{group}/_total_norm')
        if any(name in run.series for name in names):
            shared.add_row(group, *(_cell(run.series.get(name)) for name in names))
    found = [finding for finding in run.findings if finding.is_active]
    lines = [
        Text.assemble(
            (finding.severity, _COLOURS[finding.severity]),
            f' {plain(finding.sentence)} ({plain(finding.rule, 100)}, {finding.found})',
        )
        for finding in sorted(found, key=lambda finding: -finding.found)[:8]
    ]
    parts: list[RenderableType] = [tasks] if run.tasks else []
    parts += [shared, Panel(Group(*lines) if lines else Text('no findings'), title='findings')]
    return Panel(Group(*parts), title=Text(title))


def _cell(series: Series | None) -> str:
    if series is None or not len(series.values):
        return '-'
    return f'{series.values[-1]:.3g} {sparkline(series.values[-200:])}'
