"""Statistics of published tensors: per task and over all tasks of all ranks, valid steps only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import numpy.typing as npt
import torch
from torch import Tensor

from ding_normmon import moments
from ding_normmon.learner_step import LearnerStep
from ding_normmon.moments import Row
from ding_normmon.quantities.presence import Presence
from ding_normmon.quantities.quantity import Quantity
from ding_normmon.quantities.small_signals import MOST_ELEMENTS, SmallSignals, norms_of
from ding_normmon.rows import RowBuffer, RowKey, RowTable
from ding_normmon.sharding import is_sharded

__all__ = ['SignalError', 'TensorStatistics', 'align_mask']

ELEMENT_STATISTICS: Mapping[str, Callable[[Row], float | None]] = {
    'mean': moments.mean,
    'std': moments.std,
    'max': lambda row: float(row[moments.MAXIMUM]),
    'min': lambda row: float(row[moments.MINIMUM]),
    'abs_max': moments.abs_max,
}
TOKEN_STATISTICS = {statistic: ELEMENT_STATISTICS[statistic] for statistic in ('mean', 'std', 'max', 'min')}

# Signals of which the L2 norm of each vector is taken first: signal -> (metric family, prefix of the statistic).
NORM_SIGNALS = {'x_token': ('norm/x_token', ''), 'embeddings/obs': ('embeddings/obs', 'norm_')}


class SignalError(ValueError):
    """A published tensor that cannot be measured as asked."""


class ChangedSignalError(RuntimeError):
    """A tensor that was changed in place before it could be measured."""


def check_mask(tensor: Tensor, mask: Tensor, name: str = 'tensor') -> None:
    """See to it that a mask fits a tensor, see :func:`align_mask`.

    Raises:
        SignalError: it does not.
    """
    if mask.ndim != 2:
        raise SignalError(f'{name}: the mask must have shape (B, T), got {tuple(mask.shape)}')
    batch, steps = mask.shape
    fits = tensor.ndim >= 2 and tensor.shape[0] == batch and steps > 0 and tensor.shape[1] % steps == 0
    if not fits and not (tensor.ndim >= 1 and tensor.shape[0] == batch * steps):
        raise SignalError(
            f'{name}: a mask of shape {tuple(mask.shape)} does not fit a tensor of shape {tuple(tensor.shape)}; '
            f'expected (B, n*T, ...) or (B*T, ...)'
        )


def align_mask(tensor: Tensor, mask: Tensor, name: str = 'tensor') -> tuple[Tensor, Tensor]:
    """Return tensor and mask with equal leading shape (B, n*T).

    A mask (B, T) applies to (B, n*T, ...) by repeating each step n times in place, because the observation and action
    token of a step are valid if and only if the step is; a tensor (B*T, ...) is first viewed as (B, T, ...).

    Raises:
        SignalError: any other pair of shapes.

    >>> tensor, mask = align_mask(torch.zeros(2, 4, 3), torch.tensor([[True, False], [True, True]]))
    >>> mask.int().tolist()
    [[1, 1, 0, 0], [1, 1, 1, 1]]
    """
    check_mask(tensor, mask, name)
    batch, steps = mask.shape
    # With one step a (B, E) tensor is (B*T, E) and not E tokens of one step.
    flat = tensor.ndim == 2 and steps == 1
    if not flat and tensor.ndim >= 2 and tensor.shape[0] == batch and steps > 0 and tensor.shape[1] % steps == 0:
        repeats = tensor.shape[1] // steps
        return tensor, mask.bool() if repeats == 1 else mask.bool().repeat_interleave(repeats, dim=1)
    return tensor.reshape(batch, steps, *tensor.shape[1:]), mask.bool()


class TensorStatistics(Quantity):
    """Mean, std, max, min and abs_max of every published signal; of ``x_token`` and ``embeddings/obs`` the statistics
    of the L2 norms of their vectors.

    Large tensors, and all on an accelerator, are measured when they are published; small ones when the forward pass
    ends, together (:mod:`~ding_normmon.quantities.small_signals`). The first measured step of a process does both
    kinds at once and looks which outputs of the model are changed in place afterwards: these never wait.
    """

    name: ClassVar[str] = 'tensor_statistics'
    hook_points: ClassVar[tuple[str, ...]] = ('forward_end',)

    def __init__(self) -> None:
        self._presence = Presence()
        self._waiting = SmallSignals()
        self._impatient: set[str] = set()
        self._is_first_step = True
        self._outputs: list[tuple[str, Tensor, int]] = []
        self._keys: dict[tuple[str, tuple[int | None, ...]], tuple[RowKey, ...]] = {}
        self._step: LearnerStep | None = None
        self._rows: RowBuffer | None = None

    def begin(self, step: LearnerStep) -> None:
        """Take note of the step, which knows where its tensors come from."""
        self._step = step

    def on_publish(self, name: str, tensor: Tensor, task_id: int | None, mask: Tensor | None, rows: RowBuffer) -> None:
        """Write the row of the valid entries (of their norms), or have them wait for the others.

        Raises:
            SignalError: integer dtype, a mask that does not fit, another device than the model's.
        """
        self._rows = rows
        # What has been looked at once is not looked at again: each of the questions below costs a microsecond.
        kind = None
        if type(tensor) is Tensor and (mask is None or type(mask) is Tensor):
            kind = self._waiting.kind_of(name, tensor, mask)
        if kind is None:
            self._check(name, tensor, mask, rows)
            if self._can_wait(name, tensor, mask, rows):
                kind = self._waiting.admit(name, tensor, mask)
        is_output = self._step is not None and self._step.publishes_output
        if kind is None or self._is_first_step:
            if kind is not None and is_output:
                self._outputs.append((name, tensor, tensor._version))
            self._measure_now(name, tensor, task_id, mask, rows)
            return
        self._waiting.add(kind, task_id, tensor, mask, is_output, name in NORM_SIGNALS)
        if self._waiting.is_full:
            self._measure_waiting(rows)

    @staticmethod
    def _check(name: str, tensor: Tensor, mask: Tensor | None, rows: RowBuffer) -> None:
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            got = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise SignalError(f'{name}: expected a floating-point tensor, got {got}')
        if is_sharded(tensor):
            raise SignalError(f'{name}: a DTensor; publish what this rank has of it, {name}.to_local()')
        if mask is not None and not isinstance(mask, Tensor):
            raise SignalError(f'{name}: expected a mask that is a tensor, got {type(mask).__name__}')
        if tensor.device.type != rows.device.type:
            raise SignalError(f'{name}: the tensor is on {tensor.device}, the model on {rows.device}')
        if mask is not None:
            check_mask(tensor, mask, name)

    def _can_wait(self, name: str, tensor: Tensor, mask: Tensor | None, rows: RowBuffer) -> bool:
        return (
            rows.on_host
            and 0 < tensor.numel() <= MOST_ELEMENTS
            and tensor.ndim > (name in NORM_SIGNALS)
            and tensor.layout == torch.strided
            and name not in self._impatient
            and (mask is None or mask.device.type == 'cpu')
        )

    def _measure_now(
        self, name: str, tensor: Tensor, task_id: int | None, mask: Tensor | None, rows: RowBuffer
    ) -> None:
        valid: Tensor | None = None
        if mask is not None:
            tensor, valid = align_mask(tensor, mask.detach(), name)
        if name in NORM_SIGNALS:
            tensor = norms_of(tensor)
        if rows.on_host:
            rows.write(RowKey(self.name, name, task_id), moments.row_of(_selected(tensor, valid)))
            return
        if valid is not None:
            valid = valid.to(tensor.device).reshape(valid.shape + (1,) * (tensor.ndim - 2))
        rows.write(RowKey(self.name, name, task_id), moments.device_row_of(tensor, valid))

    def measure(self, hook_point: str, step: LearnerStep, rows: RowBuffer) -> None:
        """Measure what waits."""
        self._never_wait({name for name, tensor, version in self._outputs if tensor._version != version})
        self._outputs.clear()
        self._is_first_step = False
        self._measure_waiting(rows)

    def _measure_waiting(self, rows: RowBuffer) -> None:
        for name, task_ids, table in self._waiting.take():
            keys = self._keys.get((name, task_ids))
            if keys is None:
                keys = tuple(RowKey(self.name, name, task_id) for task_id in task_ids)
                self._keys[name, task_ids] = keys
            rows.write_rows(keys, table)
        changed = self._waiting.changed - self._impatient
        self._never_wait(changed)
        if changed:
            # A wrong figure would be worse than none.
            raise ChangedSignalError(
                f'{", ".join(sorted(changed))}: changed in place between publish and forward_end, and left out of this '
                f'record; from now on measured at once'
            )

    def _never_wait(self, names: set[str]) -> None:
        self._impatient |= names
        for name in names:
            self._waiting.expel(name)

    def release(self) -> None:
        """Measure what was published in a step that had no end of its forward pass, and forget all tensors."""
        if self._rows is not None and not self._waiting.is_empty:
            self._measure_waiting(self._rows)
        self._waiting.clear()
        self._outputs.clear()
        self._step = self._rows = None

    def derive(self, table: RowTable) -> Iterator[tuple[str, float]]:
        """Yield each signal's statistics over all tasks and per task."""
        for name, tasks in table.of(self.name).items():
            if table.complete:
                yield from self._statistics(name, '', moments.merge_rows(tasks.values()))
            for task_id, row in tasks.items():
                if task_id is not None:
                    yield from self._statistics(name, f'_task{task_id}', row)

    def compare(self, table: RowTable) -> Iterator[tuple[str, float]]:
        """Yield what is out of the ordinary about the signals of this record."""
        if table.complete:
            yield from self._presence.counts(table.of(self.name))

    def _statistics(self, name: str, suffix: str, row: Row) -> Iterator[tuple[str, float]]:
        family, prefix = NORM_SIGNALS.get(name, (name, ''))
        if row[moments.NONFINITE] > 0:
            yield f'monitor/nonfinite/{name}{suffix}', float(row[moments.NONFINITE])
        if row[moments.COUNT] == 0:
            return
        for statistic, derive in (TOKEN_STATISTICS if name in NORM_SIGNALS else ELEMENT_STATISTICS).items():
            if statistic != 'std' or row[moments.COUNT] > 1:
                value = derive(row)
                if value is not None:
                    yield f'{family}{suffix}/{prefix}{statistic}', value


def _selected(tensor: Tensor, valid: Tensor | None) -> Tensor | npt.NDArray[Any]:
    """Return the valid entries; for the common dtypes by NumPy, whose calls cost a third of torch's."""
    if valid is None:
        return tensor
    if tensor.dtype not in (torch.float32, torch.float64):
        return tensor[valid]
    steps = valid.shape[0] * valid.shape[1]
    return tensor.numpy().reshape(steps, tensor.numel() // max(steps, 1)).compress(valid.numpy().reshape(-1), axis=0)
