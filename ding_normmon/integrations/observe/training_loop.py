"""The monitor around a training loop of one's own: learner steps are told by the steps of the optimizers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer

from ding_normmon.core.config import ConfigurationError
from ding_normmon.core.step import INERT, InertLearnerStep
from ding_normmon.integrations.observe.clip_calls import modules_of
from ding_normmon.integrations.observe.hook_points import HookPoints
from ding_normmon.integrations.observe.observed_steps import ObservedSteps
from ding_normmon.metrics import Clipping

if TYPE_CHECKING:
    from ding_normmon.integrations.loop import Monitor

__all__ = ['TrainingLoop']


class TrainingLoop:
    """What ``with Monitor(model, config, optimizer=...)`` enters.

    A learner step ends with the step of the (last) optimizer and the next one begins there, so anything published
    before belongs to it. Clip calls through ``torch.nn.utils`` are seen, and so is ``GradScaler``, if it is named.

    Arguments:
        monitor: who measures.
        optimizers: one, several (a step ends with the last one), or by name.
        scaler: the gradient scaler, where there is one.

    Raises:
        ConfigurationError: optimizers none of which holds a parameter of the model.
    """

    def __init__(
        self,
        monitor: Monitor,
        optimizers: Optimizer | Sequence[Optimizer] | Mapping[str, Optimizer],
        scaler: Any = None,
    ) -> None:
        if isinstance(optimizers, Optimizer):
            named = {'optimizer': optimizers}
        elif isinstance(optimizers, Mapping):
            named = dict(optimizers)
        elif not isinstance(optimizers, Iterable):
            raise ConfigurationError(f'monitor: expected an optimizer, or several; got {optimizers!r}')
        else:
            named = {f'optimizer_{index}': optimizer for index, optimizer in enumerate(optimizers)}
        for name, optimizer in named.items():
            if not isinstance(optimizer, Optimizer):
                raise ConfigurationError(f'monitor: {name} is no optimizer: {optimizer!r}')
        clippings = [metric for metric in monitor.metrics if isinstance(metric, Clipping)]
        self._monitor = monitor
        self._points = HookPoints(
            monitor.model,
            lambda: monitor.groups,
            optimizers=lambda: named,
            modules=lambda optimizers: modules_of(*optimizers),
            scalers=lambda: [] if scaler is None else [scaler],
            clipping=clippings[0] if clippings else None,
        )
        holders = self._points.holders()
        if not holders:
            raise ConfigurationError('monitor: none of the optimizers holds a parameter of the model')
        self._steps = ObservedSteps(monitor, self._points, self._observe, last_optimizer=holders[-1].name, several=True)

    @contextlib.contextmanager
    def _observe(self, step: InertLearnerStep) -> Iterator[None]:
        self._monitor.learner_step = step
        try:
            yield
        finally:
            self._monitor.learner_step = INERT

    @contextlib.contextmanager
    def running(self, first_iteration: int = 0) -> Iterator[None]:
        """Measure the learner steps that are due while the block runs; the first one has this iteration."""
        with self._steps.block(first_iteration, self._monitor.begin_step(first_iteration)):
            yield
