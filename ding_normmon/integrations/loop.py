"""The monitor of a training loop of one's own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from ding_normmon.core.config import ConfigurationError, MonitorConfig
from ding_normmon.core.destination import Destination
from ding_normmon.core.finding import Finding
from ding_normmon.core.step import INERT, InertLearnerStep
from ding_normmon.integrations.black_box import box_beside
from ding_normmon.integrations.description import unseen_invariants
from ding_normmon.integrations.nothing_measured import NothingMeasured
from ding_normmon.integrations.observe.training_loop import TrainingLoop
from ding_normmon.metrics import Metric, TargetDistance
from ding_normmon.monitor.monitor import StepMonitor
from ding_normmon.ranks.transport import Transport
from ding_normmon.runs.black_box import BlackBoxFile

__all__ = ['Monitor']


def _box(destinations: Any, config: Any, transport: Transport | None) -> BlackBoxFile | None:
    # What cannot be is for the monitor itself to refuse.
    try:
        return box_beside(destinations, MonitorConfig.read(config), transport)
    except (ConfigurationError, TypeError):
        return None


class Monitor(StepMonitor):
    """Measures learner steps, those of a training loop too, and publishes one record per measured iteration.

    Arguments:
        model: the model that is being trained.
        config: an ``EasyDict`` or mapping, see :class:`~ding_normmon.core.config.MonitorConfig`.
        optimizer: the optimizer, several (a list, or by name), or what wraps one (``accelerate``, SAM):
            ``with Monitor(...)`` around a training loop then measures it. A learner step ends when every optimizer has
            stepped; a step that is skipped is no learner step.
        scaler: a gradient scaler of a class of one's own; torch's ``GradScaler`` is found when it steps an optimizer.
        target: the target network that follows the model, where there is one.
        first_iteration: the iteration of the loop's first learner step, where training is resumed without
            :meth:`load_state_dict`.
        num_tasks: number of tasks of the whole run; None where there are none.
        task_ids: global ids of the tasks this rank trains; all of them by default.
        task_names: what people call the tasks, by global id.
        destinations: where records go, on rank 0. Beside a :class:`~ding_normmon.runs.history_file.HistoryFile` among
            them every rank keeps its black box, so hand it over on every rank.
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
        optimizer: Any = None,
        scaler: Any = None,
        target: nn.Module | None = None,
        first_iteration: int = 0,
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
            black_box=_box(destinations, config, transport),
        )
        models = None if target is None else (model, target)
        for metric in self.metrics:
            if isinstance(metric, TargetDistance):
                metric.follow(lambda: models)
        self._running = contextlib.ExitStack()
        self._loop = TrainingLoop(self, optimizer, scaler) if optimizer is not None and self.frequency > 0 else None
        self._nothing = NothingMeasured(self, None)
        if self._loop is not None:
            self._loop.resume(first_iteration)
            self._nothing.cause = 'the monitor was never entered: write "with monitor:" around the training loop'
        elif self.frequency > 0:
            self._nothing.cause = (
                'it was given no optimizer=, by whose steps it sees learner steps: pass optimizer=, or say yourself '
                'where a learner step is (with monitor.step(iteration): ...)'
            )

    @property
    def learner_step(self) -> InertLearnerStep:
        """The learner step that is being measured; the inert one where none is."""
        return INERT if self._loop is None else self._loop.learner_step

    def describe(self) -> str:
        """Return what is measured of the loop, and which invariants nothing shows so far.

        Example:
            >>> import torch
            >>> model = nn.Linear(2, 1)
            >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            >>> with Monitor(model, {'monitor_norm_freq': 1}, optimizer=optimizer) as monitor:
            ...     model(torch.ones(1, 2)).sum().backward()
            ...     optimizer.step()
            >>> 'not available: invariants whose figures are missing' in monitor.describe()
            True
        """
        optimizers = 'none' if self._loop is None else ', '.join(self._loop.optimizers)
        groups = ', '.join(group.key for group in self.groups)
        lines = [f'model {type(self.model).__name__}', f'groups: {groups}', f'optimizers: {optimizers}']
        return '\n'.join([*lines, *(f'not available: {remark}' for remark in unseen_invariants(self))])

    def begin(self, iteration: int) -> None:
        """Say that the learner step of ``iteration`` begins here, for loops of which that cannot be seen from outside.

        Called at the top of the loop, in every round. From then on nothing else begins a learner step, whatever the
        optimizers do; of one that steps several times before the next call, the first step is measured.

        Raises:
            RuntimeError: outside of ``with monitor:``.

        Example:
            >>> import torch
            >>> model = nn.ModuleDict({'actor': nn.Linear(2, 1), 'critic': nn.Linear(2, 1)})
            >>> optimizers = {name: torch.optim.SGD(part.parameters(), lr=0.1) for name, part in model.items()}
            >>> with Monitor(model, {'monitor_norm_freq': 1}, optimizer=optimizers) as monitor:
            ...     for iteration in range(4):
            ...         monitor.begin(iteration)
            ...         for name in ('critic', 'actor') if iteration % 2 else ('critic',):
            ...             model[name](torch.ones(1, 2)).sum().backward()
            ...             optimizers[name].step()
            >>> [record.iteration for record in monitor.take_records()]
            [0, 1, 2, 3]
        """
        if self.frequency == 0:
            return
        if self._loop is None or not self._loop.is_running:
            raise RuntimeError('monitor: begin() is for the loop inside of "with Monitor(model, cfg, optimizer=...):"')
        self._loop.begin(iteration)

    def end_step(self, step: InertLearnerStep, raised: bool = False) -> None:
        """Finish a step, see :class:`~ding_normmon.monitor.monitor.StepMonitor`."""
        self._nothing.cause = None
        super().end_step(step, raised)

    def state_dict(self) -> dict[str, int]:
        """Return what a checkpoint keeps; of a training loop also at which iteration it goes on."""
        state = super().state_dict()
        return state if self._loop is None else {**state, 'next_iteration': self._loop.next_iteration}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on where a checkpoint was made, before or at the beginning of the ``with`` block."""
        super().load_state_dict(state)
        if self._loop is not None and 'next_iteration' in state:
            self._loop.resume(int(state['next_iteration']))

    def __enter__(self) -> Monitor:
        """Begin to measure the training loop of ``optimizer``.

        Raises:
            ConfigurationError: the monitor was closed, as it is at the end of a ``with`` block.
        """
        if self._closed and self.frequency > 0:
            raise ConfigurationError(
                'monitor: it was closed at the end of its "with" block and measures nothing more; put one block around '
                'all epochs, or make a new Monitor'
            )
        if self._loop is not None:
            self._running.enter_context(self._loop.running())
            names = ', '.join(f'{name} ({type(entry).__name__})' for name, entry in self._loop.optimizers.items())
            self._nothing.cause = (
                f'no step() of {names} was seen in the "with" block: another optimizer moves the weights, or they are '
                f'moved without its step(), and then monitor.step(iteration) says where a learner step is'
            )
        return self

    def __exit__(self, *exception: object) -> None:
        """Take the hooks off the optimizer and close."""
        self._running.close()
        error = exception[1] if len(exception) > 1 else None
        if isinstance(error, Exception):
            self.note_exception(error)
        if any(part is not None for part in exception):
            # Whoever sees an exception knows why.
            self._nothing.cause = None
        self.close()

    def close(self) -> None:
        """Publish what is under way, for at most ``close_timeout`` seconds, and close the destinations."""
        super().close()
        if self._loop is not None and self._loop.steps_seen:
            self._nothing.cause = None
        self._nothing.say()
