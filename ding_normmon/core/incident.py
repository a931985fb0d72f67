"""An incident: the steps around something that went wrong, and what left its level first."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ding_normmon.core.plain_text import plain

__all__ = ['STAGES', 'DenseWindow', 'Departure', 'Incident', 'call_departure', 'leading', 'picture', 'tell_incident']

STAGES = (
    'learning rate',
    'data',
    'signals',
    'loss',
    'head gradient',
    'shared gradient',
    'clipping',
    'weights',
)
"""Parts of a learner step, from cause to effect."""


@dataclass(frozen=True)
class DenseWindow:
    """The figures of many learner steps in a row.

    Arguments:
        names: of the figures, M of them; ``parameter/grad/{group}/{path}`` is the gradient norm of one parameter.
        iterations: int64, shape (N,), ascending.
        values: float64, shape (N, M); NaN if a step has no such figure.

    Example:
        >>> window = DenseWindow(('loss',), np.array([8, 16]), np.array([[1.0], [2.0]]))
        >>> window.values[window.iterations == 16, 0].tolist()
        [2.0]
    """

    names: tuple[str, ...] = ()
    iterations: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    values: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))


@dataclass(frozen=True)
class Departure:
    """The moment at which a figure left its usual level.

    Arguments:
        iteration: first watched step in which it did.
        stage: one of :data:`STAGES`.
        metric: name of the figure.
        task: global task id if the figure belongs to one task, else None.
        value: the figure in that step; NaN if entries were NaN or infinite.
        usual: its level before.
        ratio: value over level (for weights: change over usual change); infinite if the value was not finite.
    """

    iteration: int
    stage: str
    metric: str
    task: int | None
    value: float
    usual: float
    ratio: float


@dataclass(frozen=True)
class Incident:
    """Something that went wrong, with the watched steps around it.

    Arguments:
        number: of the run's incidents, beginning with 1.
        opened: iteration of the watched step that opened it.
        since: iteration in which the first figure left its level; ``opened`` where none did.
        kind: ``'finding'``, ``'invariant'``, ``'non-finite'``, ``'exception'`` or ``'death'``.
        reason: what opened it, as a sentence.
        first: figures that left their level, in order of time.
        task: global id of the task in which it began; None if it began in no single task.
        task_name: its name.
        group: the first parameter group or signal that left its level.
        parameter: the parameter whose gradient or weights left their level first, ``{group}/{path}``.
        figures: losses, data figures, clip coefficients and skipped steps of the step that opened it.
        every: iterations from one watched step to the next.
        window: the watched steps, up to 256 before and 64 after.
    """

    number: int
    opened: int
    since: int
    kind: str
    reason: str
    first: tuple[Departure, ...] = ()
    task: int | None = None
    task_name: str = ''
    group: str = ''
    parameter: str = ''
    figures: Mapping[str, float] = field(default_factory=dict)
    every: int = 0
    window: DenseWindow = field(default_factory=DenseWindow, compare=False)


def call_departure(departure: Departure) -> str:
    """Return a departure as the end of a sentence.

    Example:
        >>> call_departure(Departure(16, 'loss', 'noreduce_value_loss_task1', 1, 8.0, 2.0, 4.0))
        'loss: noreduce_value_loss_task1 was 8, 4 times its level of 2'
    """
    if not np.isfinite(departure.ratio):
        return f'{departure.stage}: {departure.metric} was NaN or infinite'
    how = 'changed by' if departure.stage == 'weights' else 'was'
    what = 'the usual' if departure.stage == 'weights' else 'its level of'
    return (
        f'{departure.stage}: {departure.metric} {how} {departure.value:.3g}, {departure.ratio:.3g} times {what} '
        f'{departure.usual:.3g}'
    )


def tell_incident(incident: Incident, most: int = 8) -> list[str]:
    """Return an incident as lines of text: its cause, where it began, and the first departures.

    Arguments:
        incident: the incident.
        most: number of departures that are shown.

    Example:
        >>> first = Departure(16, 'loss', 'noreduce_value_loss_task1', 1, 8.0, 2.0, 4.0)
        >>> incident = Incident(1, 24, 16, 'finding', 'The loss of task 1 jumps.', (first,), 1, 'Pong', 'value loss')
        >>> print(*tell_incident(incident), sep='\\n')
        incident 1, iteration 24, since 16 (finding): The loss of task 1 jumps.
          it began with task 1 (Pong): value loss
          first  iteration 16  loss: noreduce_value_loss_task1 was 8, 4 times its level of 2
    """
    since = f', since {incident.since}' if incident.since != incident.opened else ''
    lines = [f'incident {incident.number}, iteration {incident.opened}{since} ({incident.kind}): {incident.reason}']
    if incident.first:
        name = f' ({incident.task_name})' if incident.task_name not in ('', f'task {incident.task}') else ''
        whose = 'no single task' if incident.task is None else f'task {incident.task}{name}'
        what = ', '.join(part for part in (incident.group, incident.parameter) if part)
        lines.append(f'  it began with {whose}{": " if what else ""}{what}')
    elif incident.kind != 'exception':
        lines.append('  no figure had left its level in the watched steps before')
    shown = leading(incident.first)
    for place, departure in enumerate(shown[:most]):
        later = place > 0 and departure.iteration > shown[place - 1].iteration
        order = 'first' if place == 0 else 'then ' if later else '     '
        drawn = picture(incident, departure.metric)
        lines.append(f'  {order}  iteration {departure.iteration}  {drawn}{call_departure(departure)}')
    if len(shown) > most:
        lines.append(f'  and {len(shown) - most} more')
    return [plain(line) for line in lines]


def leading(departures: Iterable[Departure]) -> list[Departure]:
    """Return the first and largest departure of each stage and task, without figures over all tasks that repeat one.

    Example:
        >>> both = [Departure(8, 'loss', f'noreduce_{name}_loss_task1', 1, 8.0, 2.0, 4.0) for name in ('value', 'obs')]
        >>> [departure.metric for departure in leading(both)]
        ['noreduce_value_loss_task1']
    """
    found: dict[tuple[str, int | None], Departure] = {}
    for departure in departures:
        earlier = found.get((departure.stage, departure.task))
        if earlier is None or (earlier.iteration == departure.iteration and departure.ratio > earlier.ratio):
            found[departure.stage, departure.task] = departure
    of_tasks = {stage for stage, task in found if task is not None}
    return [entry for (stage, task), entry in found.items() if task is not None or stage not in of_tasks & _PER_TASK]


_PER_TASK = {'data', 'signals', 'loss', 'head gradient'}
_DRAWN = 16
_BLOCKS = '▁▂▃▄▅▆▇█'


def picture(incident: Incident, metric: str) -> str:
    """Return a figure in the watched steps around an incident as a line of blocks, on a logarithmic scale.

    Example:
        >>> window = DenseWindow(('loss',), np.arange(4), np.array([[1.0], [1.0], [100.0], [10.0]]))
        >>> picture(Incident(1, 3, 2, 'finding', 'Odd.', window=window), 'loss')
        '▁▁█▅  '
    """
    window = incident.window
    if metric not in window.names:
        return ''
    stop = int(np.searchsorted(window.iterations, incident.opened, side='right')) + _DRAWN // 4
    values = np.abs(window.values[max(0, stop - _DRAWN) : stop, window.names.index(metric)])
    known = values[np.isfinite(values) & (values > 0)]
    if not len(known):
        return ''
    low, high = math.log(known.min()), math.log(known.max())
    scale = (len(_BLOCKS) - 1) / max(high - low, 0.2)
    drawn = [
        '!' if math.isinf(value) else ' ' if math.isnan(value) else _BLOCKS[0] if value <= 0
        else _BLOCKS[round((math.log(value) - low) * scale)]
        for value in values.tolist()
    ]
    return f'{"".join(drawn)}  '
