"""Whether a step moves what it should move, and nothing else: bit patterns before and after it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ding_normmon.core.figure import Figure
from ding_normmon.core.parameter_groups import Group
from ding_normmon.core.sharding import is_sharded
from ding_normmon.core.step import LearnerStep
from ding_normmon.metrics.base import Setup
from ding_normmon.metrics.broken import broken_counts, broken_notes
from ding_normmon.metrics.kernels.bit_sums import bit_sums, folded
from ding_normmon.metrics.kernels.squares import SquareSums
from ding_normmon.metrics.mixins import DeviceCells
from ding_normmon.metrics.sections import BROKEN_CHART, INVARIANTS_SECTION
from ding_normmon.metrics.stepping import SteppingOptimizers
from ding_normmon.rows.moments import Row, constant_row
from ding_normmon.rows.table import RowBuffer, RowKey, RowTable

__all__ = ['ParameterMoves']

_UNKNOWN, _FROZEN = -1.0, -2.0
"""What stands in the place of a learning rate where the parameter need not move, or must not."""

_USUAL = 8
"""Steps in which a parameter has to have moved, one after the other, before it is expected to."""

_SLOWER = 0.1
"""Share of the largest learning rate from which on a step may be too small to be seen in a parameter."""

_FLATTER = 0.01
"""The same of the largest gradient."""


class ParameterMoves(DeviceCells):
    """``broken/still/{group}`` and ``broken/frozen/{group}``: parameter tensors that a step did not move, or did.

    A parameter is **still** if not one bit of it has changed in a step of the optimizer that holds it, although it has
    moved in each of the eight measured steps before, and neither its gradient (after clipping) nor the learning rate is
    far below what they were then. A **frozen** one (``requires_grad=False``) must not be moved by an optimizer.

    Below its resolution a step moves nothing: so a rate that has decayed to a tenth, or a gradient that has fallen to a
    hundredth of its largest, excuses a parameter, and nothing is expected of one that has not moved from the beginning.
    """

    name: ClassVar[str] = 'parameter_moves'
    figures: ClassVar[tuple[Figure, ...]] = (
        Figure(
            pattern='broken/still/{group}',
            definition=(
                'parameter tensors of which a step has changed not one bit, although they moved in the eight measured '
                'steps before, with a gradient and a rate like those of now; a note names them'
            ),
            unit='tensors',
            hook_point='`backward_end`, `step_end`',
            bad_value='steps are lost',
            section=INVARIANTS_SECTION,
            kind='count',
            chart=BROKEN_CHART,
        ),
        Figure(
            pattern='broken/frozen/{group}',
            definition='parameter tensors with `requires_grad=False` that the step of their optimizer has changed',
            unit='tensors',
            hook_point='`backward_end`, `step_end`',
            bad_value='an old gradient, or a weight decay, goes on moving them',
            section=INVARIANTS_SECTION,
            kind='count',
            chart=BROKEN_CHART,
        ),
    )
    hook_points: ClassVar[tuple[str, ...]] = ('backward_end', 'step_end')
    owner_only: ClassVar[bool] = True
    stretchable: ClassVar[bool] = True

    def __init__(self) -> None:
        self._stepping = SteppingOptimizers()

    def prepare(self, setup: Setup) -> None:
        """Lay out four numbers for each parameter: its bits before and after, the gradient's square, and the rate."""
        super().prepare(setup)
        self._stepping.follow(setup.model.parameters())
        self._places: list[tuple[Group, str, nn.Parameter]] = [
            (group, path, parameter)
            for group in setup.owned_groups
            for path, parameter in zip(group.paths, group.parameters, strict=True)
            if not is_sharded(parameter)
        ]
        self._parameters = [parameter for _, _, parameter in self._places]
        self._squares = SquareSums([parameter.detach() for parameter in self._parameters])
        self._begun = False
        count = len(self._parameters)
        # By parameter: steps in a row in which it has moved, its largest rate and the largest square of its gradient.
        self._moved = np.zeros((count, 3))
        self.num_cells = 5 * count

    def bind(self, cells: Tensor) -> None:
        """Split the cells."""
        self._before, self._after, self._square, self._nonfinite, self._rate = cells.view(5, -1).unbind()

    def state_bytes(self) -> int:
        """Return the size of what is remembered of each parameter."""
        return self._moved.nbytes + self._squares.scratch_bytes

    def begin(self, step: LearnerStep) -> None:
        """See which optimizers step."""
        self._begun = False
        self._stepping.watch()

    def release(self) -> None:
        """See no more of it."""
        self._stepping.release()
        self._begun = False

    @torch.no_grad()
    def measure(self, hook_point: str, step: LearnerStep, rows: RowBuffer) -> None:
        """Add up bits before the step and after it."""
        if not self._parameters:
            return
        if hook_point == 'backward_end':
            self._stepping.watch()
            # Of several optimizers one may have stepped already.
            if not self._begun:
                self._begun = True
                self._write(self._before)
            return
        if not self._begun:
            # Nothing is known of the weights before the step.
            self._rate.fill_(_UNKNOWN)
            return
        self._write(self._after)
        self._squares([parameter.grad for parameter in self._parameters], self._square, self._nonfinite)
        holders, stepped = self._stepping.holders(), {id(optimizer) for optimizer in self._stepping.stepped}
        rates = [_rate_of(parameter, holders, stepped) for parameter in self._parameters]
        # From pinned memory a GPU is not waited for.
        self._rate.copy_(torch.tensor(rates, dtype=torch.float64, pin_memory=self._rate.is_cuda), non_blocking=True)

    def _write(self, cells: Tensor) -> None:
        sums = bit_sums(self._parameters)
        tensors = [total for total in sums if isinstance(total, Tensor)]
        if tensors:
            # A model is on one device, so all of them are.
            cells.copy_(torch.as_tensor(folded(torch.stack(tensors))))
        else:
            cells.copy_(torch.tensor([folded(total) for total in sums], dtype=torch.float64))

    def unpack(self, cells: npt.NDArray[np.float64]) -> Iterator[tuple[RowKey, Row]]:
        """Yield a row for each parameter that is not as it should be."""
        before, after, square, nonfinite, rate = cells.reshape(5, -1)
        moves = before != after
        frozen = (rate == _FROZEN) & moves
        trained = (rate > 0) & (square > 0) & (nonfinite == 0)
        times, usual_rate, usual_square = self._moved.T
        usual = (times >= _USUAL) & (rate >= _SLOWER * usual_rate) & (square >= _FLATTER**2 * usual_square)
        still = trained & ~moves & usual
        # A parameter that stands still keeps what is known of it.
        times[trained & moves] += 1
        times[trained & ~moves & ~usual] = 0
        np.maximum(usual_rate, rate, out=usual_rate, where=trained & moves)
        np.maximum(usual_square, square, out=usual_square, where=trained & moves)
        for what, flags in (('still', still), ('frozen', frozen)):
            for index in np.flatnonzero(flags).tolist():
                group, path, _ = self._places[index]
                yield RowKey(self.name, group.name, group.task_id, f'{what}/{path}'), constant_row(1.0)

    def derive(self, table: RowTable) -> Iterator[tuple[str, float]]:
        """Yield the numbers of what is not as it should be."""
        return broken_counts(table, self.name, ('still', 'frozen'))

    def notes(self, table: RowTable) -> Iterator[tuple[str, str]]:
        """Yield which parameters those are."""
        return broken_notes(table, self.name, ('still', 'frozen'))


def _rate_of(parameter: nn.Parameter, holders: dict[int, tuple[Any, dict[str, Any]]], stepped: set[int]) -> float:
    found = holders.get(id(parameter))
    if found is None or id(found[0]) not in stepped:
        return _UNKNOWN
    if not parameter.requires_grad:
        return _FROZEN
    rate = found[1].get('lr')
    # A rate that lies on an accelerator is not waited for.
    if parameter.grad is None or rate is None or (isinstance(rate, Tensor) and rate.device.type != 'cpu'):
        return _UNKNOWN
    rate = float(rate)
    return rate if math.isfinite(rate) else _UNKNOWN
