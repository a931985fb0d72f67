"""L2 norms of the gradients after the last backward pass and before anything rescales them."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from typing import ClassVar

from ding_normmon.core.common_figures import MONITOR_SECTION
from ding_normmon.core.figure import Chart, Figure
from ding_normmon.core.step import LearnerStep
from ding_normmon.metrics.base import Setup
from ding_normmon.metrics.sections import NO_GRADIENT, NONFINITE_NORMS, PARAMETERS_SECTION
from ding_normmon.metrics.square_norms import SquareNorms
from ding_normmon.rows.moments import COUNT, MAXIMUM, constant_row
from ding_normmon.rows.table import RowBuffer, RowKey, RowTable

__all__ = ['GradientNorms']


class GradientNorms(SquareNorms):
    """``grad/{group}/_total_norm`` at ``backward_end``.

    A group none of whose parameters has a gradient has no figure but ``monitor/no_gradient/{group}`` = 1; where only
    some have none, the norm is that of the others and ``monitor/without_gradient/{group}`` their number. A group whose
    optimizer rests in a step (a delayed actor) has no figure, and neither has the model.
    """

    name: ClassVar[str] = 'gradient_norms'
    figures: ClassVar[tuple[Figure, ...]] = (
        Figure(
            pattern='grad/{group}/_total_norm',
            definition="L2 norm of the group's gradients, before clipping",
            unit='loss / weight',
            hook_point='`backward_end`',
            bad_value='explosion, vanishing, one task above the others',
            section=PARAMETERS_SECTION,
            scale='log',
            chart=Chart('Shared modules', 'Gradient norms of shared modules'),
            task_chart=Chart('Heads across tasks', '{group}: gradient norm'),
            of_task='Gradient norms of its modules',
            prominence='headline',
        ),
        Figure(
            pattern='grad/model/_total_norm',
            definition='L2 norm of all gradients; its square is the sum of the squared group norms',
            unit='loss / weight',
            hook_point='`backward_end`',
            section=PARAMETERS_SECTION,
            scale='log',
            chart=Chart('Shared modules', 'Gradient norm of the whole model'),
            prominence='headline',
        ),
        Figure(
            pattern='grad/{head}_all_tasks/{mean,std}',
            definition='over the tasks that have a gradient in this step',
            unit='loss / weight',
            hook_point='`backward_end`',
            bad_value='large std: imbalance between tasks',
            section=PARAMETERS_SECTION,
            scale='log',
            chart=Chart('Heads across tasks', '{head}: gradient norm, mean and std over tasks'),
        ),
        Figure(
            pattern='grad/{group}/{path}',
            definition="of one parameter (`detail='parameter'`)",
            unit='loss / weight',
            hook_point='`backward_end`',
            section=PARAMETERS_SECTION,
            scale='log',
            chart=Chart('Other figures', '{group}: gradient norms of the parameters'),
        ),
        NO_GRADIENT,
        Figure(
            pattern='monitor/without_gradient/{group}',
            definition="number of the group's parameters without a gradient, where others have one",
            unit='count',
            bad_value='a part that is not in the graph',
            section=MONITOR_SECTION,
            kind='count',
            chart=Chart('Health of the record', 'Parameters without gradient'),
        ),
        NONFINITE_NORMS,
    )
    hook_points: ClassVar[tuple[str, ...]] = ('backward_end',)
    family = 'grad'

    def prepare(self, setup: Setup) -> int:
        """Lay the parameters out."""
        self._measured: list[bool] = []
        self._reached: list[bool] = []
        self._awaited: Collection[int] = ()
        return super().prepare(setup)

    def measure(self, hook_point: str, step: LearnerStep, rows: RowBuffer) -> None:
        """Square the gradients; at a later ``backward_end`` of one step, those that were not final before."""
        gradients = [parameter.grad for parameter in self.parameters]
        first = step.fired.count(hook_point) == 1
        if first and step.gradients_of is None:
            # The usual step has one call that takes everything: no bookkeeping per parameter.
            self._awaited = step.awaited
            self._measured = [gradient is not None for gradient in gradients]
            self._reached = [True] * len(gradients)
            self.square(gradients, step.gradient_scale)
            return
        if first:
            self._awaited = step.awaited
            self._measured = [False] * len(gradients)
            self._reached = [False] * len(gradients)
        take = self._taken(step, first)
        for index, taken in enumerate(take):
            if taken:
                self._reached[index] = True
                self._measured[index] = gradients[index] is not None
            else:
                gradients[index] = None
        if first:
            self.square(gradients, step.gradient_scale)
            return
        earlier = self.cells.clone()
        if step.replace_gradients:
            # Runs of neighbours, so that no index has to travel to the device.
            for taken, run in itertools.groupby(range(len(take)), key=take.__getitem__):
                if taken:
                    indices = list(run)
                    for cells in (earlier[: len(take)], earlier[len(take) :]):
                        cells[indices[0] : indices[-1] + 1].zero_()
        self.square(gradients, step.gradient_scale)
        self.cells.add_(earlier)

    def _taken(self, step: LearnerStep, first: bool) -> list[bool]:
        """Tell for each parameter whether its gradient is final at this call."""
        if step.gradients_of is not None:
            chosen = step.gradients_of
            return [
                id(parameter) in chosen and (step.replace_gradients or not reached)
                for parameter, reached in zip(self.parameters, self._reached, strict=True)
            ]
        if first or step.replace_gradients:
            return [True] * len(self.parameters)
        # A group that had a gradient was complete then; gradients of its other parameters would mix two moments.
        take = []
        for span in self.spans:
            take += [not any(self._measured[span.start : span.stop])] * (span.stop - span.start)
        return take

    def finish(self, rows: RowBuffer) -> None:
        """Write how many parameters of each group had no gradient, and which groups' gradients were not final."""
        if False not in self._measured and False not in self._reached:
            return
        for span in self.spans:
            key = RowKey(self.name, span.group.name, span.group.task_id)
            if any(
                not reached and id(parameter) in self._awaited
                for parameter, reached in zip(span.group.parameters, self._reached[span.start : span.stop], strict=True)
            ):
                rows.write(key._replace(part='unreached'), constant_row(1))
                continue
            missing = self._measured[span.start : span.stop].count(False)
            if missing:
                part = 'no_gradient' if missing == span.stop - span.start else 'without_gradient'
                rows.write(key._replace(part=part), constant_row(missing))
                if self.setup.config.detail == 'parameter':
                    for path, measured in zip(span.group.paths, self._measured[span.start : span.stop], strict=True):
                        if not measured:
                            rows.write(key._replace(part=f'absent:{path}'), constant_row(1))

    def unreached(self, table: RowTable) -> set[tuple[str, int | None]]:
        """Return the groups whose optimizer rested in this step."""
        return {(name, task_id) for name, tasks in table.of(self.name, 'unreached').items() for task_id in tasks}

    def absent(self, table: RowTable) -> set[tuple[str, int | None]]:
        """Return the groups that had no gradient at all, and those whose optimizer rested."""
        without = {
            (name, task_id)
            for name, tasks in table.of(self.name, 'no_gradient').items()
            for task_id, row in tasks.items()
            # Every rank speaks of its own share of a sharded group.
            if (name, task_id) not in self.sharded_groups or row[COUNT] == table.ranks
        }
        return without | self.unreached(table)

    def derive(self, table: RowTable) -> Iterator[tuple[str, float]]:
        """Yield the norms and what was missing."""
        yield from super().derive(table)
        absent = self.absent(table)
        for part in ('no_gradient', 'without_gradient'):
            for name, tasks in table.of(self.name, part).items():
                for task_id, row in tasks.items():
                    if part == 'no_gradient' and (name, task_id) not in absent:
                        continue
                    key = name if task_id is None else f'{name}_task{task_id}'
                    yield f'monitor/{part}/{key}', 1.0 if part == 'no_gradient' else float(row[MAXIMUM])
