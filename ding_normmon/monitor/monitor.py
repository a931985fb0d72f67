"""The monitor: when to measure, what to measure, and where it goes; free of any framework."""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ding_normmon.core.common_figures import COMMON_FIGURES
from ding_normmon.core.config import ConfigurationError, MonitorConfig
from ding_normmon.core.destination import Destination, RunDescription
from ding_normmon.core.figures import Figures
from ding_normmon.core.finding import Finding
from ding_normmon.core.lost_data import LostData
from ding_normmon.core.model_snapshot import ModelSnapshot
from ding_normmon.core.parameter_groups import Group, GroupError, find_groups
from ding_normmon.core.record import Record
from ding_normmon.core.sharding import local_share, refuse_unreadable
from ding_normmon.core.step import INERT, InertLearnerStep, LearnerStep, WatchedStep
from ding_normmon.destinations.worker import DestinationWorker
from ding_normmon.metrics import Metric, Setup, preset_metrics
from ding_normmon.metrics.kernels import native
from ding_normmon.monitor.batches import BatchBuilder
from ding_normmon.monitor.budget.throttle import Throttle
from ding_normmon.monitor.derive import RecordBuilder
from ding_normmon.monitor.findings.stage import DiagnosisStage, FindingCallback
from ding_normmon.monitor.metric_calls import MetricCalls
from ding_normmon.monitor.publish_errors import PublishErrors
from ding_normmon.monitor.step_measurement import StepMeasurement
from ding_normmon.ranks.decisions.control import Control, Decision
from ding_normmon.ranks.ownership import Ownership, checked_task_ids
from ding_normmon.ranks.reducer import Reducer
from ding_normmon.ranks.setup_agreement import agree, announce, refusals_told
from ding_normmon.ranks.sharded_groups import ShardedGroups
from ding_normmon.ranks.transport import Transport, default_transport
from ding_normmon.rows.table import Batch, Pending, RowBuffer, RowTable
from ding_normmon.rows.waiting_batch import WaitingBatch

__all__ = ['StepMonitor']

logger = logging.getLogger('ding_normmon')

_RECORDS_KEPT = 1024


