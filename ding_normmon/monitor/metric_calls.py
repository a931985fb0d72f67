"""Calls metrics: their exceptions never reach training, and their costs are added up."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ding_normmon.core.lost_data import LostData
from ding_normmon.core.step import COMPARE_GRADIENTS, HOOK_POINTS, READ_GRADIENTS, Clip, LearnerStep, SignalError
from ding_normmon.metrics import Metric
from ding_normmon.metrics.mixins import ClipListener, Finishing, LossParts, OwnHooks
from ding_normmon.rows.buffer import RowBuffer

__all__ = ['MetricCalls', 'overriding']


def overriding(metrics: Sequence[Metric], method: str) -> list[Metric]:
    """Return the metrics whose class overrides a method.

    >>> from ding_normmon.metrics import TaskLosses, Updates
    >>> [metric.name for metric in overriding([TaskLosses(), Updates()], 'on_publish_loss')]
    ['task_losses']
    """
    return [metric for metric in metrics if getattr(type(metric), method) is not getattr(Metric, method)]


def _takes_graph(metric: Metric, method: str) -> bool:
    """Return whether a method takes tensors with their graph."""
    return getattr(getattr(type(metric), method), 'takes_graph', False) is True


def _detached(value: Any) -> Any:
    # The metric itself refuses anything but a tensor.
    return value.detach() if isinstance(value, Tensor) else value


class MetricCalls:
    """The metrics of one rank during learner steps.

    A step has dozens of calls, and most metrics need only a few of them; at each call only the metrics that override
    the method are called.

    Arguments:
        metrics: all metrics, in their order.
        lost_data: counts failures.
        complain: called with a mistake in what was published.

    Attributes:
        active: the metrics that are measured in the current step.
        failed: names of those that failed in this step; their cells hold values of an earlier step.
        spent: milliseconds of the learner's thread by metric name.
    """

    def __init__(self, metrics: Sequence[Metric], lost_data: LostData, complain: Callable[[str], None]) -> None:
        self.lost_data = lost_data
        self._complain = complain
        self._watching = [metric for metric in metrics if isinstance(metric, ClipListener) and metric.every_step]
        self._keeping = overriding(metrics, 'state_bytes')
        self._names = [metric.name for metric in metrics]
        self._activate(metrics)
        self.failed: set[str] = set()
        self.spent: dict[str, float] = dict.fromkeys((metric.name for metric in metrics), 0.0)

    def _activate(self, metrics: Sequence[Metric]) -> None:
        self.active = list(metrics)
        self._at_points = {
            point: [q for q in metrics if point in q.hook_points]
            for point in (*HOOK_POINTS, READ_GRADIENTS, COMPARE_GRADIENTS)
        }
        self._at_begin = overriding(metrics, 'begin')
        self._at_signals = [(q, _takes_graph(q, 'on_publish')) for q in overriding(metrics, 'on_publish')]
        self._at_losses = [(q, _takes_graph(q, 'on_publish_loss')) for q in overriding(metrics, 'on_publish_loss')]
        self._at_clips = [metric for metric in metrics if isinstance(metric, ClipListener)]
        self._at_finish = [metric for metric in metrics if isinstance(metric, Finishing)]
        self._with_hooks = [metric for metric in metrics if isinstance(metric, OwnHooks)]
        self._at_release = overriding(metrics, 'release')

    def start(self, metrics: Sequence[Metric] | None) -> None:
        """Begin a step in which these are measured; None for the metrics of the step before, which it completes."""
        if metrics is not None and metrics != self.active:
            self._activate(metrics)
        self.failed = set()
        self.spent = dict.fromkeys((metric.name for metric in self.active), 0.0)

    @property
    def reads_parts(self) -> bool:
        """Whether a metric of this step reads the terms of the losses."""
        return any(isinstance(metric, LossParts) and metric.reads_parts for metric in self.active)

    def begin(self, step: LearnerStep) -> None:
        """Prepare the metrics for the step."""
        for metric in self.active:
            metric.extra_backward = 0
        for metric in self._at_begin:
            self._call(metric, 'begin', True, metric.begin, step)

    def publish(self, name: str, tensor: Tensor, task_id: int | None, mask: Tensor | None, rows: RowBuffer) -> None:
        """Hand on a published tensor."""
        # `_call` is not used here: with hundreds of signals, the calls themselves are what costs.
        for metric, detaches in self._at_signals:
            started = time.perf_counter()
            try:
                if detaches:
                    metric.on_publish(name, tensor, task_id, mask, rows)
                else:
                    with torch.no_grad():
                        metric.on_publish(name, _detached(tensor), task_id, mask, rows)
            except Exception as error:
                self.fail(metric, name, error)
            self.spent[metric.name] += (time.perf_counter() - started) * 1e3

    def publish_loss(self, name: str, value: Tensor | float, task_id: int | None, rows: RowBuffer) -> None:
        """Hand on a published scalar."""
        for metric, detaches in self._at_losses:
            started = time.perf_counter()
            try:
                metric.on_publish_loss(name, value if detaches else _detached(value), task_id, rows)
            except Exception as error:
                self.fail(metric, name, error)
            self.spent[metric.name] += (time.perf_counter() - started) * 1e3

    def clip(self, clip: Clip, rows: RowBuffer) -> None:
        """Hand on a clipping of gradients."""
        for metric in self._at_clips:
            self._call(metric, 'clip', True, metric.on_clip, clip, rows)

    def clip_of_any_step(self, clip: Clip) -> None:
        """Pass on a clipping in a step that is not measured, to metrics that need every step."""
        for metric in self._watching:
            with self.guarded(metric, 'clip'):
                metric.on_clip_of_any_step(clip)

    def begin_any_step(self) -> None:
        """Pass on that a step begins, to metrics that need every step."""
        for metric in self._watching:
            try:
                metric.begin_any_step()
            except Exception as error:
                self.fail(metric, 'begin_any_step', error)

    def measure(self, hook_point: str, step: LearnerStep, rows: RowBuffer) -> None:
        """Measure at a hook point."""
        for metric in self._at_points.get(hook_point, ()):
            self._call(metric, hook_point, True, metric.measure, hook_point, step, rows)

    def finish(self, fired: Sequence[str], rows: RowBuffer) -> None:
        """Let metrics write rows that are complete only when the step has ended."""
        for metric in self._at_finish:
            if metric.name not in self.failed and any(point in fired for point in metric.hook_points):
                self._call(metric, 'finish', True, metric.finish, rows)

    def state_bytes(self) -> dict[str, int]:
        """Return the bytes that each metric keeps between steps."""
        held = dict.fromkeys(self._names, 0)
        for metric in self._keeping:
            try:
                held[metric.name] = int(metric.state_bytes())
            except Exception as error:
                self.fail(metric, 'state_bytes', error)
        return held

    def release(self) -> float:
        """Let metrics drop everything of the step; return the milliseconds that their own hooks have taken."""
        for metric in self._at_release:
            self._call(metric, 'release', False, metric.release)
        milliseconds = 0.0
        for timed in self._with_hooks:
            self.spent[timed.name] += timed.hook_milliseconds
            milliseconds += timed.hook_milliseconds
            timed.hook_milliseconds = 0.0
        return milliseconds

    def _call(self, metric: Metric, where: str, measuring: bool, function: Callable[..., None], *args: Any) -> None:
        # `guarded` is not used here: entering a context costs as much as the statistics of a small tensor.
        started = time.perf_counter()
        try:
            function(*args)
        except Exception as error:
            if measuring and not isinstance(error, SignalError):
                self.failed.add(metric.name)
            self.fail(metric, where, error)
        self.spent[metric.name] += (time.perf_counter() - started) * 1e3

    @contextlib.contextmanager
    def guarded(self, metric: Metric, where: str) -> Iterator[None]:
        """Count a metric's exceptions inside the block instead of raising them."""
        try:
            yield
        except Exception as error:
            self.fail(metric, where, error)

    def fail(self, metric: Metric, where: str, error: Exception) -> None:
        """Count an exception of a metric."""
        if isinstance(error, SignalError):
            self._complain(str(error))
            return
        self.lost_data.count(
            f'metric_{metric.name}',
            f'{metric.name} failed at {where} with {type(error).__name__}: {error}; training goes on without it',
        )
