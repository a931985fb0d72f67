"""Which optimizer holds which parameter: unheld parameters, parameters that left the model, and learning rates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ding_normmon.core.metric_names import with_task
from ding_normmon.core.parameter_groups import Group
from ding_normmon.core.sharding import is_sharded
from ding_normmon.metrics.base import Chart, Figure, LearnerStep, RowBuffer, RowKey, RowTable, Setup
from ding_normmon.metrics.broken import BrokenParameters
from ding_normmon.metrics.kernels.bit_sums import bit_sums
from ding_normmon.metrics.kernels.device_signals import write_number
from ding_normmon.metrics.mixins import Finishing, WatchesOptimizers
from ding_normmon.metrics.sections import BROKEN_CHART, INVARIANTS_SECTION
from ding_normmon.rows.moments import COUNT, MAXIMUM

__all__ = ['HeldParameters']


_figure = partial(Figure, section=INVARIANTS_SECTION, chart=BROKEN_CHART)


class HeldParameters(BrokenParameters, Finishing, WatchesOptimizers):
    """``broken/unheld/{group}``, ``broken/orphaned/{group}``, ``learning_rate/{group}``, ``step/optimizer_steps``.

    A parameter is **unheld** if no optimizer of the process holds it, although an optimizer has stepped, and it has a
    gradient that is not zero but does not move. It is **orphaned** if it was trained as a part of the model, has
    left the model (a replaced head, ``load_state_dict(assign=True)``), and an optimizer that steps still holds it. Both
    figures count parameter tensors and exist only above 0.
    """

    name: ClassVar[str] = 'held_parameters'
    figures: ClassVar[tuple[Figure, ...]] = (
        _figure(
            'broken/unheld/{group}',
            (
                'parameter tensors that have a gradient, are held by no optimizer, and do not move in a step of one; '
                'there only where there are some, with a note that names them'
            ),
            'tensors',
            hook_point='`backward_end`, end of the step',
            bad_value='they are not trained',
        ),
        _figure(
            'broken/orphaned/{group}',
            'parameter tensors that were trained, are no part of the model any more, and are still stepped',
            'tensors',
            hook_point='end of the step',
            bad_value='what took their place is not trained',
        ),
        _figure(
            'learning_rate/{group}',
            (
                'largest learning rate with which an optimizer that has stepped holds parameters of the group; '
                "`model`: of all; of a task's group only where it is not that one"
            ),
            'rate',
            hook_point='`step_end`',
            bad_value='not what the schedule says',
            section='Learner steps',
            scale='log',
            chart=Chart('Updates', 'Learning rates'),
            task_chart=Chart('Updates', 'Learning rates: {group}'),
            prominence='detail',
        ),
        _figure(
            'step/optimizer_steps',
            'steps of optimizers that hold parameters of the model, in this learner step; most of any rank',
            'steps',
            hook_point='optimizer step',
            bad_value='another number than always',
            section='Learner steps',
            chart=Chart('Updates', 'Optimizer steps'),
        ),
    )
    hook_points: ClassVar[tuple[str, ...]] = ('backward_end', 'step_end')
    kinds = ('unheld', 'orphaned')

    def __init__(self) -> None:
        # No weak references: torch.utils.swap_tensors, and so Module.to, refuses a tensor that has one.
        self._trained: dict[int, tuple[str, int | None, str, nn.Parameter]] = {}
        self._gone: list[tuple[str, int | None, str, nn.Parameter]] = []
        self._looked_for: frozenset[int] = frozenset()
        self._before: dict[int, tuple[int | Tensor, bool | Tensor]] = {}

    def prepare(self, setup: Setup) -> None:
        """Choose the parameters of the tasks that this rank trains; find which trained ones have left the model."""
        super().prepare(setup)
        self._rate_keys = [
            (RowKey(self.name, group.name, group.task_id, 'learning_rate'), [*map(id, group.parameters)])
            for group in setup.owned_groups
        ]
        self._follow(setup.groups)

    def _follow(self, groups: Sequence[Group]) -> None:
        setup = self.setup
        self._places: dict[int, tuple[Group, str, nn.Parameter]] = {
            id(parameter): (group, path, parameter)
            for group in groups
            if group.task_id is None or group.task_id in setup.task_ids
            for path, parameter in zip(group.paths, group.parameters, strict=True)
            if not is_sharded(parameter)
        }
        present = {id(parameter) for parameter in setup.model.parameters()}
        self._gone += [entry for key, entry in self._trained.items() if key not in present]
        self._gone = [entry for entry in self._gone if id(entry[3]) not in present]
        self._trained = {key: entry for key, entry in self._trained.items() if key in present}
        self._before = {}

    def begin(self, step: LearnerStep) -> None:
        """Watch which optimizers step."""
        super().begin(step)
        self._before = {}

    @torch.no_grad()
    def measure(self, hook_point: str, step: LearnerStep, rows: RowBuffer) -> None:
        """Note the parameters with a gradient that no optimizer holds; write the learning rates."""
        if hook_point == 'backward_end':
            self._stepping.watch()
            missing = self._places.keys() - self._stepping.holders().keys() - self._before.keys()
            new = {
                key: parameter
                for key in missing
                if (parameter := self._places[key][2]).grad is not None and parameter.requires_grad
            }
            sums = bit_sums(list(new.values()))
            for (key, parameter), before in zip(new.items(), sums, strict=True):
                assert parameter.grad is not None
                self._before[key] = before, (parameter.grad != 0).any() if parameter.is_cuda else _any(parameter.grad)
            return
        holders = self._stepping.holders()
        for key in (self._places.keys() & holders.keys()) - self._trained.keys():
            group, path, parameter = self._places[key]
            if parameter.grad is not None:
                self._trained[key] = group.name, group.task_id, path, parameter
        self._write_rates(holders, rows)

    def _write_rates(self, holders: dict[int, tuple[Any, dict[str, Any]]], rows: RowBuffer) -> None:
        for key, parameters in self._rate_keys:
            # Parameters of one group are nearly always in one or two groups of the optimizer.
            options = {id(found[1]): found[1] for found in map(holders.get, parameters) if found is not None}
            for rate in {id(rate): rate for rate in (entry.get('lr') for entry in options.values())}.values():
                if isinstance(rate, (int, float, Tensor)):
                    write_number(key, rate, rows)

    @torch.no_grad()
    def finish(self, rows: RowBuffer) -> None:
        """Write the unheld parameters that have not moved, and the orphaned ones."""
        optimizers = self._stepping
        before, self._before = self._before, {}
        if optimizers.steps:
            write_number(RowKey(self.name, 'all', None, 'steps'), optimizers.steps, rows)
        if not before and not self._gone:
            return
        holders = optimizers.holders()
        # What no optimizer holds is not kept alive for us.
        self._gone = [entry for entry in self._gone if id(entry[3]) in holders]
        candidates = {key: entry for key, entry in before.items() if key not in holders}
        if candidates and optimizers.any_stepped:
            keys = frozenset(candidates)
            if not keys <= self._looked_for:
                held = optimizers.look_for_holders(keys)
                candidates = {key: entry for key, entry in candidates.items() if key not in held}
                self._looked_for = frozenset(candidates)
            self._write_unheld(candidates, rows)
        for name, task_id, path, parameter in self._gone:
            optimizer, _ = holders.get(id(parameter), (None, None))
            if self._stepping.has_stepped(optimizer):
                write_number(RowKey(self.name, name, task_id, f'orphaned/{path}'), 1.0, rows)

    def _write_unheld(self, candidates: dict[int, tuple[int | Tensor, bool | Tensor]], rows: RowBuffer) -> None:
        sums = bit_sums([self._places[key][2] for key in candidates])
        for (place, (before, has_gradient)), after in zip(candidates.items(), sums, strict=True):
            group, path, _ = self._places[place]
            key = RowKey(self.name, group.name, group.task_id, f'unheld/{path}')
            if isinstance(after, Tensor) or isinstance(before, Tensor):
                # The result on an accelerator is not waited for.
                write_number(key, ((torch.as_tensor(after) == before) & has_gradient).double(), rows)
            elif after == before and has_gradient:
                write_number(key, 1.0, rows)

    def derive(self, table: RowTable) -> Iterator[tuple[str, float]]:
        """Yield the learning rates, and the numbers of unheld and orphaned parameters."""
        labels, rows = table.block(self.name, 'learning_rate')
        rates = [(label, float(row[MAXIMUM])) for label, row in zip(labels, rows, strict=True) if row[COUNT] > 0]
        if rates:
            largest = max(rate for _, rate in rates)
            yield 'learning_rate/model', largest
            # A hundred heads with the same rate need only one curve.
            for (name, task_id), rate in rates:
                if task_id is None or rate != largest:
                    yield f'learning_rate/{with_task(name, task_id)}', rate
        if (key := RowKey(self.name, 'all', None, 'steps')) in table:
            yield 'step/optimizer_steps', float(table[key][MAXIMUM])
        yield from super().derive(table)


def _any(gradient: Tensor) -> bool:
    if gradient.layout != torch.strided:
        gradient = gradient.coalesce().values() if gradient.layout == torch.sparse_coo else gradient.to_dense()
    return bool(gradient.any())
