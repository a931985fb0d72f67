"""What all faults have in common."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from ding_normmon.unizero.run import MultiTaskRun
from ding_normmon.unizero.task_batch import TaskBatch

__all__ = ['HEADS', 'Batches', 'Fault']

Batches = list[TaskBatch]

HEADS = ('head_value', 'head_rewards', 'head_policy', 'head_observations')


class Fault:
    """Base of all faults: each breaks a run of its own accord, through its batches, its losses, its optimizer or its
    modules.

    Arguments:
        run: the run it breaks.
        tasks: global ids of the tasks at fault; all of them where shared parts are.
        strength: how strong it is, in the kind's own unit.

    Attributes:
        scopes: who can be at fault: one ``task``, ``all`` tasks or shared parts, or the tasks of one ``rank``.
        strengths: smallest and largest strength; drawn evenly on a logarithmic scale.
        passes: whether it may end again before the run does.
        breaks_invariant: whether it breaks something that must hold in every step, which takes no detector.
        multiplies: a figure that it multiplies; where that is 0 all the time, nothing has been broken.
    """

    scopes: ClassVar[tuple[str, ...]] = ('task',)
    strengths: ClassVar[tuple[float, float]] = (1.0, 1.0)
    passes: ClassVar[bool] = False
    breaks_invariant: ClassVar[bool] = False
    multiplies: ClassVar[str] = ''

    def __init__(self, run: MultiTaskRun, tasks: Sequence[int], strength: float) -> None:
        self.run, self.tasks, self.strength = run, tuple(tasks), strength
        self.policy: Any = run.policy
        self.world_model: Any = run.policy._learn_model.world_model
        self.optimizer: torch.optim.Optimizer = self.policy._optimizer_world_model
        self.random = np.random.default_rng(7 + sum(tasks))
        self.since = 0  # iterations since it began
        self.undo: list[Callable[[], object]] = []

    @classmethod
    def name(cls) -> str:
        """The kind's name, as in tables."""
        return re.sub(r'(?<!^)(?=[A-Z])', '_', cls.__name__).lower()

    @classmethod
    def is_kind(cls) -> bool:
        """Whether it is a kind and not a base of several."""
        return not cls.__name__.startswith('_')

    def begin(self) -> None:
        """Break something, once."""

    def end(self) -> None:
        """Undo what was broken once, as who follows the advice does."""
        while self.undo:
            self.undo.pop()()

    def alter(self, data: Batches) -> Batches:
        """Break the batches of one iteration from then on."""
        return data

    # --- batches ----------------------------------------------------------------------------------------------------

    def replaced(self, data: Batches, change: Callable[[list[Any], list[Any]], None]) -> Batches:
        """Return the batches; those of the tasks at fault are copies that ``change`` has altered in place."""
        changed: Batches = []
        for current, target, task in data:
            if task in self.tasks:
                now, wanted = [*current], [*target]
                now[0], wanted[:] = np.array(now[0]), [np.array(part) for part in wanted]
                change(now, wanted)
                current, target = now, wanted
            changed.append((current, target, task))
        return changed

    # --- losses -----------------------------------------------------------------------------------------------------

    def change_losses(self, change: Callable[[Any], None]) -> None:
        """Let ``change`` alter the world model's losses of the tasks at fault in place, from now on."""
        compute_loss = self.world_model.compute_loss

        def changed(*args: Any, **options: Any) -> Any:
            losses = compute_loss(*args, **options)
            if self.world_model.selection.task_id in self.tasks:
                change(losses)
            return losses

        self.world_model.compute_loss = changed
        self.undo.append(lambda: setattr(self.world_model, 'compute_loss', compute_loss))

    # --- gradients and optimizer ------------------------------------------------------------------------------------

    def after_backward(self, change: Callable[[], None]) -> None:
        """Call ``change`` when the gradients of a step are there, from now on."""
        backward = self.policy._backward

        def changed(losses: Any) -> None:
            backward(losses)
            change()

        self.policy._backward = changed
        self.undo.append(lambda: setattr(self.policy, '_backward', backward))

    def scale_option(self, key: str, factor: float, parameters: Iterable[nn.Parameter] | None = None) -> None:
        """Multiply an option of the optimizer, for all parameters or for some."""
        if parameters is None:
            for group in self.optimizer.param_groups:
                self.undo.append(functools.partial(group.__setitem__, key, group[key]))
                group[key] *= factor
            return
        chosen = {id(parameter) for parameter in parameters}
        for group in list(self.optimizer.param_groups):
            mine = [parameter for parameter in group['params'] if id(parameter) in chosen]
            group['params'] = [parameter for parameter in group['params'] if id(parameter) not in chosen]
            if mine:
                rest = {name: value for name, value in group.items() if name != 'params'}
                self.optimizer.add_param_group({**rest, key: rest[key] * factor, 'params': mine})

    # --- modules ----------------------------------------------------------------------------------------------------

    def head(self, which: str, task: int) -> nn.Module:
        """Return one head of a task."""
        head: nn.Module = getattr(self.world_model, which)[task]
        return head

    def last_linear(self, which: str, task: int) -> nn.Linear:
        """Return the layer of a head that makes its output."""
        return [layer for layer in self.head(which, task).modules() if isinstance(layer, nn.Linear)][-1]

    def heads(self, *which: str) -> list[nn.Parameter]:
        """Return the parameters of heads of the tasks at fault; of all heads where none is named."""
        return [
            parameter
            for task in self.tasks
            for name in which or HEADS
            for parameter in self.head(name, task).parameters()
        ]
