"""Measures one learner step on one rank: calls the metrics, which write their rows into one buffer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from torch import Tensor

from ding_normmon.core.lost_data import LostData
from ding_normmon.core.step import Clip, LearnerStep, SignalError
from ding_normmon.metrics import Metric
from ding_normmon.monitor.metric_calls import MetricCalls
from ding_normmon.monitor.publish_errors import PublishErrors, plain_task_id
from ding_normmon.rows.buffer import Pending, RowBuffer

__all__ = ['StepMeasurement']


class StepMeasurement:
    """Listener of the learner steps that are due, one after the other.

    Arguments:
        calls: the metrics, prepared.
        buffer: receives their rows and cells.
        mistakes: handles mistakes in what is published.
        task_ids: the tasks that this rank trains.
        lost_data: counts steps that were dropped.
        before_backward: called when the forward pass has ended.

    Attributes:
        gradient_due: whether the last step began an accumulation cycle that a later one completes.
    """

    detaches = True

    def __init__(
        self,
        calls: MetricCalls,
        buffer: RowBuffer,
        mistakes: PublishErrors,
        task_ids: Sequence[int],
        lost_data: LostData,
        before_backward: Callable[[], None],
    ) -> None:
        self.gradient_due = False
        self._calls = calls
        self._buffer = buffer
        self._publish_errors = mistakes
        self._task_ids = task_ids
        self._lost = lost_data
        self._before_backward = before_backward
        self._ended = _Ended(lost_data)
        self._step: LearnerStep | None = None
        self._measuring = False
        self._forward = self._between = False
        self._milliseconds = 0.0

    def begin(
        self, iteration: int, metrics: Sequence[Metric] | None, started: float, between: bool = False
    ) -> LearnerStep:
        """Begin a step in which these are measured; None for one that only completes an accumulation cycle.

        The latter measures the metrics of the due step, but not its own forward pass. ``started`` is the time at which
        the monitor's work on it began (``time.perf_counter``), ``between`` says whether it lies between two published
        records.
        """
        self._forward = metrics is not None
        if self._forward:
            self._between = between
        self._measuring = True
        self._publish_errors.begin_step()
        self._buffer.begin(iteration)
        self._step = step = LearnerStep(iteration, self)
        step.between = self._between
        self._calls.start(metrics)
        step.reads_parts = self._forward and self._calls.reads_parts
        if self._forward:
            self._calls.begin(step)
        self._milliseconds = (time.perf_counter() - started) * 1e3
        return step

    def end(self, step: LearnerStep, raised: bool) -> Pending | None:
        """Finish the step and return its rows, which may still be on their way to the host; None if it has none.

        Arguments:
            step: the step that :meth:`begin` returned.
            raised: whether it ended with an exception; it then completes no accumulation cycle.
        """
        started = time.perf_counter()
        step.listener, self._step = self._ended, None
        self._milliseconds += self._calls.release()
        if not self._measuring:
            return None
        self._measuring = False
        # Gradient accumulation: the step that completes the cycle is measured although its iteration is not due.
        # Once the optimizer has stepped there is no cycle to complete.
        self.gradient_due = bool(step.fired) and not raised and not {'backward_end', 'step_end'} & set(step.fired)
        if not self._forward and self.gradient_due:
            return None
        # The forward pass of a step that only completes a cycle was not measured.
        fired = tuple(point for point in step.fired if self._forward or point != 'forward_end')
        self._calls.finish(fired, self._buffer)
        pending = self._buffer.end()
        if pending is None:
            self._lost.count('device_copy', 'copies from the device are too slow; the rows of a step were dropped')
            return None
        pending.fired, pending.watched = fired, self._between
        pending.failed = frozenset(self._calls.failed)
        pending.active = {
            metric.name: metric.extra_backward
            for metric in self._calls.active
            if metric.name not in pending.failed
        }
        pending.spent = self._calls.spent
        self._publish_errors.end_step()
        pending.milliseconds = self._milliseconds + (time.perf_counter() - started) * 1e3
        return pending

    @property
    def _is_observed(self) -> bool:
        return self._step is not None and self._step.observed

    def drop(self, step: LearnerStep) -> None:
        """Drop the step, which does not take place."""
        step.listener = self._ended
        self._measuring = False
        self._calls.release()

    # -- LearnerStepListener ---------------------------------------------------------------------------------------

    def on_publish(self, name: str, tensor: Tensor, task_id: int | None, mask: Tensor | None) -> None:
        """Measure a published tensor."""
        if not self._forward:
            return
        started = time.perf_counter()
        if type(task_id) is not int:
            task_id = plain_task_id(task_id)
        if self._publish_errors.accept(name, task_id, 'signal', self._task_ids, self._is_observed):
            self._calls.publish(name, tensor, task_id, mask, self._buffer)
        self._milliseconds += (time.perf_counter() - started) * 1e3

    def on_publish_loss(self, name: str, value: Tensor | float, task_id: int | None) -> None:
        """Measure a published loss or figure."""
        if not self._forward:
            return
        started = time.perf_counter()
        if type(task_id) is not int:
            task_id = plain_task_id(task_id)
        if self._publish_errors.accept(name, task_id, 'loss', self._task_ids, self._is_observed):
            self._calls.publish_loss(name, value, task_id, self._buffer)
        self._milliseconds += (time.perf_counter() - started) * 1e3

    def on_left_out(self, what: str) -> None:
        """Count what could not be measured."""
        if self._forward:
            self._publish_errors.complain(what)

    def on_clip(self, clip: Clip) -> None:
        """Measure a clipping of gradients."""
        started = time.perf_counter()
        self._calls.clip(clip, self._buffer)
        self._milliseconds += (time.perf_counter() - started) * 1e3

    def on_hook_point(self, hook_point: str, step: LearnerStep) -> None:
        """Measure at a hook point.

        Raises:
            SignalError: at the first ``forward_end`` of a process, on every rank, if any rank published a mistake.
        """
        started = time.perf_counter()
        if hook_point == 'forward_end':
            if self._publish_errors.is_first_step and not step.observed:
                self._refuse_mistakes()
            if not self._forward:
                return
        self._calls.measure(hook_point, step, self._buffer)
        if hook_point == 'forward_end':
            self._before_backward()
        self._milliseconds += (time.perf_counter() - started) * 1e3

    def _refuse_mistakes(self) -> None:
        try:
            self._publish_errors.refuse()
        except SignalError:
            self._measuring = False
            raise


class _Ended:
    """Listener of a step that has ended: counts what is published too late."""

    def __init__(self, lost_data: LostData) -> None:
        self._lost = lost_data

    def on_publish(self, name: str, tensor: Tensor, task_id: int | None, mask: Tensor | None) -> None:
        """Count it."""
        self._late(f'{name} was published')

    def on_publish_loss(self, name: str, value: Tensor | float, task_id: int | None) -> None:
        """Count it."""
        self._late(f'{name} was published')

    def on_left_out(self, what: str) -> None:
        """Count it."""
        self._late(what)

    def on_clip(self, clip: Clip) -> None:
        """Count it."""
        self._late('clipping was told')

    def on_hook_point(self, hook_point: str, step: LearnerStep) -> None:
        """Count it."""
        self._late(f'{hook_point} was fired')

    def _late(self, what: str) -> None:
        self._lost.count('after_step', f'{what} on a learner step that had ended; left out')
