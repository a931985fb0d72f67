"""Figures of one learner step are far above everything before."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from ding_normmon.core.metric_names import task_in, without_task
from ding_normmon.diagnose.first_signs import stage_of
from ding_normmon.diagnose.rule import Rule, Sign, Words
from ding_normmon.diagnose.window import Window

__all__ = ['Spike']

_CAUSES = ('learning rate', 'data', 'loss', 'head gradient', 'shared gradient', 'signals')
_HARM = ('loss', 'head gradient', 'shared gradient')
_NAMED = ('/_total_norm', '/max', '/abs_max', '/norm_max', '/std', '/mean')
_RATES, _HIGHEST, _TOTAL = 'learning_rate/', 'learning_rate/model', 'grad/model/_total_norm'
_OF_ALL = ('grad/model/', _RATES)
_NAMES_KEPT = 4
_BEGINS, _YOUNG = 100.0, 16
_REWARDS, _OBSERVATIONS = ('data/reward', 'data/value_target'), 'data/observation_change'
_FIRST, _VERY_YOUNG = 16, 1e4
"""Of the first records only what is so many times further off is told; later ones are not compared with them."""
_SMALL_LOSS = 0.1
"""A loss is small below so much of what it was in the first records."""
_MEMORY = 0.99
"""Factor on a figure's own largest value from record to record."""
_LONG_AGO = 0.3
"""A largest value that has become so small beside a new one is long ago."""
_TOGETHER = 0.4
"""A spike is everybody's if the median of the other tasks has gone so much of the way, in logarithms."""

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Layout:
    """Which figures of a record are compared, by the names of its scalars."""

    names: tuple[str, ...]
    stages: tuple[str, ...]
    tasks: tuple[int | None, ...]
    families: npt.NDArray[np.intp]
    places: npt.NDArray[np.intp]


