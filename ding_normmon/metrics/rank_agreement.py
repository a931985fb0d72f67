"""Whether the ranks' gradients point the same way, from norms before and after they are added up."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch

from ding_normmon.metrics.base import Chart, Figure, LearnerStep, RowBuffer, RowKey, RowTable, Setup
from ding_normmon.metrics.kernels.device_signals import write_number
from ding_normmon.metrics.sections import TASKS_SECTION
from ding_normmon.metrics.square_norms import GroupSquares
from ding_normmon.rows.moments import COUNT, M2, MAXIMUM, NONFINITE, Row, square_sum_row

__all__ = ['RankAgreement', 'agreement_of']


def agreement_of(square_of_sum: float, sum_of_squares: float, ranks: int) -> tuple[float, float]:
    r"""Return the mean inner product of the gradients of two different ranks, and it over the mean squared norm.

    .. math:: \frac{1}{R(R-1)}\sum_{r\ne s}\langle g_r, g_s\rangle
              = \frac{\left\|\sum_r g_r\right\|^2 - \sum_r\|g_r\|^2}{R(R-1)}

    With the mean :math:`\bar g` of the ranks' gradients in place of their sum, the first term is
    :math:`R^2\|\bar g\|^2`. The second figure is 1 if all gradients are equal, 0 if they are orthogonal, and
    :math:`-1/(R-1)` where they cancel.

    >>> agreement_of(square_of_sum=4.0, sum_of_squares=2.0, ranks=2)  # two equal gradients of norm 1
    (1.0, 1.0)
    >>> agreement_of(square_of_sum=0.0, sum_of_squares=2.0, ranks=2)  # opposite ones
    (-1.0, -1.0)
    """
    dot = (square_of_sum - sum_of_squares) / (ranks * (ranks - 1))
    return dot, dot / (sum_of_squares / ranks)


_figure = partial(Figure, section=TASKS_SECTION, hook_point='`local_backward_end`')


class RankAgreement(GroupSquares):
    """``agreement/{group}/{mean_dot,cosine,ranks}`` of shared groups.

    A policy that fires ``local_backward_end`` shows each rank's gradients before they are summed; the norm of the sum
    is that of :class:`~ding_normmon.metrics.gradient_norms.GradientNorms`. Only ranks with a gradient on the group
    count; with fewer than two there is no figure. The figures depend on which tasks share a rank. If gradients are
    summed within the backward pass (DistributedDataParallel, FSDP2), no rank ever has its own.
    """

    name: ClassVar[str] = 'rank_agreement'
    figures: ClassVar[tuple[Figure, ...]] = (
        _figure(
            'agreement/{group}/mean_dot',
            'mean inner product of the gradients of two ranks: (‖Σg‖² − Σ‖g‖²)/(R(R−1))',
            '(loss / weight)²',
            bad_value='below 0: ranks undo each other',
            signed=True,
            chart=Chart('Conflict', 'Agreement between ranks: inner products'),
        ),
        _figure(
            'agreement/{group}/cosine',
            (
                "`mean_dot` over the mean squared norm of the ranks' gradients: 1 if all are equal, −1/(R−1) if "
                'they cancel'
            ),
            'ratio',
            bad_value='as above',
            kind='cosine',
            chart=Chart('Conflict', 'Agreement between ranks: cosines'),
        ),
        _figure(
            'agreement/{group}/ranks',
            'R, the ranks that have a gradient on the group; below 2 there is no figure',
            'count',
            chart=Chart('Conflict', 'Agreement between ranks: ranks with a gradient'),
        ),
    )
    hook_points: ClassVar[tuple[str, ...]] = ('local_backward_end',)

    def prepare(self, setup: Setup) -> None:
        """Lay out one squared norm and one count of non-finite entries per shared parameter."""
        super().prepare(setup)
        # Gradients of sharded parameters are added up within the backward pass, as those of DDP are.
        self.lay_out(setup.replicated_groups())

    def measure(self, hook_point: str, step: LearnerStep, rows: RowBuffer) -> None:
        """Square this rank's gradients of the shared groups."""
        with torch.no_grad():
            self.square([parameter.grad for parameter in self.parameters])
        for group in (span.group for span in self.spans):
            if any(parameter.grad is not None for parameter in group.parameters):
                write_number(RowKey(self.name, group.name, None, 'averaged'), step.averaged_over, rows)

    def unpack(self, cells: npt.NDArray[np.float64]) -> Iterator[tuple[RowKey, Row]]:
        """Yield this rank's squared norms by group; 0 if it has no gradient."""
        for group, square, nonfinite in self.sums_by_group(cells):
            yield RowKey(self.name, group.name), square_sum_row(1, square, nonfinite)

    def derive(self, table: RowTable) -> Iterator[tuple[str, float]]:
        """Yield the figures, if every rank has measured them."""
        if not table.complete_for(self.name):
            return
        of_sum = table.of('gradient_norms')
        averaged = table.of(self.name, 'averaged')
        for name, tasks in table.of(self.name).items():
            local, total, contributing = tasks[None], of_sum.get(name, {}).get(None), averaged.get(name, {}).get(None)
            if total is None or contributing is None or local[NONFINITE] or total[NONFINITE]:
                continue
            ranks = int(contributing[COUNT])
            if ranks < 2:
                continue
            square = float(total[M2]) * float(contributing[MAXIMUM]) ** 2
            yield f'agreement/{name}/ranks', float(ranks)
            if local[M2] > 0:
                dot, cosine = agreement_of(square, float(local[M2]), ranks)
                yield f'agreement/{name}/mean_dot', dot
                yield f'agreement/{name}/cosine', cosine
