"""What many ranks cost: real processes, and a simulated rank 0 that is fed the messages of a thousand.

    python benchmarks/ranks.py
    python benchmarks/ranks.py --processes 1 2 4 8 16 --simulated 64 256 1024 4096

First table, real processes with one multi-task model of 4 tasks per rank: CPU time that the monitor adds to the learner
thread of a monitored step, and bytes that each rank sends per record. More processes than cores make everything slower,
the step without a monitor as well. So each number of ranks is compared with as many runs of a single rank, side by side
on the same machine: that ratio is what being distributed costs. Wall time is printed but says little.

Second table, one process: the messages of N ranks x 4 tasks with the default metrics wait in a TCP store, and rank 0's
background work is timed. "Receive" takes them out of the store, "merge" decodes, matches and merges them, "CPU" is what
both take of the background thread's own time: each message is one answer of the store's thread to wait for. "Derive"
makes the figures and "publish" writes one TensorBoard event with what a dashboard gets.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table
from torch import nn

from ding_normmon import Monitor
from ding_normmon.core.lost_data import LostData
from ding_normmon.destinations.selection import for_dashboard
from ding_normmon.metrics import DECLARED
from ding_normmon.ranks.collector import Collector
from ding_normmon.ranks.message import Schema, decode, encode, encode_schema, schema_digest
from ding_normmon.ranks.ownership import Ownership
from ding_normmon.ranks.transport import LocalTransport, StoreTransport
from ding_normmon.rows.table import Batch, RowKey, RowTable
from ding_normmon.rows.waiting_batch import WaitingBatch

TASKS_PER_RANK = 4
SESSION = b'12345678'


class Model(nn.Module):
    """An encoder, a transformer and three heads per task."""

    def __init__(self, tasks: int, width: int = 64) -> None:
        super().__init__()
        self.encoder = nn.Linear(width, width)
        self.transformer = nn.Sequential(*[nn.Linear(width, width) for _ in range(8)])
        self.head_value_multi_task = nn.ModuleList(nn.Linear(width, 21) for _ in range(tasks))
        self.head_reward = nn.ModuleList(nn.Linear(width, 21) for _ in range(tasks))
        self.head_policy_multi_task = nn.ModuleList(nn.Linear(width, 6) for _ in range(tasks))


class CountingTransport:
    """Counts what a transport sends and keeps one batch."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self.sizes: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def send(self, message: bytes) -> None:
        self.sizes.append(len(message))
        self._transport.send(message)


def learn(model: Model, task_ids: list[int], step: Any) -> None:
    """One learner step without an optimizer."""
    for parameter in model.parameters():
        parameter.grad = None
    mask = torch.ones(16, 6)
    total = torch.zeros(())
    for task in task_ids:
        embedding = model.encoder(torch.ones(16, 6, 64))
        token = model.transformer(embedding)
        step.publish('embeddings/obs', embedding, task, mask)
        step.publish('x_token', token, task, mask)
        for name in ('value_multi_task', 'reward', 'policy_multi_task'):
            logits = getattr(model, f'head_{name}')[task](token)
            step.publish(f'logits/{name.split("_")[0]}', logits, task, mask)
            loss = logits.square().mean()
            total = total + loss
            step.publish_loss(f'noreduce_{name.split("_")[0]}_loss', loss, task)
    step.forward_end()
    total.backward()
    step.backward_end()


