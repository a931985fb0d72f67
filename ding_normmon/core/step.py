"""The context object of one learner step: a policy publishes tensors to it and fires its hook points.

A policy has an attribute ``learner_step``. It is :data:`INERT` until a monitor replaces it by a :class:`LearnerStep`
for one measured step, so an unmonitored step costs one attribute look-up and an empty call.

A policy that can be measured looks like this::

    def _forward_learn(self, data):
        step = self.learner_step
        for task_id, batch in data:
            ...
            step.publish('logits/value', logits_value, task_id=task_id, mask=mask)   # (B, T, support), (B, T)
        step.forward_end(losses)      # every task's loss is known, the graph is alive
        total_loss.backward()
        step.local_backward_end()     # optional: this rank's own gradients are final
        self.synchronise_gradients()
        step.backward_end()           # gradients are final; nothing has rescaled them yet
        norm = clip_grad_norm_(parameters, max_norm)
        step.clipped(norm, max_norm)
        optimizer.step()
        step.step_end()               # the weights have moved

There are three hook points (``forward_end``, ``backward_end``, ``step_end``) and, if gradients are synchronised over
ranks, a fourth (``local_backward_end``). The listener decides what happens at each.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

__all__ = [
    'COMPARE_GRADIENTS',
    'HOOK_POINTS',
    'INERT',
    'READ_GRADIENTS',
    'Clip',
    'InertLearnerStep',
    'LearnerStep',
    'LearnerStepListener',
    'SignalError',
    'WatchedStep',
]

HOOK_POINTS = ('forward_end', 'local_backward_end', 'backward_end', 'step_end')
"""The hook points of one learner step, in the order in which they fire; ``local_backward_end`` is optional."""

READ_GRADIENTS = 'read_gradients'
"""Extra hook point for metrics of gradients: a backward pass has ended, and another one may follow."""

COMPARE_GRADIENTS = 'compare_gradients'
"""Extra hook point for metrics of gradients: an optimizer that clips within its step has stepped."""


class SignalError(ValueError):
    """A published tensor or mask cannot be measured."""


class Clip(NamedTuple):
    """One clipping of gradients by their norm.

    Arguments:
        norm: the norm before clipping, on any device.
        max_norm: the limit.
        model: name of the clipped gradients, for policies that clip several sets.
        local: whether every rank clips its own gradients before they are synchronised.
    """

    norm: Tensor | float
    max_norm: float
    model: str = 'model'
    local: bool = False


class LearnerStepListener(Protocol):
    """The interface of a monitor that measures a learner step.

    Published tensors are detached, and gradients are switched off, unless the listener's attribute ``detaches`` is
    true: then the listener does so itself, which is cheaper for tensors that are read once.
    """

    def on_publish(self, name: str, tensor: Tensor, task_id: int | None, mask: Tensor | None) -> None: ...

    def on_publish_loss(self, name: str, value: Tensor | float, task_id: int | None) -> None: ...

    def on_clip(self, clip: Clip) -> None: ...

    def on_left_out(self, what: str) -> None: ...

    def on_hook_point(self, hook_point: str, step: LearnerStep) -> None: ...


class InertLearnerStep:
    """The learner step of a policy that is not measured: every method returns at once.

    Example:
        >>> INERT.publish('logits/value', None)
        >>> INERT.due
        False
    """

    __slots__ = ()
    due = False
    reads_parts = False
    iteration = -1

    def __reduce__(self) -> tuple[Callable[[], InertLearnerStep], tuple[()]]:
        # A copy of a policy is never measured, even if the policy is.
        return _inert, ()

    def publish(self, name: str, tensor: Tensor | None, task_id: int | None = None, mask: Tensor | None = None) -> None:
        """Do nothing."""

    def publish_loss(self, name: str, value: Tensor | float, task_id: int | None = None) -> None:
        """Do nothing."""

    def publish_figure(self, name: str, value: Tensor | float, task_id: int | None = None) -> None:
        """Do nothing."""

    def clipped(self, norm: Tensor | float, max_norm: float, model: str = 'model', local: bool = False) -> None:
        """Do nothing."""

    def forward_end(
        self,
        losses: Mapping[int, Tensor] | None = None,
        parts: Mapping[int, Mapping[str, Tensor]] | None = None,
        corrected: bool = False,
    ) -> None:
        """Do nothing."""

    def local_backward_end(self, averaged_over: int = 1) -> None:
        """Do nothing."""

    def backward_end(
        self,
        scale: Tensor | float = 1.0,
        parameters: Collection[int] | None = None,
        replace: bool = False,
        as_read: str | None = None,
    ) -> None:
        """Do nothing."""

    def step_end(self) -> None:
        """Do nothing."""


def _inert() -> InertLearnerStep:
    return INERT


INERT = InertLearnerStep()
"""The one inert learner step; shared by every policy that is not being measured."""


class WatchedStep(InertLearnerStep):
    """A learner step that is not measured, except that its clipping is counted.

    Arguments:
        on_clip: called at every clipping.
    """

    __slots__ = ('_on_clip',)

    def __init__(self, on_clip: Callable[[Clip], None]) -> None:
        self._on_clip = on_clip

    def clipped(self, norm: Tensor | float, max_norm: float, model: str = 'model', local: bool = False) -> None:
        """Count it."""
        with torch.no_grad():
            self._on_clip(Clip(norm.detach() if isinstance(norm, Tensor) else norm, float(max_norm), model, local))


class LearnerStep(InertLearnerStep):
    """One learner step that is being measured.

    Tensors are passed to the listener and not kept: this object holds ``losses`` and ``parts`` during ``forward_end``,
    and otherwise no tensor of the step.

    Arguments:
        iteration: 0-based learner iteration whose forward pass is being measured.
        listener: receives published tensors and hook points.

    Raises:
        SignalError: a published tensor that cannot be measured as asked: its dtype, its shape and that of the mask, a
            task that this rank does not train.

    Example:
        A loop that fires the hook points itself; ``monitor.step`` makes the learner step:

        >>> from ding_normmon import Monitor
        >>> model = torch.nn.Linear(2, 1)
        >>> monitor = Monitor(model, {'monitor_norm_freq': 1}, num_tasks=2)
        >>> with monitor.step(0) as step:
        ...     hidden = model(torch.ones(4, 3, 2))                             # (B, T, 1)
        ...     step.publish('hidden', hidden, task_id=1, mask=torch.ones(4, 3))
        ...     loss = hidden.mean()
        ...     step.forward_end({1: loss})
        ...     loss.backward()
        ...     step.backward_end()
        ...     step.step_end()
        >>> monitor.close()
        >>> [record] = monitor.take_records()
        >>> sorted(name for name in record.scalars if name.startswith('hidden_task1'))
        ['hidden_task1/abs_max', 'hidden_task1/max', 'hidden_task1/mean', 'hidden_task1/min', 'hidden_task1/std']
    """

    __slots__ = (
        'as_read',
        'averaged_over',
        'awaited',
        'between',
        'changes',
        'corrected',
        'detached',
        'fired',
        'gradient_scale',
        'gradients_of',
        'iteration',
        'listener',
        'losses',
        'observed',
        'parts',
        'reads_parts',
        'replace_gradients',
    )
    due = True

    def __init__(self, iteration: int, listener: LearnerStepListener) -> None:
        self.iteration = iteration
        self.listener = listener
        self.detached: bool = not getattr(listener, 'detaches', False)
        """Whether published tensors are detached before they reach the listener."""
        self.between = False
        """Whether it is watched between two published records; counts since the last record continue then."""
        self.losses: Mapping[int, Tensor] | None = None
        self.parts: Mapping[int, Mapping[str, Tensor]] | None = None
        self.averaged_over = 1
        self.reads_parts = True
        """Whether ``parts`` are read at ``forward_end``; if not, a policy need not compute them."""
        self.observed = False
        """Whether an adapter publishes in place of the policy. What cannot be measured is then left out and counted,
        because the user cannot correct it; a task that a batch holds twice is measured as one."""
        self.corrected = False
        """Whether the gradients are more than the sum of the tasks' gradients: MoCo, PCGrad and their relatives."""
        self.fired: list[str] = []
        self.gradient_scale: Tensor | float = 1.0
        self.gradients_of: Collection[int] | None = None
        self.replace_gradients = False
        self.as_read: str | None = None
        self.changes: dict[str, Tensor] = {}
        """By the name of ``as_read``: squared norm when it was read, squared norm at ``backward_end``, and number of
        entries that were not finite; float64, on the device."""
        self.awaited: Collection[int] = frozenset()
        """Parameters (their ``id``) whose gradients count only if a ``backward_end`` names them: their optimizer may
        skip this step, and ``.grad`` would then be left over from an earlier step."""

    def publish(self, name: str, tensor: Tensor | None, task_id: int | None = None, mask: Tensor | None = None) -> None:
        """Publish one intermediate tensor of the forward pass.

        Arguments:
            name: the signal's name, such as ``'x_token'``, ``'logits/value'`` or ``'embeddings/obs'``; any other
                name becomes a family of its own.
            tensor: floating point, shape (B, n*T, ...) or (B*T, ...); detached and not kept. ``None`` if this forward
                pass did not produce the signal.
            task_id: the **global** task id, or None for a single-task policy.
            mask: (B, T), true where the time step is data and not padding; None if there is no padding.
        """
        if tensor is None:
            return
        if not self.detached:
            self.listener.on_publish(name, tensor, task_id, mask)
            return
        with torch.no_grad():
            value = tensor.detach() if isinstance(tensor, Tensor) else tensor
            self.listener.on_publish(name, value, task_id, mask)

    def publish_loss(self, name: str, value: Tensor | float, task_id: int | None = None) -> None:
        """Publish one scalar of a task, such as ``('noreduce_obs_loss', loss, 3)``; it becomes ``{name}_task3``."""
        if self.detached and isinstance(value, Tensor):
            value = value.detach()
        self.listener.on_publish_loss(name, value, task_id)

    def leave_out(self, what: str) -> None:
        """Report something that cannot be measured; it is counted, and logged once."""
        self.listener.on_left_out(what)

    def publish_figure(self, name: str, value: Tensor | float, task_id: int | None = None) -> None:
        """Publish one scalar that is no loss, such as ``('data/batch_size', 64.0, 3)``; it becomes ``{name}_task3``."""
        self.publish_loss(name, value, task_id)

    def clipped(self, norm: Tensor | float, max_norm: float, model: str = 'model', local: bool = False) -> None:
        """Report that gradients were scaled by ``min(1, max_norm / norm)``; between backward_end and step_end.

        Arguments:
            norm: global L2 norm before clipping, as ``clip_grad_norm_`` returns it; no wait for a GPU tensor.
            max_norm: the limit.
            model: name of these gradients in ``clip/{model}/coefficient``, for policies that clip several sets.
            local: True if every rank clips its own gradients before they are synchronised; the coefficients, and with
                them the weights of the tasks, then differ between ranks.
        """
        with torch.no_grad():
            norm = norm.detach() if isinstance(norm, Tensor) else norm
            self.listener.on_clip(Clip(norm, float(max_norm), model, local))

    def forward_end(
        self,
        losses: Mapping[int, Tensor] | None = None,
        parts: Mapping[int, Mapping[str, Tensor]] | None = None,
        corrected: bool = False,
    ) -> None:
        """Fire the hook point before the backward pass.

        Arguments:
            losses: scalar loss of each local task by global task id, with its graph, as it enters the sum that is
                differentiated (weighted, divided by the number of tasks).
            parts: the terms of each task's loss by name (``'value'``, ``'policy'``), with their graphs and weights, so
                that they add up to the task's loss.
            corrected: the gradients that follow are made of those of the tasks by more than a sum: MoCo, PCGrad and
                their relatives. ``grad/*`` is then the corrected gradient; ``conflict/*`` is about those of the tasks.
        """
        self.losses, self.parts, self.corrected = losses, parts, self.corrected or corrected
        try:
            self._fire('forward_end')
        finally:
            self.losses = self.parts = None

    def local_backward_end(self, averaged_over: int = 1) -> None:
        """Fire the hook point between the last backward pass and the synchronisation of gradients over the ranks.

        Arguments:
            averaged_over: divisor of the sum of the ranks' gradients in the synchronisation; 1 if it only sums.
        """
        self.averaged_over = averaged_over
        self._fire('local_backward_end')

    def backward_end(
        self,
        scale: Tensor | float = 1.0,
        parameters: Collection[int] | None = None,
        replace: bool = False,
        as_read: str | None = None,
    ) -> None:
        """Fire the hook point after the last backward pass, before anything rescales a gradient.

        Arguments:
            scale: factor still in the gradients, such as ``GradScaler.get_scale()`` if they have not been unscaled; it
                is removed from the reported norms.
            parameters: the ``id`` of each parameter whose gradient is final now, if a step has several backward passes
                and optimizers; by default all of them.
            replace: whether these gradients replace those named by an earlier call in the same step.
            as_read: use the gradients as they were at :meth:`read_gradients`, if it was called in this step, and report
                under this name, as in ``clip/{name}``, the factor by which their norm has changed since.
        """
        self.gradient_scale = scale
        self.gradients_of = parameters
        self.replace_gradients = replace
        self.as_read = as_read
        self._fire('backward_end')

    def read_gradients(self, parameters: Collection[int] | None = None) -> None:
        """Read the gradients after a backward pass, which may be the last one of the step.

        This is no hook point of the step: if another pass follows, the gradients are read again.

        Arguments:
            parameters: the ``id`` of each parameter that the pass has reached; None for all.
        """
        self.gradients_of = parameters
        self.listener.on_hook_point(READ_GRADIENTS, self)

    def compare_gradients(self, parameters: Collection[int] | None, name: str) -> None:
        """Note the factor by which the norm of these gradients has changed since they were read, as ``as_read`` does.

        For optimizers that clip by themselves within their step.
        """
        self.gradients_of = parameters
        self.as_read = name
        self.listener.on_hook_point(COMPARE_GRADIENTS, self)

    def step_end(self) -> None:
        """Fire the hook point after the optimizer has stepped."""
        self._fire('step_end')

    def _fire(self, hook_point: str) -> None:
        self.fired.append(hook_point)
        self.listener.on_hook_point(hook_point, self)
