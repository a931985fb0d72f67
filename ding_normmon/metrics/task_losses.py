"""Scalars that the policy publishes per task, such as LightZero's ``noreduce_*`` losses."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import ClassVar

from torch import Tensor

from ding_normmon.core.step import SignalError
from ding_normmon.metrics.base import Chart, Figure, RowBuffer, RowKey, RowTable
from ding_normmon.metrics.kernels import native
from ding_normmon.metrics.kernels.device_signals import DeviceSignals, Published, write_numbers
from ding_normmon.metrics.mixins import KeepsSignals, takes_graph
from ding_normmon.metrics.sections import BROKEN_CHART, INVARIANTS_SECTION
from ding_normmon.rows.moments import COUNT, MEAN, NONFINITE, constant_numbers

__all__ = ['TaskLosses']


_figure = partial(
    Figure,
    section='Losses of the policy',
    hook_point='`publish_loss`',
    signed=True,
    task_chart=Chart('Losses and returns', '{statistic}'),
)


class TaskLosses(KeepsSignals):
    """The per-task losses of every rank under the names the policy gave them: ``noreduce_obs_loss_task3``."""

    name: ClassVar[str] = 'task_losses'
    figures: ClassVar[tuple[Figure, ...]] = (
        _figure(
            'noreduce_{obs,value,reward,policy}_loss[_task{i}]',
            (
                "LightZero's per-task losses, returned by the policy every step; at monitored iterations the "
                'monitor writes them for the tasks of all ranks; of a single-task policy without `_task{i}`'
            ),
            'loss',
            stage='loss',
            bad_value='one task does not learn',
            signed=False,
            scale='log',
            chart=Chart('Losses and returns', '{statistic}'),
            of_task='Losses',
        ),
        _figure(
            'noreduce_{loss}_loss[_task{i}]',
            'the other ones',
            'loss',
            stage='loss',
            of_task='Losses',
            prominence='detail',
        ),
        _figure(
            'noreduce_target_policy_entropy[_task{i}]',
            'entropy of the policy targets; 0: they are one action each',
            'nats',
            stage='target',
            prominence='detail',
        ),
        _figure(
            'noreduce_{quantity}[_task{i}]',
            'what else it returns of a task, such as entropies',
            'its own',
            stage='output',
            prominence='detail',
        ),
        Figure(
            'data/{batch_size,valid_steps}[_task{i}]',
            "sequences of a task's batch, and steps in them that are data and not padding",
            'count',
            stage='data',
            hook_point='`publish_loss`',
            bad_value='another size than the configured one; few valid steps: episodes are short',
            section='Signals',
            task_chart=Chart('Data', '{statistic}'),
            prominence='detail',
        ),
        Figure(
            'data/refill_rate[_task{i}]',
            "transitions stored in LightZero's replay buffer for each learner iteration, since the last record",
            'transitions per iteration',
            hook_point='`publish_loss`',
            bad_value='0: the learner goes on with the same data',
            section='Signals',
            task_chart=Chart('Data', 'Refill rate'),
            prominence='detail',
        ),
        Figure(
            'data/outside/{part}[_task{i}]',
            (
                'entries of the rewards, value or policy targets, actions or masks of a batch that are not finite, or '
                'outside of what the policy declares; there only above 0'
            ),
            'count',
            hook_point='`publish_loss`',
            bad_value='data that cannot be; values beyond the support are cut off in silence',
            section=INVARIANTS_SECTION,
            chart=BROKEN_CHART,
        ),
    )

    def __init__(self) -> None:
        self._keys: dict[tuple[str, int | None], RowKey] = {}
        self.signals = DeviceSignals(write_numbers)

    @takes_graph
    def on_publish_loss(self, name: str, value: Tensor | float, task_id: int | None, rows: RowBuffer) -> None:
        """Write its row.

        Raises:
            SignalError: not one number.
        """
        key = self._keys.get((name, task_id))
        if key is None:
            key = self._keys[name, task_id] = RowKey(self.name, name, task_id)
        if isinstance(value, Tensor) and value.numel() != 1:
            raise SignalError(f'{name}: expected one number, got a tensor of shape {tuple(value.shape)}')
        if isinstance(value, Tensor) and not rows.on_host and value.device.type == rows.device.type:
            self.signals.add(Published(key, value.detach()), rows)
        else:
            rows.write_numbers(key, constant_numbers(native.number_of(value)))

    def derive(self, table: RowTable) -> Iterator[tuple[str, float]]:
        """Yield ``{name}_task{i}``; a loss that was NaN or infinite is a count instead."""
        for name, row in table.named(self.name):
            # On an accelerator it is not known in time that there are none.
            if row[COUNT] > 0 and not (name.startswith('data/outside/') and row[MEAN] == 0):
                yield name, float(row[MEAN])
            if row[NONFINITE] > 0:
                yield f'monitor/nonfinite/{name}', float(row[NONFINITE])
