"""Which tasks' gradients conflict on shared parameters: one backward pass per task, and sketches that ranks compare."""

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
from ding_normmon.metrics.base import Chart, Figure, LearnerStep, Matrix, RowBuffer, RowKey, RowTable, Setup, Vector
from ding_normmon.metrics.conflict_cells import ConflictCells
from ding_normmon.metrics.explained_gradient import LossCheck
from ding_normmon.metrics.maths.conflict_geometry import TaskGeometry, geometry_of
from ding_normmon.metrics.mixins import DeviceCells
from ding_normmon.metrics.sections import NONFINITE_CHART, TASKS_SECTION
from ding_normmon.metrics.shared_parameters import SharedGradients
from ding_normmon.rows.moments import COUNT, M2, MEAN, NONFINITE, Row, constant_row, square_sum_row

__all__ = ['GradientConflict']

logger = logging.getLogger('ding_normmon')

_UNEXPLAINED = 0.1
"""Unexplained part of a gradient above which it is not that of the losses per task."""


_figure = partial(Figure, section=TASKS_SECTION, hook_point='`forward_end`')


class GradientConflict(DeviceCells, SharedGradients):
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
            stage='gradient',
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

    def prepare(self, setup: Setup) -> None:
        """Lay out the cells: squared norms, sketches, and exact inner products if asked for."""
        super().prepare(setup)
        self._off = setup.config.conflict_freq == 0 or (setup.num_tasks or 1) < 2
        self.frequency = setup.config.conflict_freq or 0
        self.num_cells = 0
        if self._off:
            return
        self.start(setup)
        self.exact = setup.config.conflict_exact == 'rank'
        self._position = {task_id: position for position, task_id in enumerate(setup.task_ids)}
        self._said = False
        self._losses = LossCheck(self.shared)
        self.cells = ConflictCells(self.shared, len(setup.task_ids), self.exact)
        self.num_cells = self.cells.count
        self._announce()

    def _announce(self) -> None:
        setup, tasks = self.setup, len(self.setup.task_ids)
        every = self.frequency or setup.config.monitor_norm_freq
        error = math.sqrt(max((group.sketch.collision for group in self.shared.groups), default=0.0))
        held = tasks if self.exact else min(tasks, 1)
        numels = sum(parameter.numel() for parameter in self.shared.parameters)
        logger.info(
            'monitor: gradient conflict costs this rank %d more backward passes every %d iterations (%d M shared '
            'parameters, %d gradients of them held at a time); %.1f MB between steps; standard error of a cosine at '
            'most %.3f',
            *(tasks, every, numels / 1e6, held, (8 * self.num_cells + self.shared.bytes) / 1e6, error),
        )

    def bind(self, cells: Tensor) -> None:
        """Split the cells."""
        if not self._off:
            self.cells.bind(cells)

    def measure(self, hook_point: str, step: LearnerStep, rows: RowBuffer) -> None:
        """Differentiate every task's loss and keep a sketch of its gradient."""
        if self._off:
            return
        if hook_point != 'forward_end':
            # The gradients of other ranks are not explained by this rank's losses.
            is_own = hook_point == 'local_backward_end' or self.setup.world_size == 1
            if is_own and not step.corrected:
                self._compare()
            return
        if step.fired.count(hook_point) <= 1:
            # A policy may fire `forward_end` once per task.
            self._losses.begin()
            self.cells.wipe()
        if step.losses is None:
            if not self._said:
                self._said = True
                logger.warning(
                    'monitor: the policy gives no losses per task at forward_end, so gradient conflict cannot be '
                    'measured'
                )
            return
        losses = {task_id: loss for task_id, loss in step.losses.items() if loss.requires_grad}
        self.check(losses, list(losses), 'Gradient conflict is')
        held: dict[int, list[Tensor | None]] = {}
        for task_id, loss in losses.items():
            self._losses.add(task_id)
            position, gradients = self._position[task_id], self.gradients(loss)
            with torch.no_grad():
                self.cells.sketch(position, gradients)
                for other, others in held.items():
                    self.cells.multiply(position, gradients, other, others)
                if self.exact:
                    held[position] = gradients
            del gradients

    def _compare(self) -> None:
        """Compare the gradient of this rank with that of the losses it was given.

        Raises:
            RuntimeError: the losses do not explain the gradient; the metric is off from then on.
        """
        left = self._losses.unexplained(lambda tasks: self.cells.sketch_of_sum(self._position[task] for task in tasks))
        if left is not None and left > _UNEXPLAINED:
            self._off = True
            raise RuntimeError(
                f'the losses that the policy gives at forward_end explain {1 - left:.0%} of the gradient of this step; '
                'gradient conflict is switched off. Give the losses of all tasks, each from one backward pass. If the '
                'gradient is corrected (PCGrad, MoCo), say so: step.forward_end(losses, corrected=True)'
            )

    def _key(self, index: int, position: int | None, part: str = '') -> RowKey:
        task_id = None if position is None else self.setup.task_ids[position]
        return RowKey(self.name, self.shared.groups[index].name, task_id, part)

    def unpack(self, cells: npt.NDArray[np.float64]) -> Iterator[tuple[RowKey, Row]]:
        """Yield the squared norms, and the exact inner products if asked for."""
        if self._off:
            return
        for position, index, square in self.cells.squares(cells):
            bad = not math.isfinite(square)
            yield self._key(index, position), square_sum_row(1, 0.0 if bad else square, float(bad))
        for index, i, j, product in self.cells.dots(cells):
            first, second = sorted((self.setup.task_ids[i], self.setup.task_ids[j]))
            yield self._key(index, None, f'dot:{first}:{second}'), constant_row(product)

    def unpack_vectors(self, cells: npt.NDArray[np.float64]) -> Iterator[tuple[RowKey, Vector]]:
        """Yield the sketches."""
        if not self._off:
            for position, index, sketch in self.cells.sketches(cells):
                yield self._key(index, position, 'sketch'), sketch

    # -- on rank 0 -------------------------------------------------------------------------------------------------

    def geometries(self, table: RowTable) -> dict[str, TaskGeometry]:
        """Return the geometry of every measured group."""
        if self.name not in table.memo:
            table.memo[self.name] = dict(self._geometries(table)) if table.of(self.name) else {}
        found: dict[str, TaskGeometry] = table.memo[self.name]
        return found

    def _geometries(self, table: RowTable) -> Iterator[tuple[str, TaskGeometry]]:
        all_squares, all_sketches = table.of(self.name), table.vectors_of(self.name, 'sketch')
        for group in self.shared.groups:
            squares, sketches = all_squares.get(group.name, {}), all_sketches.get(group.name, {})
            finite = {int(task): row for task, row in squares.items() if task is not None and not row[NONFINITE]}
            # The gradient of a task that several ranks train is the sum of theirs; only the sketch knows its norm.
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
        """Yield the figures of groups and tasks, if every rank has measured them."""
        if self._off:
            return
        for name, row in table.named(self.name):
            if row[NONFINITE]:
                yield f'monitor/nonfinite/conflict/{name}', float(row[NONFINITE])
        if not table.complete_for(self.name):
            return
        for name, geometry in self.geometries(table).items():
            for figure, value in geometry.figures().items():
                yield f'conflict/{name}/{figure}', value
            for task_id in geometry.norms:
                for figure, value in geometry.of_task(task_id).items():
                    yield f'conflict/{name}_task{task_id}/{figure}', value

    def matrices(self, table: RowTable) -> Iterator[tuple[str, Matrix]]:
        """Yield the cosines of the tasks and their standard errors."""
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
