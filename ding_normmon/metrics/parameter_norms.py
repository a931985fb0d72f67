"""L2 norms of the weights that made the forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import ClassVar

from ding_normmon.core.metric_names import with_task
from ding_normmon.metrics.base import Chart, Figure, LearnerStep, RowBuffer, RowKey, RowTable
from ding_normmon.metrics.kernels.device_signals import write_number
from ding_normmon.metrics.sections import NONFINITE_NORMS, PARAMETERS_SECTION
from ding_normmon.metrics.square_norms import SquareNorms
from ding_normmon.rows.moments import COUNT, MAXIMUM, NONFINITE

__all__ = ['ParameterNorms']


_figure = partial(
    Figure,
    section=PARAMETERS_SECTION,
    hook_point='`forward_end`',
    chart=Chart('Health of the record', 'Trainable parameters'),
)


class ParameterNorms(SquareNorms):
    """``norm/{group}/_total_norm`` at ``forward_end``: all parameters of the group, frozen ones too, so that freezing a
    module does not make its norm jump; ``parameters/*/trainable`` counts what may still move."""

    name: ClassVar[str] = 'parameter_norms'
    figures: ClassVar[tuple[Figure, ...]] = (
        _figure(
            'norm/{group}/_total_norm',
            'L2 norm of all parameters of the group, frozen ones too',
            'weight',
            stage='weight',
            bad_value='steady growth: weight decay too small, or a loss that pushes one task',
            scale='log',
            chart=Chart('Shared modules', 'Norms of shared modules'),
            task_chart=Chart('Heads across tasks', '{group}: norm'),
            of_task='Norms of its modules',
        ),
        _figure(
            'norm/model/_total_norm',
            'L2 norm of all parameters; its square is the sum of the squared group norms',
            'weight',
            bad_value='as above',
            scale='log',
            chart=Chart('Shared modules', 'Norm of the whole model'),
            prominence='headline',
        ),
        _figure(
            'norm/{head}_all_tasks/{mean,std}',
            'mean and unbiased standard deviation over tasks of the norms above',
            'weight',
            bad_value='large std: tasks drift apart',
            scale='log',
            chart=Chart('Heads across tasks', '{head}: norm, mean and std over tasks'),
        ),
        _figure(
            'norm/{group}/{path}',
            "L2 norm of one parameter (`detail='parameter'`)",
            'weight',
            scale='log',
            chart=Chart('Other figures', '{group}: norms of the parameters'),
        ),
        _figure('parameters/model/trainable', 'elements with `requires_grad`', 'count'),
        _figure(
            'parameters/{group}/trainable',
            'the same for a group, only where some of it is frozen',
            'count',
            bad_value='something is frozen by mistake',
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
                write_number(RowKey(self.name, span.group.name, span.group.task_id, 'frozen'), frozen, rows)

    def derive(self, table: RowTable) -> Iterator[tuple[str, float]]:
        """Yield the norms and the number of trainable elements of the model and of partly frozen groups."""
        yield from super().derive(table)
        labels, rows = table.block(self.name)
        elements = (rows[:, COUNT] + rows[:, NONFINITE]).tolist()
        of_group = dict(zip(labels, elements, strict=True))
        # Each rank reports how much of its share of a sharded group is frozen; the owner's row covers all of it.
        partly, counts = table.block(self.name, 'frozen')
        for label, count in zip(partly, counts[:, MAXIMUM], strict=True):
            yield f'parameters/{with_task(*label)}/trainable', float(of_group[label] - count)
        if self._all_groups <= of_group.keys():
            yield 'parameters/model/trainable', float(sum(elements) - sum(counts[:, MAXIMUM]))