def one_rank(number: int, world_size: int, port: int, records: int, results: Any, barrier: Any) -> None:
    """Measure records as one of several ranks; the median CPU milliseconds of the learner thread go to the queue."""
    rank = number % world_size
    torch.set_num_threads(1)
    transport: Any = LocalTransport()
    if world_size > 1:
        store = dist.TCPStore('127.0.0.1', port, is_master=False)
        transport = CountingTransport(StoreTransport(store.clone, rank, world_size, f'bench{world_size}'))
    tasks = TASKS_PER_RANK * world_size
    task_ids = list(range(rank * TASKS_PER_RANK, (rank + 1) * TASKS_PER_RANK))
    model = Model(tasks)
    monitor = Monitor(model, {'monitor_norm_freq': 2}, num_tasks=tasks, task_ids=task_ids, transport=transport)
    barrier.wait()
    cpu: dict[bool, list[float]] = {True: [], False: []}
    wall: dict[bool, list[float]] = {True: [], False: []}
    for iteration in range(2 * records):
        begin, begin_cpu = time.perf_counter(), time.thread_time()
        with monitor.step(iteration) as step:
            learn(model, task_ids, step)
        cpu[step.due].append(time.thread_time() - begin_cpu)
        wall[step.due].append(time.perf_counter() - begin)
    monitor.close()
    sizes = getattr(transport, 'sizes', [])
    figures = [float(np.median(values[4:])) * 1e3 for values in (cpu[True], cpu[False], wall[True], wall[False])]
    results.put((rank, *figures, sizes[0] if sizes else 0, float(np.median(sizes[1:])) if len(sizes) > 1 else 0.0))


def real(console: Console, counts: list[int], records: int) -> None:
    """Print the table of real processes."""
    table = Table(title=f'real processes, {TASKS_PER_RANK} tasks per rank, mean over ranks')
    columns = ('processes', 'step CPU ms', 'monitor CPU ms', 'vs single runs', 'step wall ms', 'monitored wall ms')
    for column in (*columns, 'first message B', 'message B'):
        table.add_column(column, justify='right')
    for count in counts:
        single = start(count, 1, records)
        together = start(count, count, records) if count > 1 else single
        for name, rows in ((f'{count} x 1 rank', single), (f'{count} ranks', together))[: 1 + (count > 1)]:
            due, off, wall_due, wall_off = rows[:, 1:5].mean(axis=0)
            baseline = (single[:, 1] - single[:, 2]).mean()
            figures = [f'{off:.2f}', f'{due - off:.2f}', f'{(due - off) / baseline - 1:+.0%}']
            sizes = [f'{rows[:, column].max():.0f}' for column in (5, 6)]
            table.add_row(name, *figures, f'{wall_off:.1f}', f'{wall_due:.1f}', *sizes)
    console.print(table)


def start(count: int, world_size: int, records: int) -> np.ndarray:
    """Start processes and return what each measured, shape (count, 7)."""
    context = multiprocessing.get_context('spawn')
    server = dist.TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False)
    results, barrier = context.Queue(), context.Barrier(count)
    arguments = (world_size, server.port, records, results, barrier)
    processes = [context.Process(target=one_rank, args=(number, *arguments)) for number in range(count)]
    for process in processes:
        process.start()
    rows = np.array(sorted(results.get(timeout=600) for _ in processes))
    for process in processes:
        process.join()
    return rows


def template() -> tuple[tuple[RowKey, ...], np.ndarray]:
    """The rows that one rank with tasks 0 to 3 sends with the default metrics."""
    batches: list[WaitingBatch] = []
    model = Model(TASKS_PER_RANK)
    monitor = Monitor(model, {'monitor_norm_freq': 1}, num_tasks=TASKS_PER_RANK)
    monitor._reducer.submit = batches.append  # type: ignore[method-assign]
    with monitor.step(0) as step:
        learn(model, list(range(TASKS_PER_RANK)), step)
    monitor.close()
    batch = batches[0].get()
    return batch.keys, batch.rows


