"""L2 norms of parameter groups: the sum of squares of every tensor in one pass, added up per group on the host."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ding_normmon.core.metric_names import with_task
from ding_normmon.core.parameter_groups import Group
from ding_normmon.core.sharding import counted_part, is_sharded
from ding_normmon.metrics.base import RowKey, RowTable, Setup, Vector
from ding_normmon.metrics.kernels.squares import SquareSums
from ding_normmon.metrics.mixins import DeviceCells
from ding_normmon.rows.moments import COUNT, EMPTY, M2, NONFINITE, Row, norm, norms, spread, square_sum_row

__all__ = ['GroupSquares', 'SquareNorms']


@dataclass(frozen=True)
class _Span:
    """Where a group's parameters stand in the list of all parameters this rank reports."""

    group: Group
    start: int
    stop: int
    sharded: bool


class GroupSquares(DeviceCells):
    """Base of metrics that square one tensor for each parameter of some groups.

    Attributes:
        parameters: the parameters of all these groups, group after group.
        spans: where each group stands among them.
    """

    def lay_out(self, groups: Iterable[Group]) -> None:
        """Choose the groups; to be called in ``prepare``."""
        self.parameters: list[nn.Parameter] = []
        self.spans: list[_Span] = []
        for group in groups:
            start = len(self.parameters)
            self.parameters += group.parameters
            sharded = any(map(is_sharded, group.parameters))
            self.spans.append(_Span(group, start, len(self.parameters), sharded))
        self._sharded = [index for index, parameter in enumerate(self.parameters) if is_sharded(parameter)]
        nothing = torch.zeros(0, device=self.setup.device)
        parts = [counted_part(parameter) for parameter in self.parameters]
        templates = [nothing if part is None else part.detach() for part in parts]
        self.squares = SquareSums(templates)
        self._elements = [template.numel() for template in templates]
        self.num_cells = 2 * len(self.parameters)

    def state_bytes(self) -> int:
        """Return the size of the scratch."""
        return self.squares.scratch_bytes

    def bind(self, cells: Tensor) -> None:
        """Split the raw cells into sums of squares and counts of non-finite entries."""
        self.cells = cells
        self.sums, self.nonfinite = cells.view(2, -1).unbind()

    def square(self, tensors: Sequence[Tensor | None], scale: Tensor | float = 1.0) -> None:
        """Write the sums of squares of one tensor per parameter (None counts as nothing) into the cells."""
        if self.parameters:
            self.squares(self._counted(tensors) if self._sharded else tensors, self.sums, self.nonfinite)
            self.divide(scale)

    def divide(self, scale: Tensor | float) -> None:
        """Divide the squared tensors by ``scale``: their sums by its square."""
        # A scale on the device is not read: that would wait for the device.
        if isinstance(scale, Tensor):
            self.sums.div_(scale.double()).div_(scale.double())
        elif scale != 1.0:
            self.sums.mul_(1.0 / scale / scale)

    def _counted(self, tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
        counted = list(tensors)
        for index in self._sharded:
            tensor = tensors[index]
            counted[index] = None if tensor is None else counted_part(tensor)
        return counted

    def sums_by_group(self, cells: npt.NDArray[np.float64]) -> Iterator[tuple[Group, float, float]]:
        """Yield each group with its sum of squares and its number of entries that are not finite."""
        sums, nonfinite = cells.reshape(2, -1)
        for span in self.spans:
            chosen = slice(span.start, span.stop)
            yield span.group, float(sums[chosen].sum()), float(nonfinite[chosen].sum())


class SquareNorms(GroupSquares):
    """Base of parameter and gradient norms. They differ in the tensor of a parameter that is squared.

    Attributes:
        family: first part of the metric names, ``norm`` or ``grad``.
        sharded_groups: name and task id of the groups of which every rank reports its share.
    """

    owner_only: ClassVar[bool] = True
    family: str

    def prepare(self, setup: Setup) -> None:
        """Lay the parameters of the owned groups out in one list."""
        self.setup = setup
        self.lay_out(setup.owned_groups)
        self.sharded_groups = frozenset((g.name, g.task_id) for g in setup.groups if any(map(is_sharded, g.parameters)))
        self._starts = np.array([span.start for span in self.spans], dtype=np.intp)
        self._numels = np.array([sum(self._elements[span.start : span.stop]) for span in self.spans], dtype=np.float64)
        self._keys = tuple(RowKey(self.name, span.group.name, span.group.task_id) for span in self.spans)
        self._empty = np.tile(EMPTY, (len(self.spans), 1))
        whole = {(group.name, group.task_id): group.paths for group in setup.groups}
        self._all_groups = frozenset(whole)
        self._places: list[tuple[int, list[int]]] = []
        for group in (span.group for span in self.spans):
            paths = whole[group.name, group.task_id]
            self._places.append((len(paths), [paths.index(path) for path in group.paths]))

    def unpack_rows(self, cells: npt.NDArray[np.float64]) -> tuple[Sequence[RowKey], Row]:
        """Return one row per group, and per parameter where asked for."""
        if not self.parameters:
            return (), np.zeros((0, 6))
        sums, nonfinite = cells.reshape(2, -1)
        group_nonfinite = np.add.reduceat(nonfinite, self._starts)
        # The rows of all groups at once, each as from `square_sum_row`.
        table = self._empty.copy()
        table[:, COUNT] = self._numels - group_nonfinite
        table[:, M2] = np.add.reduceat(sums, self._starts)
        table[:, NONFINITE] = group_nonfinite
        if self.setup.config.detail != 'parameter':
            return self._keys, table
        pairs = list(self._unpack_parameters(sums, nonfinite))
        return (*self._keys, *(key for key, _ in pairs)), np.concatenate([table, np.stack([row for _, row in pairs])])

    def _unpack_parameters(
        self, sums: npt.NDArray[np.float64], nonfinite: npt.NDArray[np.float64]
    ) -> Iterator[tuple[RowKey, Row]]:
        for span in self.spans:
            group = span.group
            for index in self._largest(sums, span):
                path = group.paths[index - span.start]
                count = self._elements[index] - nonfinite[index]
                row = square_sum_row(count, sums[index], nonfinite[index])
                yield RowKey(self.name, group.name, group.task_id, f'parameter:{path}'), row

    def _largest(self, sums: npt.NDArray[np.float64], span: _Span) -> Sequence[int]:
        indices = range(span.start, span.stop)
        # The largest shards need not belong to the largest parameters, so rank 0 chooses.
        if self.setup.config.top_k is None or span.sharded:
            return indices
        # Including ties with the last: absent parameters look like zeros and are left out later.
        smallest = sorted((sums[index] for index in indices), reverse=True)[: self.setup.config.top_k][-1]
        return [index for index in indices if sums[index] >= smallest]

    def unpack_vectors(self, cells: npt.NDArray[np.float64]) -> Iterator[tuple[RowKey, Vector]]:
        """Yield the sum of squares of each parameter of each group, infinite if entries are not finite.

        The black box and incidents name the parameter that something began with. A vector has a place for each
        parameter of the group, 0 if another rank reports it: vectors of ranks are added.
        """
        config, middle = self.setup.config, len(self.parameters)
        if config.watch == 'off' and config.black_box is None:
            return
        sums = np.where(cells[middle : 2 * middle] > 0, np.inf, cells[:middle])
        for span, (length, places) in zip(self.spans, self._places, strict=True):
            if places:
                vector = np.zeros(length)
                vector[places] = sums[span.start : span.stop]
                yield RowKey(self.name, span.group.name, span.group.task_id, 'parameters'), vector

    def derive(self, table: RowTable) -> Iterator[tuple[str, float]]:
        """Yield the norms of groups, of single parameters where asked for, across tasks and of the whole model."""
        labels, rows = table.block(self.name)
        names = [with_task(name, task_id) for name, task_id in labels]
        absent = self.absent(table)
        lengths = norms(rows).tolist()
        present = [index for index, label in enumerate(labels) if label not in absent]
        for index in present:
            yield f'{self.family}/{names[index]}/_total_norm', lengths[index]
        for index in np.flatnonzero(rows[:, NONFINITE]).tolist():
            if labels[index] not in absent:
                yield f'monitor/nonfinite/{self.family}/{names[index]}', float(rows[index, NONFINITE])
        if table.complete:
            of_tasks = [index for index in present if labels[index][1] is not None]
            for name, indices in itertools.groupby(of_tasks, lambda index: labels[index][0]):
                average, deviation = spread([lengths[index] for index in indices])
                yield f'{self.family}/{name}_all_tasks/mean', average
                if deviation is not None:
                    yield f'{self.family}/{name}_all_tasks/std', deviation
        if present and self._all_groups <= set(labels) - self.unreached(table):
            # `hypot` does not overflow where squares would.
            yield f'{self.family}/model/_total_norm', math.hypot(*(lengths[index] for index in present))
        if self.setup.config.detail == 'parameter':
            yield from self._per_parameter(table, absent)

    def absent(self, table: RowTable) -> set[tuple[str, int | None]]:
        """Return the groups that have a row but no figure."""
        return set()

    def unreached(self, table: RowTable) -> set[tuple[str, int | None]]:
        """Return the groups of which this step says nothing, so that it says nothing of the model either."""
        return set()

    def _per_parameter(self, table: RowTable, absent: set[tuple[str, int | None]]) -> Iterator[tuple[str, float]]:
        found: dict[str, list[tuple[float, str]]] = {}
        for key in table:
            if key.metric != self.name or (key.name, key.task_id) in absent:
                continue
            path = key.part.removeprefix('parameter:')
            if path != key.part and key._replace(part=f'absent:{path}') not in table:
                group = with_task(key.name, key.task_id)
                found.setdefault(group, []).append((norm(table[key]), path.replace('.', '/')))
        for group, of_group in found.items():
            for value, path in sorted(of_group, key=lambda entry: -entry[0])[: self.setup.config.top_k]:
                yield f'{self.family}/{group}/{path}', value
