"""Which term of a task's loss (value, policy, reward, observation) drives the shared parameters."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from ding_normmon.metrics.base import Chart, Figure, LearnerStep, RowBuffer, RowKey, RowTable, Setup
from ding_normmon.metrics.kernels.device_signals import write_number
from ding_normmon.metrics.mixins import LossParts
from ding_normmon.metrics.sections import TASKS_SECTION
from ding_normmon.metrics.shared_parameters import SharedGradients
from ding_normmon.rows.moments import MEAN, NONFINITE

__all__ = ['LossContributions']

logger = logging.getLogger('ding_normmon')


_figure = partial(Figure, section=TASKS_SECTION, hook_point='`forward_end`', prominence='detail')


class LossContributions(LossParts, SharedGradients):
    """``conflict/{group}_task{i}/{loss}/{norm,share,cosine}``, at ``forward_end``, with ``conflict_by_loss=True``.

    ``norm`` is the exact L2 norm of the gradient of one weighted term of the task's loss, ``share`` its part of the sum
    of the terms' norms, ``cosine`` that between it and the gradient of all terms together (from sketches). It takes one
    backward pass per task and term, and the policy has to give the terms: ``step.forward_end(losses, parts)``.
    """

    name: ClassVar[str] = 'loss_contributions'
    figures: ClassVar[tuple[Figure, ...]] = (
        _figure(
            'conflict/{group}_task{i}/{loss}/norm',
            "norm of the gradient of one weighted term of the task's loss (`conflict_by_loss=True`)",
            'loss / weight',
            bad_value='one term drives what is shared',
            scale='log',
            chart=Chart('Conflict', '{group}: norm of the terms of the loss'),
        ),
        _figure(
            'conflict/{group}_task{i}/{loss}/share',
            'its share of the norms of all terms',
            'share',
            bad_value='near 1: as above',
            chart=Chart('Conflict', '{group}: share of the terms of the loss'),
        ),
        _figure(
            'conflict/{group}_task{i}/{loss}/cosine',
            'its cosine with all terms together',
            'cosine',
            bad_value='below 0: it works against the others',
            chart=Chart('Conflict', '{group}: cosine of the terms of the loss'),
        ),
    )
    hook_points: ClassVar[tuple[str, ...]] = ('forward_end',)
    stretchable: ClassVar[bool] = True

    def prepare(self, setup: Setup) -> None:
        """Find the shared parameters."""
        super().prepare(setup)
        config = setup.config
        self.frequency = config.conflict_freq or 0
        self._off = config.conflict_freq == 0 or not config.conflict_by_loss
        self.reads_parts = not self._off
        self._said = False
        if not self._off:
            self.start(setup)
            logger.info(
                'monitor: conflict_by_loss costs one more backward pass per task and term of its loss, every %d '
                'iterations',
                self.frequency or config.monitor_norm_freq,
            )

    def measure(self, hook_point: str, step: LearnerStep, rows: RowBuffer) -> None:
        """Differentiate every term of every task's loss."""
        if self._off:
            return
        if step.parts is None:
            if not self._said:
                logger.warning(
                    'monitor: the policy gives no terms of its losses at forward_end; conflict_by_loss needs them'
                )
            self._said = True
            return
        terms = {
            (task_id, name): part
            for task_id, parts in step.parts.items()
            for name, part in parts.items()
            if part.requires_grad
        }
        self.check(terms, list(step.parts), 'Contributions of the losses are')
        for task_id, parts in step.parts.items():
            self._measure_task(task_id, {name: part for name, part in parts.items() if part.requires_grad}, rows)

    def _measure_task(self, task_id: int, parts: dict[str, Tensor], rows: RowBuffer) -> None:
        groups, device = self.shared.groups, self.setup.device
        sketches: list[dict[str, Tensor]] = [{} for _ in groups]
        for name, part in parts.items():
            gradients = self.gradients(part)
            with torch.no_grad():
                for group, found in zip(groups, sketches, strict=True):
                    of_group = group.of(gradients)
                    if any(gradient is not None for gradient in of_group):
                        square = torch.zeros((), dtype=torch.float64, device=device)
                        out = torch.zeros(group.sketch.size, dtype=torch.float64, device=device)
                        found[name] = group.sketch(of_group, out, square)
                        write_number(RowKey(self.name, group.name, task_id, f'square:{name}'), square, rows)
            del gradients
        with torch.no_grad():
            for group, found in zip(groups, sketches, strict=True):
                if not found:
                    continue
                total = torch.stack(list(found.values())).sum(0)
                for name, sketch in found.items():
                    cosine = torch.dot(sketch, total) / (sketch.norm() * total.norm())
                    write_number(RowKey(self.name, group.name, task_id, f'cosine:{name}'), cosine, rows)

    def derive(self, table: RowTable) -> Iterator[tuple[str, float]]:
        """Yield norm, share and cosine of every term."""
        norms: dict[tuple[str, int | None], dict[str, float]] = {}
        for key, row in table.items():
            what, _, loss = key.part.partition(':')
            if key.metric != self.name or row[NONFINITE]:
                continue
            prefix = f'conflict/{key.name}_task{key.task_id}/{loss}'
            if what == 'square':
                norms.setdefault((key.name, key.task_id), {})[loss] = math.sqrt(row[MEAN])
            else:
                yield f'{prefix}/cosine', max(-1.0, min(1.0, float(row[MEAN])))
        for (group, task_id), of_task in norms.items():
            total = sum(of_task.values())
            for loss, norm in of_task.items():
                yield f'conflict/{group}_task{task_id}/{loss}/norm', norm
                if total > 0:
                    yield f'conflict/{group}_task{task_id}/{loss}/share', norm / total
