"""Returns of tasks: each rank tells those that it trains, although a pipeline tells every rank those of all."""

from __future__ import annotations

import torch
from torch import nn

from ding_normmon.core.config import MonitorConfig
from ding_normmon.core.parameter_groups import find_groups
from ding_normmon.metrics import Setup
from ding_normmon.metrics.collection import Collection
from ding_normmon.rows import Batch, RowBuffer, RowKey, RowTable
from ding_normmon.rows.moments import COUNT, MEAN


def of_rank(rank: int, task_ids: tuple[int, ...]) -> Collection:
    model = nn.Linear(2, 1)
    groups = find_groups(model, 3)
    metric = Collection()
    metric.prepare(Setup(model, MonitorConfig(), groups, groups, 3, task_ids, torch.device('cpu'), rank, world_size=2))
    return metric


def test_a_rank_tells_the_returns_of_its_own_tasks() -> None:
    batches = []
    for rank, task_ids in enumerate([(0,), (1, 2)]):
        metric = of_rank(rank, task_ids)
        for task_id, returns in enumerate([[1.0, 3.0], [5.0], [7.0, 8.0, 9.0]]):
            metric.note_returns('collect', returns, task_id)
        buffer = RowBuffer(torch.device('cpu'))
        buffer.begin(0)
        metric.finish(buffer)
        pending = buffer.end()
        assert pending is not None
        batches.append(Batch(0, tuple(pending.keys), buffer.read(pending)[0]))
        assert {key.task_id for key in batches[-1].keys} == set(task_ids)
    table = RowTable(batches)
    found = {task_id: table[RowKey('collection', 'collect', task_id)] for task_id in range(3)}
    assert {task_id: (row[COUNT], row[MEAN]) for task_id, row in found.items()} == {
        0: (2.0, 2.0),
        1: (1.0, 5.0),
        2: (3.0, 8.0),
    }
