"""Actions of findings on several ranks: the same decision before the same learner step, or none and a note."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from ding_normmon import Monitor
from ding_normmon.diagnose import Rule, Sign, Window
from ding_normmon.ranks import reducer as reduce
from ding_normmon.ranks.decisions import leader as decision_poster
from ding_normmon.ranks.decisions.control import Decision
from tests.distributed.faults import NUM_TASKS, SHORT, serve, transport_to
from tests.distributed.multitask import make_model, train
from tests.distributed.ranks import run_ranks

LAYOUT = ([0, 1], [2, 3])
PLANTED = 40


@dataclass
class Late(Rule):
    """Finds something from one iteration on."""

    name: ClassVar[str] = 'late'
    advice: ClassVar[str] = 'Nothing.'
    confirm: int = 1
    warmup: int = 0

    def signs(self, window: Window) -> Iterable[Sign]:
        if window.iteration >= PLANTED:
            yield Sign('It is late.')


def flush() -> None:
    """In a process of the test's own: what takes seconds in a run takes tenths here."""
    reduce.BEAT_SECONDS, decision_poster.LEAD_SECONDS = 0.4, 1.6


def judged_run(rank: int, port: int, name: str, action: str, dies: bool, steps: int) -> dict[str, Any]:
    """Train two ranks, of which one may leave without a word, and note when an action takes effect."""
    flush()
    applied: list[tuple[int, int]] = []
    config = {'monitor_norm_freq': 10, 'budget': None, 'on_finding': {'late': action}, 'setup_timeout': 60.0}
    monitor = Monitor(
        make_model(NUM_TASKS),
        {**config, 'deadline': 30.0, 'close_timeout': 20.0, **(SHORT if dies else {})},
        num_tasks=NUM_TASKS,
        task_ids=LAYOUT[rank],
        rules=[Late()],
        transport=transport_to(port, rank, name, world_size=2),
    )

    def note(decision: Decision) -> None:
        applied.append((decision.iteration, monitor.control.iteration))

    monitor.control.on(action, note)

    def before(iteration: int) -> None:
        time.sleep(0.015)
        if dies and rank == 1 and iteration == PLANTED - 5:
            os._exit(7)

    # A rank that is alone has nobody for a collective.
    train(monitor.model, monitor, LAYOUT[rank], range(steps), collective=not dies, before_step=before)
    monitor.close()
    records = monitor.take_records()
    return {
        'applied': applied,
        'active': [finding.rule for finding in monitor.diagnosis.active],
        'found': [finding.found for record in records for finding in record.findings],
        'notes': {name: text for record in records for name, text in record.notes.items()},
    }


@pytest.fixture(scope='module')
def server() -> Any:
    return serve()


def both_actions(rank: int, port: int) -> dict[str, dict[str, Any]]:
    return {action: judged_run(rank, port, action, action, dies=False, steps=400) for action in ('stop', 'checkpoint')}


@pytest.mark.distributed
@pytest.mark.full
def test_all_ranks_act_before_the_same_learner_step(server: Any) -> None:
    outcomes = run_ranks(both_actions, 2, server.port, timeout=90)
    for action in ('stop', 'checkpoint'):
        first, second = (outcome[action] for outcome in outcomes)
        assert first['applied'] == second['applied']
        [(planned, actual)] = first['applied']
        assert planned == actual > PLANTED
        assert PLANTED in first['found']
        assert 'late: It is late.' in first['notes'][f'finding/{action}']
        # Only rank 0 judges.
        assert 'late' in first['active']
        assert second['active'] == second['found'] == []


@pytest.mark.distributed
@pytest.mark.full
def test_with_a_dead_rank_nothing_happens_and_a_note_says_why(server: Any) -> None:
    survivor, _ = run_ranks(judged_run, 2, server.port, 'dead', 'stop', True, 500, timeout=90, may_die={1})
    assert survivor['applied'] == []
    assert 'late' in survivor['active']
    assert 'stop (decision' in survivor['notes']['control/stop']
    assert 'did not happen' in survivor['notes']['control/stop']
