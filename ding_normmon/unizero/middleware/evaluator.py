"""Middleware that evaluates every task periodically, each on the rank that trains it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ding.framework.context import OnlineRLContext

from ding_normmon.unizero.environments import TaskEnvironment
from ding_normmon.unizero.ranks import gather_by_task

__all__ = ['MultiTaskEvaluator', 'evaluate_task']


def evaluate_task(
    policy: Any, task_id: int, environments: Sequence[TaskEnvironment], episodes: int, maximum_steps: int = 30_000
) -> list[float]:
    """Return the returns of ``episodes`` episodes of one task with greedy actions.

    Every environment contributes the same number of first episodes (rounded up), so that short episodes are not
    over-represented. Finished environments keep stepping, because the policy's context is per position.

    Arguments:
        policy: has ``_forward_eval``, ``_reset_eval`` and ``task_cfg``.
        task_id: global id of the task.
        environments: stepped as one batch, at most the policy's ``evaluator_env_num``.
        episodes: how many episodes.
        maximum_steps: steps after which evaluation ends even if an episode has not.
    """
    device = policy.task_cfg(task_id).device
    share = -(-episodes // len(environments))
    returns: list[list[float]] = [[] for _ in environments]
    observations = [environment.reset() for environment in environments]
    steps = [0] * len(environments)
    policy._reset_eval(env_id=None, current_steps=0, reset_init_data=True, task_id=task_id)
    for _ in range(maximum_steps):
        if all(len(of_environment) >= share for of_environment in returns):
            break
        data = torch.from_numpy(np.stack([observation['observation'] for observation in observations])).to(device)
        with torch.no_grad():
            decisions = policy._forward_eval(
                data,
                [observation['action_mask'] for observation in observations],
                [observation['to_play'] for observation in observations],
                ready_env_id=np.arange(len(environments)),
                timestep=[observation['timestep'] for observation in observations],
                task_id=task_id,
            )
        for index, environment in enumerate(environments):
            result = environment.step(decisions[index]['action'])
            observations[index] = environment.reset() if result.done else result.obs
            steps[index] = 0 if result.done else steps[index] + 1
            if result.done and len(returns[index]) < share:
                returns[index].append(float(result.info['eval_episode_return']))
            policy._reset_eval(
                env_id=[index] if result.done else index,
                current_steps=steps[index],
                reset_init_data=bool(result.done),
                task_id=task_id,
            )
    return [value for of_environment in returns for value in of_environment]


class MultiTaskEvaluator:
    """Evaluate this rank's tasks every ``frequency`` iterations and at the end, and gather all ranks' results.

    Output of ctx: ``eval_value``, the mean over the tasks; ``eval_returns``, each task's mean return by global id;
    ``last_eval_iter``, ``last_eval_value``.

    Arguments:
        policy: the multi-task policy.
        environments: evaluation environments of each local task, by global task id.
        frequency: in learner iterations; 0 evaluates at the end only.
        episodes: episodes per task.
        max_train_iter: the iteration at which training ends, which is evaluated too; None if it has no end.
    """

    def __init__(
        self,
        policy: Any,
        environments: Mapping[int, Sequence[TaskEnvironment]],
        frequency: int,
        episodes: int,
        max_train_iter: int | None = None,
    ) -> None:
        self._policy = policy
        self._environments = environments
        self._frequency = frequency
        self._episodes = episodes
        self._max_train_iter = max_train_iter

    def __call__(self, ctx: OnlineRLContext) -> None:
        if not self._is_due(ctx):
            return
        local = {
            task_id: float(np.mean(returns))
            for task_id, environments in self._environments.items()
            if (returns := evaluate_task(self._policy, task_id, environments, self._episodes))
        }
        ctx.eval_returns = gather_by_task(local)
        ctx.last_eval_iter = ctx.train_iter
        if ctx.eval_returns:
            ctx.eval_value = ctx.last_eval_value = float(np.mean(list(ctx.eval_returns.values())))

    def close(self) -> None:
        """Close all environments."""
        for environments in self._environments.values():
            for environment in environments:
                environment.close()

    def _is_due(self, ctx: OnlineRLContext) -> bool:
        last = max(ctx.last_eval_iter, 0)
        if ctx.train_iter == last or getattr(ctx, 'stop_reason', '') == 'interrupted':
            return False
        is_last = getattr(ctx, 'stop_reason', '') or ctx.train_iter == self._max_train_iter
        return bool(is_last) or (self._frequency > 0 and ctx.train_iter - last >= self._frequency)
