"""How much gradients are scaled down by clipping, and how often."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from ding_normmon.core.sharding import is_sharded
from ding_normmon.core.step import Clip
from ding_normmon.metrics.base import Chart, Figure, LearnerStep, RowBuffer, RowKey, RowTable, Setup
from ding_normmon.metrics.clip_coefficient import clip_coefficient, norm_ratio
from ding_normmon.metrics.kernels import native
from ding_normmon.metrics.kernels.device_signals import write_number
from ding_normmon.metrics.mixins import ClipListener, Finishing
from ding_normmon.rows.moments import COUNT, MAXIMUM, MEAN, MINIMUM, NONFINITE

__all__ = ['AS_FOUND', 'FOUND', 'Clipping']

AS_FOUND = (
    'grad/* is what the optimizer found, because no backward pass was seen to end, or ranks have exchanged tensors '
    'since: whether something had clipped it cannot be known (docs/what_cannot_be_seen.md)'
)
"""Note of a record whose gradients could only be read when the optimizer stepped."""

_SAME = 1e-9
"""Largest difference from 1 of the ratio of two sums of the same squares; with a larger one they were changed."""

FOUND = (
    'when the optimizer stepped, the gradient was not what it was at the end of the backward pass, and no clip call '
    'was seen: it was clipped by hand, or corrected (PCGrad, MoCo). grad/* is what it was before; the coefficient is '
    'the norm after over the norm before (docs/what_cannot_be_seen.md)'
)
"""Note of a record whose coefficient was found by comparing gradients."""

_figure = partial(
    Figure,
    section='Clipping',
    hook_point='clip call',
    chart=Chart('Updates', 'Clipping: coefficients'),
    kind='share',
    scale='log',
)


class Clipping(ClipListener, Finishing):
    r"""``clip/{model}/coefficient``: :math:`\min(1, c / (\lVert g \rVert + 10^{-6}))` for a limit :math:`c`, the factor
    that ``clip_grad_norm_`` applies; 1 means that clipping did nothing.

    Clip calls are observed (:meth:`add`), or the policy reports them with ``step.clipped(norm, max_norm)``; if it
    reports any in a step, only those count. Several calls on the same gradients multiply. Where every
    rank clips its own gradients before they are synchronised (``local=True``), coefficients differ by rank:
    ``coefficient`` is their mean over the ranks, with ``coefficient_min`` and ``coefficient_max``, and
    ``clip/{model}_task{i}/weight`` is the coefficient of the task's rank divided by the mean over tasks: by how much
    clipping has re-weighted the tasks against each other.

    Where gradients were changed by hand between the end of the backward pass and the optimizer's step, the coefficient
    is the ratio of their norms, and the first such record has a note ``clip/{model}``.

    Only a few numbers per clip call are computed here; the norm is the one that the clip call has computed.

    Attributes:
        found: the names of coefficients that were found by comparing, in records that are complete.

    Arguments:
        fraction: also ``clip/{model}/fraction``, the share of learner steps since the last record in which clipping did
            something, as with ``clip_fraction=True``. It looks at every step, monitored or not, without waiting for the
            device.
    """

    name: ClassVar[str] = 'clipping'
    figures: ClassVar[tuple[Figure, ...]] = (
        _figure(
            'clip/{model}/coefficient',
            (
                'min(1, c / (norm + 1e-6)): what a clip call by norm multiplies the gradients with, seen from '
                'outside or told by `step.clipped(norm, c)`; where gradients are changed by hand, the norm at the '
                "optimizer's step over that at the end of the backward pass, with a note; `{model}` is `model`, or the "
                'groups that are clipped; mean over the ranks where each clips its own gradients; 0 if the norm of '
                'finite gradients overflows, and where an optimizer drops the gradient'
            ),
            'factor',
            stage='update',
            bad_value='far below 1 for long: the limit sets the step size; 0: nothing is learnt',
        ),
        Figure(
            'clip/{model}/fraction',
            (
                'share of the learner steps since the last record with a coefficient below 1 '
                "(`clip_fraction=True` or `preset='full'`; looks at every step)"
            ),
            'share',
            hook_point='clip call',
            bad_value='near 1: as above; near 0: clipping is idle',
            section='Clipping',
            kind='rate',
            chart=Chart('Updates', 'Clipping: share of the steps'),
        ),
        _figure(
            'clip/{model}/coefficient_{min,max}',
            'over the ranks, where each clips its own gradients',
            'factor',
            bad_value='far apart: ranks are re-weighted against each other',
        ),
        _figure(
            'clip/{model}_task{i}/weight',
            "there, the coefficient of the task's rank over the mean over tasks",
            'factor',
            bad_value='below 1: clipping takes weight from this task',
            kind='ratio',
            chart=Chart('Updates', '{model}: weight that clipping leaves'),
            prominence='detail',
        ),
    )
    hook_points: ClassVar[tuple[str, ...]] = ('backward_end',)

    def __init__(self, fraction: bool = False) -> None:
        self._always = fraction
        # Factors of the current step: observed ones, and those that the policy reports.
        self._seen: dict[str, Tensor | float] = {}
        self._told: dict[str, Tensor | float] = {}
        self._local: set[str] = set()
        # Changes of the gradients' norm without a clip call, see `step.changes`.
        self._changes: Mapping[str, Tensor] = {}
        self._as_found = self._is_said = False
        self.found: set[str] = set()
        # Since the last record: steps in which clipping scaled gradients, and all steps.
        self._clipped: dict[str, tuple[Tensor | float, int]] = {}
        self._between = False

    def prepare(self, setup: Setup) -> None:
        """Read from the configuration whether every step counts."""
        self.every_step = self._always or setup.config.clip_fraction
        super().prepare(setup)

    def begin_any_step(self) -> None:
        """Count the last step."""
        self._count(self._told or self._seen)
        self._forget()

    def begin(self, step: LearnerStep) -> None:
        """Forget an earlier step that was not written."""
        self._between = step.between
        self._forget()

    def add(self, model: str, coefficient: Tensor | float, local: bool = False) -> None:
        """Take the factor of one observed clip call, in a measured step or with ``every_step``.

        Arguments:
            model: the part of the model that is clipped.
            coefficient: the factor; a tensor is not read here.
            local: whether every rank clips its own gradients before they are synchronised.
        """
        self._multiply(self._seen, model, coefficient, local)

    def measure(self, hook_point: str, step: LearnerStep, rows: RowBuffer) -> None:
        """Take changes of the gradients that are found from here on."""
        self._changes = step.changes

    def note_as_found(self) -> None:
        """Note that the gradients of this step were first read when the optimizer stepped."""
        self._as_found = True

    def on_clip(self, clip: Clip, rows: RowBuffer) -> None:
        """Take a clip call that the policy reports."""
        self.on_clip_of_any_step(clip)

    def on_clip_of_any_step(self, clip: Clip) -> None:
        """Take a clip call that the policy reports in a step that is not measured."""
        norm = clip.norm
        if isinstance(norm, Tensor) and norm.device.type == 'cpu' and not is_sharded(norm):
            norm = native.number_of(norm)
        self._multiply(self._told, clip.model, clip_coefficient(norm, clip.max_norm), clip.local)

    def _multiply(self, factors: dict[str, Tensor | float], model: str, factor: Tensor | float, local: bool) -> None:
        earlier = factors.get(model, 1.0)
        if isinstance(factor, Tensor) or isinstance(earlier, Tensor):
            with torch.no_grad():
                factors[model] = earlier * factor
        else:
            factors[model] = earlier * factor
        if local:
            self._local.add(model)

    def _count(self, coefficients: Mapping[str, Tensor | float]) -> None:
        if not self.every_step:
            return
        with torch.no_grad():
            for model, coefficient in coefficients.items():
                clipped, steps = self._clipped.get(model, (0.0, 0))
                # A coefficient that is not a number counts as clipped.
                idle = coefficient >= 1
                below = 1.0 - (idle.double() if isinstance(idle, Tensor) else float(idle))
                self._clipped[model] = (clipped + below, steps + 1)

    def _forget(self) -> None:
        self._seen.clear()
        self._told.clear()
        self._local.clear()
        self._changes = {}
        self._as_found = False

    def finish(self, rows: RowBuffer) -> None:
        """Write the factors of the step, and the share of clipped steps."""
        coefficients = self._told or self._seen
        for model, coefficient in coefficients.items():
            write_number(RowKey(self.name, model), coefficient, rows)
            if model in self._local:
                write_number(RowKey(self.name, model, None, 'local'), 1.0, rows)
                for task_id in self.setup.task_ids:
                    write_number(RowKey(self.name, model, task_id), coefficient, rows)
        with torch.no_grad():
            for model, found in self._changes.items():
                if model not in coefficients:
                    write_number(RowKey(self.name, model, None, 'found'), norm_ratio(found), rows)
        if self._as_found:
            write_number(RowKey(self.name, 'model', None, 'as_found'), 1.0, rows)
        self._count(coefficients)
        for model, (clipped, steps) in self._clipped.items():
            write_number(RowKey(self.name, model, None, 'fraction'), clipped / steps, rows)
        if not self._between:
            self._clipped.clear()
        self._forget()

    def state_bytes(self) -> int:
        """Return the size of the counts."""
        return 16 * len(self._clipped)

    def derive(self, table: RowTable) -> Iterator[tuple[str, float]]:
        """Yield coefficients, fractions and, where ranks clip for themselves, what that does to the tasks."""
        local = table.of(self.name, 'local')
        for model, tasks in table.of(self.name).items():
            row = tasks[None]
            if row[NONFINITE] > 0:
                yield f'monitor/nonfinite/clip/{model}', float(row[NONFINITE])
            if row[COUNT] > 0:
                yield f'clip/{model}/coefficient', float(row[MEAN])
            if model not in local:
                continue
            if row[COUNT] > 0:
                yield f'clip/{model}/coefficient_min', float(row[MINIMUM])
                yield f'clip/{model}/coefficient_max', float(row[MAXIMUM])
            known = {task: float(row[MEAN]) for task, row in tasks.items() if task is not None and row[COUNT] > 0}
            mean = sum(known.values()) / max(1, len(known))
            if table.complete and mean > 0:
                for task, coefficient in known.items():
                    yield f'clip/{model}_task{task}/weight', coefficient / mean
        for model, row in table.named(self.name, 'fraction'):
            yield f'clip/{model}/fraction', float(row[MEAN])
        for model, ratio in self._found(table).items():
            yield f'clip/{model}/coefficient', ratio

    def notes(self, table: RowTable) -> Iterator[tuple[str, str]]:
        """Yield, once, how a coefficient was found that no clip call has reported."""
        for model in self._found(table):
            if table.final and model not in self.found:
                self.found.add(model)
                yield f'clip/{model}', FOUND
        if table.final and not self._is_said and table.of(self.name, 'as_found'):
            self._is_said = True
            yield 'clip', AS_FOUND

    def _found(self, table: RowTable) -> dict[str, float]:
        return {
            model: float(row[MEAN])
            for model, row in table.named(self.name, 'found')
            if row[COUNT] > 0 and abs(float(row[MEAN]) - 1.0) > _SAME and model not in table.of(self.name)
        }