class StepMonitor:
    """Measures learner steps of one model and publishes one record per measured iteration.

    Arguments:
        model: the model that is being trained.
        config: an ``EasyDict`` or mapping, see :class:`~ding_normmon.core.config.MonitorConfig`.
        num_tasks: number of tasks of the whole run; None for a single-task policy.
        task_ids: global ids of the tasks this rank trains; all of them by default.
        task_names: what people call the tasks, by global id.
        destinations: where records go, on rank 0.
        metrics: what is measured; by default :func:`~ding_normmon.metrics.preset_metrics` of ``preset``.
        rules: further rules that judge records, see :mod:`ding_normmon.diagnose`; the same on every rank.
        callback: called on rank 0, in a background thread, with every finding: raised, and again when it cleared.
        transport: the connection to the other ranks; by default ``torch.distributed``'s rendezvous store.

    Attributes:
        diagnosis: ``diagnosis.active`` are the findings that last, ``diagnosis.findings`` all of the run (on rank 0).

    Raises:
        ConfigurationError: a key, value or argument that cannot be, a task id out of range, ranks that disagree.
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
        task_names: Sequence[str] = (),
        destinations: Sequence[Destination] = (),
        metrics: Sequence[Metric] | None = None,
        rules: Sequence[Any] = (),
        callback: Callable[[Finding], object] | None = None,
        transport: Transport | None = None,
    ) -> None:
        self.lost_data = LostData()
        # Whoever never takes the records keeps the last ones.
        self.records: deque[Record] = deque(maxlen=_RECORDS_KEPT)
        self._workers: list[DestinationWorker] = []
        self.diagnosis = DiagnosisStage()
        self.groups: tuple[Group, ...] = ()
        self.metrics: list[Metric] = []
        self.figures = Figures()
        self._last_local: Record | None = None
        self._pending: deque[Pending] = deque()
        self._waiting: deque[WaitingBatch] = deque()
        self._changes: deque[tuple[int, str]] = deque(maxlen=16)
        self._has_changed = False
        self._last_measured = self._resumed_after = -1
        self._closed = False
        self._num_tasks = num_tasks
        _refuse_arguments(model, task_names=task_names, destinations=destinations, rules=rules)
        self._task_names = tuple(str(name) for name in task_names)
        self._model = model
        # Every rank opens its connection, also one that is switched off: the others are told and do not wait for it.
        self.transport = default_transport() if transport is None else transport
        rank, world_size = self.transport.rank, self.transport.world_size
        with refusals_told(self.transport):
            self.config = MonitorConfig.read(config)
            self.frequency = self.config.monitor_norm_freq
            self.control = Control(rank, world_size, self.frequency, self.lost_data, self.config.deadline)
            if self.frequency == 0:
                announce(self.transport, self.config)
                return
            self._task_ids = checked_task_ids(num_tasks, task_ids)
            if not any(True for _ in model.parameters()):
                raise ConfigurationError(f'monitor: {type(model).__name__} has no parameters to measure')
            refuse_unreadable(model)
            if next(model.parameters()).device.type == 'cpu':
                native.say_if_missing()
            self._snapshot = ModelSnapshot(model)
            self.groups = find_groups(model, num_tasks, self.config.module_groups)
            self.metrics = _checked_metrics(preset_metrics(self.config.preset) if metrics is None else metrics)
            self.figures = _declared_figures(self.metrics, self.groups)
            description = self._describe_run()
            self.diagnosis = DiagnosisStage.of(
                self.config, description.tasks, rules, self.control, self.lost_data, rank
            )
            destinations = [*destinations, *([] if callback is None else [FindingCallback(callback)])]
            self._workers += [
                DestinationWorker(entry, self.lost_data, description=description) for entry in destinations
            ]
        agreed = agree(self.transport, self.config, self.groups, num_tasks, self._task_ids)
        self._owner_only = {metric.name for metric in self.metrics if metric.owner_only}
        self._sharded = ShardedGroups(self.groups, self._owner_only, world_size)
        self._ownership = Ownership(num_tasks, agreed.task_ids, self._owner_only, self._sharded.keys)
        self._publish_errors = PublishErrors(
            num_tasks is not None, self.transport, self.lost_data, self.config.setup_timeout, self._taken
        )
        self._prepare()
        self._schedule = self.control.schedule
        self.control.on('schedule', self._reschedule)
        # The decision takes effect before the step that is about to begin.
        self.control.on('owners', lambda decision: self._reassign(decision.owners or (), self._schedule.iteration))
        self._reducer = Reducer(
            self.transport,
            self._finish,
            self.lost_data,
            self.control,
            self.config.deadline,
            agreed.session,
            self._ownership,
            self._deliver,
        )
        self._throttle = Throttle(
            self.metrics, self.config.monitor_norm_freq, self.config.budget, self.control, self.config.deadline
        )

    def _taken(self, name: str) -> str | None:
        return self.figures.taken(name, {'model', *(group.key for group in self.groups)})

    def _describe_run(self) -> RunDescription:
        named = dict(enumerate(self._task_names))
        tasks = {task_id: named.get(task_id, f'task {task_id}') for task_id in range(self._num_tasks or 0)}
        return RunDescription(tasks, dict(vars(self.config)), self.figures)

    @torch.inference_mode(False)
    def _prepare(self, again: bool = False) -> None:
        """Give every metric its groups and its cells of the row buffer."""
        rank = self.transport.rank
        shares = [local_share(group, self._ownership.owner(group.task_id) == rank) for group in self.groups]
        self._setup = Setup(
            model=self._model,
            config=self.config,
            groups=self.groups,
            owned_groups=tuple(group for group in shares if group is not None),
            num_tasks=self._num_tasks,
            task_ids=self._task_ids,
            device=next(self._model.parameters()).device,
            rank=rank,
            world_size=self.transport.world_size,
            task_names=self._task_names,
        )
        sizes = list(self._prepared(again))
        for metric in self.metrics:
            if metric.frequency % self.config.monitor_norm_freq:
                raise ConfigurationError(
                    f'monitor: {metric.name} every {metric.frequency} iterations is no multiple of '
                    f'monitor_norm_freq, {self.config.monitor_norm_freq}'
                )
        self._calls = MetricCalls(self.metrics, self.lost_data, self._publish_errors.complain)
        self._records = RecordBuilder(self.metrics, self._calls, self.figures)
        self._buffer = RowBuffer(self._setup.device, cells=sum(sizes))
        spans = [slice(stop - size, stop) for size, stop in zip(sizes, np.cumsum(sizes).tolist(), strict=True)]
        for metric, span in zip(self.metrics, spans, strict=True):
            metric.bind(self._buffer.cells(span.start, span.stop))
        self._batches = BatchBuilder(self.metrics, spans, self._buffer, self._calls, messages=int(rank > 0))
        watched = WatchedStep(self._calls.clip_of_any_step)
        self._off_step: InertLearnerStep = watched if self.watches_every_step else INERT
        self._measurement = StepMeasurement(
            self._calls,
            self._buffer,
            self._publish_errors,
            self._task_ids,
            self.lost_data,
            # The backward pass comes next.
            before_backward=lambda: self._reducer.backward_begins(),
        )

    def _prepared(self, again: bool) -> Iterator[int]:
        """Yield how many cells each metric needs; one that was prepared before and fails now is left out."""
        for metric in list(self.metrics):
            try:
                yield metric.prepare(self._setup)
            except Exception as error:
                if not again:
                    raise
                self.metrics.remove(metric)
                self._calls.fail(metric, 'prepare', error)

    def reassign(self, task_ids: Sequence[Sequence[int]]) -> None:
        """Tell the monitor which rank trains which tasks from the next learner step on.

        Every rank calls it between the same two learner steps, or rank 0 posts it with
        ``monitor.control.post(owners=...)``. The head of a task that nobody trains any more is reported by the rank
        that trained it last, because only that rank has its weights.

        Arguments:
            task_ids: global task ids of every rank, by rank.

        Raises:
            ConfigurationError: not one entry per rank, or a task id out of range.
        """
        if self.config.monitor_norm_freq > 0:
            self._reassign(task_ids, self._schedule.iteration + 1)

    def _reassign(self, task_ids: Sequence[Sequence[int]], since: int) -> None:
        if len(task_ids) != self.transport.world_size:
            raise ConfigurationError(f'monitor: task ids of {len(task_ids)} ranks for {self.transport.world_size}')
        if self._num_tasks is None:
            raise ConfigurationError('monitor: a single-task policy has no tasks to reassign')
        checked = [checked_task_ids(self._num_tasks, ids) for ids in task_ids]
        self._ownership.change(since, checked)
        self._task_ids = checked[self.transport.rank]
        self._prepare_again()

    def _find_groups_again(self, iteration: int) -> bool:
        """Find the groups of a model in which modules or parameters were replaced; tell whether they were found."""
        try:
            refuse_unreadable(self._model)
            groups = find_groups(self._model, self._num_tasks, self.config.module_groups)
        except (ConfigurationError, GroupError) as error:
            self.lost_data.count('groups', f'the model was changed, and is not measured as it is now: {error}')
            return False
        self._snapshot, self.groups = ModelSnapshot(self._model), groups
        self._sharded = ShardedGroups(groups, self._owner_only, self.transport.world_size)
        self._ownership.sharded = self._sharded.keys
        self._prepare_again()
        note = f'modules or parameters were replaced; groups found again at iteration {iteration}'
        self._changes.append((iteration, note))
        # A model that changes all the time should not fill the log.
        logger.log(logging.INFO if self._has_changed else logging.WARNING, 'monitor: %s', note)
        self._has_changed = True
        return True

    def _prepare_again(self) -> None:
        self._collect(wait=True)
        for waiting in self._waiting:
            # Its numbers are of the groups that the metrics are about to forget.
            waiting.get()
        gradient_due = self._measurement.gradient_due
        self._prepare(again=True)
        self._measurement.gradient_due = gradient_due

    def _reschedule(self, decision: Decision) -> None:
        if decision.frequency is not None:
            self.frequency = decision.frequency

    def state_dict(self) -> dict[str, int]:
        """Return what a checkpoint keeps: the schedule in force and the last iteration that was measured.

        It is the same on every rank. Decisions of rank 0 that have not taken effect are not kept, nor is the division
        of tasks, which a resumed run is told at construction.
        """
        if self.frequency > 0:
            # A resumed run does not measure again what was measured before the checkpoint.
            self._reducer.flush()
        return {
            'monitor_norm_freq': self.config.monitor_norm_freq,
            'frequency': self.frequency,
            'last_iteration': self._last_measured,
        }

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on where a checkpoint was made; to be called on every rank, before the first learner step.

        Iterations up to the last that was measured are not measured again. A schedule that rank 0 had decided upon
        stays in force, unless the configuration now says another frequency: that is the newer decision.
        """
        self._last_measured = self._resumed_after = int(state['last_iteration'])
        if 0 < self.frequency == int(state['monitor_norm_freq']) and state['frequency'] > 0:
            self.frequency = int(state['frequency'])

    # -- one learner step ------------------------------------------------------------------------------------------

    def due(self, iteration: int) -> bool:
        """Tell whether the learner step of this iteration is measured."""
        if iteration <= self._resumed_after:
            return False
        return self.frequency > 0 and (iteration % self.frequency == 0 or self._measurement.gradient_due)

    def begin_step(self, iteration: int) -> InertLearnerStep:
        """Return the context object for one learner step: a live one if the step is due, the inert one if not."""
        if self._pending:
            self._collect()
        if self.frequency == 0:
            return INERT
        self._schedule.iteration = iteration
        if iteration >= self._schedule.next_iteration:
            self.control.reach(iteration)
        if self._closed:
            return INERT
        self._calls.begin_any_step()
        if not self.due(iteration):
            return self._off_step
        started = time.perf_counter()
        if self._snapshot.has_changed() and not self._find_groups_again(iteration):
            return self._off_step
        # The gradients of a step that is not due itself complete what a due one began.
        forward = iteration % self.frequency == 0
        due = [q for q in self.metrics if self._throttle.is_due(q, iteration)] if forward else None
        return self._measurement.begin(iteration, due, started)

    def end_step(self, step: InertLearnerStep, raised: bool = False) -> None:
        """Finish a step that :meth:`begin_step` began; also one that raised, which completes no accumulation cycle."""
        if not isinstance(step, LearnerStep):
            return
        pending = self._measurement.end(step, raised)
        if pending is None:
            return
        self._pending.append(pending)
        self._last_measured = max(self._last_measured, pending.iteration)
        self._collect(wait=self.config.merge_train_output)

    def drop_step(self, step: InertLearnerStep) -> None:
        """Forget a step that :meth:`begin_step` began and that turned out not to take place."""
        if isinstance(step, LearnerStep):
            self._measurement.drop(step)

    @property
    def watches_every_step(self) -> bool:
        """Whether a metric asks for every learner step, monitored or not."""
        return any(metric.every_step for metric in self.metrics)

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
        finally:
            self.end_step(step, raised)

    # -- from the device to the record -----------------------------------------------------------------------------

    def _collect(self, wait: bool = False) -> None:
        """Hand every step whose rows have arrived on the host to the reduction."""
        while self._pending:
            pending = self._pending[0]
            if wait:
                pending.wait()
            elif not pending.arrived():
                return
            self._pending.popleft()
            waiting = self._batches.take(pending)
            if self.config.merge_train_output:
                local = RowTable(self._sharded.whole([waiting.get()]), final=False)
                self._last_local = self._records.derive(local, pending.iteration)
            while self._waiting and self._waiting[0].is_made:
                self._waiting.popleft()
            self._waiting.append(waiting)
            self._reducer.submit(waiting)

    def _finish(self, iteration: int, batches: list[Batch], missing: int) -> None:
        table = RowTable(self._sharded.whole(batches), complete=missing == 0)
        for key in table.unequal:
            self.lost_data.count(f'metric_{key.metric}', f'{key}: ranks sent vectors of different lengths; left out')
        record = self._records.derive(table, iteration)
        self._records.compare(record, table)
        if self.transport.world_size > 1:
            record.scalars['monitor/missing_ranks'] = float(missing)
        record.notes.update(self.control.take_notes())
        while self._changes and self._changes[0][0] <= iteration:
            record.notes['groups'] = self._changes.popleft()[1]
        record.notes.update(self._throttle.keep_to_budget(iteration, record.scalars))
        for reason, amount in self.lost_data.take().items():
            record.scalars[f'monitor/lost/{reason}'] = float(amount)
        record = self.diagnosis.judge(record)
        self.records.append(record)
        for worker in self._workers:
            worker.enqueue(record)

    def _deliver(self) -> None:
        for worker in self._workers:
            worker.flush()

    @property
    def model(self) -> nn.Module:
        """The model that is being trained."""
        return self._model

    # -- results and end -------------------------------------------------------------------------------------------

    def take_records(self) -> list[Record]:
        """Return the records that became complete since the last call (on rank 0; empty elsewhere)."""
        records = []
        while self.records:
            records.append(self.records.popleft())
        return records

    def take_local_scalars(self) -> dict[str, float]:
        """Return this rank's own figures of the step that just ended (``merge_train_output=True`` only)."""
        record, self._last_local = self._last_local, None
        return {} if record is None else record.scalars

    def close(self) -> None:
        """Publish what is under way, for at most ``close_timeout`` seconds, and close the destinations."""
        if self._closed or self.frequency == 0:
            return
        self._closed = True
        self._collect(wait=True)
        self._reducer.close(self.config.close_timeout)
        for worker in self._workers:
            worker.close(self.config.close_timeout)
        if self.lost_data.total:
            logger.warning('monitor: lost in this run: %s', dict(sorted(self.lost_data.total.items())))

    def __enter__(self) -> StepMonitor:
        """Close at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()


def _checked_metrics(metrics: Any) -> list[Metric]:
    if isinstance(metrics, str) or not isinstance(metrics, Iterable):
        raise ConfigurationError(
            f'monitor: metrics is a sequence of metrics, such as [*default_metrics(), Mine()]; got {metrics!r}. '
            f'Presets are named in the configuration: preset=...'
        )
    checked = list(metrics)
    for metric in checked:
        if isinstance(metric, type) and issubclass(metric, Metric):
            raise ConfigurationError(f'monitor: expected a metric, got its class; write {metric.__name__}()')
        if not isinstance(metric, Metric):
            raise ConfigurationError(
                f'monitor: expected a metric, an object whose class derives from Metric; got {metric!r}'
            )
        name = getattr(metric, 'name', None)
        if not isinstance(name, str) or not re.fullmatch(r'[A-Za-z0-9_.-]+', name):
            raise ConfigurationError(f'monitor: {name!r} cannot be the name of a metric: letters, digits, _, . and -')
    names = [metric.name for metric in checked]
    if len(set(names)) < len(names):
        raise ConfigurationError(f'monitor: two metrics have the same name: {names}')
    return checked


def _declared_figures(metrics: Sequence[Metric], groups: Sequence[Group]) -> Figures:
    """Return what the metrics declare.

    Raises:
        ConfigurationError: two of them declare figures of one name.
    """
    declared = [(metric.name, figure) for metric in metrics for figure in metric.figures]
    figures = Figures([*declared, *COMMON_FIGURES])
    twice = next(figures.declared_twice(group.key for group in groups), None)
    if twice is not None:
        name, first, second = twice
        raise ConfigurationError(f'monitor: {name} comes from {first} and from {second}; give one another name')
    return figures


def _refuse_arguments(model: Any, **sequences: Any) -> None:
    if not isinstance(model, nn.Module):
        raise ConfigurationError(f'monitor: expected a model, an nn.Module, got {type(model).__name__}')
    for name, given in sequences.items():
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise ConfigurationError(f'monitor: {name} is a sequence, such as a list; got {given!r}')
