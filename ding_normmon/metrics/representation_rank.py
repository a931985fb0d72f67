"""How many dimensions a representation fills, per task and over all tasks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ding_normmon.metrics.base import Chart, Figure, RowBuffer, RowKey, RowTable, Setup, Vector
from ding_normmon.metrics.kernels.device_signals import DeviceSignals, Published, masks_of
from ding_normmon.metrics.masks import align_mask, check_mask
from ding_normmon.metrics.maths import effective_rank as spectral
from ding_normmon.metrics.mixins import KeepsSignals
from ding_normmon.metrics.sections import PLASTICITY_SECTION

__all__ = ['RepresentationRank']

SIGNALS = ('x_token', 'embeddings/obs')
"""The signals whose vectors are representations."""

_MOST_DIMENSIONS = 256
"""An eigenvalue decomposition of this size takes 10 to 20 ms, in the background."""

_AT_ONCE = 1 << 22
"""Numbers whose second moments are made at a time on an accelerator: 32 MiB in float64."""


_figure = partial(
    Figure,
    section=PLASTICITY_SECTION,
    hook_point='`publish`',
    prominence='detail',
    task_chart=Chart('Plasticity', '{signal}: {statistic}'),
)


class RepresentationRank(KeepsSignals):
    """``plasticity/{x_token,embeddings/obs}[_task{i}]/{effective_rank,stable_rank,feature_rank}``: see
    :mod:`ding_normmon.metrics.maths.effective_rank`.

    Each task's second moment travels to rank 0; their sum is that of all tasks, so the rank over all tasks is exact. At
    most ``memory_budget`` / 2 bytes are used per record if all tasks were on one rank: with many tasks or features the
    vectors are projected to fewer dimensions, the same whatever the layout, and ``.../rank_error`` says by how much, in
    relative terms, singular values may be off.
    """

    name: ClassVar[str] = 'representation_rank'
    figures: ClassVar[tuple[Figure, ...]] = (
        _figure(
            'plasticity/{x_token,embeddings/obs}[_task{i}]/effective_rank',
            (
                'exp of the entropy of the normalised singular values of all valid vectors, not centred ([Roy & '
                'Vetterli 2007](https://ieeexplore.ieee.org/document/7098875)); at most the number of vectors'
            ),
            'dimensions',
            stage='representation',
            bad_value='falling: the representation collapses',
            chart=Chart('Plasticity', 'effective_rank of the representation'),
            of_task='Plasticity: ranks of the representation',
        ),
        _figure(
            'plasticity/{x_token,embeddings/obs}[_task{i}]/stable_rank',
            'Σσ² / σ₁²',
            'dimensions',
            bad_value='near 1: one direction carries everything',
            chart=Chart('Plasticity', 'stable_rank of the representation'),
            of_task='Plasticity: ranks of the representation',
        ),
        _figure(
            'plasticity/{x_token,embeddings/obs}[_task{i}]/feature_rank',
            (
                'how many of the largest singular values make up 99% of their sum ([Kumar et al. '
                '2021](https://arxiv.org/abs/2010.14498))'
            ),
            'dimensions',
            bad_value='falling: as above',
            kind='count',
            chart=Chart('Plasticity', 'feature_rank of the representation'),
            of_task='Plasticity: ranks of the representation',
        ),
        _figure(
            'plasticity/{x_token,embeddings/obs}[_task{i}]/rank_error',
            (
                'relative error to expect of singular values, √(effective rank / dimensions); only where vectors '
                'were projected to fewer dimensions (over 256 features, or `memory_budget`)'
            ),
            'ratio',
            bad_value='over 0.3: raise `memory_budget`',
            chart=Chart('Plasticity', '{statistic}'),
        ),
    )
    stretchable: ClassVar[bool] = True

    def __init__(self) -> None:
        self._matrices: dict[int, Tensor] = {}
        self.signals = DeviceSignals(self._write_moments)

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
        features = tensor.shape[-1]
        key = RowKey(self.name, name, task_id, f'moment:{features}')
        if not rows.on_host:
            if mask is not None:
                check_mask(tensor, mask, name)
            self.signals.add(Published(key, tensor, mask), rows)
            return
        if mask is not None:
            tensor, valid = align_mask(tensor, mask.detach(), name)
            tensor = tensor[valid]
        vectors = tensor.reshape(-1, features).to(torch.float64)
        if features > self._limit:
            vectors = vectors @ self._projection(features, vectors.device)
        rows.write_vector(key, spectral.packed_moment(vectors))

    def _projection(self, features: int, device: torch.device) -> Tensor:
        if features not in self._matrices:
            self._matrices[features] = torch.from_numpy(spectral.projection(features, self._limit).copy()).to(device)
        return self._matrices[features]

    def _write_moments(self, signals: Sequence[Published], rows: RowBuffer) -> None:
        """Write the second moments of many signals: about ten operations for all of one shape."""
        masks = masks_of(signals)
        alike: dict[tuple[torch.dtype, tuple[int, ...], int | None], list[Published]] = {}
        for signal in signals:
            if signal.tensor.numel():
                steps = None if signal.mask is None else signal.mask.numel()
                alike.setdefault((signal.tensor.dtype, tuple(signal.tensor.shape), steps), []).append(signal)
        for (_, shape, steps), found in alike.items():
            at_once = max(1, _AT_ONCE // math.prod(shape))
            for first in range(0, len(found), at_once):
                chosen = found[first : first + at_once]
                table = torch.stack([signal.tensor.reshape(steps or 1, -1, shape[-1]) for signal in chosen])
                table = table.to(torch.float64)
                # True of NaN and of infinities: their distance from themselves is NaN.
                left_out = ((table - table) != 0).any(dim=-1)
                if steps is not None:
                    left_out |= ~torch.stack([masks[id(signal.mask)] for signal in chosen])[:, :, None]
                vectors = table.masked_fill_(left_out[..., None], 0.0).flatten(1, 2)
                if shape[-1] > self._limit:
                    vectors = vectors @ self._projection(shape[-1], vectors.device)
                rows.write_vectors([signal.key for signal in chosen], spectral.packed_moments(vectors))

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
