"""The faults: each changes a run of its own accord, from a given iteration on, in one task.

A fault sees every learner iteration just before its batches are used (:meth:`Fault.alter`) and acts through public
configuration, the optimizer, the modules, or a wrapper around the environment or the loss.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from ding_normmon.unizero.run import MultiTaskRun
from ding_normmon.unizero.task_batch import TaskBatch

__all__ = ['make_fault']

Batches = list[TaskBatch]


class Fault:
    """Base of all faults.

    Arguments:
        run: the run it breaks.
        task: global id of the task at fault; 0 where shared parts are.
    """

    def __init__(self, run: MultiTaskRun, task: int) -> None:
        self.run, self.task = run, task
        self.policy: Any = run.policy
        self.world_model: Any = run.policy._learn_model.world_model
        self.random = np.random.default_rng(task)

    def begin(self) -> None:
        """Break something, once."""

    def alter(self, data: Batches) -> Batches:
        """Break the batches of one iteration from then on."""
        return data

    def replace_batch(self, data: Batches, change: Callable[[Any, Any], tuple[Any, Any]]) -> Batches:
        """Return the batches with that of the task at fault changed."""
        return [
            (*change(current, target), task) if task == self.task else (current, target, task)
            for current, target, task in data
        ]


class LossWeight(Fault):
    """The weight of the task's loss is multiplied, through the configuration."""

    factor = 1.0

    def begin(self) -> None:
        weights = [1.0] * self.policy.num_tasks
        weights[self.task] = self.factor
        self.policy._cfg.task_loss_weight = weights


class LossWeightUp(LossWeight):
    """x100."""

    factor = 100.0


class LossWeightDown(LossWeight):
    """x0.01."""

    factor = 0.01


class ZeroedGradients(LossWeight):
    """The task's gradients are 0."""

    factor = 0.0


class Environment(Fault):
    """Something is wrong with the task's environments."""

    def begin(self) -> None:
        for track in self.run.collector._collectors[self.task]._tracks:
            environment: Any = track.environment
            environment.step = self.wrapped(environment.step)

    def wrapped(self, step: Callable[[int], Any]) -> Callable[[int], Any]:
        return lambda action: self.changed(step(action))

    def changed(self, timestep: Any) -> Any:
        return timestep


class RewardScale(Environment):
    """Rewards x1000."""

    def changed(self, timestep: Any) -> Any:
        return timestep._replace(reward=np.float32(timestep.reward * 1000))


class NanRewards(Fault):
    """One transition of the task has the reward NaN and stays in the replay buffer: some batches hold it.

    The reward loss of such a batch is NaN. It is made so behind LightZero's own check of the targets, which would end
    the run with an error that nobody needs a monitor for.
    """

    chance = 0.3

    def begin(self) -> None:
        compute_loss = self.world_model.compute_loss

        def with_nan(*args: Any, **options: Any) -> Any:
            losses = compute_loss(*args, **options)
            if self.world_model.selection.task_id == self.task and self.random.random() < self.chance:
                reward = losses.intermediate_losses['loss_rewards'] * torch.nan
                losses.intermediate_losses['loss_rewards'] = reward
                losses.loss_total = losses.loss_total + losses.reward_loss_weight * reward
            return losses

        self.world_model.compute_loss = with_nan


class ConstantObservations(Environment):
    """The environment shows the same picture for ever."""

    def changed(self, timestep: Any) -> Any:
        timestep.obs['observation'] = np.zeros_like(timestep.obs['observation'])
        return timestep


class HeadLearningRate(Fault):
    """The learning rate of the task's value head x30."""

    factor = 30.0

    def begin(self) -> None:
        self.move({'lr': self.factor})

    def move(self, factors: dict[str, float]) -> None:
        """Give the parameters of the task's heads a group of their own in the optimizer."""
        chosen = {id(parameter) for parameter in self.parameters()}
        optimizer = self.policy._optimizer_world_model
        for group in list(optimizer.param_groups):
            mine = [parameter for parameter in group['params'] if id(parameter) in chosen]
            group['params'] = [parameter for parameter in group['params'] if id(parameter) not in chosen]
            if mine:
                rest = {key: value for key, value in group.items() if key != 'params'}
                changed = {key: rest[key] * factor for key, factor in factors.items()}
                optimizer.add_param_group({**rest, **changed, 'params': mine})

    def parameters(self) -> list[nn.Parameter]:
        return list(self.world_model.head_value[self.task].parameters())


