"""Figures that have left their past: one rule per stage of the learner step, all of them by the same test."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ding_normmon.core.figure import Stage
from ding_normmon.core.finding import Severity
from ding_normmon.diagnose.departure import Departure
from ding_normmon.diagnose.departures import SPACING
from ding_normmon.diagnose.rule import Words
from ding_normmon.diagnose.rules.departed import Departed, words_of
from ding_normmon.diagnose.window import Window

__all__ = [
    'DEPARTED',
    'DataJump',
    'GradientJump',
    'LossJump',
    'OutputJump',
    'RepresentationJump',
    'TargetJump',
    'UpdateJump',
    'WeightJump',
]

_OBVIOUS = 2.0
"""A strength that needs no second look."""

_ANOTHER, _MOST_OTHERS = 0.1, 1.5
"""What each further part adds to the strength of the strongest, and the most that all of them do."""

_NOTHING = 1e-3
"""A value is nothing below so much of what it becomes."""

_FIRST_REWARD = 4
"""Records in which a first reward is seen if there is one."""

_COEFFICIENT, _CLIPPED = 'clip/model/coefficient', 'grad/model/_total_norm'
_ABOUT, _NEW, _OLD = 2.0, 3, 5
"""A coefficient falls with the gradient if this has grown about as much, in the newest points beside those before."""

_OF_A_SUM = 6
"""Points that a sum of losses must be away."""

_RARE = 0.25
"""Standard deviation over largest value of rewards that most steps are without: they are not noise."""

_RETURNS = 5.0
"""A value may soon be so many times the largest reward."""


def _is_from_nothing(departure: Departure) -> bool:
    return abs(departure.past) < _NOTHING * abs(departure.level)


@dataclass
class DataJump(Departed):
    """Rewards, observations or the sizes of batches are not what they were."""

    name: ClassVar[str] = 'data_jump'
    advice: ClassVar[str] = (
        'Look at what has changed between the environment and the batch: reward wrapper, scale of observations, '
        'replay buffer, padding.'
    )
    words: ClassVar[Words] = words_of(
        '{part}', ' {part} ', '查看从环境到批次之间的变化：奖励包装器、观测的缩放、回放缓冲区、填充掩码。'
    )
    reads: ClassVar[tuple[str, ...]] = ('data/', 'inputs/')
    stage: ClassVar[Stage] = 'data'
    fewest: ClassVar[int] = 1

    points: int = 2

    def points_for(self, departure: Departure, gap: int) -> int:
        """Batches of few frames differ; rewards of another size do not come and go."""
        is_plain = departure.figure.unit == 'reward' or departure.strength >= _OBVIOUS
        return self.points if is_plain else self.points + 1

    def severity_of(self, departure: Departure, its: list[Departure], window: Window) -> Severity | None:
        """That a task gets rewards is what it is trained for: the first ones, which are rare, are information."""
        signal, scalars = departure.name.rpartition('/')[0], window.record.scalars
        is_reward = departure.figure.unit == 'reward' and _is_from_nothing(departure)
        is_rare = scalars.get(f'{signal}/std', 0.0) < _RARE * scalars.get(f'{signal}/abs_max', math.inf)
        return 'info' if is_reward and is_rare and window.has_first_rewards(departure) else None


@dataclass
class TargetJump(Departed):
    """What the model is to predict is not what it was: values, or the entropy of policies."""

    name: ClassVar[str] = 'target_jump'
    advice: ClassVar[str] = (
        'Look at how targets are made: bootstrap values and their network, discount, search and its temperature; and '
        'at whether the support is wide enough.'
    )
    words: ClassVar[Words] = words_of(
        '{part}', ' {part} ', '查看目标是如何计算的：自举值及其网络、折扣因子、搜索及其温度；并确认支持集足够宽。'
    )
    reads: ClassVar[tuple[str, ...]] = ('data/value_target', 'noreduce_target_policy_entropy')
    stage: ClassVar[Stage] = 'target'
    fewest: ClassVar[int] = 1

    points: int = 2

    def points_for(self, departure: Departure, gap: int) -> int:
        """Values come out of nothing a little before the first reward is seen in a batch."""
        if not _is_from_nothing(departure) or departure.figure.unit != 'reward':
            return self.points
        return self.points + math.ceil(_FIRST_REWARD * min(gap, SPACING) / SPACING)

    def severity_of(self, departure: Departure, its: list[Departure], window: Window) -> Severity | None:
        """Values of many times the largest reward are not learnt from the first ones."""
        limit = _RETURNS * window.largest_reward(departure.task)
        if any(each.figure.unit == 'reward' and abs(each.level) > limit for each in its):
            return None
        return super().severity_of(departure, its, window)


@dataclass
class LossJump(Departed):
    """A loss is far above what it was, and stays there."""

    name: ClassVar[str] = 'loss_jump'
    advice: ClassVar[str] = (
        'Look at targets and rewards (scale, noise, sign), at the data, and at the sign and weight of the losses.'
    )
    words: ClassVar[Words] = words_of(
        '{part}', ' {part} ', '查看目标和奖励（尺度、噪声、符号）、数据，以及各项损失的符号和权重。'
    )
    reads: ClassVar[tuple[str, ...]] = ('noreduce_', 'loss/')
    stage: ClassVar[Stage] = 'loss'

    points: int = 3

    def fewest_for(self, departure: Departure) -> int:
        """A sum waits for what tells which of its parts it is, such as `loss_weights`."""
        return _OF_A_SUM if departure.family.startswith('loss/') else self.fewest


@dataclass
class OutputJump(Departed):
    """Logits, embeddings, tokens or entropies have another size than before."""

    name: ClassVar[str] = 'output_jump'
    advice: ClassVar[str] = (
        'If nothing was loaded or reset: look at the targets of this head and at its learning rate; for a policy that '
        'has become certain, scale its temperature or add an entropy bonus; for values, widen the support.'
    )
    words: ClassVar[Words] = words_of(
        '{part}',
        ' {part} ',
        '如果没有加载或重置过权重：查看该输出头的目标和学习率；策略过于确定时，调整温度或加入熵奖励；对于价值，放宽支持集。',
    )
    reads: ClassVar[tuple[str, ...]] = ('logits/', 'embeddings/', 'norm/x_token', 'outputs/')
    stage: ClassVar[Stage] = 'output'

    def severity_of(self, departure: Departure, its: list[Departure], window: Window) -> Severity | None:
        """Logits and values that grow little by little are information: they do where something is learnt."""
        is_learning = abs(departure.level) > abs(departure.past) and not departure.is_sudden
        return 'info' if is_learning else super().severity_of(departure, its, window)


@dataclass
class RepresentationJump(Departed):
    """The effective rank of the representation, or its share of dormant units, is not what it was in this run."""

    name: ClassVar[str] = 'representation_jump'
    advice: ClassVar[str] = (
        'Look at what happened to the encoder in the iteration named, and where it is one task, at its observations; '
        'lower the learning rate, reset dormant units (ReDo), or go back to a checkpoint from before.'
    )
    words: ClassVar[Words] = words_of(
        '{part}',
        ' {part} ',
        '查看编码器在所指迭代发生了什么；若只涉及一个任务，查看它的观测；降低学习率、重置休眠单元（ReDo），或回到之前的检查点。',
    )
    reads: ClassVar[tuple[str, ...]] = ('plasticity/',)
    stage: ClassVar[Stage] = 'representation'

    points: int = 3


@dataclass
class GradientJump(Departed):
    """Gradient norms, before clipping, are not what they were: of a task's heads, or of shared parts."""

    name: ClassVar[str] = 'gradient_jump'
    advice: ClassVar[str] = (
        'Look at what has changed on the way from the loss to the gradient: loss weights, the sum or mean over the '
        'batch, detached or frozen parts. Adam and AdamW cancel a constant factor after some steps; the share of a '
        'task in shared parts stays wrong.'
    )
    words: ClassVar[Words] = words_of(
        'the gradient norm of {part}',
        ' {part} 的梯度范数',
        '查看从损失到梯度之间的变化：损失权重、批次上的求和或平均、被分离或冻结的部分。'
        'Adam 和 AdamW 会在若干步后抵消常数倍数，但任务在共享部分中的占比仍是错的。',
    )
    reads: ClassVar[tuple[str, ...]] = ('grad/', 'grad_local/')
    stage: ClassVar[Stage] = 'gradient'

    def severity_of(self, departure: Departure, its: list[Departure], window: Window) -> Severity | None:
        """Gradients that grow in some shared parts, or change little by little, are information.

        What goes wrong behind the loss is seen at once, and in most shared parts.
        """
        if departure.shift < 0 and not departure.is_sudden:
            return 'info'
        is_shared = departure.task is None and departure.shift > 0
        is_learning = is_shared and (not departure.is_sudden or window.departures.share_departed(departure) < 0.5)
        return 'info' if is_learning else super().severity_of(departure, its, window)

    def weighed(self, strength: float, departures: list[Departure]) -> float:
        """The gradient of what has been learnt falls too, that of one head and not of all."""
        only_one = len({departure.family for departure in departures}) == 1
        return 0.4 * strength if only_one and departures[0].task is not None and departures[0].shift < 0 else strength


