"""The half of the multi-task policy that collects and evaluates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from easydict import EasyDict
from lzero.policy.unizero import UniZeroPolicy
from numpy.typing import NDArray
from torch import Tensor

from ding_normmon.unizero.acting import TaskActor
from ding_normmon.unizero.model import BoundModel, UniZeroMultitaskModel
from ding_normmon.unizero.task_spec import check_task_ids

__all__ = ['ActingPolicy']


class ActingPolicy(UniZeroPolicy):
    """Collect and eval mode for several tasks; every (task, mode) has its own caches and histories."""

    num_tasks: int
    _model: UniZeroMultitaskModel
    _task_cfgs: dict[int, EasyDict]
    _collect_mcts_temperature: float
    _collect_epsilon: float

    def _init_collect(self) -> None:
        self._collect_model = self._model
        self.collector_env_num = self._cfg.collector_env_num
        self._collectors = self._build_actors(explore=True)

    def _init_eval(self) -> None:
        self._eval_model = self._model
        self.evaluator_env_num = self._cfg.evaluator_env_num
        self._evaluators = self._build_actors(explore=False)

    def _build_actors(self, explore: bool) -> dict[int, TaskActor]:
        return {
            task_id: TaskActor(BoundModel(self._model, task_id), self._task_cfgs[task_id], explore)
            for task_id in range(self.num_tasks)
        }

    def _forward_collect(
        self,
        data: Tensor,
        action_mask: Sequence[NDArray[Any]],
        temperature: float = 1,
        to_play: Sequence[int] | None = None,
        epsilon: float = 0.0,
        ready_env_id: Sequence[int] | None = None,
        timestep: Sequence[int] | None = None,
        task_id: int | None = None,
    ) -> dict[int, dict[str, Any]]:
        """Choose exploring actions for some environments of one task; see :meth:`TaskActor.act`."""
        self._collect_mcts_temperature = float(temperature)
        self._collect_epsilon = float(epsilon)
        exploration = {'temperature': temperature, 'epsilon': epsilon}
        return self._act(self._collectors, data, action_mask, to_play, ready_env_id, timestep, task_id, **exploration)

    def _forward_eval(
        self,
        data: Tensor,
        action_mask: Sequence[NDArray[Any]],
        to_play: Sequence[int] | None = None,
        ready_env_id: Sequence[int] | None = None,
        timestep: Sequence[int] | None = None,
        task_id: int | None = None,
    ) -> dict[int, dict[str, Any]]:
        """Choose greedy actions for some environments of one task; see :meth:`TaskActor.act`."""
        return self._act(self._evaluators, data, action_mask, to_play, ready_env_id, timestep, task_id)

    def _act(
        self,
        actors: dict[int, TaskActor],
        data: Tensor,
        action_mask: Sequence[NDArray[Any]],
        to_play: Sequence[int] | None,
        ready_env_id: Sequence[int] | None,
        timestep: Sequence[int] | None,
        task_id: int | None,
        **exploration: float,
    ) -> dict[int, dict[str, Any]]:
        count = len(data)
        return actors[self._require_task(task_id)].act(
            data,
            action_mask,
            [-1] * count if to_play is None else to_play,
            range(count) if ready_env_id is None else ready_env_id,
            [0] * count if timestep is None else timestep,
            **exploration,
        )

    def _require_task(self, task_id: int | None) -> int:
        if task_id is None:
            if self.num_tasks > 1:
                raise ValueError('task_id: the global task id is required with several tasks, got None')
            return 0
        return check_task_ids([task_id], self.num_tasks)[0]

    def _reset_collect(self, *args: Any, **kwargs: Any) -> None:
        """Forget environments whose episode is over, without touching the others; see :meth:`_reset`."""
        self._reset(self._collectors, *args, **kwargs)

    def _reset_eval(self, *args: Any, **kwargs: Any) -> None:
        """Reset evaluation as :meth:`_reset_collect` resets collection."""
        self._reset(self._evaluators, *args, **kwargs)

    def _reset(
        self,
        actors: dict[int, TaskActor],
        env_id: int | Iterable[int] | None = None,
        current_steps: int | None = None,
        reset_init_data: bool = True,
        task_id: int | None = None,
    ) -> None:
        """Forget environments.

        Arguments:
            actors: of collection or evaluation, by task id.
            env_id: one id or several; None: all environments.
            current_steps: not used; histories have a bounded length, so they need no periodic clearing.
            reset_init_data: False does nothing.
            task_id: global task id; None: every task.
        """
        if not reset_init_data:
            return
        environment_ids = [env_id] if isinstance(env_id, int | np.integer) else env_id
        for actor in actors.values() if task_id is None else [actors[self._require_task(task_id)]]:
            actor.reset(environment_ids)
