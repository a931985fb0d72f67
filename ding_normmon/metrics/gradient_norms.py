"""L2 norms of the gradients after the last backward pass and before anything rescales them."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from ding_normmon.core.common_figures import MONITOR_SECTION
from ding_normmon.core.metric_names import with_task
from ding_normmon.core.step import COMPARE_GRADIENTS, READ_GRADIENTS
from ding_normmon.metrics.base import Chart, Figure, LearnerStep, RowBuffer, RowKey, RowTable, Setup
from ding_normmon.metrics.kernels.device_signals import write_number
from ding_normmon.metrics.mixins import Finishing
from ding_normmon.metrics.sections import NO_GRADIENT, NONFINITE_NORMS, PARAMETERS_SECTION
from ding_normmon.metrics.square_norms import SquareNorms
from ding_normmon.rows.moments import COUNT, MAXIMUM

__all__ = ['GradientNorms']


class Readings:
    """Squares of the gradients as they were when the last backward pass of a step ended.

    Attributes:
        cells: sums of squares and numbers of entries that are not finite; float64 (2, parameters).
        has: whether the gradient of each parameter was read in this step.
    """

    def __init__(self, parameters: int, device: torch.device) -> None:
        self.cells = torch.zeros(2, parameters, dtype=torch.float64, device=device)
        self.has = [False] * parameters

    def forget(self) -> None:
        """Begin another step."""
        self.has = [False] * len(self.has)


def _both(first: list[bool], second: list[bool]) -> list[bool]:
    # In the usual step all are true.
    return second if False not in first else [one and other for one, other in zip(first, second, strict=True)]


def _runs(chosen: Sequence[bool]) -> Iterator[slice]:
    """Yield runs of chosen neighbours as slices, which need no index on the device.

    >>> list(_runs([True, True, False, True]))
    [slice(0, 2, None), slice(3, 4, None)]
    """
    if False not in chosen:
        yield slice(0, len(chosen))
        return
    start = 0
    for taken, run in itertools.groupby(chosen):
        stop = start + len(list(run))
        if taken:
            yield slice(start, stop)
        start = stop


_figure = partial(Figure, section=PARAMETERS_SECTION, hook_point='`backward_end`', scale='log')


class GradientNorms(Finishing, SquareNorms):
    """``grad/{group}/_total_norm`` at ``backward_end``.

    A group none of whose parameters has a gradient has no figure but ``monitor/no_gradient/{group}`` = 1; where only
    some have none, the norm is that of the others and ``monitor/without_gradient/{group}`` their number. A group whose
    optimizer rests in a step (a delayed actor) has no figure, and neither has the model.

    If the step is observed, gradients are read at the end of every backward pass. Without a clip call they may still be
    changed by hand before the optimizer steps: the figure is then the earlier one, and both squared norms are noted in
    ``step.changes``.
    """

    name: ClassVar[str] = 'gradient_norms'
    figures: ClassVar[tuple[Figure, ...]] = (
        _figure(
            'grad/{group}/_total_norm',
            "L2 norm of the group's gradients, before clipping",
            'loss / weight',
            stage='gradient',
            bad_value='explosion, vanishing, one task above the others',
            chart=Chart('Shared modules', 'Gradient norms of shared modules'),
            task_chart=Chart('Heads across tasks', '{group}: gradient norm'),
            of_task='Gradient norms of its modules',
            prominence='headline',
        ),
        _figure(
            'grad/model/_total_norm',
            'L2 norm of all gradients; its square is the sum of the squared group norms',
            'loss / weight',
            chart=Chart('Shared modules', 'Gradient norm of the whole model'),
            prominence='headline',
        ),
        _figure(
            'grad/{head}_all_tasks/{mean,std}',
            'over the tasks that have a gradient in this step',
            'loss / weight',
            bad_value='large std: imbalance between tasks',
            chart=Chart('Heads across tasks', '{head}: gradient norm, mean and std over tasks'),
        ),
        _figure(
            'grad/{group}/{path}',
            "of one parameter (`detail='parameter'`)",
            'loss / weight',
            chart=Chart('Other figures', '{group}: gradient norms of the parameters'),
        ),
        NO_GRADIENT,
        Figure(
            'monitor/without_gradient/{group}',
            "number of the group's parameters without a gradient, where others have one",
            'count',
            bad_value='a part that is not in the graph',
            section=MONITOR_SECTION,
            chart=Chart('Health of the record', 'Parameters without gradient'),
        ),
        NONFINITE_NORMS,
    )
    hook_points: ClassVar[tuple[str, ...]] = ('backward_end', READ_GRADIENTS, COMPARE_GRADIENTS)
    family = 'grad'

    def prepare(self, setup: Setup) -> None:
        """Lay the parameters out."""
        self._measured: list[bool] = []
        self._reached: list[bool] = []
        self._awaited: Collection[int] = ()
        self._read: Readings | None = None
        super().prepare(setup)

    def state_bytes(self) -> int:
        """Return the size of the scratch and of what was read at the end of a backward pass."""
        return super().state_bytes() + (0 if self._read is None else self._read.cells.nbytes)

    def release(self) -> None:
        """Forget what was read in the step."""
        if self._read is not None:
            self._read.forget()

    def measure(self, hook_point: str, step: LearnerStep, rows: RowBuffer) -> None:
        """Square the gradients; at a second ``backward_end`` of a step, those that were not final at the first."""
        if hook_point == READ_GRADIENTS:
            self._read_gradients(step.gradients_of)
            return
        if hook_point == COMPARE_GRADIENTS:
            self._compare_gradients(step)
            return
        gradients = [parameter.grad for parameter in self.parameters]
        first = step.fired.count(hook_point) == 1
        if first and step.gradients_of is None:
            # The usual step has a single call for all parameters.
            self._awaited = step.awaited
            self._measured = [gradient is not None for gradient in gradients]
            self._reached = [True] * len(gradients)
            self._square(gradients, step, [True] * len(gradients))
            return
        if first:
            self._awaited = step.awaited
            self._measured = [False] * len(gradients)
            self._reached = [False] * len(gradients)
        take = self._taken(step, first)
        for index, taken in enumerate(take):
            if taken:
                self._reached[index] = True
                self._measured[index] = gradients[index] is not None
            else:
                gradients[index] = None
        if first:
            self._square(gradients, step, take)
            return
        earlier = self.cells.clone()
        if step.replace_gradients:
            for run in _runs(take):
                earlier.view(2, -1)[:, run].zero_()
        self._square(gradients, step, take)
        self.cells.add_(earlier)

    def _square(self, gradients: list[Tensor | None], step: LearnerStep, take: list[bool]) -> None:
        """Write the sums of squares of these gradients; for those that were read before, the earlier sums."""
        read, name = self._read, step.as_read
        if name is None or read is None or not any(read.has):
            self.square(gradients, step.gradient_scale)
            return
        self.square(gradients)
        cells, found = self.cells.view(2, -1), torch.zeros(3, dtype=torch.float64, device=self.cells.device)
        for run in _runs(_both(take, read.has)):
            found[1] += cells[0, run].sum()
            cells[:, run].copy_(read.cells[:, run])
            found[0] += cells[0, run].sum()
            found[2] += cells[1, run].sum()
            self._measured[run] = read.has[run]
        step.changes[name] = step.changes[name] + found if name in step.changes else found
        self.divide(step.gradient_scale)

    def _compare_gradients(self, step: LearnerStep) -> None:
        """Note the squared norms of the gradients that were read before, now and then."""
        read, name, chosen = self._read, step.as_read, step.gradients_of
        if read is None or name is None:
            return
        gradients = [parameter.grad for parameter in self.parameters]
        now, found = torch.empty_like(read.cells), torch.zeros(3, dtype=torch.float64, device=read.cells.device)
        self.squares(self._counted(gradients) if self._sharded else gradients, now[0], now[1])
        take = [chosen is None or id(parameter) in chosen for parameter in self.parameters]
        for run in _runs(_both(take, read.has)):
            found += torch.stack([read.cells[0, run].sum(), now[0, run].sum(), read.cells[1, run].sum()])
        step.changes[name] = found

    def _read_gradients(self, reached: Collection[int] | None) -> None:
        """Square the gradients of the parameters that a backward pass has reached."""
        if not self.parameters:
            return
        read = self._read = self._read or Readings(len(self.parameters), self.cells.device)
        gradients = [parameter.grad for parameter in self.parameters]
        cells = read.cells
        if reached is not None:
            take = [id(parameter) in reached for parameter in self.parameters]
            gradients = [gradient if taken else None for gradient, taken in zip(gradients, take, strict=True)]
            cells = torch.empty_like(cells)
        self.squares(self._counted(gradients) if self._sharded else gradients, cells[0], cells[1])
        for run in _runs(take) if reached is not None else [slice(0, len(gradients))]:
            if reached is not None:
                read.cells[:, run].copy_(cells[:, run])
            read.has[run] = [gradient is not None for gradient in gradients[run]]

    def _taken(self, step: LearnerStep, first: bool) -> list[bool]:
        """Tell for each parameter whether its gradient is final at this call."""
        if step.gradients_of is not None:
            chosen = step.gradients_of
            return [
                id(parameter) in chosen and (step.replace_gradients or not reached)
                for parameter, reached in zip(self.parameters, self._reached, strict=True)
            ]
        if first or step.replace_gradients:
            return [True] * len(self.parameters)
        # A group that had a gradient is complete; further gradients would mix two points in time.
        take = []
        for span in self.spans:
            take += [not any(self._measured[span.start : span.stop])] * (span.stop - span.start)
        return take

    def finish(self, rows: RowBuffer) -> None:
        """Write how many parameters of each group had no gradient, and which groups were not reached."""
        if False not in self._measured and False not in self._reached:
            return
        for span in self.spans:
            key = RowKey(self.name, span.group.name, span.group.task_id)
            if any(
                not reached and id(parameter) in self._awaited
                for parameter, reached in zip(span.group.parameters, self._reached[span.start : span.stop], strict=True)
            ):
                write_number(key._replace(part='unreached'), 1, rows)
                continue
            missing = self._measured[span.start : span.stop].count(False)
            if missing:
                part = 'no_gradient' if missing == span.stop - span.start else 'without_gradient'
                write_number(key._replace(part=part), missing, rows)
                if self.setup.config.detail == 'parameter':
                    for path, measured in zip(span.group.paths, self._measured[span.start : span.stop], strict=True):
                        if not measured:
                            write_number(key._replace(part=f'absent:{path}'), 1, rows)

    def unreached(self, table: RowTable) -> set[tuple[str, int | None]]:
        """Return the groups whose optimizer skipped this step."""
        return set(table.block(self.name, 'unreached')[0])

    def absent(self, table: RowTable) -> set[tuple[str, int | None]]:
        """Return the groups that had no gradient at all, and those whose optimizer skipped this step."""
        labels, rows = table.block(self.name, 'no_gradient')
        without = {
            label
            for label, count in zip(labels, rows[:, COUNT], strict=True)
            # Each rank reports its own share of a sharded group.
            if label not in self.sharded_groups or count == table.ranks
        }
        return without | self.unreached(table)

    def derive(self, table: RowTable) -> Iterator[tuple[str, float]]:
        """Yield the norms and what was missing."""
        yield from super().derive(table)
        absent = self.absent(table)
        for part in ('no_gradient', 'without_gradient'):
            labels, rows = table.block(self.name, part)
            for label, row in zip(labels, rows, strict=True):
                if part == 'without_gradient' or label in absent:
                    number = 1.0 if part == 'no_gradient' else float(row[MAXIMUM])
                    yield f'monitor/{part}/{with_task(*label)}', number
