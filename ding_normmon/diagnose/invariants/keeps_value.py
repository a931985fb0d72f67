"""Figures that keep the value of the run's beginning."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ding_normmon.core.metric_names import task_in
from ding_normmon.diagnose.invariants.invariant import ExpectedInvariant
from ding_normmon.diagnose.rule import Sign, Words
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

    def key(self, name: str) -> str:
        """Return the key of the sentence about a figure."""
        return 'changed'

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign per figure."""
        for name, value in window.matching(self.figures).items():
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
                values: dict[str, float | str] = {'now': value, 'usual': usual, 'what': name.split('/')[1]}
                yield Sign(self.key(name), tasks=tasks, group=name, evidence=evidence, values=values)


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
    words: ClassVar[Words] = {
        'en': {
            'evaluating': '{now:g} dropout and normalisation modules are in evaluation mode while the model is '
            'trained; before it was {usual:g}.',
            'input_bits': "The model's inputs have {now:g} bits; before it was {usual:g}.",
            'output_bits': "The model's outputs have {now:g} bits; before it was {usual:g}.",
        },
        'zh': {
            'evaluating': '训练时有 {now:g} 个 dropout 和归一化模块处于评估模式；此前为 {usual:g} 个。',
            'input_bits': '模型的输入为 {now:g} 位；此前为 {usual:g} 位。',
            'output_bits': '模型的输出为 {now:g} 位；此前为 {usual:g} 位。',
            'advice': '查看评估之后是否缺少 model.train()，以及前向传播外的 autocast 块。',
        },
    }
    reads: ClassVar[tuple[str, ...]] = ('mode/',)
    figures: ClassVar[str] = r'mode/(?:evaluating|input_bits|output_bits)'

    def key(self, name: str) -> str:
        """Return which part of the model's mode has changed."""
        return name.removeprefix('mode/')


@dataclass
class InputChanges(KeepsValue):
    """The model's inputs have another shape than before, or the batches, of a task or of all, another size.

    A batch that is smaller once, as the last of an epoch, is none.
    """

    name: ClassVar[str] = 'input_changes'
    advice: ClassVar[str] = 'Look at what prepares observations for the model.'
    words: ClassVar[Words] = {
        'en': {
            'task': '{task}: its batch has {now:g} samples; before it was {usual:g}.',
            'batch': 'A batch has {now:g} samples; before it was {usual:g}.',
            'sample': 'A sample of the input {what} has {now:g} numbers; before it was {usual:g}.',
        },
        'zh': {
            'task': '{task}：批次有 {now:g} 个样本；此前为 {usual:g} 个。',
            'batch': '批次有 {now:g} 个样本；此前为 {usual:g} 个。',
            'sample': '输入 {what} 的每个样本有 {now:g} 个数；此前为 {usual:g} 个。',
            'advice': '查看是什么在准备送入模型的观测。',
        },
    }
    reads: ClassVar[tuple[str, ...]] = ('inputs/', 'data/batch_size')
    figures: ClassVar[str] = r'inputs/.+/features|inputs/batch_size|data/batch_size(?:_task\d+)?'

    settled: int = 20

    def key(self, name: str) -> str:
        """Return whether it is the size of a batch or of one sample."""
        return 'sample' if name.endswith('/features') else 'batch' if task_in(name) is None else 'task'


@dataclass
class OptimizerStepsChange(KeepsValue):
    """Optimizers step more or less often in a learner step than they always did, or with a gradient of before.

    The second step with one gradient is a learner step without a backward pass; told where every one of the beginning
    had one.
    """

    name: ClassVar[str] = 'optimizer_steps_change'
    advice: ClassVar[str] = 'Look at what calls step(): twice in a learner step, or no longer of one optimizer.'
    words: ClassVar[Words] = {
        'en': {
            'changed': 'Optimizers step {now:g} times in a learner step; before it was {usual:g}.',
            'again': 'Optimizers step again with the gradient of the step before: no backward pass was in between.',
        },
        'zh': {
            'changed': '优化器在一个学习步中更新 {now:g} 次；此前为 {usual:g} 次。',
            'again': '优化器用上一步的梯度再次更新：其间没有反向传播。',
            'advice': '查看是谁在调用 step()：一个学习步中调用了两次，或某个优化器不再更新。',
        },
    }
    reads: ClassVar[tuple[str, ...]] = ('step/optimizer_steps', 'loss/backward')
    figures: ClassVar[str] = r'step/optimizer_steps'

    settled: int = 20

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
            yield Sign('again', group='loss/backward')
