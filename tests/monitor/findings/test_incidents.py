"""Which findings open an incident, and when an open one ends."""

from __future__ import annotations

import numpy as np
import pytest

from ding_normmon.core.finding import Finding
from ding_normmon.core.incident import Incident
from ding_normmon.core.lost_data import LostData
from ding_normmon.core.record import Record
from ding_normmon.monitor.findings.incidents import AFTER, CONSEQUENCES, Incidents

TASKS = {0: 'Pong', 1: 'Qbert', 2: 'Boxing'}


def incidents_of(found: dict[int, int], steps: int, raised: int | None = None) -> list[Incident]:
    """Return the incidents of a run with findings: iteration to task."""
    incidents = Incidents(LostData())
    yielded: list[Incident] = []
    for iteration in range(steps):
        scalars = {f'noreduce_value_loss_task{task}': 1 + 0.1 * np.sin(iteration + task) for task in TASKS}
        findings: tuple[Finding, ...] = ()
        if iteration in found:
            task = found[iteration]
            scalars[f'noreduce_value_loss_task{task}'] = 90.0
            findings = (Finding('loss_jump', 'warning', iteration, iteration, f'Loss {task}.', 'Look.', (task,)),)
        if iteration == raised:
            incidents.note_exception(iteration, 'ValueError: odd.', at_fault=2)
        yielded += incidents.observe(Record(iteration, scalars, findings=findings), {}, TASKS, 1)
    return [*yielded, *incidents.finish(1)]


def summary(incidents: list[Incident]) -> list[tuple[int, int, str, int | None]]:
    """Return each incident once, as it is in the end."""
    last = {incident.number: incident for incident in incidents}
    return [(number, entry.opened, entry.kind, entry.task) for number, entry in last.items()]


def test_what_is_found_soon_after_is_a_consequence_and_what_is_found_later_is_not() -> None:
    later = 30 + CONSEQUENCES + 1
    found = incidents_of({30: 0, 30 + CONSEQUENCES: 1, later: 2}, later + AFTER + 5)
    assert summary(found) == [(1, 30, 'finding', 0), (2, later, 'finding', 2)]
    # The first one is whole up to where the second begins.
    assert found[1].number == 1
    assert found[1].window.iterations.tolist()[-1] == later


def test_an_exception_ends_an_open_incident_at_once() -> None:
    assert summary(incidents_of({30: 0}, 33, raised=32)) == [(1, 30, 'finding', 0), (2, 32, 'exception', 2)]


def test_exceptions_that_go_on_are_one_incident() -> None:
    incidents = Incidents(LostData())
    yielded: list[Incident] = []
    for iteration in range(40):
        incidents.note_exception(iteration, 'ValueError: again.')
        yielded += incidents.observe(Record(iteration, {'loss/backward': 1.0}), {}, TASKS, 1)
    assert {incident.number for incident in [*yielded, *incidents.finish(1)]} == {1}


@pytest.mark.parametrize(('evidence', 'task'), [('data/outside/reward_task1', 1), ('data/value_target_task1/max', 0)])
def test_what_an_environment_has_made_cannot_have_come_from_another_task(evidence: str, task: int) -> None:
    incidents = Incidents(LostData())
    yielded: list[Incident] = []
    for iteration in range(32):
        waves = 1 + 0.1 * np.sin(iteration)
        # The loss of another task and the shared gradient leave their levels two steps before.
        early = 60.0 if iteration >= 28 else 1.0
        scalars = {'noreduce_value_loss_task0': waves * early, 'grad/encoder/_total_norm': waves * early}
        scalars['data/reward_task1/abs_max'] = waves * (90.0 if iteration >= 30 else 1.0)
        found = Finding('odd', 'warning', 30, 30, 'Odd.', 'Look.', (1,), evidence={evidence: 2.0})
        record = Record(iteration, scalars, findings=(found,) if iteration == 30 else ())
        yielded += incidents.observe(record, {}, TASKS, 1)
    assert yielded[0].task == task
