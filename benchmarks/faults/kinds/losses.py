"""Faults of the losses: their weights, their signs and their parts."""

from __future__ import annotations

import functools
from typing import Any

from benchmarks.faults.kinds.fault import Fault

PARTS = {
    'value': ('loss_value', 'value_loss_weight'),
    'policy': ('loss_policy', 'policy_loss_weight'),
    'reward': ('loss_rewards', 'reward_loss_weight'),
    'observation': ('loss_obs', 'obs_loss_weight'),
}


class _TaskWeight(Fault):
    """The weight of the tasks' losses, through the configuration."""

    def set_weight(self, factor: float) -> None:
        weights = [1.0] * self.policy.num_tasks
        for task in self.tasks:
            weights[task] = factor
        self.undo.append(functools.partial(setattr, self.policy._cfg, 'task_loss_weight', [1.0] * len(weights)))
        self.policy._cfg.task_loss_weight = weights


class LossWeightUp(_TaskWeight):
    """A task's loss counts many times as much."""

    strengths = (20.0, 200.0)

    def begin(self) -> None:
        self.set_weight(self.strength)


class LossWeightDown(_TaskWeight):
    """A task's loss hardly counts."""

    strengths = (20.0, 200.0)

    def begin(self) -> None:
        self.set_weight(1 / self.strength)


class ZeroedGradients(_TaskWeight):
    """The task's gradients are 0."""

    def begin(self) -> None:
        self.set_weight(0.0)


class AllGradients(_TaskWeight):
    """The losses are multiplied just before the backward pass: the gradients of all tasks are many times as large."""

    scopes = ('all',)
    strengths = (8.0, 100.0)

    def begin(self) -> None:
        self.set_weight(self.strength)


class AllLosses(Fault):
    """The losses of all tasks are summed over the batch instead of averaged."""

    scopes = ('all',)
    strengths = (5.0, 30.0)

    def begin(self) -> None:
        def change(losses: Any) -> None:
            losses.loss_total = losses.loss_total * self.strength
            for source, _ in PARTS.values():
                losses.intermediate_losses[source] = losses.intermediate_losses[source] * self.strength

        self.change_losses(change)


class _Part(Fault):
    """One part of the loss has another factor."""

    def scale(self, part: str, factor: float) -> None:
        source, weight = PARTS[part]

        def change(losses: Any) -> None:
            usual = getattr(losses, weight)
            losses.loss_total = losses.loss_total + (factor - 1) * usual * losses.intermediate_losses[source]
            setattr(losses, weight, factor * usual)

        self.change_losses(change)


class NegatedPolicy(_Part):
    """The policy loss has the wrong sign."""

    scopes = ('task', 'all')

    def begin(self) -> None:
        self.scale('policy', -1.0)


class NegatedValue(_Part):
    """The value loss has the wrong sign."""

    scopes = ('task', 'all')

    def begin(self) -> None:
        self.scale('value', -1.0)


class ValueWeightUp(_Part):
    """The value loss counts many times as much."""

    scopes = ('task', 'all')
    strengths = (20.0, 200.0)

    def begin(self) -> None:
        self.scale('value', self.strength)


class PolicyDetached(_Part):
    """The policy loss is still reported, but no longer a part of the loss."""

    def begin(self) -> None:
        self.scale('policy', 0.0)


class RewardLossUp(_Part):
    """The reward loss counts many times as much."""

    strengths = (20.0, 200.0)

    def begin(self) -> None:
        self.scale('reward', self.strength)