class WeightDecay(HeadLearningRate):
    """The weight decay of the task's heads x1000."""

    def begin(self) -> None:
        self.move({'weight_decay': 1000.0})

    def parameters(self) -> list[nn.Parameter]:
        heads = (self.world_model.head_value, self.world_model.head_policy, self.world_model.head_rewards)
        return [parameter for head in heads for parameter in head[self.task].parameters()]


class FrozenHead(Fault):
    """The task's value head is no longer trained."""

    def begin(self) -> None:
        self.world_model.head_value[self.task].requires_grad_(False)


class FrozenEncoder(Fault):
    """The shared encoder is no longer trained."""

    def begin(self) -> None:
        self.world_model.tokenizer.encoder.requires_grad_(False)


class DeadEncoder(Fault):
    """Three quarters of the channels of both convolutions are shut for good: GELU(-20) and its slope are 0."""

    @torch.no_grad()
    def begin(self) -> None:
        for module in self.world_model.tokenizer.encoder.modules():
            if isinstance(module, nn.GroupNorm):
                dead = slice(0, 3 * module.num_channels // 4)
                module.weight[dead] = 0.0
                module.bias[dead] = -20.0


class LabelNoise(Fault):
    """Uniform noise is mixed into the value and policy targets, weight 0.5."""

    def alter(self, data: Batches) -> Batches:
        return self.replace_batch(data, self.noisy)

    def noisy(self, current: Any, target: Any) -> tuple[Any, Any]:
        rewards, values, policies = target
        values, policies = np.asarray(values), np.asarray(policies)
        noise = self.random.uniform(size=policies.shape)
        noise /= noise.sum(axis=-1, keepdims=True)
        wide = self.random.uniform(-1, 1, size=values.shape)
        mixed = (0.5 * values + 0.5 * wide).astype(values.dtype), (0.5 * policies + 0.5 * noise).astype(policies.dtype)
        return current, [rewards, *mixed]


class NegatedPolicy(Fault):
    """The task's policy loss has the wrong sign."""

    def begin(self) -> None:
        compute_loss = self.world_model.compute_loss

        def negated(*args: Any, **options: Any) -> Any:
            losses = compute_loss(*args, **options)
            if self.world_model.selection.task_id == self.task:
                policy = losses.intermediate_losses['loss_policy']
                losses.loss_total = losses.loss_total - 2 * losses.policy_loss_weight * policy
                losses.policy_loss_weight = -losses.policy_loss_weight
            return losses

        self.world_model.compute_loss = negated


class SwappedBatches(Fault):
    """The task is trained on the batches of the next one."""

    def alter(self, data: Batches) -> Batches:
        other = next(
            (current, target) for current, target, task in data if task == (self.task + 1) % self.policy.num_tasks
        )
        return self.replace_batch(data, lambda current, target: other)


_FAULTS: dict[str, type[Fault]] = {
    'loss_weight_up': LossWeightUp,
    'loss_weight_down': LossWeightDown,
    'reward_scale': RewardScale,
    'head_learning_rate': HeadLearningRate,
    'label_noise': LabelNoise,
    'frozen_head': FrozenHead,
    'frozen_encoder': FrozenEncoder,
    'negated_policy': NegatedPolicy,
    'weight_decay': WeightDecay,
    'zeroed_gradients': ZeroedGradients,
    'dead_encoder': DeadEncoder,
    'nan_rewards': NanRewards,
    'constant_observations': ConstantObservations,
    'swapped_batches': SwappedBatches,
}


def make_fault(name: str, run: MultiTaskRun, task: int | None) -> Fault:
    """Return the fault of that name, not yet begun."""
    return _FAULTS[name](run, task or 0)
