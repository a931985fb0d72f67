"""Observes the calls of ``backward``: which losses are differentiated, and whether gradients start at zero."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ding_normmon.core.backward_passes import is_inside_a_pass, note_thread, reaches, several_threads
from ding_normmon.core.observed_function import ObservedFunction
from ding_normmon.core.sharding import is_sharded
from ding_normmon.metrics.base import Chart, Figure, LearnerStep, RowBuffer, RowKey, RowTable, Setup
from ding_normmon.metrics.kernels.device_signals import write_number
from ding_normmon.metrics.mixins import Finishing, OwnHooks, WatchesOptimizers
from ding_normmon.metrics.sections import BROKEN_CHART, INVARIANTS_SECTION
from ding_normmon.rows.moments import COUNT, MAXIMUM, MEAN, NONFINITE

__all__ = ['BackwardCalls']

_LOOKED_AT = 8
"""Number of parameters whose gradients are checked, spread over the model."""

_MOST_CALLS = 8
"""Backward passes of one step whose losses are reported, at most."""


# The function that torch.autograd.backward calls after checking its arguments; older versions of torch have none.
_backward = ObservedFunction.of(getattr(torch.autograd, '_engine_run_backward', torch.autograd.backward))


class BackwardCalls(Finishing, OwnHooks, WatchesOptimizers):
    """``loss/backward``: the loss on which ``backward`` was called. ``broken/leftover_gradient``: gradients that were
    not zero before it.

    The calls of ``torch.autograd.backward`` (and so of ``Tensor.backward``) that reach the model's parameters are
    observed in measured steps; those of another model are not. The loss of a second call in one learner step is
    ``loss/backward_1``, and so on. Losses are shown as they are differentiated: with the scale of a ``GradScaler``, and
    divided if gradients are accumulated.

    A gradient is left over if it was not zero at the start of any backward pass of the step, so it was not zeroed
    since the last step. Eight parameters spread over the model are checked, if an optimizer that steps holds them; the
    figure is how many have a leftover gradient.
    """

    name: ClassVar[str] = 'backward_calls'
    figures: ClassVar[tuple[Figure, ...]] = (
        Figure(
            'loss/{backward}[_{n}]',
            (
                "what `backward` was called on where it reaches the model's parameters, as it was (with the scale of a "
                '`GradScaler`); the second call of a '
                'learner step is `backward_1`, and so on up to eight; over ranks that train '
                'different tasks the sum, over those that train the same ones the mean'
            ),
            'loss',
            stage='loss',
            hook_point='`torch.autograd.backward`',
            bad_value='not finite, or far from before',
            section='Learner steps',
            signed=True,
            chart=Chart('Losses and returns', 'What backward was called on'),
        ),
        Figure(
            'broken/leftover_gradient',
            (
                'of eight parameters that the optimizers of this step hold, those whose gradient was never zero when a '
                'backward pass of the step began; there only above 0'
            ),
            'tensors',
            hook_point='`torch.autograd.backward`',
            bad_value="this step's gradient contains the last one's",
            section=INVARIANTS_SECTION,
            chart=BROKEN_CHART,
        ),
    )
    hook_points: ClassVar[tuple[str, ...]] = ('backward_end',)

    def __init__(self) -> None:
        super().__init__()
        self._losses: list[Tensor] = []
        self._left: list[Tensor | bool] = []
        self._listening = False

    def prepare(self, setup: Setup) -> None:
        """Choose the parameters whose gradients are checked."""
        super().prepare(setup)
        self._parameters = {id(parameter) for parameter in setup.model.parameters()}
        self._sharded = any(map(is_sharded, setup.model.parameters()))
        trained = [p for p in setup.model.parameters() if p.requires_grad and not is_sharded(p)]
        stride = max(1, len(trained) // _LOOKED_AT)
        self._looked_at: list[nn.Parameter] = trained[::stride][:_LOOKED_AT]

    def begin(self, step: LearnerStep) -> None:
        """Listen to backward passes."""
        super().begin(step)
        self._losses, self._left = [], []
        if not self._listening and _backward is not None:
            _backward.add(self._around)
            self._listening = True

    def release(self) -> None:
        """Stop listening."""
        super().release()
        if self._listening and _backward is not None:
            _backward.remove(self._around)
            self._listening = False

    def _around(self, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # Leave out torch.autograd.grad, and the inner passes of reentrant checkpoints.
        if kwargs.get('accumulate_grad', True) and args and not is_inside_a_pass():
            note_thread()
            roots = [args[0]] if isinstance(args[0], Tensor) else list(args[0])
            # Sharded parameters are put together for the pass, and the graph ends in other tensors.
            if (self._sharded and not several_threads()) or reaches(roots, self._parameters):
                self._note(roots)
        return call(*args, **kwargs)

    @torch.no_grad()
    def _note(self, roots: Sequence[Tensor]) -> None:
        started = time.perf_counter()
        if len(self._losses) < _MOST_CALLS and roots and all(root.numel() == 1 for root in roots):
            values = [root.detach().reshape(()) for root in roots]
            self._losses.append(values[0].clone() if len(values) == 1 else torch.stack(values).sum())
        flags = [_is_left(parameter.grad) for parameter in self._looked_at]
        self._left = flags if not self._left else [first & now for first, now in zip(self._left, flags, strict=True)]
        self.hook_milliseconds += (time.perf_counter() - started) * 1e3

    @torch.no_grad()
    def finish(self, rows: RowBuffer) -> None:
        """Write the losses and the number of gradients that were left over."""
        losses, self._losses, left, self._left = self._losses, [], self._left, []
        if losses:
            number = len(self.setup.task_ids) if self.setup.num_tasks is not None else 1
            write_number(RowKey(self.name, 'tasks', None, 'number'), number, rows)
        for place, loss in enumerate(losses):
            if loss.device.type == rows.device.type:
                write_number(RowKey(self.name, 'backward' if place == 0 else f'backward_{place}'), loss, rows)
        if not any(isinstance(flag, Tensor) or flag for flag in left):
            return
        # Only parameters of optimizers that step are zeroed in every step.
        holders = self._stepping.holders()
        held = [self._stepping.has_stepped(holders.get(id(p), (None,))[0]) for p in self._looked_at]
        left = [flag for is_held, flag in zip(held, left, strict=False) if is_held]
        if left:
            write_number(RowKey(self.name, 'leftover_gradient'), sum(map(_number, left)), rows)

    def derive(self, table: RowTable) -> Iterator[tuple[str, float]]:
        """Yield the losses, as the mean over the ranks, and the most gradients that were left over on a rank."""
        # Ranks that train different tasks add up to one loss; ranks that train the same tasks each have the whole loss.
        trained = table.get(RowKey(self.name, 'tasks', None, 'number'))
        copies = 1.0 if trained is None else float(trained[MEAN] * trained[COUNT]) / (self.setup.num_tasks or 1)
        for name, row in table.named(self.name):
            if name == 'leftover_gradient':
                if row[MAXIMUM] > 0:
                    yield 'broken/leftover_gradient', float(row[MAXIMUM])
                continue
            if row[COUNT] > 0:
                yield f'loss/{name}', float(row[MEAN] * row[COUNT] / copies)
            if row[NONFINITE] > 0:
                yield f'monitor/nonfinite/loss/{name}', float(row[NONFINITE])


def _is_left(gradient: Tensor | None) -> bool | Tensor:
    if gradient is None or gradient.layout != torch.strided:
        return False
    # On an accelerator this does not wait for the result.
    found = gradient.any()
    return bool(found) if gradient.device.type == 'cpu' else found


def _number(flag: bool | Tensor) -> float | Tensor:
    return flag.double() if isinstance(flag, Tensor) else float(flag)
