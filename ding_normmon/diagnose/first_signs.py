r"""What came first: the order in which the figures of a run left their level around an incident.

A figure has left its level where it is not finite, or where it has jumped to more than 1.5 times what it was in the two
steps before, and is above

.. math:: \max\bigl(3 m,\; m + 8 s,\; 1.5 h\bigr)

with :math:`m` the median of its past, :math:`s` the past's spread (1.4826 times the median absolute deviation) and
:math:`h` the largest value of the past. Of weights it is not the norm but its change from one watched step to the next.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from ding_normmon.core.incident import STAGES, DenseWindow, Departure
from ding_normmon.core.metric_names import task_in, without_task

__all__ = ['PARAMETERS', 'in_order', 'left_levels', 'stage_of', 'what_came_first', 'without_parameters']

PARAMETERS = 'parameter/'
"""How the names of figures of single parameters begin."""

_PAST = 64
_FEWEST = 6
_GUARD = 12
_GAP, _BACK = 6, 12
_RATIO = 3.0
_ABOVE, _JUMP = 1.5, 1.5
_SPREADS = 8.0
_MOST = 48
_NONFINITE = 'monitor/nonfinite/'

_STAGES = (
    ('learning_rate/', 'learning rate'),
    ('data/', 'data'),
    ('inputs/', 'data'),
    ('embeddings/', 'signals'),
    ('norm/x_token', 'signals'),
    ('logits/', 'signals'),
    ('noreduce_', 'loss'),
    ('loss/', 'loss'),
    ('grad/', 'gradient'),
    ('norm/', 'weights'),
)


def stage_of(name: str) -> str | None:
    """Return the stage of a learner step that a figure belongs to; None for one that says nothing about causes.

    Example:
        >>> [stage_of(name) for name in ('data/reward_task1/max', 'grad/head_value_task1/_total_norm', 'grad/model/x')]
        ['data', 'head gradient', 'shared gradient']
        >>> stage_of('monitor/nonfinite/noreduce_obs_loss_task0'), stage_of('monitor/cost/ms')
        ('loss', None)
    """
    inner = name.removeprefix(_NONFINITE).removeprefix(PARAMETERS)
    found = next((stage for beginning, stage in _STAGES if inner.startswith(beginning)), None)
    if found == 'gradient':
        return 'shared gradient' if task_in(inner) is None else 'head gradient'
    return found


def _is_compared(name: str) -> bool:
    # What is signed crosses 0, and what is over all tasks tells of no task.
    return not name.endswith(('/min', '_min', '/features', '/batch_size')) and '_all_tasks/' not in name


def what_came_first(window: DenseWindow, opened: int) -> tuple[Departure, ...]:
    """Return what left its level around the step ``opened``, in that order; within a step causes before consequences.

    Arguments:
        window: the watched steps around it.
        opened: iteration of the step in which something was noticed.

    Example:
        >>> steps = np.arange(40)
        >>> values = np.stack([1 + 0.1 * np.sin(steps), 5 + 0.1 * np.cos(steps)], 1)
        >>> values[30:33, 1], values[31:33, 0] = 500.0, 90.0
        >>> window = DenseWindow(('grad/encoder/_total_norm', 'noreduce_value_loss_task1'), steps, values)
        >>> [(departure.iteration, departure.stage, departure.task) for departure in what_came_first(window, 32)]
        [(30, 'loss', 1), (31, 'shared gradient', None)]
    """
    return without_parameters(left_levels(window, opened))


def without_parameters(found: Iterable[Departure]) -> tuple[Departure, ...]:
    """Return the first of these departures that are not of single parameters."""
    return tuple(entry for entry in found if not entry.metric.startswith(PARAMETERS))[:_MOST]


def left_levels(window: DenseWindow, opened: int, has_ended: bool = False) -> list[Departure]:
    """Return all that left its level around a step, also of single parameters, in that order.

    Arguments:
        window: the watched steps around it.
        opened: iteration of the step in which something was noticed.
        has_ended: whether the run ended there.
    """
    stages = [stage_of(name) if _is_compared(name) else None for name in window.names]
    chosen = [place for place, stage in enumerate(stages) if stage is not None]
    until = int(np.searchsorted(window.iterations, opened, side='right')) - 1
    if not chosen or until < 0:
        return []
    names = [window.names[place] for place in chosen]
    values = np.abs(window.values[:, chosen])
    counted = np.array([name.startswith(_NONFINITE) for name in names])
    of_weights = np.array([stages[place] == 'weights' for place in chosen]) & ~counted
    compared = values.copy()
    with np.errstate(invalid='ignore'):
        compared[1:, of_weights] = np.abs(np.diff(window.values[:, chosen], axis=0))[:, of_weights]
    compared[:1, of_weights] = np.nan
    stop = max(until - _GUARD, min(until, max(_FEWEST, until // 2)))
    past = compared[max(0, stop - _PAST) : stop]
    usual, limit = _limits(past)
    never = np.nan_to_num(past).max(0, initial=0.0) == 0.0
    limit[never] = _ABOVE * _highest_of_family(names, past)[never]
    with np.errstate(invalid='ignore'):
        jumped = _jumps(compared, compared > limit)
        # Where nothing has jumped, what has grown slowly is all there is.
        left = jumped if jumped[until + 1 - min(until + 1, _BACK) : until + 1].any() else compared > limit
    # What was not finite all the time, such as the logits of actions that are impossible, is no sign.
    before = np.nan_to_num(values[:stop][:, counted]) > 0
    left[:, counted] = (np.nan_to_num(values[:, counted]) > 0) & ~before.any(0)
    if has_ended:
        # What was back at its level in the last step did not end the run; the change of weights is over in one step.
        left &= of_weights | np.where(counted, left[until], compared[until] > limit)
    start = _beginning(left, until)
    entries = []
    for column in np.flatnonzero(left[start:].any(0)).tolist():
        row = start + int(left[start:, column].argmax())
        value, level = float(compared[row, column]), float(usual[column])
        ratio = math.inf if counted[column] else value / max(abs(level), 1e-30)
        name = names[column]
        entries.append(
            Departure(
                int(window.iterations[row]),
                str(stages[chosen[column]]),
                name.removeprefix(_NONFINITE) if counted[column] else name,
                task_in(name),
                math.nan if counted[column] else value,
                math.nan if counted[column] else level,
                ratio,
            )
        )
    # Nothing that is measured raises a learning rate: what had left its level before did so by itself.
    raised = min((entry.iteration for entry in entries if entry.stage == 'learning rate'), default=None)
    if raised is not None:
        entries = [entry for entry in entries if entry.iteration >= raised or math.isinf(entry.ratio)]
    return sorted(entries, key=in_order)


def _jumps(values: npt.NDArray[np.float64], left: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return where figures jump off their level: a trend of a run that learns is no departure."""
    before = np.zeros_like(values)
    known = np.nan_to_num(values, posinf=np.inf, neginf=-np.inf)
    before[1:] = known[:-1]
    before[2:] = np.maximum(before[2:], known[:-2])
    # Divided, because the product overflows where a figure is near the largest float.
    return left & (known / _JUMP >= before)


