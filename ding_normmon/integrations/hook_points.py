"""The hook points of a policy that does not fire them, seen from outside for the duration of one due step.

Where the gradients are final but not yet rescaled is found by the first of these to happen inside the step:

1. the policy fires ``backward_end`` itself;
2. a clip function of ``torch.nn.utils`` is called on parameters of the monitored model;
3. an optimizer of the policy is about to step.

Everything is put back when the step ends, whether it raised or not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ding_normmon.learner_step import LearnerStep

__all__ = ['find_optimizers', 'hook_points_from_outside']

_CLIP_FUNCTIONS = ('clip_grad_norm_', 'clip_grad_value_')


def find_optimizers(policy: Any) -> dict[str, torch.optim.Optimizer]:
    """Return a policy's optimizers by attribute name."""
    return {name: value for name, value in vars(policy).items() if isinstance(value, torch.optim.Optimizer)}


@contextlib.contextmanager
def hook_points_from_outside(
    step: LearnerStep, model: nn.Module, optimizers: Mapping[str, torch.optim.Optimizer]
) -> Iterator[None]:
    """Fire ``backward_end`` and ``step_end`` of one learner step where the policy does not.

    Arguments:
        step: the live learner step.
        model: the monitored model; clip calls on other parameters are ignored.
        optimizers: the policy's optimizers.
    """
    monitored = {id(parameter) for parameter in model.parameters()}

    def gradients_are_final() -> None:
        # Later clip calls and pre-hooks of the same step see gradients that were rescaled already.
        if 'backward_end' not in step.fired:
            if 'forward_end' not in step.fired:
                step.forward_end()
            step.backward_end()

    with contextlib.ExitStack() as undo:
        for name in _CLIP_FUNCTIONS:
            original = getattr(torch.nn.utils, name)
            setattr(torch.nn.utils, name, _announced(original, monitored, gradients_are_final))
            undo.callback(setattr, torch.nn.utils, name, original)
        for optimizer in optimizers.values():
            if any(id(parameter) in monitored for group in optimizer.param_groups for parameter in group['params']):
                undo.callback(optimizer.register_step_pre_hook(lambda *_: gradients_are_final()).remove)
                undo.callback(optimizer.register_step_post_hook(lambda *_: step.step_end()).remove)
        yield


def _announced(original: Callable[..., Any], monitored: set[int], announce: Callable[[], None]) -> Callable[..., Any]:
    def clip(parameters: Tensor | Iterable[Tensor], *args: Any, **kwargs: Any) -> Any:
        parameters = [parameters] if isinstance(parameters, Tensor) else list(parameters)
        if any(id(parameter) in monitored for parameter in parameters):
            announce()
        return original(parameters, *args, **kwargs)

    return clip
