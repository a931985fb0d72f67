"""``NormMonitor``: the monitor as a middleware of DI-engine's task pipeline."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ding.framework import task
from torch import nn

from ding_normmon.core.config import ConfigurationError, MonitorConfig
from ding_normmon.core.destination import Destination
from ding_normmon.core.finding import Finding
from ding_normmon.core.record import Record
from ding_normmon.destinations.prefixed import Prefixed, with_prefix
from ding_normmon.integrations.attach import Attachment
from ding_normmon.integrations.black_box import box_in
from ding_normmon.integrations.ding_engine.collected import collection_of, note_context
from ding_normmon.integrations.ding_engine.finding_checkpoint import FindingCheckpoint
from ding_normmon.integrations.ding_engine.policies_of_task import PoliciesOfTask
from ding_normmon.integrations.ding_engine.run_history import folder_of_run, history_beside
from ding_normmon.integrations.ding_engine.writer import DIEngineWriter
from ding_normmon.metrics import Metric
from ding_normmon.monitor.monitor import StepMonitor
from ding_normmon.ranks.decisions.decision import Decision
from ding_normmon.ranks.setup_agreement import refusals_told
from ding_normmon.ranks.transport import LocalTransport
from ding_normmon.runs.history_file import HistoryFile

__all__ = ['NormMonitor']

_OFF = MonitorConfig(monitor_norm_freq=0)


class NormMonitor:
    """Measures the learner steps of a policy; stands before the trainer in ``task.use(...)``.

    The step itself is measured inside ``policy._forward_learn`` (see :func:`~ding_normmon.attach`); the middleware
    hands the context to the monitor and puts finished records on ``ctx.monitor_records``. Construct it before
    ``policy.learn_mode`` is taken, because that view keeps the methods it was made of.

    Arguments:
        cfg: an ``EasyDict``, see :class:`~ding_normmon.core.config.MonitorConfig`; ``monitor_norm_freq`` alone is
            enough, and 0 turns everything off.
        policy: a policy that publishes through ``self.learner_step``, or any other that is seen from outside.
        destinations: where records go, on rank 0; by default DI-engine's writer, and the history file beside its own.
        metrics: what is measured; by default those of ``preset``, see :mod:`ding_normmon.metrics`.
        rules: further rules that judge records, the same on every rank; see :mod:`ding_normmon.diagnose`.
        callback: called on rank 0, in a background thread, with every finding: raised, and again when it cleared.
        stop: called with the context on every rank, before the same learner step, where ``on_finding`` says
            ``'stop'``; by default the task is finished.
        checkpoint: the same for ``'checkpoint'``; by default rank 0 saves ``policy.learn_mode.state_dict()``, see
            :class:`~ding_normmon.integrations.ding_engine.finding_checkpoint.FindingCheckpoint`. DI-engine's
            ``CkptSaver`` may stand here.
        name: of the policy, where several are trained in one task, such as ``'opponent'``: names begin with it
            (``opponent/grad/model/_total_norm``), and its history file is in a folder of that name. Each policy has its
            own iterations.
        task_names: names of tasks by global id; the policy's own and those in ``cfg`` count more.

    Attributes:
        records: those that it has put on the context last; of several monitors each replaces ``ctx.monitor_records``.
        monitor: the monitor; one that is switched off on processes of another role than the learner's.

    Raises:
        ConfigurationError: see :class:`~ding_normmon.monitor.monitor.Monitor`; also an asynchronous task.
        TypeError: an object that is no policy, such as ``policy.learn_mode``.

    Example:
        In a pipeline it is ``task.use(NormMonitor(cfg.policy.monitor, policy))``, before the trainer. By hand:

        >>> import torch
        >>> from types import SimpleNamespace
        >>> class Policy:
        ...     def __init__(self):
        ...         self._learn_model = torch.nn.Linear(2, 1)
        ...         self._optimizer = torch.optim.SGD(self._learn_model.parameters(), lr=0.1)
        ...     def _forward_learn(self, data):
        ...         loss = self._learn_model(data).mean()
        ...         self._optimizer.zero_grad()
        ...         loss.backward()
        ...         self._optimizer.step()
        >>> policy, context = Policy(), SimpleNamespace(train_iter=0)
        >>> monitor = NormMonitor({'monitor_norm_freq': 1}, policy, destinations=[])
        >>> for context.train_iter in range(2):
        ...     _ = monitor(context)
        ...     policy._forward_learn(torch.ones(3, 2))
        >>> monitor.close()
        >>> [record.iteration for record in monitor.monitor.take_records()]
        [0, 1]
    """

    def __init__(
        self,
        cfg: Mapping[str, Any] | MonitorConfig | None,
        policy: Any,
        destinations: Sequence[Destination] | None = None,
        *,
        metrics: Sequence[Metric] | None = None,
        rules: Sequence[Any] = (),
        callback: Callable[[Finding], object] | None = None,
        stop: Callable[[Any], object] | None = None,
        checkpoint: Callable[[Any], object] | None = None,
        name: str = '',
        task_names: Mapping[int, str] | None = None,
    ) -> None:
        self._context: Any = None
        self._name = name
        self._train_iter: int | None = None
        self.records: list[Record] = []
        self._running: Any = None
        self._destinations: list[Destination] = [DIEngineWriter()] if destinations is None else list(destinations)
        self._attachment: Attachment | None = None
        with refusals_told():
            self._refuse_async()
            if not isinstance(name, str) or not re.fullmatch(r'[A-Za-z0-9_.-]*', name):
                raise ConfigurationError(f'monitor: {name!r} cannot be a name; use letters, digits, _, . and - only')
            black_box = None
            if destinations is None and not _is_other_role():
                config = MonitorConfig.read(cfg)
                black_box = box_in(folder_of_run(name=self._current_name), config)
                if config.history:
                    self._destinations.append(history_beside(name=self._current_name))
        if _is_other_role():
            self.monitor = StepMonitor(nn.Module(), _OFF, transport=LocalTransport())
        else:
            # Even if it is switched off, because the other ranks must know.
            self._attachment = Attachment(
                policy,
                cfg,
                destinations=[
                    # The history file is in a folder of its own.
                    entry if isinstance(entry, HistoryFile) else Prefixed(entry, self._current_name)
                    for entry in self._destinations
                ],
                iteration=self._iteration,
                metrics=metrics,
                rules=rules,
                callback=callback,
                task_names=task_names,
                black_box=black_box,
            )
            self.monitor = self._attachment.monitor
        self._active = self.monitor.frequency > 0
        self._collection = collection_of(self.monitor)
        self._stop: Callable[[Any], object] | None = stop or _finish_task
        self._checkpoint: Callable[[Any], object] | None = checkpoint or FindingCheckpoint(policy)
        for action in ('stop', 'checkpoint'):
            self.monitor.control.on(action, _Act(self))

    def __call__(self, ctx: Any) -> None:
        """Take the context; put the records that became complete since the last loop on ``ctx.monitor_records``.

        On rank 0 ``ctx.findings`` are the findings that lasted at the last of them.
        """
        if self._running is None and (self._active or _is_other_role()):
            self._refuse_async()
            self._close_with_task()
            for destination in self._destinations:
                if isinstance(destination, DIEngineWriter):
                    destination.open()
        if not self._active:
            ctx.monitor_records, ctx.findings = [], []
            return
        self._context = ctx
        if self._collection is not None:
            note_context(self._collection, ctx)
        policies = PoliciesOfTask.of(ctx)
        self._name = policies.name_of(self, self._name)
        if policies.count == 1:
            self._say_if_nothing_is_seen(int(ctx.train_iter))
        self.records = [with_prefix(record, self._name) for record in self.monitor.take_records()]
        ctx.monitor_records = self.records
        ctx.findings = list(self.monitor.diagnosis.active)

    @property
    def attachment(self) -> Attachment | None:
        """The attachment; None on processes of another role than the learner's."""
        return self._attachment

    def describe(self) -> str:
        """Return what was found on the policy, as a table."""
        if self._attachment is None or not self._active:
            return 'monitor: switched off'
        return self._attachment.describe()

    def close(self) -> None:
        """Take everything off the policy, publish what is under way, at most ``close_timeout`` seconds long."""
        if self._attachment is None:
            # Of another role: what the learner sent lies with DI-engine's writer, if this process has the event file.
            for destination in self._destinations:
                destination.close()
            return
        if self._active:
            self._active = False
            self._attachment.detach()
            if self._context is not None:
                PoliciesOfTask.of(self._context).release(self)
            self._context = self._stop = self._checkpoint = None

    def act(self, action: str) -> None:
        """Stop or write a checkpoint, at the point where all ranks have agreed to do so."""
        function = self._stop if action == 'stop' else self._checkpoint
        if function is not None and self._context is not None:
            # The finding that asked for it may be newer than this step's beginning.
            self._context.findings = list(self.monitor.diagnosis.active)
            function(self._context)

    def _iteration(self) -> int:
        if self._context is None:
            raise RuntimeError(
                'monitor: a learner step began before the middleware had seen a context; '
                'task.use(NormMonitor(...)) must stand before the trainer'
            )
        return PoliciesOfTask.of(self._context).iteration_of(self, int(self._context.train_iter))

    def _current_name(self) -> str:
        return self._name

    def _say_if_nothing_is_seen(self, train_iter: int) -> None:
        first, self._train_iter = self._train_iter, train_iter
        if first is not None and train_iter > first and self._attachment is not None:
            self._attachment.say_if_never_called(f'ctx.train_iter went from {first} to {train_iter}')

    # -- DI-engine's task ------------------------------------------------------------------------------------------

    @staticmethod
    def _refuse_async() -> None:
        # DI-engine's one task object keeps the flag of a task that has ended.
        if getattr(task, '_running', False) and task.async_mode:
            raise ConfigurationError(
                'monitor: async_mode=True runs middleware out of order, so no step could be given its iteration; '
                'start the task with async_mode=False'
            )

    def _close_with_task(self) -> None:
        """Close when the task ends, whether by itself, by Ctrl-C or by an exception: ``stop`` is called in each."""
        self._running = task
        stop = task.stop

        def stop_and_close() -> None:
            task.__dict__.pop('stop', None)
            try:
                self.close()
            finally:
                stop()

        task.stop = stop_and_close


class _Act:
    """Hands a decision on to a middleware that it does not keep alive, nor with it the policy."""

    def __init__(self, middleware: NormMonitor) -> None:
        self._middleware = weakref.ref(middleware)

    def __call__(self, decision: Decision) -> None:
        middleware = self._middleware()
        if middleware is not None:
            middleware.act(str(decision.action))


def _finish_task(ctx: Any) -> None:
    task.finish = True


def _is_other_role() -> bool:
    return bool(getattr(task, 'router', None) and task.router.is_active and not task.has_role(task.role.LEARNER))
