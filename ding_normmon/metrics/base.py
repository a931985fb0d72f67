"""The base class of metrics, and everything that the signatures of its methods name.

A metric decides when it is measured, which rows it writes, and which figures it derives from them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ding_normmon.core.config import MonitorConfig
from ding_normmon.core.figure import Chart, Figure
from ding_normmon.core.parameter_groups import Group
from ding_normmon.core.record import Matrix
from ding_normmon.core.sharding import is_sharded
from ding_normmon.core.step import LearnerStep
from ding_normmon.metrics.stepping import SteppingOptimizers
from ding_normmon.rows import RowBuffer, RowKey, RowTable, Vector

__all__ = [
    'Chart',
    'Figure',
    'LearnerStep',
    'Matrix',
    'Metric',
    'RowBuffer',
    'RowKey',
    'RowTable',
    'Setup',
    'Vector',
]


@dataclass(frozen=True)
class Setup:
    """The set-up that a metric receives once, before the first step.

    Arguments:
        model: the model that is being trained.
        config: the monitor's configuration.
        groups: every parameter group of the model.
        owned_groups: the groups this rank reports: shared ones on rank 0, a task's where the task is trained; of groups
            with sharded parameters each rank's own share (:mod:`ding_normmon.core.sharding`).
        num_tasks: number of tasks of the whole run, None for a single-task policy.
        task_ids: global ids of the tasks that this rank trains.
        device: where the model lives.
        rank: this process.
        world_size: number of processes.
        task_names: names of the tasks, by global id; empty if none were given.
        common: objects that several metrics share, by name.
        optimizers: those that step and hold parameters of the model; it outlives a model that is changed.
    """

    model: nn.Module
    config: MonitorConfig
    groups: tuple[Group, ...]
    owned_groups: tuple[Group, ...]
    num_tasks: int | None
    task_ids: tuple[int, ...]
    device: torch.device
    rank: int
    world_size: int
    task_names: tuple[str, ...] = ()
    common: dict[str, Any] = field(default_factory=dict)
    optimizers: SteppingOptimizers = field(default_factory=SteppingOptimizers)

    def __post_init__(self) -> None:
        self.optimizers.follow(self.model.parameters())

    def replicated_groups(self) -> list[Group]:
        """Return the shared groups of which every rank holds all elements; none for a single rank."""
        shared = [group for group in self.groups if group.task_id is None] if self.world_size > 1 else []
        return [group for group in shared if not any(map(is_sharded, group.parameters))]

    def task_name(self, task_id: int) -> str:
        """Return the name of a task, or ``task3`` if it has none."""
        return self.task_names[task_id] if task_id < len(self.task_names) else f'task{task_id}'


class Metric:
    """Base of all metrics; a new one overrides what it needs.

    Measuring happens on the learner's thread and must not wait for the device: read tensors, write rows, keep nothing.
    Figures are derived in the background on rank 0, from the rows of all ranks, merged by key. Hooks that only some
    metrics need, such as cells on the device or clip calls, are in :mod:`ding_normmon.metrics.mixins`.

    Attributes:
        name: unique name; the first part of the metric's row keys.
        figures: the declarations of every name that it yields; the metric reference, dashboards, reports and rules read
            them.
        hook_points: the hook points at which :meth:`measure` is called.
        owner_only: whether its rows are those of parameter groups, which only the rank that owns a group may report
            (``Setup.owned_groups``).
        stretchable: whether the monitor may measure it less often to stay under ``budget``.
        frequency: learner iterations between two measurements, a multiple of ``monitor_norm_freq``; 0 for every
            monitored iteration. Set in :meth:`prepare`.
        extra_backward: backward passes that it has added to the step; set while measuring.
    """

    name: ClassVar[str]
    figures: ClassVar[tuple[Figure, ...]] = ()
    hook_points: ClassVar[tuple[str, ...]] = ()
    owner_only: ClassVar[bool] = False
    stretchable: ClassVar[bool] = False
    frequency: int = 0
    extra_backward: int = 0

    def prepare(self, setup: Setup) -> None:
        """Read the set-up; called again where modules of the model are replaced or tasks move."""
        self.setup = setup

    def begin(self, step: LearnerStep) -> None:
        """Prepare for one measured step; :meth:`release` removes whatever is attached here."""

    def on_publish(self, name: str, tensor: Tensor, task_id: int | None, mask: Tensor | None, rows: RowBuffer) -> None:
        """Measure one published tensor, detached; called without gradients for every ``publish`` of a due step."""

    def on_publish_loss(self, name: str, value: Tensor | float, task_id: int | None, rows: RowBuffer) -> None:
        """Measure one published scalar, detached."""

    def measure(self, hook_point: str, step: LearnerStep, rows: RowBuffer) -> None:
        """Measure at one of ``hook_points``."""

    def release(self) -> None:
        """Remove every hook and drop every tensor of the step; called even if the step raised."""

    def state_bytes(self) -> int:
        """Return the bytes that it keeps between steps, apart from cells on the device."""
        return 0

    def derive(self, table: RowTable) -> Iterator[tuple[str, float]]:
        """Yield metric names and values from the merged rows of all ranks.

        Called once per record, in the order of iterations. Remember values for the next record only if ``table.final``:
        with ``merge_train_output`` a rank also derives its own figures of every step.
        """
        yield from ()

    def matrices(self, table: RowTable) -> Iterator[tuple[str, Matrix]]:
        """Yield figures of pairs, such as the cosines between tasks."""
        yield from ()

    def notes(self, table: RowTable) -> Iterator[tuple[str, str]]:
        """Yield short texts for the record."""
        yield from ()
