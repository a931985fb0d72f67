"""MuZero and its relatives: the policy unrolls ``initial_inference`` and ``recurrent_inference`` of the model itself.

One loss is one initial inference and T recurrent ones, each on a batch of B states. Their outputs are put side by side
as (B, T + 1, ...) for value and policy and (B, T, ...) for the reward, which only recurrent inferences predict, so that
every entry counts once and the mask of the batch, (B, T + 1), applies as it stands: step k of the unroll is data if and
only if LightZero's buffer says so (it marks the state after the last unrolled action as padding). The self-supervised
loss runs further initial inferences, on the observations that it compares with; they are no predictions, and left out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ding_normmon.core.parameter_groups import unwrap
from ding_normmon.core.step import LearnerStep
from ding_normmon.integrations.lightzero.batch import batches_of, mask_entry
from ding_normmon.integrations.lightzero.buffer_age import ObservedBatches
from ding_normmon.integrations.lightzero.gradient import remarks_on, reported_gradient
from ding_normmon.integrations.lightzero.muzero_groups import muzero_groups
from ding_normmon.integrations.lightzero.substitute import before_zero_grad, substituted
from ding_normmon.integrations.lightzero.tasks import global_task_ids, known_task_ids, number_of_tasks
from ding_normmon.integrations.lightzero.uncompiled import uncompiled

__all__ = ['MuZeroAdapter', 'mask_of']

_OUTPUTS = {
    'logits/value': ('value',),
    'logits/policy': ('policy_logits',),
    'logits/reward': ('reward', 'value_prefix'),
}
"""Signal name and its attribute of a network output; EfficientZero predicts the sum of rewards so far."""

LOSSES = {
    'value_loss': 'noreduce_value_loss',
    'policy_loss': 'noreduce_policy_loss',
    'reward_loss': 'noreduce_reward_loss',
    'value_prefix_loss': 'noreduce_reward_loss',
    'consistency_loss': 'noreduce_consistency_loss',
}
"""The variable of ``_forward_learn`` that holds one loss per sample, and the name of their mean."""


class MuZeroAdapter:
    """Adapter of MuZero, EfficientZero, Gumbel MuZero, their sampled versions and multi-task MuZero.

    Arguments:
        policy: the policy.
        model: the model it trains, with whatever wraps it.
    """

    def __init__(self, policy: Any, model: nn.Module) -> None:
        self.model = model
        self._inner = unwrap(model)
        self.num_tasks = number_of_tasks(self._inner)
        self.task_ids = global_task_ids(policy, self.num_tasks)
        self.name = f'LightZero {type(policy).__name__.removesuffix("Policy")}'
        self.module_groups = muzero_groups(self._inner)
        self.signals = ('embeddings/obs', *_OUTPUTS)
        self.gradient = reported_gradient(policy)
        self._optimizer: torch.optim.Optimizer | None = getattr(policy, '_optimizer', None)
        self._batches = ObservedBatches(policy, self.num_tasks is not None)
        self.remarks = tuple(self._remarks())

    @staticmethod
    def fits(model: nn.Module) -> bool:
        """Tell whether a model is unrolled from outside, and each recurrent inference is one time step."""
        inferences = all(callable(getattr(model, name, None)) for name in ('initial_inference', 'recurrent_inference'))
        # Stochastic MuZero alternates between two kinds of steps in one method; its outputs would be mixed.
        afterstates = any('afterstate' in name for name, _ in model.named_children())
        return inferences and not afterstates and isinstance(getattr(model, 'representation_network', None), nn.Module)

    def _remarks(self) -> Iterator[str]:
        yield from remarks_on(self.gradient)
        yield 'x_token: the model has no transformer'
        yield 'logits/*: all steps of the unroll, those marked as padding left out; the reward has no first step'
        if self.num_tasks is not None:
            yield 'noreduce_*: LightZero names them by position in the batch; the monitor does not repeat them'
            yield 'a task that the batch has twice: its first part only; the rest is counted as left out'

    @contextlib.contextmanager
    def observe(self, step: LearnerStep, data: Any = None) -> Iterator[None]:
        """Publish logits and observation embeddings of every task; fire ``forward_end`` before the backward pass."""
        self._batches.publish(step, data, known_task_ids(self))
        observer = _Observer(step, self._inner, data, None if self.num_tasks is None else known_task_ids(self))
        with contextlib.ExitStack() as undo:
            undo.callback(observer.publish)
            for name in ('initial_inference', 'recurrent_inference'):
                observed = getattr(observer, name)(getattr(self._inner, name))
                undo.enter_context(substituted(self._inner, name, observed))
            undo.enter_context(before_zero_grad(self._optimizer, observer.forward_end))
            yield


@dataclass
class _Unroll:
    """The outputs of one loss, in order of the unroll."""

    task_id: int | None
    outputs: dict[str, list[Tensor]] = field(default_factory=dict)


class _Observer:
    def __init__(self, step: LearnerStep, model: nn.Module, data: Any, task_ids: tuple[int, ...] | None) -> None:
        multi_task = task_ids is not None
        self._step = step
        self._task_ids = task_ids
        self._encoder: nn.Module = model.representation_network  # type: ignore[assignment]
        masks = list(_masks(data, multi_task))
        self._masks = dict(masks)
        tasks = [task_id for task_id, _ in masks]
        self._repeated = {task_id for task_id in tasks if tasks.count(task_id) > 1}
        self._multi_task = multi_task
        self._begun: set[int | None] = set()
        self._unroll: _Unroll | None = None

    def initial_inference(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def observed(*args: Any, **kwargs: Any) -> Any:
            task_id = int(kwargs.get('task_id', 0)) if self._multi_task else None
            # The second and later ones of a task encode what the self-supervised loss compares with.
            if task_id in self._begun or not torch.is_grad_enabled():
                return original(*args, **kwargs)
            self.publish()
            self._begun.add(task_id)
            if self._task_ids is not None and task_id not in self._task_ids:
                self._step.leave_out(f'the batch holds task {task_id}, and this rank trains {list(self._task_ids)}')
                return original(*args, **kwargs)
            if task_id in self._repeated:
                self._step.leave_out(f'the batch holds task {task_id} several times; all but the first part of it')
            self._unroll = _Unroll(task_id)
            with contextlib.closing(_Hook(self._encoder, self._encoded)):
                output = original(*args, **kwargs)
            self._collect(output, ('logits/value', 'logits/policy'))
            return output

        return observed

    def recurrent_inference(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def observed(*args: Any, **kwargs: Any) -> Any:
            output = original(*args, **kwargs)
            if torch.is_grad_enabled():
                self._collect(output, tuple(_OUTPUTS))
            return output

        return observed

    def _encoded(self, output: Any) -> None:
        if self._unroll is not None and isinstance(output, Tensor):
            self._unroll.outputs.setdefault('embeddings/obs', [output.detach().flatten(1)])

    def _collect(self, output: Any, signals: tuple[str, ...]) -> None:
        if self._unroll is None:
            return
        for signal in signals:
            for name in _OUTPUTS[signal]:
                value = getattr(output, name, None)
                if isinstance(value, Tensor):
                    self._unroll.outputs.setdefault(signal, []).append(value.detach())

    def publish(self) -> None:
        """Publish the unroll that has just ended, and let go of it."""
        unroll, self._unroll = self._unroll, None
        if unroll is None:
            return
        mask = self._masks.get(unroll.task_id)
        for signal, outputs in unroll.outputs.items():
            steps = len(outputs)
            fits = mask is not None and mask.shape[0] == len(outputs[0]) and mask.shape[1] >= steps
            valid = mask[:, :steps] if mask is not None and fits else None
            self._step.publish(signal, torch.stack(outputs, dim=1), task_id=unroll.task_id, mask=valid)

    def forward_end(self, variables: Mapping[str, Any]) -> None:
        if self._begun and 'forward_end' not in self._step.fired:
            self.publish()
            if not self._multi_task:
                for name, curve in LOSSES.items():
                    loss = variables.get(name)
                    if isinstance(loss, Tensor) and loss.is_floating_point():
                        self._step.publish_loss(curve, loss.detach().mean())
            self._step.forward_end()


class _Hook:
    """A forward hook that is told the output only."""

    def __init__(self, module: nn.Module, tell: Callable[[Any], None]) -> None:
        hook = uncompiled(lambda module, inputs, output: tell(output))
        self._handle = module.register_forward_hook(hook)

    def close(self) -> None:
        self._handle.remove()


def _masks(data: Any, multi_task: bool) -> Iterator[tuple[int | None, Tensor]]:
    """Yield task id and mask of every task in what ``_forward_learn`` was called with."""
    for task_id, current_batch, _ in batches_of(data, multi_task):
        if (mask := mask_of(current_batch)) is not None:
            yield task_id, mask


def mask_of(current_batch: Any) -> Tensor | None:
    """Return the mask (B, T + 1) of one current batch, None if there is no such entry.

    >>> import numpy as np
    >>> actions, mask, weights = np.zeros((2, 3)), np.array([[1, 1, 1, 0], [1, 0, 0, 0]]), np.ones(2)
    >>> mask_of([np.zeros((2, 4)), actions, np.zeros((2, 4, 5)), mask, weights]).int().tolist()
    [[1, 1, 1, 0], [1, 0, 0, 0]]
    """
    found = mask_entry(current_batch)
    return None if found is None else torch.as_tensor(found[1] == 1)
