"""L2 norms of the gradients after the last backward pass and before anything rescales them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from ding_normmon.learner_step import LearnerStep
from ding_normmon.moments import MEAN, constant_row
from ding_normmon.quantities.quantity import Setup
from ding_normmon.quantities.square_norms import SquareNorms
from ding_normmon.rows import RowBuffer, RowKey, RowTable

__all__ = ['GradientNorms']


class GradientNorms(SquareNorms):
    """``grad/{group}/_total_norm`` at ``backward_end``.

    A group none of whose parameters has a gradient has no figure but ``monitor/no_gradient/{group}`` = 1; where only
    some have none, the norm is that of the others and ``monitor/without_gradient/{group}`` their number.
    """

    name: ClassVar[str] = 'gradient_norms'
    hook_points: ClassVar[tuple[str, ...]] = ('backward_end',)
    family = 'grad'

    def prepare(self, setup: Setup) -> int:
        """Lay the parameters out."""
        self._measured: list[bool] = []
        return super().prepare(setup)

    def measure(self, hook_point: str, step: LearnerStep, rows: RowBuffer) -> None:
        """Square the gradients; at a second ``backward_end`` of one step, those that were not there at the first."""
        gradients = [parameter.grad for parameter in self.parameters]
        if step.fired.count(hook_point) == 1:
            self._measured = [gradient is not None for gradient in gradients]
            self.square(gradients, step.gradient_scale)
            return
        earlier = self.cells.clone()
        for span in self.spans:
            if any(self._measured[span.start : span.stop]):
                gradients[span.start : span.stop] = [None] * (span.stop - span.start)
            else:
                found = [gradient is not None for gradient in gradients[span.start : span.stop]]
                self._measured[span.start : span.stop] = found
        self.square(gradients, step.gradient_scale)
        self.cells.add_(earlier)

    def finish(self, rows: RowBuffer) -> None:
        """Write how many parameters of each group had no gradient."""
        for span in self.spans:
            missing = self._measured[span.start : span.stop].count(False)
            if missing:
                part = 'no_gradient' if missing == span.stop - span.start else 'without_gradient'
                key = RowKey(self.name, span.group.name, span.group.task_id, part)
                rows.write(key, constant_row(missing))
                if self.setup.config.detail == 'parameter':
                    for path, measured in zip(span.group.paths, self._measured[span.start : span.stop], strict=True):
                        if not measured:
                            rows.write(key._replace(part=f'absent:{path}'), constant_row(1))

    def absent(self, table: RowTable) -> set[tuple[str, int | None]]:
        """Return the groups that had no gradient at all."""
        return {(name, task_id) for name, tasks in table.of(self.name, 'no_gradient').items() for task_id in tasks}

    def derive(self, table: RowTable) -> Iterator[tuple[str, float]]:
        """Yield the norms and what was missing."""
        yield from super().derive(table)
        for part in ('no_gradient', 'without_gradient'):
            for name, tasks in table.of(self.name, part).items():
                for task_id, row in tasks.items():
                    key = name if task_id is None else f'{name}_task{task_id}'
                    yield f'monitor/{part}/{key}', 1.0 if part == 'no_gradient' else float(row[MEAN])
