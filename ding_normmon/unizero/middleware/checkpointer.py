"""Middleware that saves checkpoints, periodically and when the run stops."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ding.framework.context import OnlineRLContext

from ding_normmon.core.config import ConfigurationError
from ding_normmon.destinations.tensorboard.resume import drop_records
from ding_normmon.monitor.monitor import StepMonitor
from ding_normmon.unizero.checkpoint import (
    checkpoint_path,
    digest,
    load_checkpoint,
    random_states,
    restore_random_states,
    save_file,
)
from ding_normmon.unizero.middleware.returns import ReturnTracker
from ding_normmon.unizero.ranks import any_rank, gather_objects, rank

__all__ = ['MultiTaskCheckpointer']

KEPT = ('train_iter', 'env_step', 'env_episode', 'total_step', 'last_eval_iter', 'last_eval_value')


class MultiTaskCheckpointer:
    """Save every ``frequency`` iterations, when ``ctx.stop_reason`` ends the run, and on request.

    Rank 0 writes one file, ``{folder}/ckpt/latest.pth.tar``, after the policy has gathered the other ranks' heads and
    encoders. A checkpoint saved because of a finding may already be damaged, so it gets a file of its own,
    ``{folder}/ckpt/finding_{iteration}.pth.tar``, and ``--resume`` does not use it.

    Arguments:
        policy: has ``gather_private_parameters``, ``_state_dict_learn`` and ``_load_state_dict_learn``.
        folder: the run's folder.
        frequency: in learner iterations; 0 saves at the end only.
        returns: the tracker whose figures are kept in the checkpoint.
        task_names: the tasks of the run; a checkpoint with other tasks is refused.

    Attributes:
        path: the file that ``--resume`` loads.
        newest: the file that was saved last; ``path`` if none was.
    """

    def __init__(
        self,
        policy: Any,
        folder: str | Path,
        frequency: int,
        returns: ReturnTracker,
        task_names: list[str],
    ) -> None:
        self._policy = policy
        self._folder = Path(folder)
        self.path = self.newest = checkpoint_path(folder)
        self._frequency = frequency
        self._returns = returns
        self._task_names = task_names
        self._last_iteration = -1
        self._monitor: StepMonitor | None = None
        self._is_asked = False

    def ask(self, ctx: OnlineRLContext) -> None:
        """Request a checkpoint at the end of this loop because of a finding; one rank is enough."""
        self._is_asked = True

    def keep(self, monitor: StepMonitor) -> None:
        """Save the monitor's schedule and history in the checkpoints too."""
        self._monitor = monitor

    def __call__(self, ctx: OnlineRLContext) -> None:
        reason = getattr(ctx, 'stop_reason', '')
        is_due = self._frequency > 0 and ctx.train_iter - max(self._last_iteration, 0) >= self._frequency
        is_asked = any_rank(self._is_asked) or reason == 'finding'
        if is_asked:
            self._is_asked = False
            self.save(ctx, self.path.with_name(f'finding_{ctx.train_iter}.pth.tar'))
        if reason not in ('', 'finding') or (is_due and not is_asked):
            self._last_iteration = ctx.train_iter
            self.save(ctx, self.path)

    def save(self, ctx: OnlineRLContext, path: Path) -> None:
        """Save now; a collective."""
        self._policy.gather_private_parameters()
        states = gather_objects(random_states())
        shared_digests = gather_objects(digest(self._policy._learn_model.shared_parameters()))
        if rank() == 0:
            save_file(
                {
                    'policy': self._policy._state_dict_learn(),
                    'context': {name: getattr(ctx, name) for name in KEPT},
                    'random_states': states,
                    'shared_digests': shared_digests,  # one per rank; they must all be equal
                    'returns': self._returns.state_dict(),
                    'task_names': self._task_names,
                    'monitor': None if self._monitor is None else self._monitor.state_dict(),
                },
                path,
            )
        self.newest = path

    def resume(self, ctx: OnlineRLContext) -> None:
        """Load the newest checkpoint into the policy, the context, the returns and the generators; a collective.

        What was written into the event files after the checkpoint is hidden: it is trained, and measured, again.

        Raises:
            ConfigurationError: there is no checkpoint in the run's folder, or it was made with other tasks.
        """
        state = load_checkpoint(self.path)
        if state['task_names'] != self._task_names:
            raise ConfigurationError(
                f'--resume: {self.path} was made with the tasks {state["task_names"]}, not with {self._task_names}'
            )
        self._policy._load_state_dict_learn(state['policy'])
        for name, value in state['context'].items():
            setattr(ctx, name, value)
        self._returns.load_state_dict(state['returns'])
        if self._monitor is not None and state.get('monitor') is not None:
            self._monitor.load_state_dict(state['monitor'])
        if rank() == 0:
            # A run that was killed had gone on after its last checkpoint; that part is trained again.
            saved = (state.get('monitor') or {}).get('saved_ns')
            drop_records(self._folder, ctx.train_iter, None if saved is None else (saved / 1e9, time.time()))
        if rank() < len(state['random_states']):
            restore_random_states(state['random_states'][rank()])
        self._last_iteration = ctx.train_iter
