"""How large the weights are, whatever their number: read off the rows of the parameter norms, at no cost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from ding_normmon.metrics.base import Chart, Figure, Metric, RowTable
from ding_normmon.metrics.parameter_norms import ParameterNorms
from ding_normmon.metrics.sections import PLASTICITY_SECTION
from ding_normmon.rows.moments import COUNT, rms

__all__ = ['WeightMagnitude']


class WeightMagnitude(Metric):
    r"""``plasticity/{group}/weight_rms``: :math:`\sqrt{\sum_i w_i^2 / n}` of a group's :math:`n` weights.

    A norm grows with the number of weights; the root mean square can be compared between groups and models. Growing
    weights go with a loss of plasticity (Lyle et al., "Understanding plasticity in neural networks", ICML 2023).
    """

    name: ClassVar[str] = 'weight_magnitude'
    figures: ClassVar[tuple[Figure, ...]] = (
        Figure(
            'plasticity/{group}[_task{i}]/weight_rms',
            "root mean square of the group's weights, read off the parameter norms",
            'weight',
            hook_point='`forward_end`',
            bad_value='steady growth goes with a loss of plasticity',
            section=PLASTICITY_SECTION,
            scale='log',
            chart=Chart('Plasticity', 'Root mean square of the weights'),
            task_chart=Chart('Plasticity', '{signal}: {statistic}'),
            prominence='detail',
        ),
    )

    def derive(self, table: RowTable) -> Iterator[tuple[str, float]]:
        """Yield the root mean square per group; nothing where parameter norms are not measured."""
        for group, row in table.named(ParameterNorms.name):
            if row[COUNT] > 0:
                yield f'plasticity/{group}/weight_rms', rms(row)