@dataclass
class UpdateJump(Departed):
    """Steps, relative to the weights and for the learning rate that is set, are not what they were."""

    name: ClassVar[str] = 'update_jump'
    advice: ClassVar[str] = (
        'Look at the optimizer: options of single parameter groups, its epsilon and moments, parameters that it no '
        'longer holds, and the clip limit.'
    )
    words: ClassVar[Words] = words_of(
        'the step of {part} for its learning rate',
        ' {part} 相对学习率的步长',
        '查看优化器：单个参数组的选项、epsilon 和动量、不再被持有的参数，以及裁剪阈值。',
    )
    reads: ClassVar[tuple[str, ...]] = ('update/', 'clip/')
    stage: ClassVar[Stage] = 'update'

    def weighed(self, strength: float, departures: list[Departure]) -> float:
        """What happens to the optimizer is seen in many parts at once."""
        parts = {each.family for each in departures if each.is_sudden and each.shift * departures[0].shift > 0}
        return strength * min(1 + _ANOTHER * (len(parts) - 1), _MOST_OTHERS) if parts else strength

    def severity_of(self, departure: Departure, its: list[Departure], window: Window) -> Severity | None:
        """Steps that grow little by little are information; so is a clip coefficient that falls as gradients grow."""
        is_information = departure.shift > 0 and not departure.is_sudden
        if departure.family == _COEFFICIENT and departure.shift < 0:
            is_information = _growth(window, _CLIPPED) > departure.past / max(departure.level, 1e-30) / _ABOUT
        return 'info' if is_information else super().severity_of(departure, its, window)


