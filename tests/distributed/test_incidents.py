"""Incidents and black boxes on several ranks: one incident on every layout, and the box of a rank that died."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ding_normmon import Monitor
from ding_normmon.core.incident import Incident
from ding_normmon.ranks.transport import LocalTransport, Transport
from ding_normmon.runs import read_run
from ding_normmon.runs.history_file import FILE_NAME, HistoryFile
from ding_normmon.runs.read_black_box import boxes_of
from tests.distributed.faults import serve, transport_to
from tests.distributed.multitask import make_model, train
from tests.distributed.ranks import run_ranks

pytestmark = pytest.mark.distributed

NUM_TASKS, SPOILT, AT = 4, 2, 30
LAYOUTS: dict[str, Sequence[Sequence[int]]] = {'even': ([0, 1], [2, 3]), 'uneven': ([2], [3, 0, 1])}


def run(rank: int, tasks: Sequence[int], transport: Transport, folder: Path, dies: bool = False) -> None:
    """Train; one head of one task is 1,000 times too large for two steps, and one rank may die."""
    model = make_model(NUM_TASKS)
    settings = {'monitor_norm_freq': 1000, 'watch': 1, 'black_box': '1MB', 'budget': None, 'setup_timeout': 60.0}
    monitor = Monitor(
        model,
        {**settings, 'deadline': 2.0, 'close_timeout': 20.0},
        num_tasks=NUM_TASKS,
        task_ids=tasks,
        # The other ranks' black boxes are where rank 0 says.
        destinations=[HistoryFile(folder / FILE_NAME)] if rank == 0 else [],
        transport=transport,
    )

    def before(iteration: int) -> None:
        if iteration in (AT, AT + 2):
            factor = 1e3 if iteration == AT else 1e-3
            for parameter in model.head_value_multi_task[SPOILT].parameters():
                parameter.data.mul_(factor)
        if dies:
            time.sleep(0.02)
            if rank == 1 and iteration == 20:
                os.kill(os.getpid(), signal.SIGKILL)

    # A rank that is alone has nobody for a collective.
    collective = transport.world_size > 1 and not dies
    train(model, monitor, tasks, range(40), collective=collective, before_step=before)
    monitor.close()


def every_layout(rank: int, port: int, folder: str) -> None:
    for name, layout in LAYOUTS.items():
        run(rank, layout[rank], transport_to(port, rank, name, world_size=2), Path(folder) / name)


def one_dies(rank: int, port: int, folder: str) -> None:
    run(rank, LAYOUTS['even'][rank], transport_to(port, rank, 'dies', world_size=2), Path(folder), dies=True)


def of_layout(incident: Incident) -> dict[str, Any]:
    """What an incident says, without what differs by rounding."""
    said = dataclasses.asdict(dataclasses.replace(incident, figures={}))
    del said['window']
    said['first'] = [(entry.iteration, entry.stage, entry.metric, entry.task) for entry in incident.first]
    return said


def test_one_incident_on_every_layout(tmp_path: Path) -> None:
    run(0, range(NUM_TASKS), LocalTransport(), tmp_path / 'alone')
    store = serve()
    run_ranks(every_layout, 2, store.port, str(tmp_path), timeout=240)
    [reference] = read_run(tmp_path / 'alone').incidents
    assert (reference.task, reference.since, reference.opened) == (SPOILT, AT, AT)
    assert reference.parameter.startswith(f'head_value_task{SPOILT}/')
    for name in LAYOUTS:
        [incident] = read_run(tmp_path / name).incidents
        assert of_layout(incident) == of_layout(reference)
        window, other = incident.window, reference.window
        assert window.iterations.tolist() == other.iterations.tolist()
        shared = [metric for metric in other.names if not metric.startswith('monitor/')]
        assert set(shared) == {metric for metric in window.names if not metric.startswith('monitor/')}
        for metric in shared:
            mine = window.values[:, window.names.index(metric)]
            theirs = other.values[:, other.names.index(metric)]
            np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5, err_msg=metric)


def test_the_black_box_of_a_rank_that_died_is_readable(tmp_path: Path) -> None:
    store = serve()
    run_ranks(one_dies, 2, store.port, str(tmp_path), timeout=120, may_die=[1])
    first, second = boxes_of(tmp_path)
    assert (first.rank, first.ending) == (0, 'closed')
    assert (second.rank, second.ending) == (1, 'died')
    assert second.own[-1] in (18, 19)
    window = second.window
    assert 'grad/head_value_task3/_total_norm' in window.names
    assert 'parameter/grad/head_value_task3/weight' in window.names
    assert 'grad/head_value_task0/_total_norm' not in window.names
    # What that rank alone has measured is what the figures of all ranks say of its tasks.
    for metric in ('grad/head_value_task3/_total_norm', 'norm/head_policy_task2/_total_norm'):
        mine = dict(zip(window.iterations.tolist(), window.values[:, window.names.index(metric)], strict=True))
        column = first.window.values[:, first.window.names.index(metric)]
        merged = dict(zip(first.window.iterations.tolist(), column, strict=True))
        for iteration in range(15):
            assert mine[iteration] == pytest.approx(merged[iteration], rel=1e-9)
