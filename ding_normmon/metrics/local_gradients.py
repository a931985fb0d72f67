"""Gradients of policies whose ranks clip their own gradients first and average what is left.

Before clipping such a policy has no gradient of a shared module that all ranks would agree on, so ``grad/{group}`` does
not exist for it. There are two other things: what every rank had before it clipped, over the ranks
(``grad_local/{group}/{mean,min,max}``), and what the optimizer used, averaged and hence clipped
(``grad_synced/{group}/_total_norm``). The gradient of a task's own head is one rank's in any case, and stays
``grad/{group}/_total_norm``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from ding_normmon.core.config import ConfigurationError
from ding_normmon.core.sharding import is_sharded
from ding_normmon.core.step import COMPARE_GRADIENTS, READ_GRADIENTS
from ding_normmon.metrics.base import Chart, Figure, LearnerStep, Metric, RowBuffer, RowKey, RowTable, Setup
from ding_normmon.metrics.gradient_norms import GradientNorms
from ding_normmon.metrics.mixins import DeviceCells
from ding_normmon.metrics.sections import NO_GRADIENT, NONFINITE_LOCAL, PARAMETERS_SECTION
from ding_normmon.metrics.square_norms import SquareNorms
from ding_normmon.rows.moments import COUNT, MAXIMUM, MEAN, MINIMUM, Row, constant_row

__all__ = ['HeadGradientNorms', 'LocalGradients', 'SynchronisedGradientNorms', 'with_local_gradients']

_NO_GRADIENT = -1.0
"""What stands in a group's count of non-finite entries where it had no gradient."""


def with_local_gradients(metrics: Sequence[Metric]) -> list[Metric]:
    """Return the metrics with those of this file in the place of the gradient norms.

    >>> [type(metric).__name__ for metric in with_local_gradients([GradientNorms()])]
    ['HeadGradientNorms', 'LocalGradients', 'SynchronisedGradientNorms']
    """
    result: list[Metric] = []
    for metric in metrics:
        if type(metric) is GradientNorms:
            result += [HeadGradientNorms(), LocalGradients(), SynchronisedGradientNorms()]
        else:
            result.append(metric)
    return result


def _shared(setup: Setup) -> Setup:
    return replace(setup, owned_groups=tuple(group for group in setup.groups if group.task_id is None))


class HeadGradientNorms(GradientNorms):
    """``grad/{group}_task{i}/_total_norm`` alone: the gradients of what one task has for itself."""

    def prepare(self, setup: Setup) -> None:
        """Lay out the parameters of the tasks whose groups this rank reports."""
        own = tuple(group for group in setup.owned_groups if group.task_id is not None)
        super().prepare(replace(setup, owned_groups=own))


_figure = partial(Figure, section=PARAMETERS_SECTION, scale='log')


