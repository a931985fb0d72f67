"""How far a step moved the weights, and which tasks' gradients it followed."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ding_normmon.core.common_figures import MONITOR_SECTION
from ding_normmon.core.metric_names import with_task
from ding_normmon.core.sharding import counted_part, is_sharded
from ding_normmon.metrics.base import Chart, Figure, LearnerStep, RowBuffer, RowKey, RowTable, Setup, Vector
from ding_normmon.metrics.kernels.squares import SquareSums
from ding_normmon.metrics.maths.conflict_geometry import cosine_of
from ding_normmon.metrics.maths.sketch import ChunkTable, Sketch
from ding_normmon.metrics.mixins import DeviceCells
from ding_normmon.metrics.sections import NONFINITE_CHART, TASKS_SECTION
from ding_normmon.metrics.shared_parameters import shared_parameters
from ding_normmon.rows.moments import COUNT, M2, NONFINITE, Row, constant_row, square_sum_row

__all__ = ['Updates']

logger = logging.getLogger('ding_normmon')


@dataclass
class _Moving:
    """A group whose step is measured; ``copies`` are the weights before it, ``before`` their sketch where none fit.

    ``parameters`` are those of which this rank counts elements.
    """

    name: str
    task_id: int | None
    parameters: tuple[nn.Parameter, ...]
    sketch: Sketch
    travels: bool
    copies: list[Tensor]
    before: Tensor | None

    def weights(self) -> list[Tensor]:
        """Return what this rank counts of the parameters."""
        return _counted(self.parameters)


_figure = partial(Figure, section=TASKS_SECTION, prominence='detail')


class Updates(DeviceCells):
    r"""``update/{group}/relative`` and ``update/{group}_task{i}/cosine``: the weights before and after a step.

    .. math:: relative = \frac{\|w' - w\|}{\|w\|}, \qquad
              cosine_i = \frac{\langle g_i, w - w'\rangle}{\|g_i\|\,\|w - w'\|}

    where :math:`g_i` is the gradient of task i's loss on a shared group, from the sketches of
    :class:`~ding_normmon.metrics.gradient_conflict.GradientConflict` where that was measured in the same step. A
    positive cosine means that the step, after clipping and the optimizer's preconditioning, serves the task.

    The weights before the step are those at ``backward_end``. They are copied as far as ``memory_budget`` bytes go,
    smallest groups first. Of a group that does not fit, a sketch before and one after are kept; their difference is the
    sketch of the difference, and its norm has a relative standard error of :math:`1/\sqrt{2k}`: 1.1% for 4,096.
    """

    name: ClassVar[str] = 'updates'
    figures: ClassVar[tuple[Figure, ...]] = (
        _figure(
            'update/{group}/relative',
            (
                'L2 norm of the step over that of the weights before it; every group, `{group}` also '
                '`head_value_task{i}` and so on; an estimate with an error of 1/√(2k) where `memory_budget` holds'
                ' no copy of the weights'
            ),
            'ratio',
            stage='update',
            hook_point='`backward_end`, `step_end`',
            bad_value='above 1e-2: steps too large; below 1e-6: nothing is learnt [5]',
            scale='log',
            chart=Chart('Updates', 'Steps of shared modules relative to the weights'),
            task_chart=Chart('Updates', '{group}: step relative to the weights'),
            of_task='Updates: steps of its modules relative to the weights',
        ),
        _figure(
            'update/{group}_task{i}/cosine',
            "between minus the step and the task's gradient: after clipping and the optimizer's preconditioning",
            'cosine',
            hook_point='`step_end`',
            bad_value='below 0: the step makes this task worse',
            chart=Chart('Updates', '{group}: cosine of the step with the gradient'),
            of_task='Updates: cosine of the step with its gradient',
        ),
        Figure(
            'monitor/nonfinite/update/{group}',
            '1 where weights or step are not finite',
            'flag',
            section=MONITOR_SECTION,
            chart=NONFINITE_CHART,
        ),
    )
    hook_points: ClassVar[tuple[str, ...]] = ('backward_end', 'step_end')
    owner_only: ClassVar[bool] = True
    stretchable: ClassVar[bool] = True

    def prepare(self, setup: Setup) -> None:
        """Choose what is copied; lay out two squares per group and a sketch per shared one."""
        super().prepare(setup)
        self.frequency = setup.config.update_freq or 0
        self._moving: list[_Moving] = []
        self._begun = False
        self._tables: dict[int, ChunkTable] = {}
        self.num_cells = 0
        if setup.config.update_freq == 0:
            return
        size, device = setup.config.sketch_size, setup.device
        # A sharded model has no gradients per task to compare a step with, so no sketches.
        sharded = any(map(is_sharded, setup.model.parameters()))
        shared = shared_parameters(setup) if setup.rank == 0 and not sharded else None
        plans = {group.name: group for group in (shared.groups if shared else ())}
        for group in setup.owned_groups:
            if group.task_id is None and group.name in plans:
                continue
            counted = tuple(parameter for parameter in group.parameters if counted_part(parameter) is not None)
            sketch = Sketch([weight.numel() for weight in _counted(counted)], size, device, self._tables)
            self._moving.append(_Moving(group.name, group.task_id, counted, sketch, False, [], None))
        for plan in plans.values():
            assert shared is not None
            parameters = tuple(shared.parameters[index] for index in plan.indices)
            self._moving.append(_Moving(plan.name, None, parameters, plan.sketch, True, [], None))
        self._state_bytes = self._allocate(setup.config.memory_budget)
        self._plan_squares()
        self._squares_at = 2 * len(self._moving)
        self.num_cells = self._squares_at + sum(group.sketch.size for group in self._moving if group.travels)

    def _allocate(self, budget: int) -> int:
        used, sketched = 0, []
        copies: dict[int, Tensor] = {}
        for group in sorted(self._moving, key=lambda group: sum(weight.nbytes for weight in group.weights())):
            named = list(zip(group.parameters, group.weights(), strict=True))
            fresh = sum(weight.nbytes for parameter, weight in named if id(parameter) not in copies)
            if used + fresh <= budget:
                for parameter, weight in named:
                    if id(parameter) not in copies:
                        copies[id(parameter)] = torch.empty_like(weight, requires_grad=False)
                group.copies = [copies[id(parameter)] for parameter in group.parameters]
                used += fresh
            else:
                group.before = torch.zeros(group.sketch.size, dtype=torch.float64, device=self.setup.device)
                used += group.before.nbytes
                sketched.append(group.name)
        self._copies = list(copies.values())
        originals = {id(parameter): parameter for group in self._moving for parameter in group.parameters}
        self._copied = [originals[key] for key in copies]
        logger.info(
            'monitor: updates keep %.1f MB of weights%s',
            used / 1e6,
            f'; sketches stand for {", ".join(dict.fromkeys(sketched))} (memory_budget={budget})' if sketched else '',
        )
        return used + sum(table.bytes for table in self._tables.values())

    def _plan_squares(self) -> None:
        """Lay out the sums of squares of all copies, group after group."""
        owners = [index for index, group in enumerate(self._moving) for _ in group.copies]
        self._listed = [copy for group in self._moving for copy in group.copies]
        self._square_sums = SquareSums(self._listed)
        device = self.setup.device
        self._owners = torch.tensor(owners, dtype=torch.int64).to(device)
        self._with_copies = torch.tensor(sorted(set(owners)), dtype=torch.int64).to(device)
        self._sums, self._nonfinite = torch.zeros(2, len(owners), dtype=torch.float64, device=device)
        self._state_bytes += self._square_sums.scratch_bytes + 4 * self._sums.nbytes

    def _square(self, column: int) -> None:
        """Write the squared norm of each group's copies; NaN if an entry is not finite."""
        if self._listed:
            self._square_sums(self._listed, self._sums, self._nonfinite)
            self._sums.masked_fill_(self._nonfinite > 0, math.nan)
            squares = self.squares[:, column]
            squares.index_fill_(0, self._with_copies, 0.0).index_add_(0, self._owners, self._sums)

    def state_bytes(self) -> int:
        """Return the size of the copies, the sketches and their tables."""
        return self._state_bytes if self._moving else 0

    def bind(self, cells: Tensor) -> None:
        """Split the cells."""
        if self._moving:
            self.squares = cells[: self._squares_at].view(-1, 2)
            self.vectors = cells[self._squares_at :]

    @torch.no_grad()
    def measure(self, hook_point: str, step: LearnerStep, rows: RowBuffer) -> None:
        """Keep the weights before the step; compare with those after it."""
        if hook_point == 'step_end' and self.setup.rank == 0:
            rows.write(RowKey(self.name, 'all', None, 'done'), constant_row(1))
        if not self._moving:
            return
        if hook_point == 'backward_end':
            if self._begun:
                # One of several optimizers may have stepped already.
                return
            self._begun = True
            if self._copies:
                torch._foreach_copy_(self._copies, _counted(self._copied))
            for index, group in enumerate(self._moving):
                if group.before is not None:
                    group.sketch(group.weights(), group.before, self.squares[index, 0])
            return
        if not self._begun:
            raise RuntimeError('step_end without a backward_end')
        self._begun = False
        self._square(0)
        # `copies` become w - w', once each, also those that two groups share.
        if self._copies:
            torch._foreach_sub_(self._copies, _counted(self._copied))
        self._square(1)
        start = 0
        for index, group in enumerate(self._moving):
            if group.copies and not group.travels:
                continue
            size = group.sketch.size
            out = self.vectors[start : start + size] if group.travels else self.squares.new_zeros(size)
            if group.copies:
                group.sketch(group.copies, out)
            elif group.before is not None:
                group.sketch(group.weights(), out)
                torch.sub(group.before, out, out=out)
                torch.dot(out, out, out=self.squares[index, 1])
            if group.travels:
                start += size

    def release(self) -> None:
        """Forget a step that ended before the optimizer's."""
        self._begun = False

    def unpack(self, cells: npt.NDArray[np.float64]) -> Iterator[tuple[RowKey, Row]]:
        """Yield the squared norms of weights and steps."""
        for index, group in enumerate(self._moving):
            for part, square in zip(('weights', 'step'), cells[2 * index : 2 * index + 2], strict=True):
                bad = not math.isfinite(square)
                row = square_sum_row(1, 0.0 if bad else float(square), float(bad))
                yield RowKey(self.name, group.name, group.task_id, part), row

    def unpack_vectors(self, cells: npt.NDArray[np.float64]) -> Iterator[tuple[RowKey, Vector]]:
        """Yield the sketches of the shared groups' steps."""
        start = self._squares_at if self._moving else 0
        for group in self._moving:
            if group.travels:
                yield RowKey(self.name, group.name, None, 'sketch'), cells[start : start + group.sketch.size].copy()
                start += group.sketch.size

    def derive(self, table: RowTable) -> Iterator[tuple[str, float]]:
        """Yield relative sizes and, if gradients per task were measured, cosines."""
        if RowKey(self.name, 'all', None, 'done') not in table:
            return
        weights = table.of(self.name, 'weights')
        for name, tasks in table.of(self.name, 'step').items():
            for task_id, row in tasks.items():
                key = with_task(name, task_id)
                before = weights[name][task_id]
                if row[NONFINITE] or before[NONFINITE]:
                    yield f'monitor/nonfinite/update/{key}', 1.0
                elif before[M2] > 0:
                    yield f'update/{key}/relative', math.sqrt(row[M2] / before[M2])
        yield from self._cosines(table)

    def _cosines(self, table: RowTable) -> Iterator[tuple[str, float]]:
        steps = table.of(self.name, 'step')
        gradients, sketches = table.of('gradient_conflict'), table.vectors_of('gradient_conflict', 'sketch')
        for name, vectors in table.vectors_of(self.name, 'sketch').items():
            step, moved = vectors[None].astype(np.float64), steps[name][None]
            if moved[NONFINITE] or not moved[M2] > 0:
                continue
            step = step / math.sqrt(moved[M2])
            for task_id, sketch in sketches.get(name, {}).items():
                gradient = gradients[name][task_id]
                wide = sketch.astype(np.float64)
                square = float(gradient[M2]) if gradient[COUNT] == 1 else float(wide @ wide)
                if square > 0 and len(wide) == len(step):
                    wide = wide / math.sqrt(square)
                    products = np.array([wide @ step, wide @ wide, step @ step])
                    cosine = float(cosine_of(*products[:, None])[0])
                    yield f'update/{name}_task{task_id}/cosine', cosine


def _counted(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """Return what this rank holds of the parameters of which it counts elements."""
    parts = [counted_part(parameter) for parameter in parameters]
    return [part for part in parts if part is not None]