def _growth(window: Window, name: str) -> float:
    """Return how many times what it was a figure is."""
    row = window.points.row(name)
    if row is None or window.points.counts[row] < _OLD + _NEW:
        return 1.0
    points = window.points.last(np.array([row], np.intp), _OLD + _NEW)[0]
    return float(np.median(points[-_NEW:]) / max(float(np.median(points[:-_NEW])), 1e-30))


@dataclass
class WeightJump(Departed):
    """Parameter norms grow or shrink faster than they have in this run; growth that is not sudden is information."""

    name: ClassVar[str] = 'weight_jump'
    advice: ClassVar[str] = (
        'Shrinking: look at the weight decay, and at what writes into the weights. Growth: look at which gradient '
        'drives it; lower the learning rate or raise the weight decay.'
    )
    words: ClassVar[Words] = words_of(
        'the parameter norm of {part}',
        ' {part} 的参数范数',
        '缩小时：查看权重衰减，以及是什么在改写权重。增大时：查看由哪个梯度驱动；降低学习率或提高权重衰减。',
    )
    reads: ClassVar[tuple[str, ...]] = ('norm/',)
    stage: ClassVar[Stage] = 'weight'

    def weighed(self, strength: float, departures: list[Departure]) -> float:
        """What decays does so in several parts; one alone may shrink by learning, a shared one above all."""
        shrinking = {departure.family for departure in departures if departure.shift < 0}
        if len(shrinking) != 1:
            return strength
        return (0.25 if departures[0].task is None else 0.5) * strength

    def severity_of(self, departure: Departure, its: list[Departure], window: Window) -> Severity | None:
        """Growth that is not sudden is information: the weights of a network that learns grow."""
        return 'info' if departure.shift > 0 and not departure.is_sudden else None


DEPARTED: tuple[type[Departed], ...] = (
    DataJump,
    TargetJump,
    LossJump,
    OutputJump,
    RepresentationJump,
    GradientJump,
    UpdateJump,
    WeightJump,
)
"""From causes to effects."""
