"""How many dimensions a representation fills, per task and over all tasks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ding_normmon.core.figure import Chart, Figure
from ding_normmon.metrics.base import Metric, Setup
from ding_normmon.metrics.maths import effective_rank as spectral
from ding_normmon.metrics.sections import PLASTICITY_SECTION
from ding_normmon.metrics.tensor_statistics import align_mask
from ding_normmon.rows.table import RowBuffer, RowKey, RowTable, Vector

__all__ = ['RepresentationRank']

SIGNALS = ('x_token', 'embeddings/obs')
"""The signals whose vectors are representations."""

_MOST_DIMENSIONS = 256
"""An eigenvalue decomposition of this size takes 10 to 20 ms, in the background."""


class RepresentationRank(Metric):
    """``plasticity/{x_token,embeddings/obs}[_task{i}]/{effective_rank,stable_rank,feature_rank}``: see
    :mod:`ding_normmon.metrics.maths.effective_rank`.

    Each task's second moment travels to rank 0; their sum is that of all tasks, so the rank over all tasks is exact. At
    most ``memory_budget`` / 2 bytes are used per record if all tasks were on one rank: with many tasks or features the
    vectors are projected to fewer dimensions, the same whatever the layout, and ``.../rank_error`` says by how much, in
    relative terms, singular values may be off.
    """

    name: ClassVar[str] = 'representation_rank'
    figures: ClassVar[tuple[Figure, ...]] = (
        Figure(
            pattern='plasticity/{x_token,embeddings/obs}[_task{i}]/effective_rank',
            definition=(
                'exp of the entropy of the normalised singular values of all valid vectors, not centred ([Roy & '
                'Vetterli 2007](https://ieeexplore.ieee.org/document/7098875)); at most the number of vectors'
            ),
            unit='dimensions',
            hook_point='`publish`',
            bad_value='falling: the representation collapses',
            section=PLASTICITY_SECTION,
            chart=Chart('Plasticity', 'effective_rank of the representation'),
            task_chart=Chart('Plasticity', '{signal}: {statistic}'),
            of_task='Plasticity: ranks of the representation',
            prominence='detail',
        ),
        Figure(
            pattern='plasticity/{x_token,embeddings/obs}[_task{i}]/stable_rank',
            definition='Σσ² / σ₁²',
            unit='dimensions',
            hook_point='`publish`',
            bad_value='near 1: one direction carries everything',
            section=PLASTICITY_SECTION,
            chart=Chart('Plasticity', 'stable_rank of the representation'),
            task_chart=Chart('Plasticity', '{signal}: {statistic}'),
            of_task='Plasticity: ranks of the representation',
            prominence='detail',
        ),
        Figure(
            pattern='plasticity/{x_token,embeddings/obs}[_task{i}]/feature_rank',
            definition=(
                'how many of the largest singular values make up 99% of their sum ([Kumar et al. '
                '2021](https://arxiv.org/abs/2010.14498))'
            ),
            unit='dimensions',
            hook_point='`publish`',
            bad_value='falling: as above',
            section=PLASTICITY_SECTION,
            kind='count',
            chart=Chart('Plasticity', 'feature_rank of the representation'),
            task_chart=Chart('Plasticity', '{signal}: {statistic}'),
            of_task='Plasticity: ranks of the representation',
            prominence='detail',
        ),
        Figure(
            pattern='plasticity/{x_token,embeddings/obs}[_task{i}]/rank_error',
            definition=(
                'relative error to expect of singular values, √(effective rank / dimensions); only where vectors '
                'were projected to fewer dimensions (over 256 features, or `memory_budget`)'
            ),
            unit='ratio',
            hook_point='`publish`',
            bad_value='over 0.3: raise `memory_budget`',
            section=PLASTICITY_SECTION,
            kind='ratio',
            chart=Chart('Plasticity', '{statistic}'),
            task_chart=Chart('Plasticity', '{signal}: {statistic}'),
            prominence='detail',
        ),
    )
    stretchable: ClassVar[bool] = True

    def __init__(self) -> None:
        self._matrices: dict[int, Tensor] = {}
        self._features: dict[str, int] = {}

    def prepare(self, setup: Setup) -> None:
        """Read how large a second moment may be."""
        self.frequency = setup.config.plasticity_freq or 0
        share = setup.config.memory_budget // (2 * 8 * len(SIGNALS) * max(1, setup.num_tasks or 1))
        self._limit = min(_MOST_DIMENSIONS, spectral.size_under(share))
        super().prepare(setup)

    def state_bytes(self) -> int:
        """Return the size of the projections."""
        return sum(matrix.nbytes for matrix in self._matrices.values())

    def on_publish(self, name: str, tensor: Tensor, task_id: int | None, mask: Tensor | None, rows: RowBuffer) -> None:
        """Write the second moment of the valid vectors.

        Raises:
            SignalError: a mask that does not fit.
        """
        if name not in SIGNALS or not tensor.is_floating_point() or tensor.ndim < 2:
            return
        if mask is not None:
            tensor, valid = align_mask(tensor, mask.detach(), name)
            if rows.on_host:
                tensor = tensor[valid]
            else:
                # Selecting would have to wait for the device to count; vectors of zeros add nothing.
                valid = valid.to(tensor.device).reshape(valid.shape + (1,) * (tensor.ndim - 2))
                tensor = torch.where(valid, tensor, torch.zeros((), dtype=tensor.dtype, device=tensor.device))
        vectors = tensor.reshape(-1, tensor.shape[-1]).to(torch.float64)
        features = vectors.shape[1]
        if features > self._limit:
            if features not in self._matrices:
                matrix = torch.from_numpy(spectral.projection(features, self._limit).copy())
                self._matrices[features] = matrix.to(vectors.device)
            vectors = vectors @ self._matrices[features]
        rows.write_vector(RowKey(self.name, name, task_id, f'moment:{features}'), spectral.packed_moment(vectors))

    def derive(self, table: RowTable) -> Iterator[tuple[str, float]]:
        """Yield the ranks, per task and, where every rank has reported, over all tasks."""
        signals: dict[tuple[str, int], dict[int | None, Vector]] = {}
        for key in sorted(table.vectors, key=lambda key: -1 if key.task_id is None else key.task_id):
            if key.metric == self.name:
                features = int(key.part.removeprefix('moment:'))
                signals.setdefault((key.name, features), {})[key.task_id] = table.vectors[key]
        for (name, features), tasks in signals.items():
            if table.complete_for(self.name):
                yield from self._ranks(f'plasticity/{name}', np.sum(list(tasks.values()), axis=0), features)
            for task_id, packed in tasks.items():
                if task_id is not None:
                    yield from self._ranks(f'plasticity/{name}_task{task_id}', packed, features)

    def _ranks(self, prefix: str, packed: Vector, features: int) -> Iterator[tuple[str, float]]:
        if not np.isfinite(packed).all():
            return
        sigma = spectral.singular_values(np.asarray(packed, dtype=np.float64))
        if sigma[0] > 0:
            rank = spectral.effective_rank(sigma)
            yield f'{prefix}/effective_rank', rank
            yield f'{prefix}/stable_rank', spectral.stable_rank(sigma)
            yield f'{prefix}/feature_rank', float(spectral.feature_rank(sigma))
            if len(sigma) < features:
                yield f'{prefix}/rank_error', spectral.projection_error(rank, features, len(sigma))
