"""Faults of schedules: what changes over time changes too fast, or back and forth."""

from __future__ import annotations

from benchmarks.faults.kinds.fault import Batches, Fault


class _LearningRate(Fault):
    """A schedule of the learning rate."""

    scopes = ('all',)

    def begin(self) -> None:
        self.usual = [group['lr'] for group in self.optimizer.param_groups]

    def factor(self) -> float:
        """Return the factor on the learning rate in this iteration."""
        raise NotImplementedError

    def alter(self, data: Batches) -> Batches:
        for group, usual in zip(self.optimizer.param_groups, self.usual, strict=True):
            group['lr'] = usual * self.factor()
        return data


class DecaysTooFast(_LearningRate):
    """The learning rate falls to almost nothing within a few iterations, long before the run ends."""

    strengths = (0.80, 0.93)

    def factor(self) -> float:
        return float(self.strength**self.since)


class GrowsForEver(_LearningRate):
    """A warm-up that never stops: the learning rate keeps growing."""

    strengths = (1.02, 1.06)

    def factor(self) -> float:
        return float(min(self.strength**self.since, 100.0))


class RateSwings(_LearningRate):
    """The learning rate is many times as high in every other block of iterations."""

    strengths = (8.0, 30.0)

    def factor(self) -> float:
        return self.strength if self.since % 40 < 20 else 1.0


class LossWeightRamps(Fault):
    """The weight of a task's loss grows by a few percent in every iteration, a hundredfold at most."""

    strengths = (1.03, 1.1)

    def alter(self, data: Batches) -> Batches:
        weights = [1.0] * self.policy.num_tasks
        for task in self.tasks:
            weights[task] = min(self.strength**self.since, 100.0)
        self.policy._cfg.task_loss_weight = weights
        return data
