"""A run in the terminal, while it trains."""

from __future__ import annotations

import sys

import numpy as np
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from ding_normmon.core.plain_text import plain
from ding_normmon.core.terminal import WIDTH, drop_output, has_colours, terminal_width, time_text
from ding_normmon.runs.finding_groups import group_findings
from ding_normmon.runs.run import Run, Series
from ding_normmon.runs.state import RunState

__all__ = ['COLOURS', 'frame', 'make_console', 'sparkline']

COLOURS = {'info': 'blue', 'warning': 'yellow', 'error': 'red'}
"""Of the severities of findings."""

_BARS = '▁▂▃▄▅▆▇█'
_WIDTH = 14


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """End in order: whoever reads has seen enough."""
        self.quiet = True
        drop_output(self.file)
        raise SystemExit


def make_console() -> Console:
    """Return a console on standard output: as wide as the terminal, and without colours if they are not wanted."""
    return _Console(
        color_system='auto' if has_colours(sys.stdout) else None, width=terminal_width(), highlight=False
    )


def sparkline(
    values: np.ndarray[tuple[int, ...], np.dtype[np.float64]], width: int = _WIDTH
) -> str:
    """Return a curve in one line of text.

    Arguments:
        values: the curve.
        width: most characters.

    Example:
        >>> sparkline(np.array([0.0, 1.0, 2.0, 3.0]), 4)
        '▁▃▆█'
    """
    finite = values[np.isfinite(values)]
    if not finite.size:
        return ''
    parts = np.array_split(finite, min(width, finite.size))
    # Halves: neither the sum of two values nor their difference may overflow.
    levels = np.array([float(np.median(part / 2)) for part in parts]) / 2
    low, high = levels.min(), levels.max()
    steps = np.zeros(len(levels)) if high <= low else (levels - low) / (high - low)
    return ''.join(_BARS[round(float(step) * (len(_BARS) - 1))] for step in steps)


def frame(run: Run, state: RunState, width: int = WIDTH) -> RenderableType:
    """Return what the terminal shows of a run: its state, tasks, shared modules and findings.

    Arguments:
        run: the run.
        state: whether it is still being written.
        width: columns of the terminal.
    """
    room = min(_WIDTH, max(1, (width - 14) // 4 - 11))

    def cell(*names: str) -> str:
        series = next((run.series[name] for name in names if name in run.series), None)
        if series is None or not len(series.values):
            return f'{"-":>8}'
        return f'{series.values[-1]:>8.3g} {sparkline(series.values[-200:], room)}'

    reference = run.series.get('grad/model/_total_norm') or next(iter(run.series.values()), None)
    steps = f'iteration {int(reference.iterations[-1])}, {_speed(reference)}, ' if reference is not None else ''
    parts: list[RenderableType] = [
        Text.assemble((plain(run.name, 60), 'bold'), '  ', (f'{steps}{_told(state)}', _STYLES.get(state.name, '')))
    ]
    tasks = Table('task', 'return', 'value loss', 'value grad', 'policy grad', expand=True, box=box.SIMPLE)
    for task_id, name in run.tasks.items():
        parts.append(Text(f'  {task_id} {plain(name, 200)}'))
        metrics = (
            f'noreduce_value_loss_task{task_id}',
            f'grad/head_value_task{task_id}/_total_norm',
            f'grad/head_policy_task{task_id}/_total_norm',
        )
        returns = (f'collect/{name}/{what}' for what in ('mean_return', 'return'))
        tasks.add_row(str(task_id), cell(*returns), *map(cell, metrics))
    shared = Table('shared', 'parameter norm', 'gradient norm', expand=True, box=box.SIMPLE)
    for group in ('encoder', 'transformer', 'model'):
        names = (f'norm/{group}/_total_norm', f'grad/{group}/_total_norm')
        if any(name in run.series for name in names):
            shared.add_row(group, *map(cell, names))
    return Group(*parts, *([tasks] if run.tasks else []), *([shared] if shared.rows else []), *_findings(run))


_STYLES = {'silent': 'yellow', 'died': 'bold red', 'ended': 'bold'}


def _told(state: RunState) -> str:
    """Return a state in words.

    >>> _told(RunState('silent', 500.0)), _told(RunState('ended'))
    ('silent for 8 min 20 s', 'ended')
    """
    ago = time_text(state.silent)
    last = {'ended': '', 'silent': f' for {ago}'}.get(state.name, f', last point {ago} ago')
    return f'{state.name}{last}'


def _speed(series: Series) -> str:
    seconds = float(series.times[-1] - series.times[0])
    steps = int(series.iterations[-1]) - int(series.iterations[0])
    return f'{steps / seconds if seconds > 0 else 0.0:.1f} steps/s'


def _findings(run: Run) -> list[RenderableType]:
    """Return the active findings by rule, each rule's advice once, and how many have cleared."""
    active = [finding for finding in run.findings if finding.is_active]
    lines = []
    for group in group_findings(active):
        lines.append(Text.assemble((group.severity, COLOURS[group.severity]), f' {plain(group.rule, 100)}'))
        lines += [Text(f'  {plain(finding.sentence)} (since {finding.since})') for finding in group.findings]
        lines += [Text(f'  To try: {plain(advice)}') for advice in group.advice]
    cleared = len(run.findings) - len(active)
    return [Text(f'findings: {len(active) or "none"} active, {cleared} cleared', style='bold'), *lines]
