"""Which units of the shared layers are dormant, for which tasks, and whether tasks share them."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ding_normmon.core.compiled import compiled_parts
from ding_normmon.metrics.base import Chart, Figure, LearnerStep, Matrix, RowBuffer, RowKey, RowTable, Setup, Vector
from ding_normmon.metrics.kernels.device_signals import DeviceSignals, Published
from ding_normmon.metrics.layer_outputs import LayerOutputs, Output
from ding_normmon.metrics.maths.dormancy import (
    Mask,
    activities,
    activity,
    check_samples,
    dormant,
    overlap,
    sample_mask,
    total,
    unit_sums,
)
from ding_normmon.metrics.mixins import KeepsSignals, OwnHooks
from ding_normmon.metrics.output_gradients import OutputGradients
from ding_normmon.metrics.sections import PLASTICITY_SECTION
from ding_normmon.metrics.shared_layers import shared_layers

__all__ = ['DormantUnits']

logger = logging.getLogger('ding_normmon')

_KINDS = {'activation': '', 'gradient': 'gradient_'}
"""Kinds of sums per unit, and the prefixes of their figures."""


_AT_ONCE = 1 << 22
"""Elements that are added up at a time on an accelerator."""


_figure = partial(
    Figure,
    section=PLASTICITY_SECTION,
    chart=Chart('Plasticity', '{statistic}'),
    prominence='detail',
    task_chart=Chart('Plasticity', '{signal}: {statistic}'),
)


class DormantUnits(KeepsSignals, OwnHooks):
    """``plasticity/{group}[_task{i}]/{dormant,gradient_dormant}_tau{t}``: share of a shared group's units whose
    activity is at most ``t`` times the mean of their layer; see :mod:`ding_normmon.metrics.maths.dormancy`.

    At the smallest positive threshold also ``.../dormant_overlap_time``, the Jaccard index of the dormant sets of this
    record and of the one before, and ``plasticity/{group}/dormant_overlap_tasks``, its mean over pairs of tasks, with
    the matrix of all pairs beside it. It is absent where no unit of either set is dormant.

    It uses the forward and backward pass of the step itself: in a measured step the layers have forward hooks and their
    outputs gradient hooks, which are removed when the step ends, even if it raises. Layers that have run since the last
    ``publish`` belong to the task of the next one. Forward passes without gradient or in evaluation mode do not count.
    A module that is called several times in one task's forward pass counts as several layers; a module that several
    others use (one ``nn.ReLU`` for a whole model) counts as a layer of the one that is running. If gradients are
    accumulated over several steps, the gradient-based figures are absent.

    Kept between records: the dormant sets of the last one, on rank 0.
    """

    name: ClassVar[str] = 'dormant_units'
    figures: ClassVar[tuple[Figure, ...]] = (
        _figure(
            'plasticity/{group}[_task{i}]/dormant_tau{t}',
            (
                "share of the units of a shared group's nonlinearities (of its linear layers where it has none as"
                ' modules) with E|h_i| ≤ t · mean over the layer, for each t of `dormant_taus` ([Sokar et al. '
                '2023](https://arxiv.org/abs/2302.12902), eq. 1); channels are the units of a convolution'
            ),
            'share',
            stage='representation',
            hook_point='forward pass, `publish`',
            bad_value='growing: capacity that no task uses any more',
            chart=Chart('Plasticity', 'Dormant units'),
            of_task='Plasticity: dormant units',
        ),
        _figure(
            'plasticity/{group}[_task{i}]/gradient_dormant_tau{t}',
            'the same with |∂L/∂h_i| in the place of |h_i| (after [GraMa, 2025](https://arxiv.org/abs/2505.24061))',
            'share',
            hook_point='`backward_end`',
            bad_value='units that no longer learn, however active',
            chart=Chart('Plasticity', 'Units without gradient'),
            of_task='Plasticity: units without gradient',
        ),
        Figure(
            'plasticity/{group}/dormant_overlap_tasks',
            (
                'mean over pairs of tasks of the Jaccard index of their dormant sets, at the smallest positive t;'
                ' the pairs are a matrix of the record'
            ),
            'share',
            bad_value='near 1: dead for all; near 0: tasks have divided the units among them',
            section=PLASTICITY_SECTION,
            chart=Chart('Plasticity', '{statistic}'),
        ),
        _figure(
            'plasticity/{group}[_task{i}]/dormant_overlap_time',
            (
                'Jaccard index of the dormant sets of this record and of the one measured before; absent if '
                'neither has any'
            ),
            'share',
            bad_value='near 1: dormant units do not wake up',
        ),
    )
    hook_points: ClassVar[tuple[str, ...]] = ('forward_end', 'backward_end')
    stretchable: ClassVar[bool] = True

    def __init__(self) -> None:
        self._outputs = LayerOutputs()
        self.signals = DeviceSignals(self._write_activations)
        self._gradients = OutputGradients()
        self._last_mask: tuple[Tensor, Tensor] | None = None
        self._stride: int | None = None
        self._unmatched: dict[str, str] = {}
        self._previous: dict[str, dict[str, Mask]] = {}

    def prepare(self, setup: Setup) -> None:
        """Find the layers."""
        self.frequency = setup.config.plasticity_freq or 0
        inside = compiled_parts([setup.model])
        found = shared_layers(setup.model, setup.groups)
        self.layers = tuple(layer for layer in found if id(layer.module) not in inside)
        if len(self.layers) < len(found):
            logger.warning(
                'monitor: %s looks at %d of %d layers; the others run inside a compiled module, hooks would change it',
                self.name,
                len(self.layers),
                len(found),
            )
        positive = [tau for tau in setup.config.dormant_taus if tau > 0]
        self._overlap_tau = min(positive, default=0.0)
        super().prepare(setup)

    def state_bytes(self) -> int:
        """Return the size of the last dormant sets."""
        return sum(mask.nbytes for sets in list(self._previous.values()) for mask in list(sets.values()))

    # -- inside the step -------------------------------------------------------------------------------------------

    def begin(self, step: LearnerStep) -> None:
        """Attach the forward hooks."""
        super().begin(step)
        self._outputs.begin(self.layers)

    def release(self) -> None:
        """Remove all hooks and drop every tensor."""
        self._outputs.release()
        super().release()
        self._gradients.release()
        self.hook_milliseconds += self._gradients.milliseconds
        self._gradients.milliseconds = 0.0
        self._last_mask = None

    def on_publish(self, name: str, tensor: Tensor, task_id: int | None, mask: Tensor | None, rows: RowBuffer) -> None:
        """Assign the layers that have run since the last publication to this task."""
        outputs = self._outputs.take()
        if self._stride is None and outputs:
            self._stride = self._stride_for(outputs)
        for output in outputs:
            key = RowKey(self.name, output.layer.group, task_id, f'activation:{output.path}')
            shape = tuple(output.tensor.shape)
            if output.tensor._version != output.version:
                self._unmatched[output.path] = 'its output is overwritten in place by what follows'
                continue
            try:
                check_samples(shape, mask)
            except ValueError as error:
                self._unmatched[output.path] = str(error)
                continue
            if rows.on_host:
                valid = sample_mask(shape, mask)
                rows.write_vector(key, activity(output.tensor.detach(), valid, self._stride or 1))
            else:
                # Masked and not selected: selecting would wait for the accelerator to count.
                valid = None if mask is None else self._invalid(mask, output.tensor.device)
                self.signals.add(Published(key, output.tensor.detach(), valid), rows)
            if output.tensor.requires_grad:
                gradient_key = key._replace(part=f'gradient:{output.path}')
                self._gradients.listen(gradient_key, output.tensor, valid, rows.on_host, self._stride or 1)

    def _invalid(self, mask: Tensor, device: torch.device) -> Tensor:
        """Return which time steps are padding, (B*T,); computed once for all layers."""
        if self._last_mask is None or self._last_mask[0] is not mask:
            self._last_mask = mask, mask.detach().to(device, non_blocking=True).reshape(-1) == 0
        return self._last_mask[1]

    def _stride_for(self, outputs: list[Output]) -> int:
        """Return the stride with which all tasks fit into half of ``memory_budget``; the same on every rank."""
        units = sum(output.tensor.shape[1 if output.tensor.ndim == 4 else -1] for output in outputs)
        num_bytes = units * len(_KINDS) * 8 * max(1, self.setup.num_tasks or 1)
        return max(1, math.ceil(num_bytes / (self.setup.config.memory_budget / 2)))

    def measure(self, hook_point: str, step: LearnerStep, rows: RowBuffer) -> None:
        """Before the backward pass: start to measure gradients. After it: write them."""
        if hook_point == 'forward_end':
            self._outputs.stop()
            self._gradients.start()
            super().measure(hook_point, step, rows)
            return
        self._gradients.write(rows, self._stride or 1)

    def _write_activations(self, outputs: Sequence[Published], rows: RowBuffer) -> None:
        """Write the activity vectors of many outputs: about five operations for all of one shape."""
        alike: dict[tuple[torch.dtype, tuple[int, ...], bool], list[Published]] = {}
        for output in outputs:
            kind = output.tensor.dtype, tuple(output.tensor.shape), output.mask is None
            alike.setdefault(kind, []).append(output)
        for (_, shape, unmasked), found in alike.items():
            at_once = max(1, _AT_ONCE // max(1, math.prod(shape)))
            for chosen in (found[first : first + at_once] for first in range(0, len(found), at_once)):
                masks = [output.mask for output in chosen if output.mask is not None]
                sums = unit_sums(
                    torch.stack([output.tensor for output in chosen]), None if unmasked else torch.stack(masks)
                )
                rows.write_vectors([output.key for output in chosen], activities(sums, self._stride or 1))

    # -- on rank 0 -------------------------------------------------------------------------------------------------

    def derive(self, table: RowTable) -> Iterator[tuple[str, float]]:
        """Yield the ratios, and the overlap with the last record."""
        sets: dict[str, dict[str, Mask]] = {}
        for (kind, group), tasks in self._vectors(table).items():
            samples = {f'{group}_task{task_id}': found for task_id, found in tasks.items() if task_id is not None}
            if table.complete_for(self.name):
                samples[group] = total(tasks)
            for key, layers in samples.items():
                if not (finite := _finite(layers)):
                    continue
                for tau in self.setup.config.dormant_taus:
                    asleep = np.concatenate([dormant(vector, tau) for vector in finite.values()])
                    yield f'plasticity/{key}/{_KINDS[kind]}dormant_tau{tau:g}', float(asleep.mean())
                if kind == 'activation':
                    sets[key] = self._sets(finite)
            pairs = [value for _, _, value in self._pairs(tasks)] if kind == 'activation' else []
            if pairs and table.complete_for(self.name):
                yield f'plasticity/{group}/dormant_overlap_tasks', sum(pairs) / len(pairs)
        if table.final:
            for key, layers_now in sets.items():
                common = overlap(self._previous.get(key, {}), layers_now)
                if common is not None:
                    yield f'plasticity/{key}/dormant_overlap_time', common
            self._previous.update(sets)

    def matrices(self, table: RowTable) -> Iterator[tuple[str, Matrix]]:
        """Yield the overlap of every pair of tasks; NaN if neither has a dormant unit."""
        for (kind, group), tasks in self._vectors(table).items():
            ids = [task_id for task_id in tasks if task_id is not None]
            if kind == 'activation' and len(ids) > 1:
                values = np.full((len(ids), len(ids)), np.nan)
                for index, task_id in enumerate(ids):
                    if any(mask.any() for mask in self._sets(tasks[task_id]).values()):
                        values[index, index] = 1.0
                for first, second, value in self._pairs(tasks):
                    values[first, second] = values[second, first] = value
                if np.isnan(values).all():
                    continue
                labels: dict[int | str, str] = {task_id: self.setup.task_name(task_id) for task_id in ids}
                yield f'plasticity/{group}/dormant_overlap_tasks', Matrix(values, tuple(ids), tuple(ids), labels)

    def notes(self, table: RowTable) -> Iterator[tuple[str, str]]:
        """Yield which layers cannot be measured, and whether only some units are kept."""
        for path, why in list(self._unmatched.items()):
            yield f'dormant_units/{path}', f'not measured: {why}'
        if self._stride is not None and self._stride > 1 and self._vectors(table):
            yield 'dormant_units', f'every {self._stride}th unit of a layer is kept, because of memory_budget'

    def _vectors(self, table: RowTable) -> dict[tuple[str, str], dict[int | None, dict[str, Vector]]]:
        """Return (kind, group) -> task id -> layer -> activity vector; task ids ascending, layers as in the model."""
        if self.name not in table.memo:
            found: dict[tuple[str, str], dict[int | None, dict[str, Vector]]] = {}
            order = {layer.path: index for index, layer in enumerate(self.layers)}

            def place(key: RowKey) -> tuple[Any, ...]:
                path = key.part.partition(':')[2]
                return -1 if key.task_id is None else key.task_id, order.get(path.split(':')[0], len(order)), path

            for key in sorted((key for key in table.vectors if key.metric == self.name), key=place):
                kind, _, path = key.part.partition(':')
                found.setdefault((kind, key.name), {}).setdefault(key.task_id, {})[path] = table.vectors[key]
            table.memo[self.name] = found
        memo: dict[tuple[str, str], dict[int | None, dict[str, Vector]]] = table.memo[self.name]
        return memo

    def _sets(self, layers: Mapping[str, Vector]) -> dict[str, Mask]:
        return {path: dormant(vector, self._overlap_tau) for path, vector in _finite(layers).items()}

    def _pairs(self, tasks: Mapping[int | None, Mapping[str, Vector]]) -> Iterator[tuple[int, int, float]]:
        sets = [self._sets(layers) for task_id, layers in tasks.items() if task_id is not None]
        for (i, first), (j, second) in itertools.combinations(enumerate(sets), 2):
            value = overlap(first, second)
            if value is not None:
                yield i, j, value


def _finite(layers: Mapping[str, Vector]) -> dict[str, Vector]:
    return {path: vector for path, vector in layers.items() if np.isfinite(vector).all()}
