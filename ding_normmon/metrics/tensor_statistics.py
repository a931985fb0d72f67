"""Statistics of published tensors: per task and over all tasks of all ranks, valid steps only."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial
from typing import ClassVar, cast

import numpy as np
import torch
from torch import Tensor

from ding_normmon.core.common_figures import MONITOR_SECTION
from ding_normmon.metrics.base import Chart, Figure, RowBuffer, RowKey, RowTable
from ding_normmon.metrics.kernels import native
from ding_normmon.metrics.kernels.device_signals import DeviceSignals, Published, write_signals
from ding_normmon.metrics.masks import align_mask, check_signal
from ding_normmon.metrics.mixins import KeepsSignals, takes_graph
from ding_normmon.metrics.presence import Presence
from ding_normmon.metrics.sections import NONFINITE_CHART
from ding_normmon.rows import Label, moments

__all__ = ['TensorStatistics']

STATISTICS = ('mean', 'std', 'max', 'min', 'abs_max')
"""Statistics of a signal; norms, which are not negative, have all but the last."""

_FEWEST = np.array([[1], [2], [1], [1], [1]])
"""Smallest count for which each of them exists."""

# Signals of which the L2 norm of each vector is taken first: signal -> (metric family, prefix of the statistic).
NORM_SIGNALS = {'x_token': ('norm/x_token', ''), 'embeddings/obs': ('embeddings/obs', 'norm_')}


class _Plan:
    """Names of the figures of a set of signals.

    Arguments:
        labels: of the rows of a :meth:`RowTable.block`.

    Attributes:
        lengths: how many rows each signal has.
        of_tasks: the rows that have a task.
        names: of the figures, statistic by statistic, of each signal and then of each of its tasks; None if there
            is none.
        told: where there is one; shape (statistics, rows).
        nonfinite: what the same rows are called where entries are not finite.
    """

    def __init__(self, labels: tuple[Label, ...]) -> None:
        tasks_of: dict[str, list[int]] = {}
        for index, (name, _) in enumerate(labels):
            tasks_of.setdefault(name, []).append(index)
        self.lengths = [len(indices) for indices in tasks_of.values()]
        self.of_tasks = [index for index, (_, task_id) in enumerate(labels) if task_id is not None]
        parts = [(name, '') for name in tasks_of]
        parts += [(labels[index][0], f'_task{labels[index][1]}') for index in self.of_tasks]
        self.nonfinite = [f'{name}{suffix}' for name, suffix in parts]
        by_part = [_names(name, suffix) for name, suffix in parts]
        self.names = [name for of_statistic in zip(*by_part, strict=True) for name in of_statistic]
        self.told = np.array([name is not None for name in self.names]).reshape(len(STATISTICS), len(parts))


@lru_cache(maxsize=8)
def _plan(labels: tuple[Label, ...]) -> _Plan:
    # The same rows come in every record.
    return _Plan(labels)


def _names(name: str, suffix: str) -> list[str | None]:
    family, prefix = NORM_SIGNALS.get(name, (name, ''))
    told = STATISTICS[:-1] if name in NORM_SIGNALS else STATISTICS
    return [f'{family}{suffix}/{prefix}{statistic}' if statistic in told else None for statistic in STATISTICS]


_figure = partial(
    Figure,
    section='Signals',
    hook_point='`publish`',
    chart=Chart('Data', '{signal} of all tasks'),
    task_chart=Chart('Data', '{signal}: {statistic}'),
)


class TensorStatistics(KeepsSignals):
    """Mean, std, max, min and abs_max of every published signal; of ``x_token`` and ``embeddings/obs`` the statistics
    of the L2 norms of their vectors.

    On a CPU the row is made at once, in one call into C (:mod:`ding_normmon.metrics.kernels.native`), where the tensor
    lies. On an accelerator launches are what costs, so tensors are kept until the first hook point, which is
    ``forward_end`` (the graph holds them anyway), and reduced together
    (:mod:`ding_normmon.metrics.kernels.device_signals`).
    """

    name: ClassVar[str] = 'tensor_statistics'
    figures: ClassVar[tuple[Figure, ...]] = (
        _figure(
            'norm/x_token[_task{i}]/{mean,std,max,min}',
            "L2 norms of the transformer's output tokens",
            'activation',
            stage='output',
            bad_value='collapse (std near 0) or growth of the representation',
            scale='log',
            chart=Chart('Embeddings', 'x_token of all tasks'),
            task_chart=Chart('Embeddings', 'x_token: norm_{statistic}'),
        ),
        _figure(
            'embeddings/obs[_task{i}]/{norm_mean,norm_std,norm_max,norm_min}',
            "L2 norms of the encoder's outputs",
            'activation',
            stage='output',
            bad_value='drift or collapse of the encoder',
            scale='log',
            chart=Chart('Embeddings', '{signal} of all tasks'),
            task_chart=Chart('Embeddings', '{signal}: {statistic}'),
        ),
        _figure(
            'logits/{value,policy,reward}[_task{i}]/abs_max',
            "largest absolute entry of the head's output; policy: the task's own action space",
            'logit',
            stage='output',
            bad_value='running away: a policy that has become certain, or a saturated value support',
            scale='log',
            chart=Chart('Logits', '{signal} logits of all tasks'),
            task_chart=Chart('Logits', '{signal} logits: {statistic}'),
            of_task='Logits: largest absolute entries',
        ),
        _figure(
            'logits/{value,policy,reward}[_task{i}]/{mean,std,max,min}',
            'of the same entries',
            'logit',
            stage='output',
            signed=True,
            chart=Chart('Logits', '{signal} logits of all tasks'),
            task_chart=Chart('Logits', '{signal} logits: {statistic}'),
        ),
        _figure(
            'data/reward[_task{i}]/abs_max',
            'largest absolute reward of the valid steps of the batch, as they come from the replay buffer',
            'reward',
            stage='data',
            bad_value='a jump: the reward scale of the task has changed; always 0: it has met no reward',
            of_task='Data: largest reward of a batch',
        ),
        _figure(
            'data/reward[_task{i}]/{mean,std,max,min}',
            'rewards of the same steps',
            'reward',
            stage='data',
            bad_value='a jump: as above',
            signed=True,
            prominence='detail',
        ),
        _figure(
            'data/value_target[_task{i}]/{mean,std,max,min,abs_max}',
            'value targets of the same steps',
            'reward',
            stage='target',
            bad_value='a jump: as above',
            signed=True,
            prominence='detail',
        ),
        _figure(
            'data/age_transitions[_task{i}]/{mean,std,max,min,abs_max}',
            "of LightZero's replay buffers: transitions stored since the one with which a sampled sequence begins",
            'transitions',
            bad_value='growing without end: new data does not arrive',
            prominence='detail',
            chart=Chart('Data', 'Age in transitions'),
            task_chart=Chart('Data', 'Age in transitions: {statistic}'),
        ),
        _figure(
            'data/age_iterations/{mean,std,max,min,abs_max}',
            "of DI-engine's data that says when it was collected: learner iterations since then, sample by sample",
            'iterations',
            bad_value='growing without end: new data does not arrive',
            prominence='detail',
            chart=Chart('Data', 'Age in iterations'),
        ),
        _figure(
            'data/observation_change[_task{i}]/{mean,std,max,min,abs_max}',
            'mean absolute difference of successive observations, of up to eight sequences of the batch',
            'observation',
            stage='data',
            bad_value='falling to 0: the environment shows the same picture for ever',
            prominence='detail',
        ),
        _figure(
            'outputs/{head}[/{key}]/{mean,std,max,min,abs_max}',
            'entries of what a head of a DI-engine policy returns, in the first pass with a graph',
            'its own',
            stage='output',
            signed=True,
            chart=Chart('Logits', '{signal}'),
            task_chart=Chart('Logits', '{signal}: {statistic}'),
        ),
        Figure(
            '{signal}[_task{i}]/{mean,std,max,min,abs_max}',
            'any other published tensor, element by element',
            'its own',
            hook_point='`publish`',
            section='Signals',
            signed=True,
        ),
        Figure(
            'monitor/nonfinite/{signal}[_task{i}]',
            'NaN and infinite entries of a signal (−inf of impossible actions counts)',
            'count',
            section=MONITOR_SECTION,
            chart=NONFINITE_CHART,
        ),
        Figure(
            'monitor/{empty,absent,late}/{signal}',
            (
                'number of tasks whose signal had no valid step, was not published although it had been before, '
                'or was published for the first time after the first record; only where it happened'
            ),
            'count',
            bad_value='a task whose data no longer reaches the learner',
            section=MONITOR_SECTION,
            chart=Chart('Health of the record', 'Further signs'),
        ),
    )

    def __init__(self) -> None:
        self._presence = Presence()
        self._keys: dict[tuple[str, int | None], RowKey] = {}
        self.signals = DeviceSignals(write_signals)

    @takes_graph
    def on_publish(self, name: str, tensor: Tensor, task_id: int | None, mask: Tensor | None, rows: RowBuffer) -> None:
        """Write the row of the valid entries, or of their norms.

        Raises:
            SignalError: integer dtype, a mask that does not fit, another device than the model's.
        """
        key = self._keys.get((name, task_id))
        if key is None:
            key = self._keys[name, task_id] = RowKey(self.name, name, task_id)
        # A tensor on the host is measured there, even if the model is on an accelerator.
        on_host = rows.on_host or (rows.device.type != 'cpu' and isinstance(tensor, Tensor) and tensor.is_cpu)
        if on_host and native.kernels is not None:
            row = native.kernels.row(tensor, mask, name in NORM_SIGNALS)
            if row is not None:
                rows.write_numbers(key, row)
                return
        check_signal(name, tensor, mask, rows.device, of_vectors=name in NORM_SIGNALS)
        if on_host:
            with torch.no_grad():
                self._write(key, tensor.detach(), mask, rows)
        else:
            self.signals.add(Published(key, tensor.detach(), mask, name in NORM_SIGNALS), rows)

    @staticmethod
    def _write(key: RowKey, tensor: Tensor, mask: Tensor | None, rows: RowBuffer) -> None:
        if tensor.element_size() == 1:
            # float8 supports nothing but conversion.
            tensor = tensor.float()
        valid: Tensor | None = None
        if mask is not None:
            tensor, valid = align_mask(tensor, mask.detach(), key.name)
        if key.name in NORM_SIGNALS:
            # The spread of norms can be a thousandth of their size; in float32 it would lose its digits.
            tensor = torch.linalg.vector_norm(tensor, dim=-1, dtype=torch.float64)
        rows.write(key, moments.row_of(tensor if valid is None else tensor[valid]))

    def derive(self, table: RowTable) -> Iterator[tuple[str, float]]:
        """Yield each signal's statistics over all tasks and per task."""
        labels, rows = table.block(self.name)
        if table.complete and table.final:
            yield from self._presence.counts(table.of(self.name))
        if not labels:
            return
        plan = _plan(labels)
        rows = np.concatenate((moments.merge_sets(rows, plan.lengths), rows[plan.of_tasks]))
        told = plan.told
        if not table.complete:
            # If a rank is missing, nothing is known about all tasks together.
            told = told.copy()
            told[:, : len(plan.lengths)] = False
        for index in np.flatnonzero(rows[:, moments.NONFINITE]).tolist():
            if table.complete or index >= len(plan.lengths):
                yield f'monitor/nonfinite/{plan.nonfinite[index]}', float(rows[index, moments.NONFINITE])
        count = rows[:, moments.COUNT]
        values = np.stack(
            (
                rows[:, moments.MEAN],
                moments.stds(rows),
                rows[:, moments.MAXIMUM],
                rows[:, moments.MINIMUM],
                moments.abs_maxima(rows),
            )
        )
        chosen = np.flatnonzero(told & (count >= _FEWEST))
        names = plan.names
        for index, value in zip(chosen.tolist(), values.ravel()[chosen].tolist(), strict=True):
            yield cast(str, names[index]), value