class LocalGradients(GradientNorms):
    """``grad_local/{group}/{mean,min,max}`` at ``backward_end``: the norms that the ranks had before clipping.

    A rank on which a group had no gradient does not count; a group that had none on any rank has no figure but
    ``monitor/no_gradient/{group}`` = 1.
    """

    name: ClassVar[str] = 'local_gradients'
    figures: ClassVar[tuple[Figure, ...]] = (
        _figure(
            'grad_local/{group}/{mean,min,max}',
            (
                "policies that clip before they synchronise, several ranks: L2 norm of a shared group's gradient "
                'on each rank before that rank clips, over the ranks; absent if a rank is missing'
            ),
            'loss / weight',
            stage='gradient',
            hook_point='`backward_end`',
            bad_value="max far above min: one rank's tasks dominate",
            chart=Chart('Shared modules', '{group}: gradient norms on the ranks, before they clip'),
        ),
        NO_GRADIENT,
        NONFINITE_LOCAL,
    )
    owner_only: ClassVar[bool] = False
    family = 'grad_local'

    def prepare(self, setup: Setup) -> None:
        """Lay out the parameters of every shared group, on every rank.

        Raises:
            ConfigurationError: sharded parameters, of whose gradients no rank ever has its own whole.
        """
        for group in setup.groups:
            if group.task_id is None and any(is_sharded(parameter) for parameter in group.parameters):
                raise ConfigurationError(
                    f'monitor: the policy clips the gradients of each rank before they are synchronised, and '
                    f'{group.name} has sharded parameters (DTensor), whose gradients are synchronised in the backward '
                    f'pass; it has to clip after it'
                )
        super().prepare(_shared(setup))

    def measure(self, hook_point: str, step: LearnerStep, rows: RowBuffer) -> None:
        """Square the gradients; mark the groups that have none."""
        if hook_point in (READ_GRADIENTS, COMPARE_GRADIENTS):
            super().measure(hook_point, step, rows)
            return
        self.nonfinite.clamp_(min=0)
        super().measure(hook_point, step, rows)
        for span in self.spans:
            if not any(self._measured[span.start : span.stop]):
                self.nonfinite[span.start] = _NO_GRADIENT

    def finish(self, rows: RowBuffer) -> None:
        """Write nothing further: what was missing is in the cells."""

    unpack_rows = DeviceCells.unpack_rows

    def unpack(self, cells: npt.NDArray[np.float64]) -> Iterator[tuple[RowKey, Row]]:
        """Yield this rank's norm of every group as one number."""
        for group, square, nonfinite in self.sums_by_group(cells):
            key = RowKey(self.name, group.name)
            if nonfinite == _NO_GRADIENT:
                yield key._replace(part='no_gradient'), constant_row(1)
                continue
            yield key, constant_row(math.sqrt(square))
            if nonfinite:
                yield key._replace(part='nonfinite'), constant_row(nonfinite)

    def derive(self, table: RowTable) -> Iterator[tuple[str, float]]:
        """Yield the figures over the ranks; none if a rank is missing."""
        norms = table.of(self.name)
        if table.complete:
            for group, tasks in norms.items():
                for statistic, column in (('mean', MEAN), ('min', MINIMUM), ('max', MAXIMUM)):
                    yield f'{self.family}/{group}/{statistic}', float(tasks[None][column])
        for group, row in table.named(self.name, 'nonfinite'):
            yield f'monitor/nonfinite/{self.family}/{group}', float(row[MEAN] * row[COUNT])
        for group in table.of(self.name, 'no_gradient'):
            if group not in norms:
                yield f'monitor/no_gradient/{group}', 1.0


class SynchronisedGradientNorms(GradientNorms):
    """``grad_synced/{group}/_total_norm`` at ``step_end``: what the optimizer used.

    Optimizers leave ``.grad`` alone, so after the step it still holds what the step was made of. It is the same on
    every rank, and rank 0 reports it.
    """

    name: ClassVar[str] = 'synchronised_gradients'
    figures: ClassVar[tuple[Figure, ...]] = (
        _figure(
            'grad_synced/{group}/_total_norm',
            "of the same policies: the shared group's gradient as the optimizer used it, averaged and hence clipped",
            'loss / weight',
            stage='gradient',
            hook_point='`step_end`',
            bad_value='far below the mean of `grad_local`: clipping, or conflict between ranks, eats the gradient',
            chart=Chart('Shared modules', 'Gradient norms of shared modules, synchronised and clipped'),
        ),
        NONFINITE_LOCAL,
    )
    hook_points: ClassVar[tuple[str, ...]] = ('step_end',)
    family = 'grad_synced'

    def prepare(self, setup: Setup) -> None:
        """Lay out the parameters of every shared group, on rank 0."""
        super().prepare(_shared(setup) if setup.rank == 0 else replace(setup, owned_groups=()))

    def measure(self, hook_point: str, step: LearnerStep, rows: RowBuffer) -> None:
        """Square the gradients that were used; with several optimizers, after the last."""
        gradients = [parameter.grad for parameter in self.parameters]
        self._measured = [gradient is not None for gradient in gradients]
        self._reached = [True] * len(gradients)
        self.square(gradients)

    def derive(self, table: RowTable) -> Iterator[tuple[str, float]]:
        """Yield the norms; that a gradient is missing has been said of the local ones."""
        yield from SquareNorms.derive(self, table)
