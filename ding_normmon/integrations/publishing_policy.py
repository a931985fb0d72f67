"""Policies that can be measured from inside: they publish through their attribute ``learner_step``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from ding_normmon.core.step import INERT, InertLearnerStep
from ding_normmon.integrations.policy_model import model_of

__all__ = ['PublishingAdapter', 'publishing_adapter']


class PublishingAdapter:
    """A policy that publishes its signals and fires the hook points itself."""

    module_groups: Mapping[str, Any] = {}
    signals = ('whatever the policy publishes',)
    remarks: tuple[str, ...] = ()

    def __init__(self, policy: Any, model: nn.Module) -> None:
        self._policy = policy
        self.name = type(policy).__name__
        self.model = model
        self.num_tasks: int | None = getattr(policy, 'num_tasks', None)
        task_ids = getattr(policy, 'task_ids', None)
        self.task_ids = None if task_ids is None else tuple(task_ids)
        self.gradient = 'what the policy has when it fires backward_end (by agreement: synchronised, before clipping)'

    @contextlib.contextmanager
    def observe(self, step: InertLearnerStep, data: Any = None) -> Iterator[None]:
        """Hand the step to the policy."""
        self._policy.learner_step = step
        try:
            yield
        finally:
            self._policy.learner_step = INERT


def publishing_adapter(policy: Any) -> PublishingAdapter | None:
    """Return the adapter of a policy that has a ``learner_step``."""
    if not hasattr(policy, 'learner_step'):
        return None
    model = model_of(policy)
    return None if model is None else PublishingAdapter(policy, model)