def simulate(ranks: int, records: int, settle: float) -> list[str]:
    """Time rank 0's background work for the messages of some ranks."""
    keys, rows = template()
    schemas = []
    for rank in range(ranks):
        own = tuple(
            key if key.task_id is None else key._replace(task_id=key.task_id + TASKS_PER_RANK * rank)
            for key in keys
            if key.task_id is not None or rank == 0 or key.metric == 'own_cost'
        )
        encoded = encode_schema(own)
        schemas.append((own, encoded, schema_digest(encoded)))
    server = dist.TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False)
    transport = StoreTransport(server.clone, 0, ranks, 'bench')
    lost_data = LostData()
    division = [range(TASKS_PER_RANK * rank, TASKS_PER_RANK * (rank + 1)) for rank in range(ranks)]
    ownership = Ownership(ranks * TASKS_PER_RANK, division, {'parameter_norms', 'gradient_norms'})
    collector = Collector(ranks, 60, lost_data, ownership)
    known: dict[bytes, Schema] = {}
    derive_with = Monitor(Model(TASKS_PER_RANK), {'monitor_norm_freq': 1}, num_tasks=TASKS_PER_RANK)
    from tensorboardX import SummaryWriter

    from ding_normmon.destinations.tensorboard.destination import write_record

    times: dict[str, list[float]] = {name: [] for name in ('first', 'receive', 'merge', 'cpu', 'derive', 'publish')}
    size, shown, figures, memory = 0, 0, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        writer = SummaryWriter(folder)
        for iteration in range(records):
            size = 0
            for rank, (own, encoded, digest) in enumerate(schemas[1:], 1):
                batch = Batch(iteration, own, rows[: len(own)] + iteration)
                message = encode(rank, SESSION, batch, digest, encoded if iteration == 0 else None, {})
                size = max(size, len(message))
                transport.send(message)
            while server.queue_len('bench/rows') < ranks - 1:
                time.sleep(0.001)  # a push returns before the store has the message
            time.sleep(settle)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            clock, began = [time.perf_counter()], time.thread_time()
            arrived = transport.receive()
            clock.append(time.perf_counter())
            for data in arrived:
                said = decode(data, SESSION)
                if said.schema is not None:
                    known[said.digest] = said.schema
                schema = known[said.digest]
                collector.add(said.rank, Batch(said.iteration, schema.keys, said.rows), 0.0)
            own_schema = known.setdefault(schemas[0][2], Schema(schemas[0][0]))
            collector.add(0, Batch(iteration, own_schema.keys, rows[: len(own_schema.keys)]), 0.0)
            (ready,) = collector.ready(0.0)
            merged = RowTable(ready.batches)
            clock.append(time.perf_counter())
            cpu = (time.thread_time() - began) * 1e3
            record = derive_with._derive(merged, iteration)
            clock.append(time.perf_counter())
            write_record(writer._get_file_writer(), record)
            clock.append(time.perf_counter())
            spans = np.diff(clock) * 1e3
            names = ('receive', 'merge', 'derive', 'publish')
            for name, span in zip(names, spans, strict=True):
                if iteration > 0:
                    times[name].append(float(span))
            if iteration > 0:
                times['cpu'].append(cpu)
            if iteration == 0:
                times['first'].append(float(spans[:2].sum()))
                memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            figures, shown = len(record.scalars), len(for_dashboard(record.scalars, DECLARED))
        writer.close()
    assert not lost_data.total, lost_data.total
    derive_with.close()
    millis = {name: float(np.median(values)) for name, values in times.items()}
    return [
        str(ranks),
        f'{millis["first"]:.1f}',
        f'{millis["receive"]:.1f}',
        f'{millis["merge"]:.1f}',
        f'{millis["receive"] + millis["merge"]:.1f}',
        f'{millis["cpu"]:.1f}',
        f'{millis["derive"]:.0f}',
        f'{millis["publish"]:.1f}',
        str(size),
        f'{memory / 1024:.0f}',
        f'{figures} / {shown}',
    ]


def simulated(console: Console, counts: list[int], records: int, settle: float) -> None:
    """Print the table of the simulated rank 0."""
    table = Table(title=f'rank 0, {TASKS_PER_RANK} tasks per rank: milliseconds per record (median)')
    for column in (
        'ranks',
        'first record',
        'receive',
        'merge',
        'both',
        'both, CPU',
        'derive',
        'publish',
        'bytes per rank',
        'first record MB',
        'figures / on the dashboard',
    ):
        table.add_column(column, justify='right')
    for count in counts:
        table.add_row(*simulate(count, records, settle))
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--processes', type=int, nargs='*', default=[1, 2, 4, 8, 16])
    parser.add_argument('--simulated', type=int, nargs='*', default=[16, 64, 256, 1024])
    parser.add_argument('--records', type=int, default=20)
    parser.add_argument('--settle', type=float, default=0.1, help='seconds for which messages have waited in the store')
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    console = Console(width=140)
    simulated(console, options.simulated, options.records, options.settle)
    real(console, options.processes, options.records)


if __name__ == '__main__':
    main()
