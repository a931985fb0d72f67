"""Learner steps of a small model, and who keeps its records."""

from __future__ import annotations

from typing import Any

from torch import nn

from ding_normmon import Monitor, Record
from tests.models import learn, make_batches


class Recorder:
    """A destination that keeps what it is given."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.closed = 0

    def publish(self, record: Record) -> None:
        self.records.append(record)

    def close(self) -> None:
        self.closed += 1


def measure(model: nn.Module, monitor: Monitor, iteration: int = 0, **kwargs: Any) -> Any:
    """One learner step on the default batches."""
    with monitor.step(iteration) as step:
        return learn(model, kwargs.pop('batches', make_batches()), step, **kwargs)


def publish_and_end(monitor: Monitor, *args: Any, iteration: int = 0, **kwargs: Any) -> None:
    """One step in which one thing is published."""
    with monitor.step(iteration) as step:
        step.publish(*args, **kwargs)
        step.forward_end()
        step.backward_end()
