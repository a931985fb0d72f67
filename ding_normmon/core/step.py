"""The context object of one learner step: what a policy publishes, and the points at which it may be measured.

A policy owns an attribute ``learner_step``. It holds :data:`INERT` until a monitor swaps a live
:class:`LearnerStep` in for one due step, so an unmonitored step pays one attribute look-up and an empty call.

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

Three hook points (``forward_end``, ``backward_end``, ``step_end``) and, where gradients are synchronised over ranks, a
fourth (``local_backward_end``) are all there is; what happens at each is the business of whoever listens.
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
    'WatchedStep',
]

HOOK_POINTS = ('forward_end', 'local_backward_end', 'backward_end', 'step_end')
"""The hook points of one learner step, in the order in which they fire; ``local_backward_end`` is optional."""

READ_GRADIENTS = 'read_gradients'
"""What a metric of gradients is also called with: a backward pass has ended, and another one may follow."""

COMPARE_GRADIENTS = 'compare_gradients'
"""And with this: an optimizer that clips within its step has stepped."""


class Clip(NamedTuple):
    """One clipping of gradients by their norm.

    Arguments:
        norm: the norm before clipping, on any device.
        max_norm: the limit.
        model: which gradients, where a policy clips several sets of them.
        local: whether every rank clips its own gradients before they are synchronised.
    """

    norm: Tensor | float
    max_norm: float
    model: str = 'model'
    local: bool = False


class LearnerStepListener(Protocol):
    """What a monitor implements to hear of a learner step.

    Published tensors are detached, and gradients are switched off, unless the listener has an attribute ``detaches``
    that is true: then it sees to that itself, which is cheaper for what is read once.
    """

    def on_publish(self, name: str, tensor: Tensor, task_id: int | None, mask: Tensor | None) -> None: ...

    def on_publish_loss(self, name: str, value: Tensor | float, task_id: int | None) -> None: ...

    def on_clip(self, clip: Clip) -> None: ...

    def on_left_out(self, what: str) -> None: ...

    def on_hook_point(self, hook_point: str, step: LearnerStep) -> None: ...


class InertLearnerStep:
    """The learner step of a policy that nobody measures: every method returns at once.

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
        # A copy of a policy is not being measured, whatever step the policy is in.
        return _inert, ()

    def publish(self, name: str, tensor: Tensor | None, task_id: int | None = None, mask: Tensor | None = None) -> None:
        """Do nothing."""

    def publish_loss(self, name: str, value: Tensor | float, task_id: int | None = None) -> None:
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
    """A learner step that is not measured, in which only clipping is counted: the price of asking for every step.

    Arguments:
        on_clip: whoever counts.
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

    Tensors are handed to the listener at the call and are not kept: once a method returns, this object holds no
    tensor of the step except ``losses`` and ``parts`` between ``forward_end`` and the end of that call.

    Arguments:
        iteration: 0-based learner iteration whose forward pass is being measured.
        listener: whoever measures.
    """

    __slots__ = (
        'as_read',
        'averaged_over',
        'awaited',
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
        """Whether published tensors are handed on without their graph."""
        self.losses: Mapping[int, Tensor] | None = None
        self.parts: Mapping[int, Mapping[str, Tensor]] | None = None
        self.averaged_over = 1
        self.reads_parts = True
        """Whether anybody reads ``parts`` at ``forward_end``; a policy that makes them for that alone need not."""
        self.observed = False
        """Whether an adapter publishes for a policy that knows nothing of it. Nobody can correct what cannot be
        measured then: it is left out and counted. What a batch has twice of one task is measured as one."""
        self.corrected = False
        """Whether the gradients are made of those of the tasks by more than a sum: MoCo, PCGrad and their relatives."""
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
        rest in this step, and what lies in ``.grad`` is then an earlier step's."""

    def publish(self, name: str, tensor: Tensor | None, task_id: int | None = None, mask: Tensor | None = None) -> None:
        """Publish one intermediate tensor of the forward pass.

        Arguments:
            name: the signal's name, such as ``'x_token'``, ``'logits/value'`` or ``'embeddings/obs'``; any other
                name becomes a family of its own.
            tensor: floating point, shape (B, n*T, ...) or (B*T, ...); it is detached, and not kept. ``None`` is a
                signal that this forward pass did not produce.
            task_id: the **global** task id, or None for a single-task policy.
            mask: (B, T), true where the time step is data and not padding; None means that all of it is data.
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
        """Tell of something that cannot be measured; it is counted, and said once."""
        self.listener.on_left_out(what)

    def clipped(self, norm: Tensor | float, max_norm: float, model: str = 'model', local: bool = False) -> None:
        """Tell that gradients have been scaled by ``min(1, max_norm / norm)``; between backward_end and step_end.

        Arguments:
            norm: global L2 norm before clipping, as ``clip_grad_norm_`` returns it; a tensor is not waited for.
            max_norm: the limit.
            model: name of these gradients in ``clip/{model}/coefficient``, for policies that clip several sets.
            local: True where every rank clips its own gradients before they are synchronised; the coefficients then
                differ by rank, and with them the weights of the tasks.
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
                their relatives. ``grad/*`` is then what the correction makes, ``conflict/*`` what it is made of.
        """
        self.losses, self.parts, self.corrected = losses, parts, self.corrected or corrected
        try:
            self._fire('forward_end')
        finally:
            self.losses = self.parts = None

    def local_backward_end(self, averaged_over: int = 1) -> None:
        """Fire the hook point between the last backward pass and the synchronisation of gradients over the ranks.

        Arguments:
            averaged_over: what the synchronisation will divide the sum of the ranks' gradients by; 1 where it sums.
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
            scale: what the gradients are still multiplied by, such as ``GradScaler.get_scale()`` where they have not
                been unscaled; norms are reported without it.
            parameters: the ``id`` of each parameter whose gradient is final now, where a step has several backward
                passes and optimizers; by default all of them.
            replace: take these gradients instead of those that an earlier call of the same step named.
            as_read: take the gradients as they were at :meth:`read_gradients`, where they have been read in this step,
                and note under this name, as in ``clip/{name}``, by what their norm has been multiplied since.
        """
        self.gradient_scale = scale
        self.gradients_of = parameters
        self.replace_gradients = replace
        self.as_read = as_read
        self._fire('backward_end')

    def read_gradients(self, parameters: Collection[int] | None = None) -> None:
        """Read what the gradients are when a backward pass has ended, which may be the last one of the step.

        It is no hook point of the step: more passes may come, and are read again.

        Arguments:
            parameters: the ``id`` of each parameter that the pass has reached; None for all.
        """
        self.gradients_of = parameters
        self.listener.on_hook_point(READ_GRADIENTS, self)

    def compare_gradients(self, parameters: Collection[int] | None, name: str) -> None:
        """Note by what the norm of these gradients has been multiplied since they were read, as ``as_read`` does.

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
