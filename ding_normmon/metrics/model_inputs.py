"""The inputs of the model, their number of bits, and modules that are in evaluation mode."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ding_normmon.core.common_figures import MONITOR_SECTION
from ding_normmon.core.compiled import compiled_parts
from ding_normmon.core.module_hook import SCRIPTING, ModuleHook, without_hooks
from ding_normmon.core.sharding import is_sharded
from ding_normmon.metrics.base import Chart, Figure, LearnerStep, RowBuffer, RowKey, RowTable, Setup
from ding_normmon.metrics.kernels import native
from ding_normmon.metrics.kernels.bit_sums import FOLD, bit_sums, combined, folded
from ding_normmon.metrics.kernels.device_signals import write_number
from ding_normmon.metrics.mixins import Finishing, OwnHooks
from ding_normmon.metrics.sections import BROKEN_CHART, INVARIANTS_SECTION, NONFINITE_CHART
from ding_normmon.rows import moments
from ding_normmon.rows.moments import COUNT, MAXIMUM, MEAN, NONFINITE

__all__ = ['ModelInputs']

_Row = tuple[float, float, float, float, float, float]

_MOST_INPUTS = 8
_SAMPLES = 16
"""Samples of a batch that are compared with each other."""

_BOTH_WAYS = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)
"""Modules that work differently in training and in evaluation."""


_figure = partial(
    Figure,
    section=INVARIANTS_SECTION,
    hook_point='forward pass',
    chart=Chart('Health of the record', 'Mode of the model'),
)


class ModelInputs(Finishing, OwnHooks):
    """``inputs/{name}/{mean,std,max,min}``: the tensors that the model is called with, seen by a forward hook.

    The first call of a measured step in training mode with gradients counts. ``name`` is the position of an argument or
    its keyword, followed by the key of a nested tensor. If ``forward`` is called without ``__call__``, or the model is
    compiled, there are no figures. Beside the statistics of floating-point tensors:

    - ``inputs/{name}/features``: elements of one sample, ``inputs/batch_size``: samples of the first tensor,
    - ``inputs/distinct``: share of different ones among up to 16 samples of the largest tensor,
    - ``mode/input_bits`` and ``mode/output_bits``: bits of an element of the first input and output,
    - ``mode/evaluating``: dropout and batch normalisation modules that are in evaluation mode at ``forward_end``,
    - ``monitor/fingerprint/inputs``: a number that two batches share only if they are the same to the last bit,
    - ``broken/same_batch``: ranks whose whole input is, to the last bit, that of another rank.
    """

    name: ClassVar[str] = 'model_inputs'
    figures: ClassVar[tuple[Figure, ...]] = (
        _figure(
            'inputs/{signal}/{mean,std,max,min}',
            (
                'of a floating-point tensor that the model is called with, by position, keyword or key: of the first '
                'call in training mode with gradients; all ranks together'
            ),
            'its own',
            stage='data',
            bad_value='another range than before: scaled twice, or not at all',
            section='Learner steps',
            signed=True,
            chart=Chart('Data', 'inputs: {signal}'),
        ),
        _figure(
            'inputs/{signal}/features',
            'numbers of one sample of an input',
            'numbers',
            bad_value='another shape than before',
            section='Learner steps',
            chart=Chart('Data', 'Shape of the inputs'),
        ),
        _figure(
            'inputs/batch_size',
            'samples of the first input, of all ranks',
            'samples',
            section='Learner steps',
            chart=Chart('Data', 'Batch size'),
        ),
        _figure(
            'inputs/distinct',
            (
                'of up to 16 samples of the largest input, evenly spread over the batch, the share that no other one '
                'equals to the last bit, one of equal ones counted; mean of the ranks'
            ),
            'share',
            bad_value='less than before: the batch is one sample again and again',
            section='Learner steps',
            chart=Chart('Data', 'Different samples of a batch'),
        ),
        _figure(
            'monitor/fingerprint/inputs',
            'a number that two batches have in common only if all inputs are the same, to the last bit',
            'none',
            bad_value='the same again and again',
            chart=Chart('Health of the record', 'Fingerprint of the inputs'),
        ),
        _figure(
            'mode/{input_bits,output_bits}',
            "bits of an element of the model's first input, and of its first output",
            'bits',
            bad_value='another number than before: autocast was lost',
        ),
        _figure(
            'mode/evaluating',
            'dropout and batch normalisation modules that are in evaluation mode',
            'modules',
            hook_point='`forward_end`',
            bad_value='more than before: train() was not called after an evaluation',
        ),
        _figure(
            'broken/same_batch',
            'ranks whose inputs are, to the last bit, those of another rank; there only above 0',
            'ranks',
            bad_value='ranks do the same work twice',
            chart=BROKEN_CHART,
        ),
        Figure(
            'monitor/nonfinite/{inputs,loss}/{signal}',
            'NaN and infinite entries of an input, or of what `backward` was called on',
            'count',
            bad_value='data or loss are broken',
            section=MONITOR_SECTION,
            chart=NONFINITE_CHART,
        ),
    )
    hook_points: ClassVar[tuple[str, ...]] = ('forward_end', 'backward_end')

    def __init__(self) -> None:
        self._handles: list[Any] = []
        # What was seen of the inputs: rows of tensors, and single numbers.
        self._rows: dict[RowKey, _Row | Tensor] = {}
        self._numbers: dict[RowKey, float | Tensor] = {}

    def prepare(self, setup: Setup) -> None:
        """Find the modules whose mode is checked."""
        super().prepare(setup)
        self._is_open = not compiled_parts([setup.model])
        self._both_ways = [module for module in setup.model.modules() if isinstance(module, _BOTH_WAYS)]
        # Ranks that share one sharded replica get the same batch.
        self._compares = not any(map(is_sharded, setup.model.parameters()))

    def begin(self, step: LearnerStep) -> None:
        """Attach the hooks."""
        self._rows, self._numbers = {}, {}
        if self._is_open and not self._handles:
            model = self.setup.model
            self._handles = [
                model.register_forward_pre_hook(ModuleHook(self._enter), with_kwargs=True),
                model.register_forward_hook(ModuleHook(self._leave)),
            ]
            if SCRIPTING is not None:
                SCRIPTING.add(without_hooks)

    def release(self) -> None:
        """Remove the hooks."""
        if self._handles and SCRIPTING is not None:
            SCRIPTING.remove(without_hooks)
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._numbers or not torch.is_grad_enabled() or not module.training:
            return
        started = time.perf_counter()
        with torch.no_grad():
            self._take(dict(_named('', [*args, *kwargs.items()])))
        self.hook_milliseconds += (time.perf_counter() - started) * 1e3

    def _take(self, tensors: dict[str, Tensor]) -> None:
        for place, (name, tensor) in enumerate(list(tensors.items())[:_MOST_INPUTS]):
            samples = tensor.shape[0] if tensor.ndim else 1
            self._note(f'{name}/features', float(tensor.numel() // max(samples, 1)))
            if place == 0:
                self._note('batch_size', float(samples))
                self._note('input_bits', 8.0 * tensor.element_size(), 'mode')
            if tensor.is_floating_point():
                self._rows[RowKey(self.name, name)] = _row_of(tensor.detach())
        if tensors:
            self._note('distinct', _distinct(max(tensors.values(), key=Tensor.numel)))
            bits = folded(combined(bit_sums(list(tensors.values())[:_MOST_INPUTS])))
            self._note('bits', bits, f'rank/{self.setup.rank}')

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        key = RowKey(self.name, 'output_bits', None, 'mode')
        if self._numbers and key not in self._numbers:
            found = next((tensor for _, tensor in _named('', [output]) if tensor.is_floating_point()), None)
            if found is not None:
                self._numbers[key] = 8.0 * found.element_size()

    def _note(self, name: str, value: float | Tensor, part: str = 'number') -> None:
        self._numbers[RowKey(self.name, name, None, part)] = value

    def measure(self, hook_point: str, step: LearnerStep, rows: RowBuffer) -> None:
        """Count the modules in evaluation mode, before an evaluation may change it."""
        if hook_point == 'forward_end' and self._both_ways:
            evaluating = sum(not module.training for module in self._both_ways)
            write_number(RowKey(self.name, 'evaluating', None, 'mode'), evaluating, rows)

    def finish(self, rows: RowBuffer) -> None:
        """Write what the hooks have noted."""
        taken, numbers, self._rows, self._numbers = self._rows, self._numbers, {}, {}
        for key, row in taken.items():
            if not isinstance(row, Tensor):
                rows.write_numbers(key, row)
            elif row.device.type == rows.device.type:
                rows.write(key, row)
        for key, number in numbers.items():
            if not isinstance(number, Tensor) or number.device.type == rows.device.type:
                write_number(key, number, rows)

    def derive(self, table: RowTable) -> Iterator[tuple[str, float]]:
        """Yield the figures of all ranks together, and how many ranks have the batch of another rank."""
        for name, tasks in table.of(self.name).items():
            row = tasks[None]
            if row[NONFINITE] > 0:
                yield f'monitor/nonfinite/inputs/{name}', float(row[NONFINITE])
            for statistic, value in moments.statistics(row):
                yield f'inputs/{name}/{statistic}', value
        for name, tasks in table.of(self.name, 'number').items():
            total = tasks[None][MEAN] * (tasks[None][COUNT] if name == 'batch_size' else 1)
            yield f'inputs/{name}', float(total)
        for name, tasks in table.of(self.name, 'mode').items():
            yield f'mode/{name}', float(tasks[None][MAXIMUM])
        sums = [
            float(found['bits'][None][MEAN])
            for rank in range(self.setup.world_size)
            if (found := table.of(self.name, f'rank/{rank}'))
        ]
        if sums:
            yield 'monitor/fingerprint/inputs', math.fsum(sums) % FOLD
        if self._compares and len(set(sums)) < len(sums):
            yield 'broken/same_batch', float(sum(sums.count(value) > 1 for value in sums))


def _distinct(batch: Tensor) -> float | Tensor:
    """Return the share of different samples among some of a batch.

    >>> _distinct(torch.tensor([[1.0, 2.0], [2.0, 1.0], [1.0, 2.0], [3.0, 3.0]]))
    0.75
    """
    if not batch.ndim or not batch.numel():
        return 1.0
    sums = bit_sums(batch.detach()[:: -(-len(batch) // _SAMPLES)].unbind())
    if batch.device.type == 'cpu':
        return len(set(sums)) / len(sums)
    found = torch.stack([torch.as_tensor(number) for number in sums])
    return 1.0 - (found[:, None] == found).tril(-1).any(dim=1).double().mean()


def _row_of(tensor: Tensor) -> _Row | Tensor:
    """Return the row of a tensor: six numbers on a CPU; a tensor, which is not waited for, on an accelerator."""
    row: _Row | None = native.kernels.row(tensor, None, False) if native.kernels is not None else None
    if row is not None:
        return row
    return tuple(moments.row_of(tensor).tolist()) if tensor.device.type == 'cpu' else moments.device_row_of(tensor)


def _named(name: str, thing: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a call's arguments, by position, keyword or key."""
    if isinstance(thing, Tensor):
        if thing.layout == torch.strided and not thing.is_nested and not is_sharded(thing):
            yield name or '0', thing
    elif isinstance(thing, Mapping):
        for key, value in thing.items():
            yield from _named(f'{name}/{key}' if name else str(key), value)
    elif isinstance(thing, (list, tuple)):
        for place, value in enumerate(thing):
            if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
                yield from _named(value[0], value[1])
            else:
                yield from _named(f'{name}/{place}' if name else str(place), value)
