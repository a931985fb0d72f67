"""Which tasks pull the shared parameters apart: one backward pass per task, compared across ranks by sketches."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from functools import partial
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ding_normmon.core.common_figures import MONITOR_SECTION
from ding_normmon.core.config import ConfigurationError
from ding_normmon.core.figure import Chart, Figure
from ding_normmon.core.record import Matrix
from ding_normmon.core.sharding import is_sharded
from ding_normmon.core.step import LearnerStep
from ding_normmon.metrics.base import Setup
from ding_normmon.metrics.explained_gradient import sketch_gradients, unexplained_part
from ding_normmon.metrics.extra_backward import extra_backward
from ding_normmon.metrics.maths.conflict_geometry import TaskGeometry, geometry_of
from ding_normmon.metrics.mixins import DeviceCells
from ding_normmon.metrics.sections import NONFINITE_CHART, TASKS_SECTION
from ding_normmon.metrics.shared_parameters import shared_parameters
from ding_normmon.rows.moments import COUNT, M2, MEAN, NONFINITE, Row, constant_row, square_sum_row
from ding_normmon.rows.table import RowBuffer, RowKey, RowTable, Vector

__all__ = ['GradientConflict', 'refuse_sharded_models']

logger = logging.getLogger('ding_normmon')

_ABSENT = -1.0

_UNEXPLAINED = 0.1
"""Part of a gradient above which the losses per task are not what it is made of."""


def refuse_sharded_models(setup: Setup) -> None:
    """Raise where a rank does not hold whole parameters.

    Raises:
        ConfigurationError: the model has ``DTensor`` parameters (FSDP2, tensor parallelism).
    """
    if any(map(is_sharded, setup.model.parameters())):
        raise ConfigurationError(
            'monitor.conflict_freq: gradient conflict cannot be measured on sharded parameters (DTensor), where a '
            'backward pass per task would gather and scatter them once more per task; set conflict_freq=0'
        )


_figure = partial(Figure, section=TASKS_SECTION, hook_point='`forward_end`')


class GradientConflict(DeviceCells):
    r"""Cosines, shares and norms of the tasks' gradients on every shared group, at ``forward_end``.

    For tasks :math:`i, j` with loss gradients :math:`g_i` on a group (as they enter the training gradient, the sum of
    all of them),

    .. math:: c_{ij} = \frac{\langle g_i, g_j\rangle}{\|g_i\|\,\|g_j\|}, \qquad
              share_i = \frac{\|g_i\|}{\sum_j \|g_j\|}

    ``conflict/{group}/{rate,min_cosine,mean_cosine,standard_error,imbalance,effective_tasks,sum_norm}``,
    ``conflict/{group}_task{i}/{share,mean_cosine}``, the matrices ``conflict/{group}/{cosine,standard_error}`` and the
    worst pair by name as a note. Norms are exact, cosines come of sketches (:mod:`ding_normmon.metrics.maths.sketch`)
    unless ``conflict_exact='rank'``, which holds the gradients of all tasks of the rank at the same time.

    Source: Yu et al., "Gradient surgery for multi-task learning" (PCGrad), NeurIPS 2020, for the cosine and for calling
    a negative one a conflict.
    """

    name: ClassVar[str] = 'gradient_conflict'
    figures: ClassVar[tuple[Figure, ...]] = (
        _figure(
            'conflict/{group}/rate',
            'share of the pairs of tasks whose gradients have a cosine below −2 standard errors [1]',
            'share',
            bad_value="near 1 for long: tasks undo each other's steps; a gradient correction or a larger shared part",
            kind='rate',
            chart=Chart('Conflict', 'Share of pairs of tasks in conflict'),
            prominence='headline',
        ),
        _figure(
            'conflict/{group}/{min_cosine,mean_cosine}',
            'of all pairs',
            'cosine',
            bad_value='mean below 0',
            chart=Chart('Conflict', '{group}: cosines of the gradients of pairs'),
        ),
        _figure(
            'conflict/{group}/standard_error',
            (
                'largest standard error of a cosine: (1−c²)/√((1+c²)k) for sketches of k numbers [2] [3]; 1e-6 '
                'where nothing is sketched'
            ),
            'cosine',
            bad_value='large: raise `sketch_size`',
            scale='log',
            chart=Chart('Conflict', 'Standard errors of the cosines'),
            kind='level',
        ),
        _figure(
            'conflict/{group}/imbalance',
            "largest norm of a task's gradient over the smallest that is not 0",
            'ratio',
            bad_value='above 10 for long: task weights',
            scale='log',
            chart=Chart('Conflict', 'Largest over smallest gradient norm of a task'),
        ),
        _figure(
            'conflict/{group}/effective_tasks',
            "1/Σ share²: how many tasks of equal norms would be spread like these (Hill's number of order 2 [4])",
            'tasks',
            bad_value='near 1: one task dominates',
            chart=Chart('Conflict', 'Effective number of tasks'),
        ),
        _figure(
            'conflict/{group}/sum_norm',
            (
                "norm of the sum of the tasks' gradients, before whatever corrects it (MoCo, PCGrad): "
                '`grad/{group}/_total_norm` is what is left after it'
            ),
            'loss / weight',
            bad_value='far from `grad/{group}/_total_norm`: the correction changes the length of the step',
            scale='log',
            chart=Chart('Conflict', "Norm of the sum of the tasks' gradients"),
        ),
        _figure(
            'conflict/{group}_task{i}/mean_cosine',
            'mean cosine with the other tasks',
            'cosine',
            bad_value='below 0: the others work against it',
            chart=Chart('Conflict', '{group}: mean cosine with other tasks'),
            of_task='Conflict: mean cosine of its gradients with those of other tasks',
        ),
        _figure(
            'conflict/embeddings_task{i}/mean_cosine',
            'the same, of the smallest part',
            'cosine',
            chart=Chart('Conflict', 'embeddings: mean cosine with other tasks'),
            of_task='Conflict: mean cosine of its gradients with those of other tasks',
            prominence='detail',
            is_listed=False,
        ),
        _figure(
            'conflict/{group}_task{i}/share',
            "norm of the task's gradient over the sum of all tasks' norms",
            'share',
            bad_value='near 1, or near 0: this task dominates, or is not heard',
            chart=Chart('Conflict', '{group}: share of the gradient norms'),
            of_task='Conflict: its share of the gradient norms',
            prominence='detail',
        ),
        Figure(
            'monitor/nonfinite/conflict/{group}_task{i}',
            "1 where the gradient of the task's loss is not finite; the task is in no pair then",
            'flag',
            bad_value='this task breaks the run',
            section=MONITOR_SECTION,
            chart=NONFINITE_CHART,
        ),
    )
    hook_points: ClassVar[tuple[str, ...]] = ('forward_end', 'local_backward_end', 'backward_end')
    stretchable: ClassVar[bool] = True

    def __init__(self) -> None:
        self._listening = False

    def prepare(self, setup: Setup) -> None:
        """Lay out the cells: squared norms, exact inner products if asked for, sketches."""
        super().prepare(setup)
        self._off = setup.config.conflict_freq == 0 or (setup.num_tasks or 1) < 2
        self.frequency = setup.config.conflict_freq or 0
        self.num_cells = 0
        if self._off:
            return
        refuse_sharded_models(setup)
        self.shared = shared_parameters(setup)
        self.exact = setup.config.conflict_exact == 'rank'
        tasks, groups = len(setup.task_ids), len(self.shared.groups)
        self._position = {task_id: position for position, task_id in enumerate(setup.task_ids)}
        self._said: set[str] = set()
        self._extra = extra_backward(setup)
        self._is_checked = False
        self._before: Tensor | None = None
        self._given: list[int] = []
        self._dots_at = tasks * groups
        self._sketches_at = self._dots_at + (tasks * tasks * groups if self.exact else 0)
        # Two float32 numbers share the bits of a float64 cell.
        self._sizes = [-(-group.sketch.size // 2) for group in self.shared.groups]
        self.num_cells = self._sketches_at + tasks * sum(self._sizes)
        self._announce(self.num_cells)

    def _announce(self, cells: int) -> None:
        setup, tasks = self.setup, len(self.setup.task_ids)
        every = self.frequency or setup.config.monitor_norm_freq
        error = math.sqrt(max((group.sketch.collision for group in self.shared.groups), default=0.0))
        held = tasks if self.exact else min(tasks, 1)
        numels = sum(parameter.numel() for parameter in self.shared.parameters)
        logger.info(
            'monitor: gradient conflict costs this rank %d more backward passes every %d iterations (%d M shared '
            'parameters, %d gradients of them held at a time); %.1f MB between steps; standard error of a cosine at '
            'most %.3f',
            *(tasks, every, numels / 1e6, held, (8 * cells + self.shared.bytes) / 1e6, error),
        )

    def state_bytes(self) -> int:
        """Return the size of the sketches' tables."""
        return 0 if self._off else self.shared.bytes

    def bind(self, cells: Tensor) -> None:
        """Split the cells."""
        if not self._off:
            tasks, groups = len(self.setup.task_ids), len(self.shared.groups)
            self.squares = cells[: self._dots_at].view(tasks, groups)
            self.dots = cells[self._dots_at : self._sketches_at].view(groups, -1)
            self.floats = cells[self._sketches_at :].view(torch.float32)

    def begin(self, step: LearnerStep) -> None:
        """Note what is hung on the graph of the step's forward pass."""
        if not self._off:
            self._listening = True
            self._extra.begin()

    def release(self) -> None:
        """Note it no longer."""
        if self._listening:
            self._listening = False
            self._extra.release()

    def measure(self, hook_point: str, step: LearnerStep, rows: RowBuffer) -> None:
        """Differentiate every task's loss and keep a sketch of its gradient."""
        if self._off:
            return
        if hook_point != 'forward_end':
            # Gradients of other ranks are no part of what this rank's losses explain.
            is_own = hook_point == 'local_backward_end' or self.setup.world_size == 1
            if is_own and not self._is_checked and not step.corrected:
                self._check()
            return
        if step.fired.count(hook_point) <= 1:
            self._given = []
            if not self._is_checked:
                self._before = sketch_gradients(self.shared.groups, self.shared.parameters)
            # A policy may fire `forward_end` once per task; what the last step left is wiped once.
            self.squares.fill_(_ABSENT)
            self.dots.fill_(math.nan)
        if step.losses is None:
            self._say('the policy gives no losses per task at forward_end, so gradient conflict cannot be measured')
            return
        losses = {task_id: loss for task_id, loss in step.losses.items() if loss.requires_grad}
        for task_id in losses:
            if task_id not in self._position:
                raise ValueError(f'the loss of task {task_id} was given on a rank that trains {self.setup.task_ids}')
        why = self._extra.refusal(losses)
        if why is not None:
            self._off = True
            raise RuntimeError(f'{why}. Gradient conflict is switched off')
        held: dict[int, list[Tensor | None]] = {}
        for task_id, loss in losses.items():
            self._given.append(task_id)
            gradients = self.shared.gradients(loss, self._extra)
            self.extra_backward += 1
            with torch.no_grad():
                self._sketch(self._position[task_id], gradients)
                if self.exact:
                    self._multiply(self._position[task_id], gradients, held)
                    held[self._position[task_id]] = gradients
            del gradients

    def _check(self) -> None:
        """Compare, in the first step that can tell, the gradient of this rank with that of the losses it was given.

        It waits for the device once.

        Raises:
            RuntimeError: the losses do not explain the gradient; the metric is off from then on.
        """
        before, self._before = self._before, None
        if before is None or not self._given or len(set(self._given)) < len(self._given):
            # Nothing was measured in this step, or the gradient is accumulated over several passes of a task.
            return
        squares = self.squares.cpu()
        parts = []
        start = 0
        for index, (group, size) in enumerate(zip(self.shared.groups, self._sizes, strict=True)):
            total = torch.zeros(group.sketch.size, dtype=torch.float64)
            for task_id in self._given:
                position = self._position[task_id]
                if squares[position, index] != _ABSENT:
                    at = 2 * position * sum(self._sizes) + start
                    total += self.floats[at : at + group.sketch.size].double().cpu()
            parts.append(total)
            start += 2 * size
        after = sketch_gradients(self.shared.groups, self.shared.parameters)
        left = unexplained_part(torch.cat(parts), before, after)
        if left is None:
            return
        self._is_checked = True
        if left > _UNEXPLAINED:
            self._off = True
            raise RuntimeError(
                f'{left:.0%} of the gradient of this step is not explained by the losses per task that the policy '
                'gives at forward_end: it is made by several backward passes that depend on each other, or of losses '
                'that are not given. Gradient conflict is switched off'
            )

    def _say(self, what: str) -> None:
        if what not in self._said:
            self._said.add(what)
            logger.warning('monitor: %s', what)

    def _sketch(self, position: int, gradients: list[Tensor | None]) -> None:
        start = 2 * position * sum(self._sizes)
        for index, (group, size) in enumerate(zip(self.shared.groups, self._sizes, strict=True)):
            of_group = group.of(gradients)
            if any(gradient is not None for gradient in of_group):
                out = self.floats[start : start + group.sketch.size]
                group.sketch(of_group, out, self.squares[position, index])
            start += 2 * size

    def _multiply(self, position: int, gradients: list[Tensor | None], held: dict[int, list[Tensor | None]]) -> None:
        tasks = len(self.setup.task_ids)
        for index, group in enumerate(self.shared.groups):
            for other, others in held.items():
                product = _inner_product(group.of(gradients), group.of(others), self.dots.device)
                self.dots[index, min(position, other) * tasks + max(position, other)] = product

    def unpack(self, cells: npt.NDArray[np.float64]) -> Iterator[tuple[RowKey, Row]]:
        """Yield the squared norms, and the exact inner products if asked for."""
        if self._off:
            return
        groups, tasks = self.shared.groups, self.setup.task_ids
        squares = cells[: self._dots_at].reshape(len(tasks), len(groups))
        for position, task_id in enumerate(tasks):
            for index, group in enumerate(groups):
                square = float(squares[position, index])
                if square != _ABSENT:
                    bad = not math.isfinite(square)
                    yield RowKey(self.name, group.name, task_id), square_sum_row(1, 0.0 if bad else square, float(bad))
        if self.exact:
            dots = cells[self._dots_at : self._sketches_at].reshape(len(groups), len(tasks), len(tasks))
            for index, group in enumerate(groups):
                for i, first in enumerate(tasks):
                    for j, second in enumerate(tasks[i + 1 :], i + 1):
                        if squares[i, index] != _ABSENT and squares[j, index] != _ABSENT:
                            part = f'dot:{min(first, second)}:{max(first, second)}'
                            yield RowKey(self.name, group.name, None, part), constant_row(dots[index, i, j])

    def unpack_vectors(self, cells: npt.NDArray[np.float64]) -> Iterator[tuple[RowKey, Vector]]:
        """Yield the sketches."""
        if self._off:
            return
        groups, tasks = self.shared.groups, self.setup.task_ids
        floats, start = cells[self._sketches_at :].view(np.float32), 0
        squares = cells[: self._dots_at].reshape(len(tasks), len(groups))
        for position, task_id in enumerate(tasks):
            for index, (group, size) in enumerate(zip(groups, self._sizes, strict=True)):
                if math.isfinite(squares[position, index]) and squares[position, index] != _ABSENT:
                    sketch = floats[start : start + group.sketch.size].copy()
                    yield RowKey(self.name, group.name, task_id, 'sketch'), sketch
                start += 2 * size

    # -- on rank 0 -------------------------------------------------------------------------------------------------

    def geometries(self, table: RowTable) -> dict[str, TaskGeometry]:
        """Return the geometry of every group that was measured."""
        if self.name not in table.memo:
            table.memo[self.name] = dict(self._geometries(table)) if table.of(self.name) else {}
        found: dict[str, TaskGeometry] = table.memo[self.name]
        return found

    def _geometries(self, table: RowTable) -> Iterator[tuple[str, TaskGeometry]]:
        all_squares, all_sketches = table.of(self.name), table.vectors_of(self.name, 'sketch')
        for group in self.shared.groups:
            squares, sketches = all_squares.get(group.name, {}), all_sketches.get(group.name, {})
            finite = {int(task): row for task, row in squares.items() if task is not None and not row[NONFINITE]}
            # A task that several ranks train: its gradient is the sum of theirs, whose norm only the sketch knows.
            known = {
                task: float(row[M2] if row[COUNT] == 1 else np.square(sketches[task], dtype=np.float64).sum())
                for task, row in finite.items()
            }
            exact: dict[tuple[int, int], float] = {}
            for key in table if self.exact else ():
                known_exactly = key.part.startswith('dot:') and table[key][COUNT] > 0
                if key.metric == self.name and key.name == group.name and known_exactly:
                    _, first, second = key.part.split(':')
                    exact[int(first), int(second)] = float(table[key][MEAN])
            yield group.name, geometry_of(sketches, known, group.sketch.collision, exact)

    def derive(self, table: RowTable) -> Iterator[tuple[str, float]]:
        """Yield the figures of groups and tasks; only where every rank has measured them."""
        if self._off:
            return
        for name, tasks in table.of(self.name).items():
            for task_id, row in tasks.items():
                if row[NONFINITE]:
                    yield f'monitor/nonfinite/conflict/{name}_task{task_id}', float(row[NONFINITE])
        if not table.complete_for(self.name):
            return
        for name, geometry in self.geometries(table).items():
            for figure, value in geometry.figures().items():
                yield f'conflict/{name}/{figure}', value
            for task_id in geometry.norms:
                for figure, value in geometry.of_task(task_id).items():
                    yield f'conflict/{name}_task{task_id}/{figure}', value

    def matrices(self, table: RowTable) -> Iterator[tuple[str, Matrix]]:
        """Yield cosines and their standard errors, of the tasks that are there."""
        for name, geometry in self.geometries(table).items() if not self._off else ():
            if len(geometry.tasks) > 1:
                labels: dict[int | str, str] = {task: self.setup.task_name(task) for task in geometry.tasks}
                for what, values in (('cosine', geometry.cosine), ('standard_error', geometry.error)):
                    yield f'conflict/{name}/{what}', Matrix(values, geometry.tasks, geometry.tasks, labels)

    def notes(self, table: RowTable) -> Iterator[tuple[str, str]]:
        """Yield the pair with the smallest cosine, by name."""
        for name, geometry in self.geometries(table).items() if not self._off else ():
            worst = geometry.worst()
            if worst is not None:
                first, second, cosine, error = worst
                pair = f'{self.setup.task_name(first)} and {self.setup.task_name(second)}'
                verdict = 'in conflict' if cosine < -2 * error else 'no conflict'
                yield f'conflict/{name}', f'{pair}: cosine {cosine:.3f} ± {error:.3f}, {verdict}'


def _inner_product(first: list[Tensor | None], second: list[Tensor | None], device: torch.device) -> Tensor:
    total = torch.zeros((), dtype=torch.float64, device=device)
    for a, b in zip(first, second, strict=True):
        if a is not None and b is not None:
            for x, y in zip(a.reshape(-1).split(1 << 20), b.reshape(-1).split(1 << 20), strict=True):
                total += torch.dot(x.to(torch.float64), y.to(torch.float64))
    return total
