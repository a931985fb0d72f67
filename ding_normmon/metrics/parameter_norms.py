"""L2 norms of the weights that made the forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from ding_normmon.core.figure import Chart, Figure
from ding_normmon.core.step import LearnerStep
from ding_normmon.metrics.sections import NONFINITE_NORMS, PARAMETERS_SECTION
from ding_normmon.metrics.square_norms import SquareNorms
from ding_normmon.rows.moments import COUNT, MAXIMUM, NONFINITE, constant_row
from ding_normmon.rows.table import RowBuffer, RowKey, RowTable

__all__ = ['ParameterNorms']


class ParameterNorms(SquareNorms):
    """``norm/{group}/_total_norm`` at ``forward_end``: all parameters of the group, frozen ones too, so that freezing a
    module does not make its norm jump; ``parameters/*/trainable`` counts what may still move."""

    name: ClassVar[str] = 'parameter_norms'
    figures: ClassVar[tuple[Figure, ...]] = (
        Figure(
            pattern='norm/{group}/_total_norm',
            definition='L2 norm of all parameters of the group, frozen ones too',
            unit='weight',
            hook_point='`forward_end`',
            bad_value='steady growth: weight decay too small, or a loss that pushes one task',
            section=PARAMETERS_SECTION,
            scale='log',
            chart=Chart('Shared modules', 'Norms of shared modules'),
            task_chart=Chart('Heads across tasks', '{group}: norm'),
            of_task='Norms of its modules',
        ),
        Figure(
            pattern='norm/model/_total_norm',
            definition='L2 norm of all parameters; its square is the sum of the squared group norms',
            unit='weight',
            hook_point='`forward_end`',
            bad_value='as above',
            section=PARAMETERS_SECTION,
            scale='log',
            chart=Chart('Shared modules', 'Norm of the whole model'),
            prominence='headline',
        ),
        Figure(
            pattern='norm/{head}_all_tasks/{mean,std}',
            definition='mean and unbiased standard deviation over tasks of the norms above',
            unit='weight',
            hook_point='`forward_end`',
            bad_value='large std: tasks drift apart',
            section=PARAMETERS_SECTION,
            scale='log',
            chart=Chart('Heads across tasks', '{head}: norm, mean and std over tasks'),
        ),
        Figure(
            pattern='norm/{group}/{path}',
            definition="L2 norm of one parameter (`detail='parameter'`)",
            unit='weight',
            hook_point='`forward_end`',
            section=PARAMETERS_SECTION,
            scale='log',
            chart=Chart('Other figures', '{group}: norms of the parameters'),
        ),
        Figure(
            pattern='parameters/model/trainable',
            definition='elements with `requires_grad`',
            unit='count',
            hook_point='`forward_end`',
            section=PARAMETERS_SECTION,
            kind='count',
            chart=Chart('Health of the record', 'Trainable parameters'),
        ),
        Figure(
            pattern='parameters/{group}/trainable',
            definition='the same for a group, only where some of it is frozen',
            unit='count',
            hook_point='`forward_end`',
            bad_value='something is frozen by mistake',
            section=PARAMETERS_SECTION,
            kind='count',
            chart=Chart('Health of the record', 'Trainable parameters'),
        ),
        NONFINITE_NORMS,
    )
    hook_points: ClassVar[tuple[str, ...]] = ('forward_end',)
    family = 'norm'

    def measure(self, hook_point: str, step: LearnerStep, rows: RowBuffer) -> None:
        """Square the weights; count the frozen ones."""
        self.square(self.parameters)
        if all(parameter.requires_grad for parameter in self.parameters):
            return
        for span in self.spans:
            frozen = sum(parameter.numel() for parameter in span.group.parameters if not parameter.requires_grad)
            if frozen:
                rows.write(RowKey(self.name, span.group.name, span.group.task_id, 'frozen'), constant_row(frozen))

    def derive(self, table: RowTable) -> Iterator[tuple[str, float]]:
        """Yield the norms and the number of trainable elements of the model and of partly frozen groups."""
        yield from super().derive(table)
        labels, rows = table.block(self.name)
        elements = (rows[:, COUNT] + rows[:, NONFINITE]).tolist()
        of_group = dict(zip(labels, elements, strict=True))
        frozen = {
            # Of a sharded group every rank says how much of its share is frozen; the group's owner has all of it.
            (name, task_id): row[MAXIMUM]
            for name, tasks in table.of(self.name, 'frozen').items()
            for task_id, row in tasks.items()
        }
        for (name, task_id), count in frozen.items():
            key = name if task_id is None else f'{name}_task{task_id}'
            yield f'parameters/{key}/trainable', float(of_group[name, task_id] - count)
        if self._all_groups <= of_group.keys():
            yield 'parameters/model/trainable', float(sum(elements) - sum(frozen.values()))
