"""What each cache between records saves: CPU milliseconds of one record of 26 tasks, with it and without it.

``python -m benchmarks.caches``. A cache that saves less than a tenth of a millisecond is not worth its lines.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from unittest import mock

import torch
from torch import nn

from ding_normmon import Monitor
from ding_normmon.monitor.batches import BatchBuilder
from ding_normmon.rows import table
from ding_normmon.rows.table import RowTable

TASKS, RECORDS = 26, 60


class Model(nn.Module):
    """Small heads for every task, because names and not numbers are what is cached."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(8, 8)
        for head in ('head_value', 'head_policy', 'head_reward', 'head_observation'):
            setattr(self, head, nn.ModuleList(nn.Linear(8, 4) for _ in range(TASKS)))


def milliseconds() -> float:
    """Return the CPU time of this process for one record, the median of many."""
    monitor = Monitor(Model(), {'monitor_norm_freq': 1, 'diagnose': False}, num_tasks=TASKS)
    tensors = {name: torch.randn(4, 6, 5) for name in ('x_token', 'logits/value', 'logits/policy', 'embeddings/obs')}
    spent = []
    for iteration in range(RECORDS):
        started = time.process_time()
        with monitor.step(iteration) as step:
            for task in range(TASKS):
                for name, tensor in tensors.items():
                    step.publish(name, tensor, task_id=task)
                step.publish_loss('noreduce_value_loss', 1.0, task_id=task)
            step.forward_end()
            step.backward_end()
        monitor.state_dict()
        until = time.monotonic() + 5
        while not monitor.take_records() and time.monotonic() < until:
            time.sleep(0.002)
        spent.append((time.process_time() - started) * 1e3)
    monitor.close()
    return statistics.median(spent[5:])


@contextlib.contextmanager
def nothing() -> Iterator[None]:
    """Leave every cache as it is."""
    yield


WITHOUT: dict[str, Callable[[], contextlib.AbstractContextManager[object]]] = {
    '(all caches)': nothing,
    'layouts of rows, by the keys that ranks send': lambda: mock.patch.object(
        RowTable, '_layout_of', classmethod(lambda cls, schemas: table._Layout(schemas))
    ),
    'keys that have been found good': lambda: mock.patch.object(BatchBuilder, '_all_known', return_value=False),
}


def main() -> None:
    """Print one line per cache."""
    torch.set_num_threads(1)
    milliseconds()
    print(f'{"left out":48} ms per record, {TASKS} tasks')
    for name, without in WITHOUT.items():
        with without():
            print(f'{name:48} {milliseconds():8.2f}')


if __name__ == '__main__':
    main()
