"""Figures that keep the value of the run's beginning."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ding_normmon.core.metric_names import task_in
from ding_normmon.diagnose.invariants.invariant import ExpectedInvariant
from ding_normmon.diagnose.rule import Sign
from ding_normmon.diagnose.window import Window

__all__ = ['InputChanges', 'KeepsValue', 'ModeChanges', 'OptimizerStepsChange']


@dataclass
class KeepsValue(ExpectedInvariant):
    """Base of the invariants of figures that do not change: one that has not in its first records is not to later."""

    name: ClassVar[str] = ''
    advice: ClassVar[str] = ''
    figures: ClassVar[str] = ''

    confirm: int = 2

    def __post_init__(self) -> None:
        self._usual: dict[str, tuple[float, int]] = {}
        self._expression = re.compile(self.figures)

    def sentence(self, name: str, now: float, usual: float) -> str:
        """Return what is wrong."""
        raise NotImplementedError

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign per figure."""
        for name, value in window.record.scalars.items():
            if not self._expression.fullmatch(name):
                continue
            usual, times = self._usual.setdefault(name, (value, 0))
            if value == usual:
                self._usual[name] = usual, times + 1
            elif times < self.settled:
                # It was not always the same, so nothing is expected of it.
                self._usual[name] = value, -(10**9)
            else:
                task_id = task_in(name)
                evidence = {name: value, 'before': usual}
                tasks = () if task_id is None else (task_id,)
                yield Sign(self.sentence(name, value, usual), tasks=tasks, group=name, evidence=evidence)


@dataclass
class ModeChanges(KeepsValue):
    """Normalisation and dropout change between training and evaluation, or the model's numbers change their width.

    Autocast that is lost shows as outputs of 32 bits where they had 16.
    """

    name: ClassVar[str] = 'mode_changes'
    advice: ClassVar[str] = (
        'Look for model.eval() without model.train() after an evaluation, and at the autocast block around the forward '
        'pass.'
    )
    reads: ClassVar[tuple[str, ...]] = ('mode/',)
    figures: ClassVar[str] = r'mode/(?:evaluating|input_bits|output_bits)'

    def sentence(self, name: str, now: float, usual: float) -> str:
        """Return what has changed."""
        if name == 'mode/evaluating':
            return (
                f'{now:g} dropout and normalisation modules are in evaluation mode while the model is trained; '
                f'before it was {usual:g}.'
            )
        what = 'inputs' if 'input' in name else 'outputs'
        return f"The model's {what} have {now:g} bits; before it was {usual:g}."


@dataclass
class InputChanges(KeepsValue):
    """The model's inputs have another shape than before, or the batches, of a task or of all, another size.

    A batch that is smaller once, as the last of an epoch, is none.
    """

    name: ClassVar[str] = 'input_changes'
    advice: ClassVar[str] = 'Look at what prepares observations for the model.'
    reads: ClassVar[tuple[str, ...]] = ('inputs/',)
    figures: ClassVar[str] = r'inputs/.+/features|inputs/batch_size|data/batch_size(?:_task\d+)?'

    settled: int = 20

    def sentence(self, name: str, now: float, usual: float) -> str:
        """Return what has changed."""
        if 'batch_size' in name:
            task_id = task_in(name)
            whose = 'A batch has' if task_id is None else f'The batch of task {task_id} has'
            return f'{whose} {now:g} samples; before it was {usual:g}.'
        which = name.removeprefix('inputs/').removesuffix('/features')
        return f'A sample of the input {which} has {now:g} numbers; before it was {usual:g}.'


@dataclass
class OptimizerStepsChange(KeepsValue):
    """Optimizers step more or less often in a learner step than they always did, or with a gradient of before.

    The second step with one gradient is a learner step without a backward pass; told where every one of the beginning
    had one.
    """

    name: ClassVar[str] = 'optimizer_steps_change'
    advice: ClassVar[str] = 'Look at what calls step(): twice in a learner step, or no longer of one optimizer.'
    reads: ClassVar[tuple[str, ...]] = ('step/optimizer_steps', 'loss/backward')
    figures: ClassVar[str] = r'step/optimizer_steps'

    settled: int = 20

    def sentence(self, name: str, now: float, usual: float) -> str:
        """Return what has changed."""
        return f'Optimizers step {now:g} times in a learner step; before it was {usual:g}.'

    def __post_init__(self) -> None:
        super().__post_init__()
        self._with_backward, self._without = 0, deque[bool](maxlen=4)

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign per figure, and one for steps without a backward pass."""
        yield from super().signs(window)
        has_one = 'loss/backward' in window.record.scalars
        if not has_one and self._with_backward < self.settled:
            self._with_backward = -(10**9)
        self._with_backward += has_one
        self._without.append(not has_one and self._with_backward >= self.settled)
        if sum(self._without) > 1:
            yield Sign(
                'Optimizers step again with the gradient of the step before: there was no backward pass in between.',
                group='loss/backward',
            )
