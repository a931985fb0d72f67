"""The hook points of one due step of a policy, for whoever runs the step without ``attach``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from torch import nn
from torch.optim import Optimizer

from ding_normmon.groups import find_groups
from ding_normmon.hook_points import HookPoints
from ding_normmon.integrations.policy_model import find_optimizers
from ding_normmon.learner_step import LearnerStep

__all__ = ['find_optimizers', 'hook_points_from_outside']


@contextlib.contextmanager
def hook_points_from_outside(
    step: LearnerStep, model: nn.Module, optimizers: Mapping[str, Optimizer]
) -> Iterator[None]:
    """Fire ``backward_end`` and ``step_end`` of one learner step where the policy does not."""
    points = HookPoints(model, find_groups(model), lambda: optimizers)
    points.set_step(step)
    with points.watched(lambda holder: None, lambda holder: step.step_end()):
        yield
