"""Above 64 tasks the event file gets aggregates and the worst tasks; the record has everything."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ding.utils import DistributedWriter
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboardX import SummaryWriter

from ding_normmon import Monitor
from ding_normmon.destinations import TensorBoard
from ding_normmon.destinations.selection import MANY_TASKS, WORST_TASKS
from ding_normmon.destinations.tensorboard.tags import figure_of
from ding_normmon.integrations.ding_engine.writer import DIEngineWriter
from tests.distributed.multitask import learner_step, make_model

WRITERS: dict[str, Callable[[str], Any]] = {
    'tensorboardX': lambda folder: TensorBoard(SummaryWriter(folder)),
    "DI-engine's writer": lambda folder: DIEngineWriter(DistributedWriter(folder)),
}


def tasks_in(names: Any) -> set[int]:
    return {int(found) for name in names for found in re.findall(r'_task(\d+)', name)}


def written(folder: Path, destination: Any, num_tasks: int) -> tuple[set[str], set[str]]:
    """Measure one step of many tasks; return the names in the event file and those in the record."""
    model = make_model(num_tasks)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = Monitor(model, {'monitor_norm_freq': 1}, num_tasks=num_tasks, destinations=[destination])
    with monitor.step(0) as step:
        learner_step(model, optimizer, range(num_tasks), 0, step)
    monitor.close()
    accumulator = EventAccumulator(str(folder), size_guidance={'scalars': 0})
    accumulator.Reload()
    (record,) = monitor.take_records()
    tags = accumulator.Tags()['scalars']
    return {name for tag in tags if (name := figure_of(tag)) is not None}, set(record.scalars)


@pytest.mark.slow
@pytest.mark.parametrize('kind', WRITERS)
def test_many_tasks(tmp_path: Path, kind: str) -> None:
    shown, measured = written(tmp_path, WRITERS[kind](str(tmp_path)), MANY_TASKS + 1)
    assert tasks_in(measured) == set(range(MANY_TASKS + 1))
    assert len(tasks_in(shown)) == WORST_TASKS
    assert {name for name in measured if not tasks_in([name])} <= shown < measured


@pytest.mark.parametrize('kind', WRITERS)
def test_few_tasks(tmp_path: Path, kind: str) -> None:
    shown, measured = written(tmp_path, WRITERS[kind](str(tmp_path)), MANY_TASKS)
    assert shown == measured
