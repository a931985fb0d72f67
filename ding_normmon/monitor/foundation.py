"""Sets a monitor up before its first step: groups, metrics, which rank reports what, where records go."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from ding_normmon.core.common_figures import COMMON_FIGURES
from ding_normmon.core.config import ConfigurationError, MonitorConfig
from ding_normmon.core.destination import Destination, RunDescription
from ding_normmon.core.figures import Figures
from ding_normmon.core.finding import Finding
from ding_normmon.core.lost_data import LostData
from ding_normmon.core.model_snapshot import ModelSnapshot
from ding_normmon.core.parameter_groups import Group, find_groups
from ding_normmon.core.sharding import local_share, refuse_unreadable
from ding_normmon.destinations.worker import DestinationWorker
from ding_normmon.metrics import Metric, Setup, preset_metrics
from ding_normmon.metrics.kernels import native
from ding_normmon.metrics.mixins import ClipListener, DeviceCells, Finishing
from ding_normmon.metrics.stepping import SteppingOptimizers
from ding_normmon.monitor.findings.stage import DiagnosisStage, FindingCallback
from ding_normmon.ranks.decisions.control import Control
from ding_normmon.ranks.decisions.schedule import DecisionSchedule
from ding_normmon.ranks.ownership import Ownership, checked_task_ids
from ding_normmon.ranks.setup_agreement import agree, announce, refusals_told
from ding_normmon.ranks.sharded_groups import ShardedGroups
from ding_normmon.ranks.transport import Transport, default_transport

__all__ = ['Foundation']


class Foundation:
    """Checks the arguments of a monitor and agrees on them with the other ranks.

    A rank that refuses, or is switched off, tells the others, so that they do not wait for it.

    Arguments:
        model: the model that is being trained.
        config: see :class:`~ding_normmon.core.config.MonitorConfig`.
        num_tasks: number of tasks of the whole run; None for a single-task policy.
        task_ids: global ids of the tasks this rank trains; all of them by default.
        task_names: what people call the tasks, by global id; a rank need not know those of the other ranks.
        transport: the connection to the other ranks.
        folder: of the run's files, where this rank knows it.

    Attributes:
        groups: parameter groups of the model, as they were found last.
        paths: the parameters of each group, by its name and task.
        task_ids: the tasks that this rank trains now.
        metrics: what is measured.
        figures: what the metrics declare.
        ownership: which rank reports what.
        sharded: the groups of which every rank has a share.
        folder: of the run's files, as far as rank 0 knows it.

    Raises:
        ConfigurationError: a key, value or argument that cannot be, a task id out of range, ranks that disagree.
        GroupError: a configured group that names no module.
    """

    def __init__(
        self,
        model: nn.Module,
        config: Mapping[str, Any] | MonitorConfig | None,
        num_tasks: int | None,
        task_ids: Sequence[int] | None,
        task_names: Sequence[str] | Mapping[int, str],
        destinations: Sequence[Destination],
        metrics: Sequence[Metric] | None,
        rules: Sequence[Any],
        callback: Callable[[Finding], object] | None,
        transport: Transport | None,
        folder: str | None = None,
    ) -> None:
        _refuse_arguments(model, task_names=task_names, destinations=destinations, rules=rules)
        self.model, self.num_tasks = model, num_tasks
        self.lost_data = LostData()
        self.groups: tuple[Group, ...] = ()
        self.metrics: list[Metric] = []
        self.optimizers = SteppingOptimizers()
        self.figures = Figures()
        self.diagnosis = DiagnosisStage()
        self.workers: list[DestinationWorker] = []
        named = task_names if isinstance(task_names, Mapping) else dict(enumerate(task_names))
        # The names that this rank knows, until the ranks have exchanged theirs.
        self._names = {int(task_id): str(name) for task_id, name in named.items()}
        self.tasks: dict[int, str] = {}
        # Every rank opens its connection, even if it is switched off.
        self.transport = default_transport() if transport is None else transport
        rank, world_size = self.transport.rank, self.transport.world_size
        with refusals_told(self.transport):
            self.config = MonitorConfig.read(config)
            frequency = self.config.monitor_norm_freq
            self.control = Control(rank, world_size, frequency, self.lost_data, self.config.deadline)
            if frequency == 0:
                announce(self.transport, self.config)
                return
            self._names.update(self.config.task_names)
            self.task_ids = checked_task_ids(num_tasks, task_ids)
            self._look_at_model()
            self.metrics = _checked_metrics(preset_metrics(self.config.preset) if metrics is None else metrics)
            self.figures = _declared_figures(self.metrics, self.groups)
            self.diagnosis = DiagnosisStage.of(
                self.config, rules, self.control, self.lost_data, rank, self.figures
            )
        agreed = agree(self.transport, self.config, self.groups, num_tasks, self.task_ids, self._names, folder)
        self.folder = agreed.folder
        # Only now are the names of all tasks known: each rank has sent those that it knows.
        self._names = agreed.task_names
        self.tasks = {task: self._names.get(task, f'task {task}') for task in range(num_tasks or 0)}
        self.diagnosis.name_tasks(self.tasks)
        receivers = [*destinations, *([] if callback is None else [FindingCallback(callback)])]
        description = RunDescription(self.tasks, dict(vars(self.config)), self.figures)
        begun = functools.partial(_begun, description, self.control.schedule)
        self.workers = [DestinationWorker(entry, self.lost_data, description=begun) for entry in receivers]
        self.session = agreed.session
        self.control.schedule.run = int.from_bytes(agreed.session, 'big')
        self._owner_only = {metric.name for metric in self.metrics if metric.owner_only}
        self.sharded = ShardedGroups(self.groups, self._owner_only, world_size)
        self.ownership = Ownership(num_tasks, agreed.task_ids, self._owner_only, self.sharded.keys)

    def _look_at_model(self) -> None:
        first = next(self.model.parameters(), None)
        if first is None:
            raise ConfigurationError(f'monitor: {type(self.model).__name__} has no parameters to measure')
        refuse_unreadable(self.model)
        if first.device.type == 'cpu':
            native.say_if_missing()
        self._find_groups()

    def _find_groups(self) -> None:
        self.groups = find_groups(self.model, self.num_tasks, self.config.module_groups, self._names_in_order())
        self.snapshot = ModelSnapshot(self.model)
        self.paths = {
            (group.name, group.task_id): tuple(path.replace('.', '/') for path in group.paths) for group in self.groups
        }

    def _names_in_order(self) -> tuple[str, ...]:
        return tuple(self._names.get(task, f'task{task}') for task in range(self.num_tasks or 0)) if self._names else ()

    def taken(self, name: str) -> str | None:
        """Return the metric that yields a figure of this name; None if that is not certain."""
        return self.figures.taken(name, {'model', *(group.key for group in self.groups)})

    def setup(self) -> Setup:
        """Return the set-up of the metrics for the current groups and tasks."""
        rank = self.transport.rank
        shares = [local_share(group, self.ownership.owner(group.task_id) == rank) for group in self.groups]
        return Setup(
            model=self.model,
            config=self.config,
            groups=self.groups,
            owned_groups=tuple(group for group in shares if group is not None),
            num_tasks=self.num_tasks,
            task_ids=self.task_ids,
            device=next(self.model.parameters()).device,
            rank=rank,
            world_size=self.transport.world_size,
            task_names=self._names_in_order(),
            optimizers=self.optimizers,
        )

    def prepare_metrics(self, setup: Setup, fail: Callable[[Metric, str, Exception], None] | None) -> None:
        """Prepare every metric.

        Arguments:
            setup: the set-up.
            fail: counts a metric that was prepared before and fails now; it is left out from then on. None at the first
                call, which raises instead.

        Raises:
            ConfigurationError: a metric whose frequency is no multiple of ``monitor_norm_freq``.
        """
        for metric in list(self.metrics):
            try:
                metric.prepare(setup)
            except Exception as error:
                if fail is None:
                    raise
                self.metrics.remove(metric)
                fail(metric, 'prepare', error)
                continue
            if metric.frequency % self.config.monitor_norm_freq:
                raise ConfigurationError(
                    f'monitor: {metric.name} every {metric.frequency} iterations is no multiple of '
                    f'monitor_norm_freq, {self.config.monitor_norm_freq}'
                )

    def find_groups_again(self) -> None:
        """Find the groups again after modules or parameters of the model were replaced.

        Raises:
            ConfigurationError, GroupError: the model cannot be measured any more; nothing has changed then.
        """
        refuse_unreadable(self.model)
        self._find_groups()
        self.sharded = ShardedGroups(self.groups, self._owner_only, self.transport.world_size)
        self.ownership.sharded = self.sharded.keys

    def reassign(self, task_ids: Sequence[Sequence[int]], since: int) -> None:
        """Divide the tasks differently from iteration ``since`` on.

        Raises:
            ConfigurationError: not one entry per rank, or a task id out of range.
        """
        if len(task_ids) != self.transport.world_size:
            raise ConfigurationError(f'monitor: task ids of {len(task_ids)} ranks for {self.transport.world_size}')
        if self.num_tasks is None:
            raise ConfigurationError('monitor: a single-task policy has no tasks to reassign')
        checked = [checked_task_ids(self.num_tasks, ids) for ids in task_ids]
        self.ownership.change(since, checked)
        self.task_ids = checked[self.transport.rank]


def _refuse_arguments(model: Any, **sequences: Any) -> None:
    if not isinstance(model, nn.Module):
        raise ConfigurationError(f'monitor: expected a model, an nn.Module, got {type(model).__name__}')
    for name, given in sequences.items():
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise ConfigurationError(f'monitor: {name}: expected a sequence, such as a list; got {given!r}')


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
        _refuse_hooks_that_nobody_calls(metric)
        name = getattr(metric, 'name', None)
        if not isinstance(name, str) or not re.fullmatch(r'[A-Za-z0-9_.-]+', name):
            raise ConfigurationError(
                f'monitor: {name!r} cannot be the name of a metric; a name has letters, digits, _, . and - only'
            )
    names = [metric.name for metric in checked]
    if len(set(names)) < len(names):
        raise ConfigurationError(f'monitor: two metrics have the same name: {names}')
    return checked


def _refuse_hooks_that_nobody_calls(metric: Metric) -> None:
    for mixin in (ClipListener, DeviceCells, Finishing):
        for hook in vars(mixin):
            if callable(getattr(mixin, hook)) and hasattr(metric, hook) and not isinstance(metric, mixin):
                raise ConfigurationError(
                    f'monitor: {type(metric).__name__} has {hook}(), which only metrics that derive from '
                    f'{mixin.__name__} are asked for (ding_normmon.metrics.mixins)'
                )


def _declared_figures(metrics: Sequence[Metric], groups: Sequence[Group]) -> Figures:
    """Return the declarations of the metrics.

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


def _begun(description: RunDescription, schedule: DecisionSchedule) -> RunDescription:
    """Return the description of a run whose first learner step has begun."""
    run = f'{schedule.run:016x}' if schedule.run else ''
    return dataclasses.replace(
        description,
        begins_at=schedule.begins_at,
        is_resumed=schedule.is_resumed,
        abandoned=schedule.abandoned,
        run=run,
    )
