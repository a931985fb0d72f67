"""The signals of LightZero's own single-task UniZero, seen from outside for the duration of one due step.

``compute_loss`` is where the batch, its mask and the forward pass that belongs to the loss meet, so it is wrapped, and
forward hooks stand on encoder, transformer and heads only while it runs: forward passes of the tree search, of the
target network and of analysis are never seen.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from ding_normmon.groups import unwrap
from ding_normmon.learner_step import LearnerStep

__all__ = ['find_world_model', 'signals_of_unizero']

SIGNALS = {
    'embeddings/obs': ('tokenizer.encoder',),
    'x_token': ('transformer',),
    'logits/value': ('head_value',),
    'logits/reward': ('head_rewards',),
    'logits/policy': ('head_policy',),
}
"""Signal name and where UniZero's world model keeps the module whose output it is."""


def find_world_model(model: nn.Module) -> nn.Module | None:
    """Return the UniZero world model inside a policy's model, or None where there is none."""
    world_model = getattr(unwrap(model), 'world_model', None)
    if not isinstance(world_model, nn.Module):
        return None
    world_model = unwrap(world_model)
    return world_model if callable(getattr(world_model, 'compute_loss', None)) else None


@contextlib.contextmanager
def signals_of_unizero(step: LearnerStep, world_model: nn.Module) -> Iterator[None]:
    """Publish x_token, logits and observation embeddings, and fire ``forward_end``, around ``compute_loss``."""
    compute_loss: Callable[..., Any] = world_model.compute_loss  # type: ignore[assignment]

    def observed_compute_loss(batch: Any, *args: Any, **kwargs: Any) -> Any:
        mask = batch['mask_padding']
        seen: set[str] = set()
        with contextlib.ExitStack() as undo:
            for signal, paths in SIGNALS.items():
                for path in paths:
                    module = world_model.get_submodule(path)
                    hook = _publisher(step, signal, mask, seen)
                    undo.callback(module.register_forward_hook(hook).remove)
            result = compute_loss(batch, *args, **kwargs)
        step.forward_end()
        return result

    world_model.compute_loss = observed_compute_loss  # type: ignore[assignment]
    try:
        yield
    finally:
        del world_model.compute_loss


def _publisher(step: LearnerStep, signal: str, mask: Tensor, seen: set[str]) -> Callable[..., None]:
    def publish(module: nn.Module, inputs: Any, output: Any) -> None:
        # Analysis passes run the same modules again without a graph; only the pass that makes the loss counts.
        if isinstance(output, Tensor) and output.requires_grad and signal not in seen:
            seen.add(signal)
            step.publish(signal, output, mask=mask)

    return publish
