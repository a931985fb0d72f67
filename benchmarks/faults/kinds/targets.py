"""Faults of what the model is to predict: values and policies."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.faults.kinds.fault import Batches, Fault


class LabelNoise(Fault):
    """Uniform noise is mixed into the value and policy targets."""

    strengths = (0.4, 0.8)
    passes = True

    def alter(self, data: Batches) -> Batches:
        def change(_: list[Any], target: list[Any]) -> None:
            values, policies, part = target[1], target[2], self.strength
            noise = self.random.uniform(size=policies.shape)
            noise /= noise.sum(axis=-1, keepdims=True)
            wide = self.random.uniform(-1, 1, size=values.shape)
            target[1] = ((1 - part) * values + part * wide).astype(values.dtype)
            target[2] = ((1 - part) * policies + part * noise).astype(policies.dtype)

        return self.replaced(data, change)


class ValueOffset(Fault):
    """A constant is added to the value targets."""

    scopes = ('task', 'all')
    strengths = (2.0, 8.0)

    def alter(self, data: Batches) -> Batches:
        def change(_: list[Any], target: list[Any]) -> None:
            target[1] = target[1] + np.asarray(self.strength, target[1].dtype)

        return self.replaced(data, change)


class ValueScale(Fault):
    """Value targets are multiplied."""

    scopes = ('task', 'all')
    strengths = (5.0, 50.0)
    multiplies = 'data/value_target'

    def alter(self, data: Batches) -> Batches:
        def change(_: list[Any], target: list[Any]) -> None:
            target[1] = target[1] * self.strength

        return self.replaced(data, change)


class ValueDiverges(Fault):
    """Value targets grow in every iteration, as where a bootstrap feeds on itself."""

    scopes = ('task', 'all')
    strengths = (0.02, 0.1)

    def alter(self, data: Batches) -> Batches:
        def change(_: list[Any], target: list[Any]) -> None:
            target[1] = target[1] + np.asarray(min(self.strength * self.since, 9.0), target[1].dtype)

        return self.replaced(data, change)


class ZeroTargets(Fault):
    """All rewards and value targets are 0."""

    multiplies = 'data/value_target'

    def alter(self, data: Batches) -> Batches:
        def change(_: list[Any], target: list[Any]) -> None:
            target[0], target[1] = target[0] * 0, target[1] * 0

        return self.replaced(data, change)


class OneHotPolicies(Fault):
    """Policy targets are one action each, with no entropy left."""

    scopes = ('task', 'all')
    passes = True

    def alter(self, data: Batches) -> Batches:
        def change(_: list[Any], target: list[Any]) -> None:
            policies = target[2]
            target[2] = np.eye(policies.shape[-1], dtype=policies.dtype)[policies.argmax(-1)]

        return self.replaced(data, change)


class UniformPolicies(Fault):
    """Policy targets say nothing: every action is as good."""

    scopes = ('task', 'all')

    def alter(self, data: Batches) -> Batches:
        def change(_: list[Any], target: list[Any]) -> None:
            target[2] = np.full_like(target[2], 1 / target[2].shape[-1])

        return self.replaced(data, change)


class ShuffledTargets(Fault):
    """Targets no longer belong to the observations beside them."""

    def alter(self, data: Batches) -> Batches:
        def change(_: list[Any], target: list[Any]) -> None:
            order = self.random.permutation(len(target[0]))
            target[:] = [part[order] for part in target]

        return self.replaced(data, change)
