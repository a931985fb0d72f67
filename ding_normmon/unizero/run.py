"""Builds a multi-task run from its configuration: policy, environments, buffers and middleware."""

from __future__ import annotations

import os
import random
import re
import time
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from ding.framework.context import OnlineRLContext
from ding.utils import DistributedWriter
from easydict import EasyDict

from ding_normmon.core.terminal import terminal_width, wrapped
from ding_normmon.integrations.ding_engine.middleware import NormMonitor
from ding_normmon.unizero.console_log import ConsoleLog
from ding_normmon.unizero.environments import TaskEnvironment, make_environment
from ding_normmon.unizero.middleware import (
    FinishWhenAgreed,
    MultiTaskCheckpointer,
    MultiTaskCollector,
    MultiTaskEvaluator,
    MultiTaskLearner,
    MultiTaskPusher,
    Progress,
    ReturnTracker,
    ReturnWriter,
    StopAgreement,
)
from ding_normmon.unizero.middleware.stop import InterruptFlag
from ding_normmon.unizero.policy import UniZeroMultitaskPolicy
from ding_normmon.unizero.random_policy import random_returns
from ding_normmon.unizero.ranks import gather_by_task, rank
from ding_normmon.unizero.replay_buffer import TaskReplayBuffer
from ding_normmon.unizero.summary import print_report, print_summary

__all__ = ['INTERRUPTED', 'STOPPED_BY_FINDING', 'MultiTaskRun', 'prepare_folder']

INTERRUPTED = 130
"""The exit code of a run that was stopped by a signal, as in shells."""

STOPPED_BY_FINDING = 3
"""The exit code of a run that the monitor stopped because of a finding (``on_finding``)."""

EVALUATION_SEED = 1_000_000
"""Added to the seed of evaluation environments, so that none of them repeats a training environment's episodes."""


