"""Checks that all ranks still train the same model: parameters, optimizer state and gradients, to the last bit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ding_normmon.core.sharding import is_sharded
from ding_normmon.metrics.base import Chart, Figure, LearnerStep, RowBuffer, RowKey, RowTable, Setup
from ding_normmon.metrics.kernels.bit_sums import bit_sums, combined, folded
from ding_normmon.metrics.kernels.device_signals import write_number
from ding_normmon.metrics.mixins import WatchesOptimizers
from ding_normmon.metrics.sections import BROKEN_CHART, INVARIANTS_SECTION
from ding_normmon.rows.moments import MEAN

__all__ = ['Replicas', 'classes_of']

KINDS = ('parameters', 'optimizer_state', 'gradient')


def classes_of(values: Mapping[int, object]) -> list[list[int]]:
    """Return the ranks in classes of equal values, the largest first.

    >>> classes_of({0: 5.0, 1: 7.0, 2: 5.0})
    [[0, 2], [1]]
    """
    classes: defaultdict[object, list[int]] = defaultdict(list)
    for rank, value in values.items():
        classes[value].append(rank)
    return sorted(classes.values(), key=lambda ranks: (-len(ranks), ranks))


_figure = partial(Figure, section=INVARIANTS_SECTION, hook_point='`step_end`')


class Replicas(WatchesOptimizers):
    """``broken/replicas/{group}/{parameters,optimizer_state,gradient}``: ranks that differ from most of the others.

    At ``step_end`` every rank adds up the bit patterns of each shared group (:mod:`~ding_normmon.metrics.kernels
    .bit_sums`): one number for the parameters that are trained or frozen, one for their optimizer's state, one for the
    gradients that the optimizer has used. Equal sums are equal bits; the figure is there only where they differ.

    Parameters without a gradient, such as unused heads, are left out. Gradients are compared if a single optimizer
    holds the shared groups: with several, one may leave gradients in ``.grad`` that belong to another. Optimizer state
    is compared among ranks that hold the same number of state tensors, because some optimizers divide it among them.
    Sharded parameters have no replicas.
    """

    name: ClassVar[str] = 'replicas'
    figures: ClassVar[tuple[Figure, ...]] = (
        _figure(
            'broken/replicas/{group}/{parameters,optimizer_state,gradient}',
            (
                'ranks whose parameters, optimizer state or used gradient of a shared group are not, to the last bit, '
                'those of most ranks; there only where they differ, with a note that names the ranks'
            ),
            'ranks',
            bad_value='the ranks train different models',
            chart=BROKEN_CHART,
        ),
        _figure(
            'monitor/replicas/compared',
            'shared groups of which at least two ranks were compared (several ranks only)',
            'groups',
            bad_value='falling: gradients are missing',
            chart=Chart('Health of the record', 'Compared and checked'),
        ),
    )
    hook_points: ClassVar[tuple[str, ...]] = ('backward_end', 'step_end')

    def prepare(self, setup: Setup) -> None:
        """Choose the groups that every rank has whole."""
        super().prepare(setup)
        self._groups = setup.replicated_groups()

    def begin(self, step: LearnerStep) -> None:
        """Watch which optimizers step."""
        if self._groups:
            super().begin(step)

    @torch.no_grad()
    def measure(self, hook_point: str, step: LearnerStep, rows: RowBuffer) -> None:
        """Add up the bits of this rank."""
        if not self._groups:
            return
        if hook_point == 'backward_end':
            self._stepping.watch()
            return
        holders = self._stepping.holders()
        shared = {id(parameter) for group in self._groups for parameter in group.parameters}
        one = len({id(optimizer) for key, (optimizer, _) in holders.items() if key in shared}) <= 1
        parts: list[tuple[str, str, list[Tensor]]] = []
        for group in self._groups:
            trained = [parameter for parameter in group.parameters if parameter.grad is not None]
            parts.append((group.name, 'parameters', [p for p in group.parameters if _counts(p)]))
            parts.append((group.name, 'optimizer_state', list(_state_of(trained, holders))))
            if one:
                parts.append((group.name, 'gradient', [p.grad for p in trained if p.grad is not None]))
        sums = iter(bit_sums([tensor for _, _, tensors in parts for tensor in tensors]))
        for name, kind, tensors in parts:
            total = folded(combined([next(sums) for _ in tensors]))
            if not tensors:
                continue
            write_number(RowKey(self.name, name, None, f'{kind}/{self.setup.rank}'), total, rows)
            if kind == 'optimizer_state':
                write_number(RowKey(self.name, name, None, f'state_tensors/{self.setup.rank}'), len(tensors), rows)

    def _values(self, table: RowTable, kind: str) -> dict[str, dict[int, tuple[float, ...]]]:
        """Return the sums by group and rank."""
        found: dict[str, dict[int, tuple[float, ...]]] = {}
        for rank in range(self.setup.world_size):
            counts = table.of(self.name, f'state_tensors/{rank}') if kind == 'optimizer_state' else {}
            for group, tasks in table.of(self.name, f'{kind}/{rank}').items():
                count = float(counts[group][None][MEAN]) if group in counts else 0.0
                found.setdefault(group, {})[rank] = (count, float(tasks[None][MEAN]))
        return found

    def _differing(self, table: RowTable) -> Iterator[tuple[str, list[list[int]]]]:
        for kind in KINDS:
            for group, values in self._values(table, kind).items():
                if kind == 'optimizer_state':
                    usual = classes_of({rank: value[0] for rank, value in values.items()})[0]
                    values = {rank: values[rank] for rank in usual}
                classes = classes_of(values)
                if len(classes) > 1:
                    yield f'broken/replicas/{group}/{kind}', classes

    def derive(self, table: RowTable) -> Iterator[tuple[str, float]]:
        """Yield how many groups were compared, and the number of ranks outside of the largest class of each broken."""
        if self._groups and table.ranks > 1:
            compared = sum(len(ranks) > 1 for ranks in self._values(table, 'parameters').values())
            if compared:
                yield 'monitor/replicas/compared', float(compared)
        for name, classes in self._differing(table):
            yield name, float(sum(map(len, classes[1:])))

    def notes(self, table: RowTable) -> Iterator[tuple[str, str]]:
        """Yield which ranks differ from which others."""
        for name, classes in self._differing(table):
            first, *others = (_call(ranks) for ranks in classes)
            yield name, f'{", ".join(others)} from {first}'


def _counts(parameter: nn.Parameter) -> bool:
    return parameter.grad is not None or not parameter.requires_grad


def _state_of(parameters: list[nn.Parameter], holders: Mapping[int, tuple[Any, Any]]) -> Iterator[Tensor]:
    for parameter in parameters:
        optimizer, _ = holders.get(id(parameter), (None, None))
        # Reading a missing key would create an entry.
        state = optimizer.state[parameter] if optimizer is not None and parameter in optimizer.state else {}
        if isinstance(state, Mapping):
            for name in sorted(state, key=str):
                if isinstance(state[name], Tensor) and not is_sharded(state[name]):
                    yield state[name]


def _call(ranks: list[int]) -> str:
    return f'rank{"s" if len(ranks) > 1 else ""} {", ".join(map(str, ranks))}'
