"""UniZero and its relatives: a transformer world model that computes its own loss, for one task or many.

``compute_loss`` is where the batch, its mask, the task id and the forward pass that belongs to the loss meet. It is
wrapped for the duration of one due step, and forward hooks stand on encoder, transformer and heads only while it runs:
forward passes of the tree search, of the target network and of evaluation are never seen. Analysis passes inside
``compute_loss`` run without gradient mode and after the pass that makes the loss, so the first output of each module in
gradient mode is the one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ding_normmon.core.parameter_groups import unwrap
from ding_normmon.core.step import LearnerStep
from ding_normmon.integrations.lightzero.buffer_age import ObservedBatches
from ding_normmon.integrations.lightzero.gradient import CORRECTED, remarks_on, reported_gradient
from ding_normmon.integrations.lightzero.substitute import before_zero_grad, substituted
from ding_normmon.integrations.lightzero.tasks import global_task_ids, known_task_ids, number_of_tasks
from ding_normmon.integrations.lightzero.uncompiled import uncompiled

__all__ = ['LOSSES', 'SIGNALS', 'UniZeroAdapter']

SIGNALS = {
    'embeddings/obs': ('tokenizer.encoder',),
    'x_token': ('transformer',),
    'logits/value': ('head_value_multi_task', 'head_value'),
    'logits/reward': ('head_rewards_multi_task', 'head_rewards'),
    'logits/policy': ('head_policy_multi_task', 'head_policy'),
}
"""Signal name and where a world model keeps the module whose output it is; the first that exists wins."""

LOSSES = {
    'loss_obs': 'noreduce_obs_loss',
    'loss_rewards': 'noreduce_reward_loss',
    'loss_policy': 'noreduce_policy_loss',
    'orig_policy_loss': 'noreduce_orig_policy_loss',
    'policy_entropy': 'noreduce_policy_entropy',
    'loss_value': 'noreduce_value_loss',
    'latent_recon_loss': 'noreduce_latent_recon_loss',
    'perceptual_loss': 'noreduce_perceptual_loss',
}
"""The world model's name of a loss, and LightZero's name of the per-task curve; a single task's has no suffix."""


class UniZeroAdapter:
    """Adapter of UniZero, Sampled UniZero and their multi-task versions.

    Arguments:
        policy: the policy.
        model: the model it trains, with whatever wraps it.
    """

    def __init__(self, policy: Any, model: nn.Module) -> None:
        self.model = model
        self.world_model = unwrap(unwrap(model).world_model)  # type: ignore[arg-type]
        self.num_tasks = number_of_tasks(self.world_model)
        self.task_ids = global_task_ids(policy, self.num_tasks)
        self.name = f'LightZero {type(policy).__name__.removesuffix("Policy")}'
        self.module_groups: Mapping[str, Any] = {}
        self.gradient = reported_gradient(policy)
        self._optimizer: torch.optim.Optimizer | None = getattr(policy, '_optimizer_world_model', None)
        self._batches = ObservedBatches(policy, self.num_tasks is not None)
        self._modules = {
            signal: modules
            for signal, paths in SIGNALS.items()
            if (modules := next(filter(None, (_modules_at(self.world_model, path) for path in paths)), []))
        }
        self.signals = tuple(self._modules)
        self.remarks = tuple(self._remarks())

    @staticmethod
    def fits(model: nn.Module) -> bool:
        """Tell whether a model has a world model that computes its own loss."""
        world_model = getattr(model, 'world_model', None)
        return isinstance(world_model, nn.Module) and callable(getattr(unwrap(world_model), 'compute_loss', None))

    def _remarks(self) -> Iterator[str]:
        yield from remarks_on(self.gradient)
        for signal in SIGNALS:
            if signal not in self._modules:
                yield f'{signal}: the world model has no {" or ".join(SIGNALS[signal])}'
        if getattr(self.world_model, 'continuous_action_space', False):
            yield 'logits/policy: the actions are continuous, so these are mean and sigma of the policy, side by side'
        if getattr(self.world_model, 'use_policy_logits_clip', False):
            yield 'logits/policy: what the head puts out, before the world model clips it'
        if self.num_tasks is not None:
            yield 'noreduce_*: LightZero names them by position in the batch, the monitor by the task of the batch'
        if getattr(self.world_model, 'share_head', False):
            yield 'head_*: one head for all tasks, so its norms have no task suffix; the logits are still per task'

    @contextlib.contextmanager
    def observe(self, step: LearnerStep, data: Any = None) -> Iterator[None]:
        """Publish losses, tokens, logits and observation embeddings of every task, then fire ``forward_end``.

        A task that the batch has twice is measured as one; one that this rank does not train is left out and counted.
        """
        self._batches.publish(step, data, known_task_ids(self))
        compute_loss: Callable[..., Any] = self.world_model.compute_loss  # type: ignore[assignment]
        known = known_task_ids(self)
        losses: dict[int, Tensor] = {}
        unknown: set[int] = set()

        def observed(batch: Any, *args: Any, **kwargs: Any) -> Any:
            task_id = None if self.num_tasks is None else int(kwargs.get('task_id', 0))
            if task_id is not None and task_id not in known:
                unknown.add(task_id)
                step.leave_out(f'the batch holds task {task_id}, and this rank trains {list(known)}')
                return compute_loss(batch, *args, **kwargs)
            with self._published(step, task_id, batch['mask_padding']):
                result = compute_loss(batch, *args, **kwargs)
            for name, curve in LOSSES.items():
                if name in result.intermediate_losses:
                    step.publish_loss(curve, result.intermediate_losses[name], task_id)
            if task_id is None:
                # With accumulated gradients they are not cleared in every step.
                step.forward_end()
            else:
                losses[task_id] = losses[task_id] + result.loss_total if task_id in losses else result.loss_total
            return result

        def forward_end(variables: Mapping[str, Any]) -> None:
            if losses:
                # The losses of the tasks are all that makes the gradient, or they are not given.
                step.forward_end(None if unknown else dict(losses), corrected=self.gradient == CORRECTED)
                losses.clear()

        try:
            with (
                substituted(self.world_model, 'compute_loss', observed),
                before_zero_grad(self._optimizer, forward_end),
            ):
                yield
        finally:
            losses.clear()

    @contextlib.contextmanager
    def _published(self, step: LearnerStep, task_id: int | None, mask: Tensor) -> Iterator[None]:
        seen: set[str] = set()
        with contextlib.ExitStack() as undo:
            for signal, modules in self._modules.items():
                hook = _publisher(step, signal, task_id, mask, seen)
                for module in modules:
                    undo.callback(module.register_forward_hook(hook).remove)
            yield


def _modules_at(world_model: nn.Module, path: str) -> list[nn.Module]:
    """Return the module at a path, or the entries of the list there: a list itself is never called."""
    target: Any = world_model
    for attribute in path.split('.'):
        target = getattr(target, attribute, None)
    modules: Iterable[nn.Module] = target if isinstance(target, nn.ModuleList) else [target]
    # One module may stand in a list several times; two hooks would see its output twice.
    return list({id(module): module for module in modules if isinstance(module, nn.Module)}.values())


def _publisher(
    step: LearnerStep, signal: str, task_id: int | None, mask: Tensor, seen: set[str]
) -> Callable[[nn.Module, Any, Any], None]:
    def publish(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and torch.is_grad_enabled() and signal not in seen:
            seen.add(signal)
            step.publish(signal, output, task_id=task_id, mask=mask)

    return uncompiled(publish)
