"""The norms of shared parameters on every rank, which show how ranks drift apart."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch

from ding_normmon.metrics.base import Chart, Figure, LearnerStep, RowBuffer, RowKey, RowTable, Setup
from ding_normmon.metrics.sections import PARAMETERS_SECTION
from ding_normmon.metrics.square_norms import GroupSquares
from ding_normmon.rows.moments import MEAN, NONFINITE, Row, constant_row

__all__ = ['RankNorms']


_figure = partial(Figure, section=PARAMETERS_SECTION, hook_point='`forward_end`')


class RankNorms(GroupSquares):
    """``monitor/rank_norm/{group}/{rank{n},spread}``: the norms of the weights that each rank has before the step.

    Equal replicas have equal norms, so the spread (largest minus smallest) is exactly 0. Its growth shows how fast
    replicas diverge, which :class:`~ding_normmon.metrics.replicas.Replicas` does not.
    """

    name: ClassVar[str] = 'rank_norms'
    figures: ClassVar[tuple[Figure, ...]] = (
        _figure(
            'monitor/rank_norm/{group}/rank{n}',
            "L2 norm of a shared group's parameters on one rank (several ranks only)",
            'weight',
            bad_value='not the same on all ranks',
            scale='log',
            chart=Chart('Shared modules', '{group}: norms on the ranks'),
        ),
        _figure(
            'monitor/rank_norm/{group}/spread',
            'the largest of them minus the smallest; absent if a rank is missing',
            'weight',
            bad_value='above 0: ranks train different models, and drift apart as it grows',
            chart=Chart('Shared modules', 'Norms of shared modules: largest minus smallest of the ranks'),
        ),
    )
    hook_points: ClassVar[tuple[str, ...]] = ('forward_end',)

    def prepare(self, setup: Setup) -> None:
        """Lay out the shared parameters that every rank has whole."""
        super().prepare(setup)
        self.lay_out(setup.replicated_groups())

    @torch.no_grad()
    def measure(self, hook_point: str, step: LearnerStep, rows: RowBuffer) -> None:
        """Square this rank's parameters."""
        self.square(self.parameters)

    def unpack(self, cells: npt.NDArray[np.float64]) -> Iterator[tuple[RowKey, Row]]:
        """Yield this rank's norm of every group; counted as non-finite where an entry is."""
        for group, square, nonfinite in self.sums_by_group(cells):
            norm = math.nan if nonfinite else math.sqrt(square)
            yield RowKey(self.name, group.name, None, f'rank{self.setup.rank}'), constant_row(norm)

    def derive(self, table: RowTable) -> Iterator[tuple[str, float]]:
        """Yield the norms of the ranks that have reported, and the spread if all have."""
        norms: dict[str, list[float]] = {}
        for rank in range(self.setup.world_size if self.spans else 0):
            for name, row in table.named(self.name, f'rank{rank}'):
                if not row[NONFINITE]:
                    norms.setdefault(name, []).append(float(row[MEAN]))
                    yield f'monitor/rank_norm/{name}/rank{rank}', norms[name][-1]
        for name, values in norms.items():
            if table.complete and len(values) == self.setup.world_size:
                yield f'monitor/rank_norm/{name}/spread', max(values) - min(values)
