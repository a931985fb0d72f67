"""The same tasks, however they are spread over ranks, give the same record."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
import torch
import torch.distributed as dist

from ding_normmon import Monitor, Record
from ding_normmon.ranks.transport import LocalTransport, StoreTransport
from tests.distributed.multitask import learner_step, make_model
from tests.distributed.ranks import run_ranks

pytestmark = pytest.mark.distributed

Layout = Sequence[Sequence[int]]

LAYOUTS: dict[str, tuple[int, Layout]] = {
    '5 tasks on 2 ranks': (5, [[0, 1, 2], [3, 4]]),
    '5 tasks on 2 ranks, very unevenly': (5, [[3], [4, 0, 2, 1]]),
    '5 tasks on 3 ranks': (5, [[0, 1], [2, 3], [4]]),
    '5 tasks on 3 ranks, in no order': (5, [[4], [0, 3], [2, 1]]),
    '5 tasks on 4 ranks': (5, [[0, 1], [2], [3], [4]]),
    '4 tasks on 4 ranks': (4, [[0], [1], [2], [3]]),
    '2 tasks on 2 ranks': (2, [[0], [1]]),
    '2 tasks on 4 ranks': (2, [[], [1], [], [0]]),
    '2 tasks on 3 ranks': (2, [[0], [], [1]]),
}

EXEMPT = re.compile(r'monitor/|grad_local/|agreement/')
"""Names whose definition contains ranks."""

FORWARD = re.compile(r'(norm/x_token|embeddings/|logits/)\S*/(norm_)?(min|max|abs_max)$|noreduce_|parameters/')
"""Extremes and counts of forward signals, and what one task alone determines."""


def assert_same_record(record: Record, reference: Record) -> None:
    mine = {name: value for name, value in record.scalars.items() if not EXEMPT.match(name)}
    theirs = {name: value for name, value in reference.scalars.items() if not EXEMPT.match(name)}
    assert mine.keys() == theirs.keys()
    assert len(mine) > 40
    for name, value in theirs.items():
        if FORWARD.match(name):
            assert mine[name] == value, name
        else:
            assert mine[name] == pytest.approx(value, rel=1e-6, abs=0), name
    assert record.notes == reference.notes


def one_step(num_tasks: int, layout: Layout, rank: int, name: str, group: dist.ProcessGroup | None) -> Record | None:
    alone = len(layout) == 1
    transport = LocalTransport()
    if not alone:
        store = dist.distributed_c10d._get_default_store()
        transport = StoreTransport(store.clone, rank, len(layout), name)
    model = make_model(num_tasks)
    optimizer = torch.optim.Adam(model.parameters())
    config = {'monitor_norm_freq': 1, 'setup_timeout': 20}
    monitor = Monitor(model, config, num_tasks=num_tasks, task_ids=layout[rank], transport=transport)
    with monitor.step(0) as step:
        learner_step(model, optimizer, layout[rank], 0, step, group, collective=not alone)
    monitor.close()
    records = monitor.take_records()
    assert not monitor.lost_data.total, monitor.lost_data.total
    assert len(records) == (rank == 0)
    return records[0] if records else None


def every_layout(rank: int) -> dict[str, Record | None]:
    records = {}
    for name, (num_tasks, layout) in LAYOUTS.items():
        group = dist.new_group(range(len(layout)))
        if rank < len(layout):
            records[name] = one_step(num_tasks, layout, rank, name, group)
    return records


POLICY_LAYOUTS: dict[str, tuple[int, Layout]] = {
    'policy, 5 tasks on 3 ranks': (5, [[0, 1], [2, 3], [4]]),
    'policy, 5 tasks on 2 ranks and an idle one': (5, [[4, 2], [], [0, 3, 1]]),
    'policy, 2 tasks on 3 ranks': (2, [[], [1], [0]]),
}


def one_policy_step(num_tasks: int, layout: Layout, rank: int) -> Record | None:
    """A learner step of the real policy, with batches of unequal size, through the middleware's wrapper."""
    from ding.framework.context import OnlineRLContext

    from ding_normmon import NormMonitor
    from tests.unizero.builders import random_batch, tiny_policy

    policy = tiny_policy(num_tasks, layout[rank])
    middleware = NormMonitor({'monitor_norm_freq': 1, 'setup_timeout': 60}, policy)
    # There is no event file in this test.
    middleware.monitor._base.workers = []
    middleware(OnlineRLContext())
    policy._forward_learn([random_batch(policy, task, seed=task, batch_size=2 + task) for task in layout[rank]])
    middleware.close()
    assert not middleware.monitor.lost_data.total, middleware.monitor.lost_data.total
    records = middleware.monitor.take_records()
    return records[0] if records else None


def every_policy_layout(rank: int) -> dict[str, Record | None]:
    return {name: one_policy_step(tasks, layout, rank) for name, (tasks, layout) in POLICY_LAYOUTS.items()}


@pytest.fixture(scope='module')
def policy_records() -> dict[str, Record]:
    return run_ranks(every_policy_layout, 3, timeout=150)[0]


@pytest.mark.parametrize('name', POLICY_LAYOUTS)
def test_a_record_of_the_real_policy_does_not_depend_on_the_layout(
    policy_records: dict[str, Record], name: str
) -> None:
    num_tasks, _ = POLICY_LAYOUTS[name]
    reference = one_policy_step(num_tasks, [range(num_tasks)], 0)
    assert reference is not None
    assert_same_record(policy_records[name], reference)


@pytest.fixture(scope='module')
def records() -> dict[str, Record]:
    return run_ranks(every_layout, 4, timeout=90)[0]


@pytest.mark.parametrize('name', LAYOUTS)
def test_a_record_does_not_depend_on_the_layout(records: dict[str, Record], name: str) -> None:
    num_tasks, layout = LAYOUTS[name]
    reference = one_step(num_tasks, [range(num_tasks)], 0, name, None)
    assert reference is not None
    assert_same_record(records[name], reference)
    assert records[name].scalars['monitor/missing_ranks'] == 0
    assert records[name].scalars['monitor/cost/messages'] == len(layout) - 1
