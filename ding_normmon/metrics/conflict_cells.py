"""Storage of gradient conflict for one step: a squared norm and a sketch per task and group, on the device."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ding_normmon.metrics.shared_parameters import SharedParameters

__all__ = ['ConflictCells']

_ABSENT = -1.0
"""Squared norm of a gradient that was not measured."""

Array = npt.NDArray[np.float64]


class ConflictCells:
    """The gradients of a rank's tasks on every shared group, as numbers in one list of float64 cells.

    Two float32 numbers of a sketch share the bits of one cell.

    Arguments:
        shared: the shared parameters.
        tasks: number of tasks that this rank trains.
        exact: whether exact inner products are kept too.

    Attributes:
        count: number of cells.
    """

    def __init__(self, shared: SharedParameters, tasks: int, exact: bool) -> None:
        self._shared = shared
        self._tasks = tasks
        self._exact = exact
        self._starts: list[int] = []
        width = 0
        for group in shared.groups:
            self._starts.append(width)
            width += 2 * -(-group.sketch.size // 2)
        self._groups = groups = len(shared.groups)
        self._shape = (tasks, width)
        self._dots_at = tasks * groups
        self._sketches_at = self._dots_at + (tasks * tasks * groups if exact else 0)
        self.count = self._sketches_at + tasks * width // 2

    def bind(self, cells: Tensor) -> None:
        """Receive the cells on the device, shape (count,)."""
        self._squares = cells[: self._dots_at].view(self._tasks, self._groups)
        self._dots = cells[self._dots_at : self._sketches_at]
        self._sketches = cells[self._sketches_at :].view(torch.float32).view(self._shape)

    def wipe(self) -> None:
        """Reset the cells before a step."""
        self._squares.fill_(_ABSENT)
        self._dots.fill_(math.nan)

    def _places(self) -> Iterator[tuple[int, slice]]:
        """Yield the number of each group, and where its sketch is among those of a task."""
        for index, (group, start) in enumerate(zip(self._shared.groups, self._starts, strict=True)):
            yield index, slice(start, start + group.sketch.size)

    def sketch(self, position: int, gradients: list[Tensor | None]) -> None:
        """Write norms and sketches of one task's gradients.

        Arguments:
            position: of the task among those of this rank.
            gradients: one tensor for each shared parameter.
        """
        for index, place in self._places():
            group = self._shared.groups[index]
            of_group = group.of(gradients)
            if any(gradient is not None for gradient in of_group):
                group.sketch(of_group, self._sketches[position, place], self._squares[position, index])

    def multiply(self, first: int, gradients: list[Tensor | None], second: int, others: list[Tensor | None]) -> None:
        """Write the exact inner products of two tasks' gradients."""
        place = min(first, second) * self._tasks + max(first, second)
        dots = self._dots.view(self._groups, self._tasks**2)
        for index, group in enumerate(self._shared.groups):
            dots[index, place] = _inner_product(group.of(gradients), group.of(others), dots.device)

    def sketch_of_sum(self, positions: Iterable[int]) -> Tensor:
        """Return the sketch of the sum of some tasks' gradients, all groups one after another; waits for the device."""
        chosen = list(positions)
        squares = self._squares.cpu()
        parts = []
        for index, place in self._places():
            total = torch.zeros(place.stop - place.start, dtype=torch.float64)
            for position in chosen:
                if squares[position, index] != _ABSENT:
                    total += self._sketches[position, place].double().cpu()
            parts.append(total)
        return torch.cat(parts)

    def squares(self, cells: Array) -> Iterator[tuple[int, int, float]]:
        """Yield position of the task, number of the group, and squared norm, of cells on the host."""
        for position, of_task in enumerate(cells[: self._dots_at].reshape(self._tasks, self._groups).tolist()):
            for index, square in enumerate(of_task):
                if square != _ABSENT:
                    yield position, index, square

    def dots(self, cells: Array) -> Iterator[tuple[int, int, int, float]]:
        """Yield number of the group, positions of two tasks, and their inner product, of cells on the host."""
        if not self._exact:
            return
        known = {(position, index) for position, index, _ in self.squares(cells)}
        dots = cells[self._dots_at : self._sketches_at].reshape(self._groups, self._tasks, self._tasks)
        for index, of_group in enumerate(dots.tolist()):
            for first in range(self._tasks):
                for second in range(first + 1, self._tasks):
                    if {(first, index), (second, index)} <= known:
                        yield index, first, second, of_group[first][second]

    def sketches(self, cells: Array) -> Iterator[tuple[int, int, npt.NDArray[np.float32]]]:
        """Yield position of the task, number of the group, and sketch, of cells on the host."""
        places = dict(self._places())
        table = cells[self._sketches_at :].view(np.float32).reshape(self._shape)
        for position, index, square in self.squares(cells):
            if math.isfinite(square):
                yield position, index, table[position, places[index]].copy()


def _inner_product(first: list[Tensor | None], second: list[Tensor | None], device: torch.device) -> Tensor:
    total = torch.zeros((), dtype=torch.float64, device=device)
    for a, b in zip(first, second, strict=True):
        if a is not None and b is not None:
            for x, y in zip(a.reshape(-1).split(1 << 20), b.reshape(-1).split(1 << 20), strict=True):
                total += torch.dot(x.to(torch.float64), y.to(torch.float64))
    return total
