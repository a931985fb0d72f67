"""Opens incidents and keeps the steps around them; on rank 0, in the background."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ding_normmon.core.finding import Finding
from ding_normmon.core.incident import DenseWindow, Incident
from ding_normmon.core.lost_data import LostData
from ding_normmon.core.record import Record
from ding_normmon.diagnose.incident_of import incident_of
from ding_normmon.diagnose.invariants import EXACT, EXPECTED

__all__ = ['AFTER', 'BEFORE', 'Incidents']

BEFORE, AFTER = 256, 64
"""Watched steps that an incident keeps from before it was opened, and from after."""

CONSEQUENCES = 12
"""Watched steps after the opening in which whatever else is found is taken for a consequence."""

_MOST = 16
_MOST_BYTES = 4 << 20
_NONFINITE = 'monitor/nonfinite/'


class _Opener(NamedTuple):
    """What opens an incident, and the tasks that it names; ``is_sure`` where it cannot have come from others."""

    iteration: int
    kind: str
    reason: str
    at_fault: tuple[int, ...] = ()
    is_sure: bool = False


@dataclass
class _Step:
    iteration: int
    names: tuple[str, ...]
    values: npt.NDArray[np.float64]


class Incidents:
    """Keeps the last watched steps and makes incidents from them.

    A warning or an error opens an incident, and so does the first non-finite value of a figure and an exception in the
    learner step. What happens while an incident is open belongs to it. An incident is yielded when it opens, with the
    steps before it, and again when the steps after it are complete or the run ends.

    Arguments:
        lost_data: counts incidents that are too many.
        is_on: whether steps are kept at all.

    Example:
        >>> incidents = Incidents(LostData())
        >>> for iteration in range(20):
        ...     good = Record(iteration, {'noreduce_value_loss_task1': 1.0})
        ...     found = list(incidents.observe(good, {}, {1: 'Pong'}, 1))
        >>> broken = Record(20, {'monitor/nonfinite/noreduce_value_loss_task1': 1.0})
        >>> [incident] = incidents.observe(broken, {}, {1: 'Pong'}, 1)
        >>> incident.kind, incident.task_name, len(incident.window.iterations)
        ('non-finite', 'Pong', 21)
    """

    def __init__(self, lost_data: LostData, is_on: bool = True) -> None:
        self._lost = lost_data
        self._is_on = is_on
        self._steps: deque[_Step] = deque(maxlen=BEFORE + AFTER + 1)
        self._names: tuple[str, ...] = ()
        self._opened = 0
        self._open: Incident | None = None
        self._after = 0
        self._broken: set[str] = set()
        self._tasks: Mapping[int, str] = {}
        self._raised: tuple[int, str, tuple[int, ...]] | None = None
        self._lock = threading.Lock()

    def note_exception(self, iteration: int, what: str, at_fault: int | None = None) -> None:
        """Note an exception in the learner step of ``iteration``; called in the learner's thread.

        Arguments:
            iteration: of the learner step.
            what: what happened, as a sentence.
            at_fault: the task whose data is broken, where that is known.
        """
        with self._lock:
            self._raised = (iteration, what, () if at_fault is None else (at_fault,))

    def observe(
        self, record: Record, parameters: Mapping[str, float], tasks: Mapping[int, str], every: int
    ) -> Iterator[Incident]:
        """Take the next watched or published step; yield the incidents that it opens or completes.

        Arguments:
            record: its record, judged.
            parameters: norms of single parameters.
            tasks: global task id to name.
            every: iterations from one watched step to the next.
        """
        if not self._is_on:
            return
        self._tasks = tasks
        self._add(record, parameters)
        if self._open is not None:
            self._after += 1
            if self._after >= AFTER:
                yield self._completed()
        else:
            self._after = 0
        opener = self._exception(record) or self._opener(record)
        if opener is not None:
            yield from self._end_for(opener)
            if self._open is None:
                yield from self._begin(opener, every)

    def finish(self, every: int) -> Iterator[Incident]:
        """Yield the open incident, or that of an exception that ended the run."""
        if not self._is_on:
            return
        with self._lock:
            raised, self._raised = self._raised, None
        if raised is not None and self._steps:
            opener = _Opener(raised[0], 'exception', *raised[1:], bool(raised[2]))
            yield from self._end_for(opener)
            if self._open is None:
                yield from self._begin(opener, every)
        if self._open is not None:
            yield self._completed()

    def _add(self, record: Record, parameters: Mapping[str, float]) -> None:
        names = (*record.scalars, *parameters)
        # Steps usually have the same names; one tuple is kept for all of them.
        self._names = names = self._names if names == self._names else names
        values = np.fromiter((*record.scalars.values(), *parameters.values()), np.float64, len(names))
        self._steps.append(_Step(record.iteration, names, values))

    def _exception(self, record: Record) -> _Opener | None:
        """Return the exception of this step, or of one before; records come some steps after they were measured."""
        with self._lock:
            if self._raised is None or record.iteration < self._raised[0]:
                return None
            (iteration, what, known), self._raised = self._raised, None
        findings = [finding for finding in record.findings if finding.is_active and record.iteration == iteration]
        at_fault = known or next((finding.tasks for finding in findings if finding.severity != 'info'), ())
        return _Opener(iteration, 'exception', what, at_fault, bool(known))

    def _opener(self, record: Record) -> _Opener | None:
        broken = {name for name, value in record.scalars.items() if name.startswith(_NONFINITE) and value}
        new, first = broken - self._broken, len(self._steps) <= 1
        self._broken |= broken
        finding = next((entry for entry in record.findings if entry.is_active and entry.severity != 'info'), None)
        if finding is not None:
            kind = 'invariant' if finding.rule in _INVARIANTS else 'finding'
            kind = 'non-finite' if finding.rule == 'non_finite' else kind
            return _Opener(record.iteration, kind, finding.sentence, finding.tasks, _is_about_own_data(finding))
        # Logits of impossible actions may be infinite from the start.
        new = {name for name in new if not (first and '/logits/' in name)}
        if new:
            name = min(new, key=lambda entry: ('loss' not in entry, entry))
            return _Opener(record.iteration, 'non-finite', f'{name.removeprefix(_NONFINITE)} is NaN or infinite.')
        return None

    def _begin(self, opener: _Opener, every: int) -> Iterator[Incident]:
        if self._opened >= _MOST:
            self._lost.count('incidents', f'there were {_MOST} incidents; steps around later ones are not kept')
            return
        self._opened += 1
        window = self._window(BEFORE + 1)
        self._open = incident_of(
            self._opened, window, *opener[:3], self._tasks, opener.at_fault, every, opener.is_sure
        )
        self._after = 0
        yield self._open

    def _end_for(self, opener: _Opener) -> Iterator[Incident]:
        """End the open incident for what is none of its consequences, or for an exception, which may end the run."""
        if self._open is not None:
            is_exception = opener.kind == 'exception'
            if self._open.kind != 'exception' if is_exception else self._after > CONSEQUENCES:
                yield self._completed()

    def _completed(self) -> Incident:
        assert self._open is not None
        incident, self._open = self._open, None
        whole = self._window(BEFORE + self._after + 1)
        last = incident_of(
            incident.number, whole, incident.opened, incident.kind, incident.reason, self._tasks, (), incident.every
        )
        # The steps up to the opening show best where it began; the later steps show what followed.
        after = whole.iterations > incident.window.iterations[-1]
        window = DenseWindow(whole.names, whole.iterations[after], whole.values[after])
        kept = {entry.metric for entry in incident.first}
        later = (entry for entry in last.first if entry.metric not in kept and entry.iteration >= incident.since)
        first = (*incident.first, *later)
        return replace(incident, first=first, window=window)

    def _window(self, most: int) -> DenseWindow:
        steps = list(self._steps)[-most:]
        index: dict[str, int] = {}
        for step in {id(step.names): step for step in steps}.values():
            for name in step.names:
                index.setdefault(name, len(index))
        steps = steps[-max(1, _MOST_BYTES // (8 * max(1, len(index)))) :]
        values = np.full((len(steps), len(index)), np.nan)
        places: dict[int, list[int]] = {}
        for row, step in enumerate(steps):
            known = places.setdefault(id(step.names), [])
            if not known:
                known.extend(index[name] for name in step.names)
            values[row, known] = step.values
        return DenseWindow(tuple(index), np.array([step.iteration for step in steps], np.int64), values)


_INVARIANTS = frozenset(rule.name for rule in (*EXACT, *EXPECTED))


def _is_about_own_data(finding: Finding) -> bool:
    """Return whether a finding is about what a task's environment has made: no other task has a part in that.

    Targets of values and policies are made by a model.
    """
    first = next(iter(finding.evidence), '')
    return first.startswith('data/') and '_target' not in first