class MultiTaskRun:
    """The policy, environments, buffers and middleware of one rank, built from a complete configuration.

    A context manager: leaving it restores the signal handlers and closes the environments and the writer.

    Arguments:
        config: from :func:`~ding_normmon.unizero.run_config.complete_config`; its ``policy.task_ids`` are this rank's
            tasks, possibly none.
    """

    def __init__(self, config: EasyDict) -> None:
        self.config = config
        self.interrupt = InterruptFlag()
        if not torch.cuda.is_available():
            torch.set_num_threads(1)  # with more threads than cores, ranks stall each other
        seed_everything(config.seed)  # the same on all ranks, so that they build the same weights
        self.policy = UniZeroMultitaskPolicy(config.policy)
        seed_everything(config.seed + 1 + rank())  # different, so that ranks explore differently
        task_ids = list(self.policy.task_ids)
        self.buffers = {task_id: TaskReplayBuffer(self.policy.task_cfg(task_id)) for task_id in task_ids}
        names = list(config.tasks)
        self.return_tracker = ReturnTracker(names, config.log.return_window)
        self.return_writer = ReturnWriter(DistributedWriter.get_instance(), self.return_tracker.tasks)
        self.collector = MultiTaskCollector(
            self.policy,
            {task_id: self._environments(task_id, config.policy.collector_env_num, 0) for task_id in task_ids},
            config.collect.steps_per_environment,
            self.policy.collect_temperature,
            config.collect.epsilon,
        )
        self.pusher = MultiTaskPusher(self.buffers)
        self.learner = MultiTaskLearner(
            self.policy, self.buffers, config.policy.update_per_collect, config.max_train_iter
        )
        self.evaluator = MultiTaskEvaluator(
            self.policy,
            {
                task_id: self._environments(task_id, config.policy.evaluator_env_num, EVALUATION_SEED)
                for task_id in task_ids
            },
            config.evaluate.frequency,
            config.evaluate.episodes,
            config.max_train_iter,
        )
        self.checkpointer = MultiTaskCheckpointer(
            self.policy, config.exp_name, config.checkpoint.frequency, self.return_tracker, names
        )
        self.stop_agreement = StopAgreement(config.max_train_iter, config.max_minutes, lambda: bool(self.interrupt))
        self.show_progress = Progress(
            self.return_tracker,
            config.max_train_iter,
            config.log.progress_seconds,
            self.stop_agreement.seconds_left,
        )
        self.finish = FinishWhenAgreed()
        self._monitor: NormMonitor | None = None
        self._log = ConsoleLog()
        self._start = time.monotonic()

    def __enter__(self) -> MultiTaskRun:
        self.interrupt.install()
        if rank() == 0:
            self._log.install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.interrupt.uninstall()
        self.collector.close()
        self.evaluator.close()
        self.show_progress.close()
        self._log.uninstall()
        DistributedWriter.get_instance().close()

    def watch(self, monitor: NormMonitor) -> None:
        """Save the monitor's state in the checkpoints, and print its findings at the end."""
        self._monitor = monitor
        self.checkpointer.keep(monitor.monitor)

    def begin(self, ctx: OnlineRLContext) -> None:
        """Load the checkpoint if the configuration says so, else measure the random policy; a collective."""
        if self.config.resume:
            self.checkpointer.resume(ctx)
        else:
            self._measure_random_policy()
        self.show_progress.start(ctx)

    def end(self, ctx: OnlineRLContext) -> int:
        """Print the summary of the run on rank 0 and return the exit code."""
        self.show_progress.close()
        if self._monitor is not None:
            self._monitor.close()  # the last records may still be in flight and may hold findings
        reason = getattr(ctx, 'stop_reason', '')
        if rank() == 0:
            print_summary(
                self.return_tracker.tasks,
                iterations=ctx.train_iter,
                environment_steps=ctx.env_step,
                seconds=time.monotonic() - self._start,
                stop_reason=reason,
                folder=Path(self.config.exp_name),
                checkpoint=self.checkpointer.newest,
                diagnosis=None if self._monitor is None else self._monitor.monitor.diagnosis,
            )
            print_report(Path(self.config.exp_name))
        return {'interrupted': INTERRUPTED, 'finding': STOPPED_BY_FINDING}.get(reason, 0)

    def _environments(self, task_id: int, number: int, seed_offset: int) -> list[TaskEnvironment]:
        first = self.config.seed * 10_000 + task_id * 100 + seed_offset
        name = self.config.tasks[task_id]
        return [make_environment(name, first + i, **self.config.environment_options) for i in range(number)]

    def _measure_random_policy(self) -> None:
        options = self.config.random_policy
        local = {
            task_id: random_returns(
                make_environment(self.config.tasks[task_id], self.config.seed, **self.config.environment_options),
                options.episodes,
                options.seconds,
            )
            for task_id in self.policy.task_ids
        }
        for task_id, returns in gather_by_task(local).items():
            self.return_tracker.tasks[task_id].random = float(np.mean(returns)) if returns else None


def seed_everything(seed: int) -> None:
    """Seed Python's, numpy's and torch's generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def prepare_folder(config: EasyDict) -> Path | None:
    """Move an earlier run out of the run's folder, on rank 0, so that two runs never share one set of curves.

    Returns:
        the new folder of the earlier run; None if there was none or it is to be resumed.
    """
    folder = Path(config.exp_name)
    if config.resume or rank() != 0 or not folder.is_dir() or not any(folder.iterdir()):
        return None
    taken = [
        int(match.group(1))
        for path in folder.parent.glob(f'{folder.name}.*')
        if (match := re.fullmatch(re.escape(folder.name) + r'\.(\d+)', path.name))
    ]
    aside = folder.with_name(f'{folder.name}.{max(taken, default=0) + 1}')
    os.replace(folder, aside)
    moved = f'{folder} held an earlier run, which was moved to {aside}; --resume would have continued it'
    print(wrapped(moved, terminal_width(), hang='    '), flush=True)
    return aside
