"""Trains three ranks while something goes wrong with the monitor, and collects the outcome of each rank."""

from __future__ import annotations

import logging
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor

from ding_normmon import Monitor, Record
from ding_normmon.core.step import LearnerStep
from ding_normmon.metrics import Metric, default_metrics
from ding_normmon.ranks.transport import StoreTransport
from ding_normmon.rows.buffer import RowBuffer
from tests.distributed.multitask import MultitaskModel, make_model, train, weights_of

__all__ = [
    'ITERATIONS',
    'LAYOUT',
    'NUM_TASKS',
    'SHORT',
    'Outcome',
    'Probe',
    'Stopped',
    'assert_same_weights',
    'monitored_run',
    'serve',
    'suspend_for',
    'transport_to',
    'unmonitored',
]

NUM_TASKS = 4
LAYOUT: Sequence[Sequence[int]] = ([0, 1], [2], [3])
ITERATIONS = range(40)
# Only where a fault makes ranks miss a deadline is it short: on a busy machine a healthy rank may be seconds late too.
CONFIG = {'monitor_norm_freq': 2, 'deadline': 30.0, 'close_timeout': 20.0, 'setup_timeout': 60.0}
SHORT = {'deadline': 1.5, 'close_timeout': 4.0}


@dataclass
class Outcome:
    """The outcome of training on one rank.

    Arguments:
        weights: after the last step.
        records: published on rank 0.
        lost: counts of lost data by reason.
        messages: messages logged by the monitor.
        seconds: wall time of the training loop without its first step.
        closing: wall time of ``close()``.
    """

    weights: dict[str, Tensor]
    records: list[Record]
    lost: dict[str, int]
    messages: list[str]
    seconds: float
    closing: float
    extra: dict[str, Any] = field(default_factory=dict)

    def record(self, iteration: int) -> Record:
        return next(record for record in self.records if record.iteration == iteration)


class Stopped(Exception):  # noqa: N818  # it is no error
    """Ends the training of a test early."""


class Probe(Metric):
    """A metric that runs a function of the test at one hook point."""

    name: ClassVar[str] = 'probe'
    hook_points: ClassVar[tuple[str, ...]] = ('forward_end', 'backward_end')

    def __init__(self, act: Callable[[str, int, RowBuffer], object]) -> None:
        self._act = act

    def measure(self, hook_point: str, step: LearnerStep, rows: RowBuffer) -> None:
        self._act(hook_point, step.iteration, rows)


def serve() -> Any:
    """A rendezvous server outside the ranks: in the process of the test."""
    return dist.TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False)


def transport_to(port: int, rank: int, name: str, world_size: int = 3) -> StoreTransport:
    def connect() -> Any:
        return dist.TCPStore('127.0.0.1', port, is_master=False, timeout=timedelta(seconds=5))

    return StoreTransport(connect, rank, world_size, name)


def suspend_for(seconds: float, pid: int | None = None) -> None:
    """Suspend a process (this one) and let it continue after some seconds."""
    pid = os.getpid() if pid is None else pid
    subprocess.Popen(['sh', '-c', f'sleep {seconds}; kill -CONT {pid}'])
    os.kill(pid, 19)


def monitored_run(
    rank: int,
    transport: StoreTransport,
    metrics: Sequence[Metric] = (),
    destinations: Sequence[Any] = (),
    before_step: Callable[[Monitor, int], object] = lambda monitor, iteration: None,
    before_close: Callable[[Monitor], object] = lambda monitor: None,
    iterations: Sequence[int] = ITERATIONS,
    pause: float = 0.02,
    collective: bool = False,
    **config: Any,
) -> Outcome:
    """Train this rank's tasks under a monitor and return the outcome."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda entry: messages.append(entry.getMessage())  # type: ignore[method-assign]
    logging.getLogger('ding_normmon').addHandler(handler)
    try:
        model: MultitaskModel = make_model(NUM_TASKS)
        monitor = Monitor(
            model,
            {**CONFIG, **config},
            num_tasks=NUM_TASKS,
            task_ids=LAYOUT[rank],
            transport=transport,
            destinations=destinations,
            metrics=[*default_metrics(), *metrics],
        )
        records: list[Record] = []

        def before(iteration: int) -> None:
            # In the first monitored step the ranks wait for each other, once.
            begins.append(time.monotonic())
            time.sleep(pause)
            before_step(monitor, iteration)
            records.extend(monitor.take_records())

        begins: list[float] = []
        try:
            weights = train(model, monitor, LAYOUT[rank], iterations, collective, before)
        except Stopped:
            weights = weights_of(model)
        seconds = time.monotonic() - begins[1]
        before_close(monitor)
        begin = time.monotonic()
        monitor.close()
        closing = time.monotonic() - begin
        records += monitor.take_records()
    finally:
        logging.getLogger('ding_normmon').removeHandler(handler)
    return Outcome(weights, records, dict(monitor.lost_data.total), messages, seconds, closing)


def unmonitored(rank: int, iterations: Sequence[int] = ITERATIONS, collective: bool = False) -> dict[str, Tensor]:
    """The weights that training without a monitor ends with."""
    return train(make_model(NUM_TASKS), None, LAYOUT[rank], iterations, collective)


def assert_same_weights(outcome: Outcome, rank: int, iterations: Sequence[int] = ITERATIONS) -> None:
    """The rank's training did exactly what it does without a monitor."""
    expected = unmonitored(rank, iterations)
    assert outcome.weights.keys() == expected.keys()
    for name, weight in expected.items():
        assert torch.equal(outcome.weights[name], weight), name
