"""The monitor of a training loop of one's own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from ding_normmon.core.config import MonitorConfig
from ding_normmon.core.destination import Destination
from ding_normmon.core.finding import Finding
from ding_normmon.core.step import INERT, InertLearnerStep
from ding_normmon.integrations.observe.training_loop import TrainingLoop
from ding_normmon.metrics import Metric
from ding_normmon.monitor.monitor import StepMonitor
from ding_normmon.ranks.transport import Transport

__all__ = ['Monitor']


class Monitor(StepMonitor):
    """Measures learner steps, those of a training loop too, and publishes one record per measured iteration.

    Arguments:
        model: the model that is being trained.
        config: an ``EasyDict`` or mapping, see :class:`~ding_normmon.core.config.MonitorConfig`.
        optimizer: the optimizer, or several of which the last one ends a learner step: ``with Monitor(...)`` around a
            training loop then measures it, iterations being counted by that optimizer's steps.
        scaler: the ``GradScaler`` of that loop, where there is one.
        num_tasks: number of tasks of the whole run; None where there are none.
        task_ids: global ids of the tasks this rank trains; all of them by default.
        task_names: what people call the tasks, by global id.
        destinations: where records go, on rank 0.
        metrics: what is measured; by default those of ``preset``, see :mod:`ding_normmon.metrics`.
        rules: further rules that judge records, the same on every rank; see :mod:`ding_normmon.diagnose`.
        callback: called on rank 0, in a background thread, with every finding: raised, and again when it cleared.
        transport: the connection to the other ranks; by default ``torch.distributed``'s rendezvous store.

    Attributes:
        learner_step: the learner step that is being measured in such a loop, for whoever wants to publish into it.

    Raises:
        ConfigurationError: a key, value or argument that cannot be.
        GroupError: a configured group that names no module.

    Example:
        Nothing in the loop is changed:

        >>> import torch
        >>> model = nn.Linear(2, 1, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[3., 4.]]))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with Monitor(model, {'monitor_norm_freq': 2}, optimizer=optimizer) as monitor:
        ...     for _ in range(5):
        ...         optimizer.zero_grad()
        ...         model(torch.ones(1, 2)).sum().backward()
        ...         _ = nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        ...         optimizer.step()
        >>> for record in monitor.take_records():
        ...     figures = record.scalars
        ...     print(record.iteration, *(round(figures[name], 3) for name in
        ...         ('norm/model/_total_norm', 'grad/model/_total_norm', 'clip/model/coefficient')))
        0 5.0 1.414 0.354
        2 4.901 1.414 0.354
        4 4.802 1.414 0.354
    """

    def __init__(
        self,
        model: nn.Module,
        config: Mapping[str, Any] | MonitorConfig | None = None,
        *,
        optimizer: Optimizer | Sequence[Optimizer] | Mapping[str, Optimizer] | None = None,
        scaler: Any = None,
        num_tasks: int | None = None,
        task_ids: Sequence[int] | None = None,
        task_names: Sequence[str] = (),
        destinations: Sequence[Destination] = (),
        metrics: Sequence[Metric] | None = None,
        rules: Sequence[Any] = (),
        callback: Callable[[Finding], object] | None = None,
        transport: Transport | None = None,
    ) -> None:
        super().__init__(
            model,
            config,
            num_tasks=num_tasks,
            task_ids=task_ids,
            task_names=task_names,
            destinations=destinations,
            metrics=metrics,
            rules=rules,
            callback=callback,
            transport=transport,
        )
        self.learner_step: InertLearnerStep = INERT
        self._running = contextlib.ExitStack()
        self._loop = TrainingLoop(self, optimizer, scaler) if optimizer is not None and self.frequency > 0 else None

    def __enter__(self) -> Monitor:
        """Begin to measure the training loop of ``optimizer``."""
        if self._loop is not None:
            self._running.enter_context(self._loop.running())
        return self

    def __exit__(self, *_: object) -> None:
        """Take the hooks off the optimizer and close."""
        self._running.close()
        self.close()
