"""Checks that a step moves the parameters that it should and no others, by bit patterns before and after it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import partial
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ding_normmon.core.parameter_groups import Group
from ding_normmon.core.sharding import is_sharded
from ding_normmon.metrics.base import Figure, LearnerStep, RowBuffer, RowKey, Setup
from ding_normmon.metrics.broken import BrokenParameters
from ding_normmon.metrics.kernels.bit_sums import write_folded
from ding_normmon.metrics.kernels.squares import SquareSums
from ding_normmon.metrics.mixins import DeviceCells, WatchesOptimizers
from ding_normmon.metrics.sections import BROKEN_CHART, INVARIANTS_SECTION
from ding_normmon.rows.moments import Row, constant_row

__all__ = ['ParameterMoves']

_Numbers = npt.NDArray[np.float64]

_UNKNOWN, _FROZEN = -1.0, -2.0
"""Used in place of a learning rate if a parameter need not move, or must not."""

_USUAL = 8
"""Number of steps in a row in which a parameter must have moved before it is expected to move."""

_SLOWER = 0.1
"""Share of the largest learning rate below which a step may be too small to change a parameter."""

_FLATTER = 0.01
"""The same for the largest gradient."""

_HALF_USUAL, _HALF_FLATTER = 32, 0.5
"""Both for numbers of 16 bits, of which a step often moves few: eight times in a row may be chance."""


_SAMPLED = 8
"""Words of a parameter that are compared, as long as one of them changes in every step."""

_RESTS = 2
"""Once all parameters have moved, only one of so many measured steps is checked."""

_figure = partial(Figure, section=INVARIANTS_SECTION, hook_point='`backward_end`, `step_end`', chart=BROKEN_CHART)


class _LastMove:
    """What each parameter was before the last step that moved it.

    Up to three numbers are left out: they may come back by themselves, as where steps of one length change their sign.
    """

    def __init__(self, several: npt.NDArray[np.bool_]) -> None:
        self._several = several
        # The bits, and whether all of the parameter was read.
        self._last = np.full((2, len(several)), np.nan)
        self.nbytes = self._last.nbytes + several.nbytes

    def is_undone(
        self, before: _Numbers, after: _Numbers, rates: _Numbers, whole: _Numbers
    ) -> npt.NDArray[np.bool_]:
        """Return for each parameter whether it is that again, and remember this step."""
        undone: npt.NDArray[np.bool_] = (before == self._last[0]) & (whole == self._last[1])
        np.copyto(self._last, (before, whole), where=(rates > 0) & (before != after) & self._several)
        return undone


class ParameterMoves(BrokenParameters, DeviceCells, WatchesOptimizers):
    """``broken/still/{group}`` and ``broken/frozen/{group}``: parameter tensors that a step did not move, or did.

    A parameter is **still** if not one bit of it has changed in a step of the optimizer that holds it, although it has
    moved in each of the eight measured steps before, and neither its gradient (after clipping) nor the learning rate is
    far below what they were then. It is also still if it moves, but is before each step what it was before the last
    one: something writes the old weights back, and not because it clamps them to a bound. A **frozen** one
    (``requires_grad=False``) must not be moved by an optimizer.

    A step below the resolution of a number moves nothing. So a parameter may stand still if its rate has decayed to a
    tenth or its gradient to a hundredth of the largest, or if it has not moved from the beginning.
    A step often moves few entries of a parameter in 16 bits, or none: it must have moved in 32 steps before, and may
    stand still once its gradient is half of the largest.

    To see that a parameter has moved, eight of its words are enough. A parameter in which those stood still is read as
    a whole in the next measured steps, and only then can it be called still. Once everything moves, every
    other measured step is left out.
    """

    name: ClassVar[str] = 'parameter_moves'
    figures: ClassVar[tuple[Figure, ...]] = (
        _figure(
            'broken/still/{group}',
            (
                'parameter tensors of which a step has changed not one bit, or whose change is undone before the next '
                'step, although they moved in the eight measured steps before, with a gradient and a rate like those '
                'of now; a note names them'
            ),
            'tensors',
            bad_value='steps are lost',
        ),
        _figure(
            'broken/frozen/{group}',
            'parameter tensors with `requires_grad=False` that the step of their optimizer has changed',
            'tensors',
            bad_value='an old gradient, or a weight decay, goes on moving them',
        ),
    )
    hook_points: ClassVar[tuple[str, ...]] = ('backward_end', 'step_end')
    owner_only: ClassVar[bool] = True
    stretchable: ClassVar[bool] = True
    kinds = ('still', 'frozen')

    def prepare(self, setup: Setup) -> None:
        """Lay out six numbers for each parameter: its bits before and after, its gradient's square, and the rate."""
        super().prepare(setup)
        self._places: list[tuple[Group, str, nn.Parameter]] = [
            (group, path, parameter)
            for group in setup.owned_groups
            for path, parameter in zip(group.paths, group.parameters, strict=True)
            # What has no entries cannot move.
            if parameter.numel() and not is_sharded(parameter)
        ]
        self._parameters = [parameter for _, _, parameter in self._places]
        self._index = {id(parameter): index for index, parameter in enumerate(self._parameters)}
        self._squares = SquareSums([parameter.detach() for parameter in self._parameters])
        self._held: list[tuple[list[int], npt.NDArray[np.int64]]] = []
        self._begun = False
        count = len(self._parameters)
        # By parameter: steps in a row in which it has moved, its largest rate and the largest square of its gradient.
        self._moved = np.zeros((count, 3))
        half = np.array([parameter.element_size() == 2 for parameter in self._parameters], dtype=bool)
        self._usual = np.where(half, _HALF_USUAL, _USUAL)
        self._flatter = np.where(half, _HALF_FLATTER, _FLATTER)
        self._suspects, self._read = np.zeros(count, dtype=int), np.zeros(count, dtype=bool)
        several = np.array([parameter.numel() > 3 for parameter in self._parameters], dtype=bool)
        # Records may be unpacked several steps after they were measured.
        self._suspected, self._judged = _LastMove(several), _LastMove(several)
        self._steps, self._rests = 0, False
        self.num_cells = 6 * count

    def bind(self, cells: Tensor) -> None:
        """Split the cells."""
        self._before, self._after, self._square, self._nonfinite, self._rate, self._whole = cells.view(6, -1).unbind()

    def state_bytes(self) -> int:
        """Return the size of what is remembered of each parameter."""
        remembered = (self._moved, self._usual, self._flatter, self._suspects, self._read)
        known = self._suspected.nbytes + self._judged.nbytes
        return sum(numbers.nbytes for numbers in remembered) + known + self._squares.scratch_bytes

    def begin(self, step: LearnerStep) -> None:
        """Watch which optimizers step."""
        self._steps += 1
        self._rests = self._steps > 2 * _USUAL and self._steps % _RESTS > 0 and not self._suspects.any()
        if not self._rests:
            super().begin(step)
        self._begun = False

    @torch.no_grad()
    def measure(self, hook_point: str, step: LearnerStep, rows: RowBuffer) -> None:
        """Add up bits before the step and after it."""
        if not self._parameters:
            return
        if self._rests:
            self._rate.fill_(_UNKNOWN)
            return
        if hook_point == 'backward_end':
            self._stepping.watch()
            # Of several optimizers one may have stepped already.
            if not self._begun:
                self._begun = True
                self._read = self._suspects > 0
                _copy(self._read, self._whole)
                self._write(self._before)
                for place in np.flatnonzero(self._read).tolist():
                    self._whole[place] -= 2 * _is_bounded(self._parameters[place])
            return
        if not self._begun:
            # The weights before the step are unknown.
            self._rate.fill_(_UNKNOWN)
            return
        self._write(self._after)
        gradients = [parameter.grad for parameter in self._parameters]
        rates = self._rates(gradients)
        _copy(rates, self._rate)
        self._squares(gradients, self._square, self._nonfinite)
        if self._before.device.type == 'cpu':
            # For an accelerator, `unpack` does this some steps later.
            self._suspect(self._before.numpy(), self._after.numpy(), rates, self._whole.numpy())

    def _write(self, cells: Tensor) -> None:
        write_folded(self._parameters, _SAMPLED, cells)
        if self._read.any():
            places = np.flatnonzero(self._read).tolist()
            whole = torch.empty(len(places), dtype=torch.float64, device=cells.device)
            write_folded([self._parameters[place] for place in places], None, whole)
            cells[places] = whole

    def _rates(self, gradients: list[Tensor | None]) -> _Numbers:
        """Return the learning rate of each parameter in this step."""
        # The last entry is for parameters of other ranks.
        rates = np.full(len(gradients) + 1, _UNKNOWN)
        for optimizer in self._stepping.stepped:
            for options in optimizer.param_groups:
                rate = options.get('lr')
                # A rate on an accelerator is not waited for.
                if rate is not None and not (isinstance(rate, Tensor) and rate.device.type != 'cpu'):
                    places = self._places_of([*map(id, options['params'])])
                    rates[places] = rate if math.isfinite(rate := float(rate)) else _UNKNOWN
        rates = rates[:-1]
        frozen = np.array([not parameter.requires_grad for parameter in self._parameters])
        without = np.array([gradient is None for gradient in gradients])
        return np.where(rates == _UNKNOWN, rates, np.where(frozen, _FROZEN, np.where(without, _UNKNOWN, rates)))

    def _places_of(self, ids: list[int]) -> npt.NDArray[np.int64]:
        """Return the places of an optimizer's parameters, which are nearly always those of the step before."""
        for known, places in self._held:
            if known == ids:
                return places
        places = np.array([*map(self._index.get, ids, itertools.repeat(-1))], dtype=np.int64)
        self._held = [*self._held[-63:], (ids, places)]
        return places

    def _suspect(self, before: _Numbers, after: _Numbers, rates: _Numbers, whole: _Numbers) -> None:
        is_undone = self._suspected.is_undone(before, after, rates, whole)
        doubted = ((before == after) | is_undone) & (rates > 0) | (rates == _FROZEN)
        self._suspects = np.where(doubted, _USUAL, np.maximum(self._suspects - 1, 0))

    def unpack(self, cells: _Numbers) -> Iterator[tuple[RowKey, Row]]:
        """Yield a row for each parameter that is still or was moved although frozen."""
        before, after, square, nonfinite, rate, whole = cells.reshape(6, -1)
        changes, expected = before != after, rate > 0
        moves = changes & ~self._judged.is_undone(before, after, rate, whole)
        known = expected & (whole > 0) & (square > 0) & (nonfinite == 0)
        times, usual_rate, usual_square = self._moved.T
        usual = (times >= self._usual) & (rate >= _SLOWER * usual_rate)
        usual &= (usual_square > 0) & (square >= self._flatter**2 * usual_square)
        still = known & ~moves & usual
        frozen = (rate == _FROZEN) & changes
        if self._rate.device.type != 'cpu':
            self._suspect(before, after, rate, whole)
        # A parameter that stands still keeps its history.
        times[expected & moves] += 1
        times[known & ~moves & ~usual] = 0
        np.maximum(usual_rate, rate, out=usual_rate, where=expected & moves)
        np.maximum(usual_square, square, out=usual_square, where=expected & moves & (nonfinite == 0))
        for what, flags in (('still', still), ('frozen', frozen)):
            for index in np.flatnonzero(flags).tolist():
                group, path, _ = self._places[index]
                yield RowKey(self.name, group.name, group.task_id, f'{what}/{path}'), constant_row(1.0)


def _is_bounded(weight: Tensor) -> Tensor:
    """Return whether many entries are the largest or the smallest, as where weights are clamped after each step."""
    low, high = weight.aminmax()
    return ((weight == low) | (weight == high)).sum() > 2 + 0.1 * weight.numel()


def _copy(numbers: npt.NDArray[Any], cells: Tensor) -> None:
    source = torch.from_numpy(numbers)
    # From pinned memory a GPU is not waited for.
    cells.copy_(source.pin_memory() if cells.is_cuda else source, non_blocking=True)
