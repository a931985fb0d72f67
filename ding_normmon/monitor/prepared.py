"""Metrics that are prepared for the current groups, with their cells and everything that calls them."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch

from ding_normmon.core.step import INERT, InertLearnerStep, WatchedStep
from ding_normmon.metrics.mixins import ClipListener, DeviceCells
from ding_normmon.monitor.batches import BatchBuilder
from ding_normmon.monitor.derive import RecordBuilder
from ding_normmon.monitor.foundation import Foundation
from ding_normmon.monitor.metric_calls import MetricCalls
from ding_normmon.monitor.publish_errors import PublishErrors
from ding_normmon.monitor.step_measurement import StepMeasurement
from ding_normmon.rows.buffer import RowBuffer

__all__ = ['Prepared']


class Prepared:
    """Prepares the metrics for the current groups and tasks; created again when those change.

    Arguments:
        base: groups, tasks and metrics.
        publish_errors: handles mistakes in what is published.
        before_backward: called when the forward pass of a measured step has ended.
        earlier: the object that this one replaces. A metric that cannot be prepared again is counted and left out.

    Attributes:
        off_step: the context object of steps that are not measured.
    """

    @torch.inference_mode(False)
    def __init__(
        self,
        base: Foundation,
        publish_errors: PublishErrors,
        before_backward: Callable[[], None],
        earlier: Prepared | None = None,
    ) -> None:
        setup = base.setup()
        base.prepare_metrics(setup, None if earlier is None else earlier.calls.fail)
        metrics = tuple(base.metrics)
        with_cells = [metric for metric in metrics if isinstance(metric, DeviceCells)]
        sizes = [metric.num_cells for metric in with_cells]
        self.calls: MetricCalls = MetricCalls(metrics, base.lost_data, publish_errors.complain)
        self.records = RecordBuilder(metrics, self.calls, base.figures)
        self.buffer = RowBuffer(setup.device, cells=sum(sizes))
        edges = itertools.pairwise(itertools.accumulate(sizes, initial=0))
        spans = [(metric, slice(*edge)) for metric, edge in zip(with_cells, edges, strict=True)]
        for metric, span in spans:
            metric.bind(self.buffer.cells(span.start, span.stop))
        messages = int(base.transport.rank > 0)
        self.batches = BatchBuilder(metrics, spans, self.buffer, self.calls, messages)
        self.watches_every_step = any(isinstance(metric, ClipListener) and metric.every_step for metric in metrics)
        watched = WatchedStep(self.calls.clip_of_any_step)
        self.off_step: InertLearnerStep = watched if self.watches_every_step else INERT
        self.measurement = StepMeasurement(
            self.calls, self.buffer, publish_errors, base.task_ids, base.lost_data, before_backward
        )
        if earlier is not None:
            self.measurement.gradient_due = earlier.measurement.gradient_due
