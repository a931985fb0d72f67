"""The incident that the watched steps around something make: where it began, and what it says of that."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ding_normmon.core.incident import DenseWindow, Departure, Incident
from ding_normmon.core.metric_names import without_task
from ding_normmon.diagnose.first_signs import PARAMETERS, in_order, left_levels, without_parameters

__all__ = ['incident_of']

_ENDS, _LAST = ('exception', 'death'), 3
_FIGURES = ('noreduce_', 'loss/', 'data/', 'clip/', 'step/')
_MOST_FIGURES = 256


def incident_of(
    number: int,
    window: DenseWindow,
    opened: int,
    kind: str,
    reason: str,
    tasks: Mapping[int, str],
    at_fault: Sequence[int] = (),
    every: int = 0,
    is_sure: bool = False,
) -> Incident:
    """Return the incident that the steps of a window make.

    Arguments:
        number: of the incident.
        window: the watched steps around it.
        opened: iteration of the step in which something was noticed.
        kind: see :class:`~ding_normmon.core.incident.Incident`.
        reason: what was noticed.
        tasks: global task id to name.
        at_fault: the tasks that a finding names.
        every: iterations from one watched step to the next.
        is_sure: whether it cannot have come to them from others.
    """
    found = left_levels(window, opened, kind in _ENDS)
    if kind in _ENDS:
        # Whatever ends a run shows in its last steps, if it shows at all.
        last = window.iterations[-_LAST:].min(initial=opened)
        found = [entry for entry in found if entry.iteration >= last]
    first = without_parameters(found)
    task = _first_task(first)
    if len(at_fault) == 1 and task != at_fault[0] and (is_sure or not _is_reached(first, at_fault[0])):
        task = at_fault[0]
        own = min((entry.iteration for entry in first if entry.task == task), default=opened)
        first = tuple(entry for entry in first if entry.iteration >= own)
        found = [entry for entry in found if entry.iteration >= own]
    parameters = [entry for entry in found if entry.metric.startswith(PARAMETERS)]
    if task is not None:
        parameters.sort(key=lambda entry: (entry.iteration, entry.task not in (task, None), in_order(entry)))
    head = next((entry for entry in first if task is None or entry.task == task), None)
    since = min([opened, *(entry.iteration for entry in first)])
    return Incident(
        number,
        opened,
        since,
        kind,
        reason,
        first,
        task,
        '' if task is None else tasks.get(task, f'task {task}'),
        '' if head is None else _group(head.metric),
        _path(parameters[0].metric) if parameters else '',
        _figures(window, opened),
        every,
        window,
    )


def _is_reached(first: Sequence[Departure], task: int) -> bool:
    """Return whether something may have come to a task from others: only through what they share."""
    own = min((entry.iteration for entry in first if entry.task == task), default=math.inf)
    return any(
        entry.iteration < own + (entry.stage == 'weights')
        for entry in first
        if entry.task is None and entry.stage in ('learning rate', 'shared gradient', 'weights')
    )


def _first_task(first: Sequence[Departure]) -> int | None:
    """Return the task that something began with: none where the rate or the weights of all came first."""
    if not first or first[0].stage == 'learning rate':
        return None
    at_once = [entry for entry in first if entry.iteration == first[0].iteration]
    if at_once[0].stage == 'weights' and math.isinf(at_once[0].ratio):
        return None
    stage = next((entry.stage for entry in at_once if entry.task is not None), None)
    of_stage = [entry for entry in at_once if entry.stage == stage and entry.task is not None]
    if not of_stage:
        later = [entry for entry in first if entry.task is not None]
        return later[0].task if later else None
    furthest: dict[int, float] = {}
    for entry in of_stage:
        assert entry.task is not None
        furthest[entry.task] = max(furthest.get(entry.task, 0.0), entry.ratio)
    return max(furthest, key=lambda task: furthest[task])


def _group(metric: str) -> str:
    """Return the group or signal of a figure.

    >>> _group('grad/head_value_task1/_total_norm'), _group('noreduce_obs_loss_task1'), _group('data/reward_task0/max')
    ('head_value', 'obs loss', 'data/reward')
    """
    name = without_task(metric)
    if name.startswith(('grad/', 'grad_local/', 'grad_synced/', 'norm/')) and '/' in name:
        return name.split('/')[1]
    if name.startswith('noreduce_'):
        return name.removeprefix('noreduce_').replace('_', ' ')
    return name.rsplit('/', 1)[0] if name.count('/') > 1 or name.startswith(('data/', 'inputs/')) else name


def _path(metric: str) -> str:
    return metric.removeprefix(PARAMETERS).split('/', 1)[-1]


def _figures(window: DenseWindow, opened: int) -> dict[str, float]:
    rows = np.flatnonzero(window.iterations == opened)
    if not len(rows):
        return {}
    names = [(place, name) for place, name in enumerate(window.names) if name.startswith(_FIGURES)]
    found = {name: float(window.values[rows[-1], place]) for place, name in names[:_MOST_FIGURES]}
    return {name: value for name, value in found.items() if math.isfinite(value)}
