"""The monitor, independent of any framework: decides which learner steps are measured, and passes their rows on."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from ding_normmon.core.black_box import BlackBox
from ding_normmon.core.blame import task_at_fault
from ding_normmon.core.config import ConfigurationError, MonitorConfig
from ding_normmon.core.destination import Destination
from ding_normmon.core.finding import Finding
from ding_normmon.core.parameter_groups import Group, GroupError
from ding_normmon.core.record import Record
from ding_normmon.core.step import INERT, InertLearnerStep, LearnerStep
from ding_normmon.metrics import Metric
from ding_normmon.monitor.announcements import about_run, call_exception, first_line
from ding_normmon.monitor.arrivals import Arrivals
from ding_normmon.monitor.budget.throttle import Throttle
from ding_normmon.monitor.budget.watching import Watching
from ding_normmon.monitor.foundation import Foundation
from ding_normmon.monitor.prepared import Prepared
from ding_normmon.monitor.publication import Publication
from ding_normmon.monitor.publish_errors import PublishErrors
from ding_normmon.ranks.reducer import Reducer, queue_of
from ding_normmon.ranks.transport import Transport

__all__ = ['StepMonitor']

logger = logging.getLogger('ding_normmon')


class StepMonitor:
    """Measures learner steps of one model and publishes one record per measured iteration.

    Arguments:
        model: the model that is being trained.
        config: an ``EasyDict`` or mapping, see :class:`~ding_normmon.core.config.MonitorConfig`.
        num_tasks: number of tasks of the whole run; None for a single-task policy.
        task_ids: global ids of the tasks this rank trains; all of them by default.
        task_names: names of the tasks by global id; names in the configuration take precedence. A rank need not know
            those of other ranks.
        destinations: where records go, on rank 0.
        metrics: the metrics; by default :func:`~ding_normmon.metrics.preset_metrics` of ``preset``.
        rules: further rules that judge records, see :mod:`ding_normmon.diagnose`; the same on every rank.
        callback: called on rank 0, in a background thread, with every finding when it is raised and when it has
            cleared.
        transport: the connection to the other ranks; by default ``torch.distributed``'s rendezvous store.
        black_box: keeps what this rank measures, see :class:`~ding_normmon.runs.black_box.BlackBoxFile`; on every rank.

    Attributes:
        model: the model that is being trained.
        tasks: names of the tasks by global id; empty for a single-task policy.
        metrics: the metrics.
        diagnosis: ``diagnosis.active`` are the active findings, ``diagnosis.findings`` all of the run (on rank 0).

    Raises:
        ConfigurationError: an invalid key, value or argument, a task id out of range, ranks that disagree.
        GroupError: a configured group that names no module.

    Example:
        >>> import torch
        >>> model = nn.Linear(2, 1, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[3., 4.]]))
        >>> monitor = StepMonitor(model, {'monitor_norm_freq': 1, 'module_groups': {'all': 'weight'}})
        >>> with monitor.step(0) as step:
        ...     loss = model(torch.ones(1, 2)).sum()
        ...     step.forward_end()
        ...     loss.backward()
        ...     step.backward_end()
        >>> monitor.close()
        >>> record, = monitor.take_records()
        >>> record.scalars['norm/all/_total_norm'], record.scalars['grad/all/_total_norm']
        (5.0, 1.4142135623730951)
    """

    def __init__(
        self,
        model: nn.Module,
        config: Mapping[str, Any] | MonitorConfig | None = None,
        *,
        num_tasks: int | None = None,
        task_ids: Sequence[int] | None = None,
        task_names: Sequence[str] | Mapping[int, str] = (),
        destinations: Sequence[Destination] = (),
        metrics: Sequence[Metric] | None = None,
        rules: Sequence[Any] = (),
        callback: Callable[[Finding], object] | None = None,
        transport: Transport | None = None,
        black_box: BlackBox | None = None,
    ) -> None:
        known = None if black_box is None else black_box.known_folder
        folder = None if known is None else os.path.abspath(known)
        self._base = base = Foundation(
            model, config, num_tasks, task_ids, task_names, destinations, metrics, rules, callback, transport, folder
        )
        self.config, self.control, self.transport = base.config, base.control, base.transport
        self.model, self.tasks, self.metrics, self.diagnosis = base.model, base.tasks, base.metrics, base.diagnosis
        self.lost_data = base.lost_data
        self.frequency = base.config.monitor_norm_freq
        self._last_begun = self._last_measured = self._resumed_after = -1
        self._has_changed, self._closed = False, self.frequency == 0
        if self._closed:
            return
        self._schedule = base.control.schedule
        self._publish_errors = PublishErrors(
            num_tasks is not None, base.transport, base.lost_data, base.config.setup_timeout, base.taken
        )
        self._queue = queue_of(base.transport.rank)
        self._prepared = Prepared(base, self._publish_errors, self._queue.backward_begins)
        self._throttle = Throttle(base.metrics, self.frequency, base.config.budget, base.control, base.config.deadline)
        self._watching = Watching(base.config, base.control, base.transport.rank)
        self._box = black_box if base.config.black_box is not None else None
        self._publication = Publication(base, self._throttle, self._watching, self._prepared.records, self._box)
        out, deadline = self._publication, base.config.deadline
        parts = (base.lost_data, base.control, deadline, base.session, base.ownership)
        self._reducer = Reducer(base.transport, out.take, *parts, out.rest, self._queue)
        self._arrivals = Arrivals(base, self._reducer, self._box)
        self._begin_box()
        if base.transport.rank == 0:
            told = first_line(base.config, self._watching.is_on, self._box is not None)
            logger.info('monitor: %s', told)

    def _begin_box(self) -> None:
        if self._box is not None:
            self._box.begin(about_run(self._base), lambda what: self.lost_data.count('black_box', what))

    @property
    def groups(self) -> tuple[Group, ...]:
        """Current parameter groups of the model."""
        return self._base.groups

    # -- what may change while training ----------------------------------------------------------------------------

    def reassign(self, task_ids: Sequence[Sequence[int]]) -> None:
        """Tell the monitor which rank trains which tasks from the next learner step on.

        Every rank calls it between the same two learner steps, or in a callback of ``monitor.control.on(...)``, which
        runs on all ranks right before the same step. The head of a task that no rank trains any more is reported by
        the rank that trained it last, because only that rank has its weights.

        Arguments:
            task_ids: global task ids of every rank, by rank.

        Raises:
            ConfigurationError: not one entry per rank, or a task id out of range.
        """
        if self.config.monitor_norm_freq > 0:
            self._base.reassign(task_ids, self._last_begun + 1)
            self._prepare_again()

    def _find_groups_again(self, iteration: int) -> bool:
        """Find the groups again after modules or parameters were replaced; return whether that was possible."""
        try:
            self._base.find_groups_again()
        except (ConfigurationError, GroupError) as error:
            self.lost_data.count('groups', f'the model was changed and cannot be measured any more: {error}')
            return False
        self._prepare_again()
        note = f'modules or parameters were replaced or resized; groups found again at iteration {iteration}'
        self._publication.note_change(iteration, note)
        # A model that changes often must not fill the log.
        logger.log(logging.INFO if self._has_changed else logging.WARNING, 'monitor: %s', note)
        self._has_changed = True
        return True

    def _prepare_again(self) -> None:
        self._arrivals.settle(self._prepared)
        self._prepared = Prepared(self._base, self._publish_errors, self._queue.backward_begins, self._prepared)
        self._publication.builder = self._prepared.records
        self._begin_box()

    def state_dict(self) -> dict[str, int]:
        """Return the monitor's part of a checkpoint: the current schedule and the last iteration that was measured.

        It is the same on every rank, except for the time. It does not contain decisions of rank 0 that have not taken
        effect, nor the division of tasks, which a resumed run gets at construction.
        """
        if self.config.monitor_norm_freq > 0:
            # A resumed run does not measure these iterations again, so their records must be published.
            self._reducer.flush()
        frequencies = {'monitor_norm_freq': self.config.monitor_norm_freq, 'frequency': self.frequency}
        state = {'last_iteration': self._last_measured, 'run': self.control.schedule.run, 'saved_ns': time.time_ns()}
        return {**frequencies, **state}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue from a checkpoint; call it on every rank, before the first learner step.

        Iterations that were measured before are not measured again. The schedule of the checkpoint stays, unless the
        configuration now has another frequency. What was measured after the checkpoint is hidden from now on;
        load it only to go on training.
        """
        self._last_measured = self._resumed_after = int(state['last_iteration'])
        abandoned = (state['saved_ns'] / 1e9, time.time()) if 'saved_ns' in state else None
        self.control.schedule.resume(self._resumed_after + 1, int(state.get('run', 0)), abandoned)
        self._begin_destinations(self.config.close_timeout)
        if 0 < self.frequency == int(state['monitor_norm_freq']) and state['frequency'] > 0:
            self.frequency = int(state['frequency'])

    def _begin_destinations(self, timeout: float) -> None:
        """Tell the destinations where the run begins: one that dies before its first record abandons records too."""
        if self.transport.rank == 0:
            for worker in self._base.workers:
                worker.begin(timeout)

    # -- one learner step ------------------------------------------------------------------------------------------

    def due(self, iteration: int) -> bool:
        """Return whether the learner step of this iteration is measured."""
        if iteration <= self._resumed_after:
            return False
        if self.frequency == 0:
            return False
        watching = self._watching.every
        return (
            iteration % self.frequency == 0
            or (watching > 0 and iteration % watching == 0)
            or self._prepared.measurement.gradient_due
        )

    def begin_step(self, iteration: int) -> InertLearnerStep:
        """Return the context object for one learner step: a live one if the step is due, the inert one if not."""
        if self._closed:
            return INERT
        if self._arrivals.pending:
            self._arrivals.collect(self._prepared)
        self._schedule.iteration = iteration
        if iteration >= self._schedule.next_iteration:
            is_first = self._schedule.begins_at is None
            self.control.reach(iteration)
            if is_first:
                self._begin_destinations(0.0)
        self._last_begun = iteration
        prepared = self._prepared
        prepared.calls.begin_any_step()
        if not self.due(iteration):
            return prepared.off_step
        started = time.perf_counter()
        if self.model_has_changed() and not self._find_groups_again(iteration):
            return prepared.off_step
        # A step that is not due may complete the accumulation cycle of a due one.
        due: list[Metric] | None = None
        between = iteration % self.frequency != 0
        if not between:
            due = [metric for metric in self.metrics if self._throttle.is_due(metric, iteration)]
        elif self._watching.is_due(iteration):
            due = [metric for metric in self.metrics if self._throttle.is_watched(metric)]
        return self._prepared.measurement.begin(iteration, due, started, between)

    def model_has_changed(self) -> bool:
        """Return whether modules or parameters are others than when the current groups were found."""
        return self._base.snapshot.has_changed()

    def end_step(self, step: InertLearnerStep, raised: bool = False) -> None:
        """Finish a step that :meth:`begin_step` began; also one that raised, which completes no accumulation cycle."""
        if not isinstance(step, LearnerStep):
            return
        pending = self._prepared.measurement.end(step, raised)
        if pending is None:
            return
        self._arrivals.pending.append(pending)
        if not pending.watched:
            self._last_measured = max(self._last_measured, pending.iteration)
        self._arrivals.collect(self._prepared, wait=self.config.merge_train_output and not pending.watched)

    def drop_step(self, step: InertLearnerStep) -> None:
        """Drop a step that :meth:`begin_step` began but that does not take place."""
        if isinstance(step, LearnerStep):
            self._prepared.measurement.drop(step)

    @property
    def watches_every_step(self) -> bool:
        """Whether a metric asks for every learner step, monitored or not."""
        return self.config.monitor_norm_freq > 0 and self._prepared.watches_every_step

    def signals_of_step(self) -> set[str]:
        """Return the names of the signals that were published in the current or the last measured step."""
        return self._publish_errors.signals if self.config.monitor_norm_freq > 0 else set()

    @contextlib.contextmanager
    def step(self, iteration: int) -> Iterator[InertLearnerStep]:
        """Measure what happens inside the ``with`` block as the learner step of ``iteration``."""
        step = self.begin_step(iteration)
        raised = True
        try:
            yield step
            raised = False
        except Exception as error:
            self.note_exception(error)
            raise
        finally:
            self.end_step(step, raised)

    def note_exception(self, error: BaseException) -> None:
        """Note an exception in the current learner step; it opens an incident."""
        if self._closed:
            return
        sentence, trace = call_exception(error, self._last_begun)
        self._publication.incidents.note_exception(self._last_begun, sentence, task_at_fault(error))
        if self._box is not None:
            self._box.keep_event(self._last_begun, {'exception': sentence, 'traceback': trace})

    # -- results and end -------------------------------------------------------------------------------------------

    @property
    def records(self) -> deque[Record]:
        """The records that have not been taken yet, at most the last 1,024."""
        return self._publication.records if self.config.monitor_norm_freq > 0 else deque()

    def take_records(self) -> list[Record]:
        """Return the records that became complete since the last call (on rank 0; empty elsewhere)."""
        kept, taken = self.records, []
        while kept:
            taken.append(kept.popleft())
        return taken

    def take_local_scalars(self) -> dict[str, float]:
        """Return this rank's own figures of the step that just ended (``merge_train_output=True`` only)."""
        if self.config.monitor_norm_freq == 0:
            return {}
        record, self._arrivals.last_local = self._arrivals.last_local, None
        return {} if record is None else record.scalars

    def close(self) -> None:
        """Publish the pending records, for at most ``close_timeout`` seconds, and close the destinations."""
        if self._closed:
            return
        self._closed = True
        self._arrivals.collect(self._prepared, wait=True)
        self._reducer.close(self.config.close_timeout)
        self._publication.finish()
        if self._box is not None:
            self._box.close(self.config.close_timeout)
        for worker in self._base.workers:
            worker.close(self.config.close_timeout)
        if self.lost_data.total:
            logger.warning('monitor: lost in this run: %s', dict(sorted(self.lost_data.total.items())))

    def __enter__(self) -> StepMonitor:
        """Close at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()