def _highest_of_family(names: Sequence[str], past: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return for each column the highest value that the same figure had in any task; infinite where all were 0."""
    highest: dict[str, float] = {}
    for name, value in zip(names, np.nan_to_num(past).max(0, initial=0.0).tolist(), strict=True):
        family = without_task(name)
        highest[family] = max(highest.get(family, 0.0), value)
    return np.array([highest[without_task(name)] or np.inf for name in names])


def in_order(departure: Departure) -> tuple[int, bool, int, bool, float, str]:
    """Return what departures are sorted by: when, and within a step causes before consequences."""
    return (
        departure.iteration,
        math.isfinite(departure.ratio),
        # Weights that are not finite before a forward pass were spoilt by the step before.
        -1 if departure.stage == 'weights' and math.isinf(departure.ratio) else STAGES.index(departure.stage),
        departure.task is None,
        # What differs by rounding alone, as on another layout of tasks over ranks, stands in the same order.
        -float(f'{departure.ratio:.5g}'),
        departure.metric,
    )


def _limits(past: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the level of each column and the limit above which it has left it; infinite where nothing is known."""
    known = np.isfinite(past).sum(0)
    enough = known >= _FEWEST
    usual, limit = np.full(past.shape[1], np.nan), np.full(past.shape[1], np.inf)
    if enough.any():
        columns = past[:, enough]
        middle = np.nanmedian(columns, axis=0)
        spread = 1.4826 * np.nanmedian(np.abs(columns - middle), axis=0)
        highest = np.nanmax(columns, axis=0)
        usual[enough] = np.where(middle > 0, middle, highest)
        limit[enough] = np.maximum.reduce([_RATIO * middle, middle + _SPREADS * spread, _ABOVE * highest])
    return usual, limit


def _beginning(left: npt.NDArray[np.bool_], until: int) -> int:
    """Return the row in which the episode began that was noticed in row ``until``: departures without a break."""
    any_left = left.any(1)
    start, last = until, until - _GAP
    for row in range(until, max(-1, until - _BACK), -1):
        if any_left[row]:
            start, last = row, row - 1
        elif row < last:
            break
    return start
