"""L2 norms of the weights that made the forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from ding_normmon.core.step import LearnerStep
from ding_normmon.metrics.square_norms import SquareNorms
from ding_normmon.rows.moments import COUNT, MAXIMUM, NONFINITE, constant_row
from ding_normmon.rows.table import RowBuffer, RowKey, RowTable

__all__ = ['ParameterNorms']


class ParameterNorms(SquareNorms):
    """``norm/{group}/_total_norm`` at ``forward_end``: all parameters of the group, frozen ones too, so that freezing a
    module does not make its norm jump; ``parameters/*/trainable`` counts what may still move."""

    name: ClassVar[str] = 'parameter_norms'
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
