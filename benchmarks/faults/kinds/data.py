"""Faults of the data: observations, rewards, actions, masks and batches."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.faults.kinds.fault import Batches, Fault


class RewardScale(Fault):
    """Rewards are multiplied."""

    scopes = ('task', 'all')
    strengths = (20.0, 1000.0)
    passes = True
    multiplies = 'data/reward'

    def alter(self, data: Batches) -> Batches:
        def change(_: list[Any], target: list[Any]) -> None:
            target[0] = target[0] * self.strength

        return self.replaced(data, change)


class RewardNegated(Fault):
    """Rewards, and the returns that come of them, have the wrong sign."""

    scopes = ('task', 'all')
    multiplies = 'data/reward'

    def alter(self, data: Batches) -> Batches:
        def change(_: list[Any], target: list[Any]) -> None:
            target[0], target[1] = -target[0], -target[1]

        return self.replaced(data, change)


class RewardDrift(Fault):
    """Rewards grow by a few percent in every iteration, up to a hundredfold."""

    scopes = ('task', 'all')
    strengths = (1.01, 1.04)
    multiplies = 'data/reward'

    def alter(self, data: Batches) -> Batches:
        factor = min(self.strength**self.since, 100.0)

        def change(_: list[Any], target: list[Any]) -> None:
            target[0] = target[0] * factor

        return self.replaced(data, change)


class RewardNoise(Fault):
    """Every reward has noise added to it."""

    strengths = (0.5, 5.0)
    passes = True

    def alter(self, data: Batches) -> Batches:
        def change(_: list[Any], target: list[Any]) -> None:
            target[0] = target[0] + self.strength * self.random.normal(size=target[0].shape).astype(target[0].dtype)

        return self.replaced(data, change)


class NanRewards(Fault):
    """A reward is NaN in some batches; planted behind LightZero's own check of its targets, which would end the run."""

    breaks_invariant = True
    chance = 0.3

    def begin(self) -> None:
        def change(losses: Any) -> None:
            if self.random.random() < self.chance:
                reward = losses.intermediate_losses['loss_rewards'] * np.nan
                losses.intermediate_losses['loss_rewards'] = reward
                losses.loss_total = losses.loss_total + losses.reward_loss_weight * reward

        self.change_losses(change)


class ConstantObservations(Fault):
    """The environment shows the same picture for ever."""

    passes = True

    def alter(self, data: Batches) -> Batches:
        def change(current: list[Any], _: list[Any]) -> None:
            current[0][:] = 0

        return self.replaced(data, change)


class ObservationScale(Fault):
    """Observations are no longer divided by 255, or so."""

    scopes = ('task', 'all')
    strengths = (5.0, 255.0)

    def alter(self, data: Batches) -> Batches:
        def change(current: list[Any], _: list[Any]) -> None:
            current[0] = current[0].astype(np.float32) * self.strength

        return self.replaced(data, change)


class ObservationNoise(Fault):
    """Noise is added to every observation."""

    scopes = ('task', 'all')
    strengths = (0.3, 3.0)
    passes = True

    def alter(self, data: Batches) -> Batches:
        def change(current: list[Any], _: list[Any]) -> None:
            frames = current[0].astype(np.float32)
            current[0] = frames + self.strength * self.random.normal(size=frames.shape).astype(np.float32)

        return self.replaced(data, change)


class ObservationsHidden(Fault):
    """Most entries of every observation are 0, as where a camera is covered."""

    strengths = (0.7, 0.95)

    def alter(self, data: Batches) -> Batches:
        def change(current: list[Any], _: list[Any]) -> None:
            current[0] = current[0] * (self.random.random(current[0].shape) > self.strength)

        return self.replaced(data, change)


class SwappedBatches(Fault):
    """The task is trained on the batches of the next one."""

    def alter(self, data: Batches) -> Batches:
        of_task = {task: (current, target) for current, target, task in data}
        other = of_task.get((self.tasks[0] + 1) % self.policy.num_tasks)
        return [
            (*other, task) if task in self.tasks and other is not None else (current, target, task)
            for current, target, task in data
        ]


class RepeatedBatch(Fault):
    """The task is trained on one batch for ever."""

    scopes = ('task', 'all')
    breaks_invariant = True

    def begin(self) -> None:
        self.kept: dict[int, Any] = {}

    def alter(self, data: Batches) -> Batches:
        return [
            (*self.kept.setdefault(task, (current, target)), task) if task in self.tasks else (current, target, task)
            for current, target, task in data
        ]


class ShuffledActions(Fault):
    """Actions no longer belong to the observations beside them."""

    scopes = ('task', 'all')

    def alter(self, data: Batches) -> Batches:
        def change(current: list[Any], _: list[Any]) -> None:
            current[1] = self.random.permutation(np.array(current[1]))

        return self.replaced(data, change)


class MaskedSteps(Fault):
    """Most steps of the batch are masked as padding."""

    strengths = (0.6, 0.9)
    passes = True

    def alter(self, data: Batches) -> Batches:
        def change(current: list[Any], _: list[Any]) -> None:
            mask = np.array(current[3])
            mask[:, 1:] = mask[:, 1:] * (self.random.random(mask[:, 1:].shape) > self.strength)
            current[3] = mask

        return self.replaced(data, change)