@dataclass
class Spike(Rule):
    """Data, losses, gradients or the learning rate of one step are far above all that was there before, in any task.

    One record is enough: what lasts for three iterations is in no more than one or two of them. What counts is a loss,
    a gradient, a rate or the change of observations that is ``alone`` times its highest value so far; or figures of two
    stages of the step (its data and its loss, say) that are both ``together`` times what they were in the last 128
    records, of which a loss or a gradient is higher than ever. The first records have no level yet: of them only a jump
    by orders of magnitude is told.

    A task that finds its first reward looks like that too: where no task has had one of late, and the gradient norm of
    the model has not jumped, this is only information.

    Options:
        alone: factor above the highest value of any task so far.
        together: factor above the highest recent value of any task, in two stages at once.
    """

    name: ClassVar[str] = 'spike'
    advice: ClassVar[str] = (
        'Look at the incident: what left its level first is the cause (data, learning rate), what came after it the '
        'consequence. Look at the batch of that iteration, clip rewards and targets, and go back to a checkpoint from '
        'before if weights have jumped.'
    )
    words: ClassVar[Words] = {
        'en': {
            'task': '{task}: {what} is {value:.3g}, {times:.3g} times the largest of late.',
            'shared': '{what} is {value:.3g}, {times:.3g} times the largest of late.',
            'first': '{task}: {what} is {value:.3g}, {times:.3g} times the largest of late, with the first rewards.',
            'first_shared': '{what} is {value:.3g}, {times:.3g} times the largest of late, with the first rewards.',
        },
        'zh': {
            'task': '{task}：{what} 为 {value:.3g}，是近期最大值的 {times:.3g} 倍。',
            'shared': '{what} 为 {value:.3g}，是近期最大值的 {times:.3g} 倍。',
            'first': '{task}：{what} 为 {value:.3g}，是近期最大值的 {times:.3g} 倍，同时出现了首批奖励。',
            'first_shared': '{what} 为 {value:.3g}，是近期最大值的 {times:.3g} 倍，同时出现了首批奖励。',
            'advice': '查看事件记录：最先偏离原有水平的是原因（数据、学习率），其后的是结果。'
            '查看该迭代的批次，裁剪奖励和目标；若权重已跳变，回到之前的检查点。',
        },
    }
    reads: ClassVar[tuple[str, ...]] = ('grad/', 'noreduce_', 'data/', 'learning_rate/')
    follows: ClassVar[bool] = False
    leads: ClassVar[bool] = False
    judges_all: ClassVar[bool] = True

    confirm: int = 1
    clear: int = 8
    warmup: int = 0
    alone: float = 10.0
    together: float = 2.5

    def __post_init__(self) -> None:
        self._layouts: dict[tuple[str, ...], _Layout] = {}
        self._families: dict[str, int] = {}
        self._highest = np.zeros(0)
        self._recent: deque[Values] = deque(maxlen=128)
        self._places: dict[str, int] = {}
        self._own = self._unlearnt = np.zeros(0)
        self._left = _FIRST + 1 - self.warmup

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign, for the task whose figures are furthest off; without a task where the learning rate is."""
        scalars = window.record.scalars
        layout = self._layout_of(scalars)
        values = np.abs(np.fromiter((scalars[name] for name in layout.names), np.float64, len(layout.names)))
        values[~np.isfinite(values)] = 0.0
        sign = self._sign(window, layout, values) if self._recent else None
        self._left -= 1
        if self._left == 0:
            self._recent.clear()
            self._unlearnt = self._highest
            self._highest = np.zeros(0)
        of_family = np.zeros(len(self._families))
        np.maximum.at(of_family, layout.families, values)
        self._highest = np.maximum(_padded(self._highest, len(of_family)), of_family)
        self._recent.append(of_family)
        self._own = _MEMORY * _padded(self._own, len(self._places))
        self._own[layout.places] = np.maximum(self._own[layout.places], values)
        if sign is not None:
            yield sign

    def _layout_of(self, scalars: dict[str, float]) -> _Layout:
        names = tuple(scalars)
        layout = self._layouts.get(names)
        if layout is None:
            chosen = _chosen(names)
            families = [self._families.setdefault(without_task(name), len(self._families)) for name in chosen]
            layout = _Layout(
                chosen,
                tuple(str(stage_of(name)) for name in chosen),
                tuple(task_in(name) for name in chosen),
                np.array(families, np.intp),
                np.array([self._places.setdefault(name, len(self._places)) for name in chosen], np.intp),
            )
            self._layouts = {**dict(list(self._layouts.items())[-_NAMES_KEPT + 1 :]), names: layout}
        return layout

    def _sign(self, window: Window, layout: _Layout, values: Values) -> Sign | None:
        if not len(values):
            return None
        # Other records may have had figures that this one has not.
        count = len(self._families)
        highest = _padded(self._highest, count)[layout.families]
        recent = np.max([_padded(row, count) for row in self._recent], axis=0)[layout.families]
        with np.errstate(divide='ignore', invalid='ignore'):
            above = np.where(highest > 0, values / highest, 0.0)
            lately = np.where(recent > 0, values / recent, 0.0)
        # What was next to nothing has begun: the first reward of a run is no spike. And a short past has seen little.
        stages_of = np.array(layout.stages)
        of_rewards = np.array([name.startswith(_REWARDS) for name in layout.names])
        begins = (lately > _BEGINS) & (of_rewards | ((stages_of == 'loss') & (above <= 1)))
        # A loss that is small beside what it was before anything was learnt jumps all the time.
        small = _SMALL_LOSS * _padded(self._unlearnt, count)[layout.families]
        begins |= (stages_of == 'loss') & (values < small)
        above, lately = np.where(begins, 0.0, above), np.where(begins, 0.0, lately)
        young = _VERY_YOUNG if self._left > 0 else 1 + _YOUNG / len(self._recent)
        far = np.flatnonzero(lately >= self.together * young)
        if far.size:
            # What has jumped often before is no surprise.
            usual = np.median([_padded(row, count) for row in self._recent], axis=0)[layout.families[far]]
            with np.errstate(divide='ignore', invalid='ignore'):
                tail = np.where(usual > 0, np.sqrt(recent[far] / usual), 1.0)
            far = far[lately[far] >= np.minimum(tail, self.alone)]
        record = {layout.tasks[place] for place in far.tolist() if above[place] > 1 and layout.stages[place] in _HARM}
        stages: dict[int | None, dict[str, float]] = {}
        for place in far.tolist():
            of_task = stages.setdefault(layout.tasks[place], {})
            of_task[layout.stages[place]] = max(of_task.get(layout.stages[place], 0.0), float(lately[place]))
        strengths: dict[int | None, float] = {}
        for task, of_task in stages.items():
            shared = {} if task is None else stages.get(None, {})
            factors = sorted({**shared, **of_task}.values())
            is_record = task in record or None in record
            strengths[task] = factors[-2] / self.together if len(factors) > 1 and is_record else 0.0
        for place in np.flatnonzero(above >= self.alone * young).tolist():
            if layout.stages[place] not in ('data', 'signals') or layout.names[place].startswith(_OBSERVATIONS):
                task = layout.tasks[place]
                strengths[task] = max(strengths.get(task, 0.0), float(above[place]) / self.alone)
        strengths = {task: strength for task, strength in strengths.items() if strength >= self.release}
        if not strengths:
            return None
        task = max(strengths, key=lambda entry: (entry is not None, strengths[entry]))
        strength = max(strengths.values())
        is_first = self._is_first_reward(layout, values, above, task, self.together * young)
        mine = [place for place in far.tolist() if layout.tasks[place] == task] or [int(np.argmax(above))]
        mine.sort(key=lambda place: (_CAUSES.index(layout.stages[place]), -lately[place]))
        if 'learning rate' in stages.get(None, {}) or self._is_everybodys(layout, values, mine):
            task = None
        key = f'first{"" if task is not None else "_shared"}' if is_first else 'shared' if task is None else 'task'
        shown = mine[0]
        return Sign(
            key,
            strength,
            tasks=() if task is None else (task,),
            # A spike that comes soon after it is a finding of its own.
            group='first rewards' if is_first else None,
            severity='info' if is_first else None,
            evidence={layout.names[place]: float(values[place]) for place in mine[:8]},
            values={
                'what': layout.names[shown] if task is not None else without_task(layout.names[shown]),
                'value': float(values[shown]),
                'times': float(lately[shown]),
            },
        )

    def _own_of(self, layout: _Layout) -> Values:
        return _padded(self._own, len(self._places))[layout.places]

    def _is_everybodys(self, layout: _Layout, values: Values, mine: list[int]) -> bool:
        """Return whether most other tasks have jumped as this one has, each compared with its own past."""
        own = self._own_of(layout)
        with np.errstate(divide='ignore', invalid='ignore'):
            jumps = np.log(np.where((own > 0) & (values > 0), values / own, 1.0))
        told = []
        for place in mine:
            others = np.flatnonzero(layout.families == layout.families[place]).tolist()
            theirs = [float(jumps[other]) for other in others if layout.tasks[other] not in (None, layout.tasks[place])]
            if theirs and layout.tasks[place] is not None and jumps[place] > math.log(2):
                told.append(median(theirs) > _TOGETHER * float(jumps[place]))
        return bool(told) and sum(told) * 2 >= len(told)

    def _is_first_reward(self, layout: _Layout, values: Values, above: Values, task: int | None, limit: float) -> bool:
        """Return whether a task has a reward where it had none for long, and the gradient of all is as it was."""
        begun = np.flatnonzero(values * _LONG_AGO > self._own_of(layout)).tolist()
        if not any(layout.tasks[place] == task and layout.names[place].startswith('data/reward') for place in begun):
            return False
        shared = [place for place, stage in enumerate(layout.stages) if stage in ('shared gradient', 'learning rate')]
        # One shared part alone often jumps with a first reward, the whole model does not.
        parts = [place for place in shared if layout.names[place].startswith(_OF_ALL)] or shared
        return all(above[place] < limit for place in parts)


def _chosen(names: Iterable[str]) -> tuple[str, ...]:
    """Return the figures that are compared."""
    chosen = [name for name in names if stage_of(name) in _CAUSES and _is_compared(name)]
    if any(name.startswith(_RATES) and name != _HIGHEST for name in chosen):
        # The highest rate may be one task's.
        chosen = [name for name in chosen if name != _HIGHEST]
    if _TOTAL in chosen:
        # A shared part whose gradient is small beside the others' jumps now and then, and nothing comes of it.
        chosen = [name for name in chosen if name == _TOTAL or stage_of(name) != 'shared gradient']
    return tuple(chosen)


def _is_compared(name: str) -> bool:
    if '_all_tasks/' in name or name.startswith('monitor/'):
        return False
    return name.endswith(_NAMED) or name.startswith(('noreduce_', 'learning_rate/')) or '/' not in name


def _padded(row: Values, count: int) -> Values:
    return row if len(row) >= count else np.concatenate([row, np.zeros(count - len(row))])
