"""Whether the learning rate is what its scheduler says: torch's schedulers, found and read from outside."""

from __future__ import annotations

import gc
import itertools
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from ding_normmon.metrics.base import Chart, Figure, LearnerStep, RowBuffer, RowKey, RowTable
from ding_normmon.metrics.kernels.device_signals import write_number
from ding_normmon.metrics.mixins import Finishing, WatchesOptimizers
from ding_normmon.metrics.sections import BROKEN_CHART, INVARIANTS_SECTION
from ding_normmon.rows.moments import MAXIMUM, MEAN

__all__ = ['Schedules']


_MOST_LOOKS = 8
"""How often schedulers are looked for that may have been made since the first look."""


class Schedules(Finishing, WatchesOptimizers):
    """``broken/schedule/{rate,optimizer}`` and ``step/scheduler_steps``: learning rates against their schedulers.

    A scheduler of torch's (``LRScheduler``, and whatever derives from it) remembers the rates that it has set last. A
    rate is **off** if no scheduler of its optimizer has set it. A scheduler is **left behind** if its optimizer no
    longer steps, while another one, which has no scheduler, does.

    Schedulers are looked for once for every optimizer that has had one; torch leaves ``initial_lr`` in its groups. A
    scheduler that is none of torch's cannot be seen.
    """

    name: ClassVar[str] = 'schedules'
    figures: ClassVar[tuple[Figure, ...]] = (
        Figure(
            pattern='broken/schedule/rate',
            definition=(
                "parameter groups of optimizers whose learning rate is not what a scheduler of theirs has set last; "
                'there only above 0, with a note that says both'
            ),
            unit='groups',
            hook_point='`step_end`',
            bad_value='somebody else sets the rate: an old state was loaded, or a second schedule',
            section=INVARIANTS_SECTION,
            kind='count',
            chart=BROKEN_CHART,
        ),
        Figure(
            pattern='broken/schedule/optimizer',
            definition=(
                'schedulers whose optimizer no longer steps, while one without a scheduler does; there only above 0'
            ),
            unit='schedulers',
            hook_point='end of the step',
            bad_value='the optimizer was made anew, and the scheduler sets the rate of the old one',
            section=INVARIANTS_SECTION,
            kind='count',
            chart=BROKEN_CHART,
        ),
        Figure(
            pattern='step/scheduler_steps',
            definition=(
                'steps of the learning rate scheduler for each learner step since the last record (the scheduler that '
                'has stepped most); absent if there is none, or all have come to their end'
            ),
            unit='steps',
            hook_point='`step_end`',
            bad_value='another number than always: step() is called twice, or no more',
            section='Learner steps',
            chart=Chart('Updates', 'Scheduler steps'),
        ),
    )
    hook_points: ClassVar[tuple[str, ...]] = ('backward_end', 'step_end')

    def __init__(self) -> None:
        self._looked_for: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        # The schedulers that were found, and where they were when the last measured step ended.
        self._places: weakref.WeakKeyDictionary[LRScheduler, _Place | None] = weakref.WeakKeyDictionary()
        self._looks_left = _MOST_LOOKS
        self._was_stepping = False
        self._before: int | None = None
        self._now = 0

    def begin(self, step: LearnerStep) -> None:
        """Watch which optimizers step."""
        super().begin(step)
        self._now = step.iteration

    def measure(self, hook_point: str, step: LearnerStep, rows: RowBuffer) -> None:
        """Compare the rates with which the optimizers have stepped."""
        if hook_point == 'backward_end':
            self._stepping.watch()
            return
        stepped = self._stepping.stepped
        if any(one not in self._looked_for and _has_had_a_scheduler(one) for one in stepped):
            self._looked_for.update(stepped)
            self._look_for_schedulers()
        off = self._off(stepped)
        if off and self._looks_left:
            # A scheduler may have been made since, which the optimizer tells nothing of.
            self._look_for_schedulers()
            off = self._off(stepped)
        for place, (rate, said) in enumerate(off):
            write_number(RowKey(self.name, 'rate', None, f'{place}'), rate, rows)
            write_number(RowKey(self.name, 'said', None, f'{place}'), said, rows)

    def finish(self, rows: RowBuffer) -> None:
        """Write how often schedulers have stepped, and which of them have lost their optimizer."""
        stepped = self._stepping.stepped
        left = [scheduler for scheduler in self._places if _is_left_behind(scheduler.optimizer, stepped)]
        if left:
            write_number(RowKey(self.name, 'left'), len(left), rows)
        made, goes_on = [], False
        for scheduler in [one for optimizer in stepped for one in self._schedulers_of(optimizer)]:
            place, last = _Place.of(scheduler), self._places[scheduler]
            self._places[scheduler] = place
            if last is not None:
                made.append(max(0, place.epoch - last.epoch))
                goes_on |= place.epoch > last.epoch or not _has_ended(scheduler, place.rates == last.settled)
                place.settled = last.settled if place.epoch == last.epoch else last.rates
        before, self._before = self._before, self._now
        if goes_on and before is not None and self._now > before:
            steps = max(made) / (self._now - before)
            if self._was_stepping and not steps and self._looks_left:
                self._look_for_schedulers()
            self._was_stepping = steps > 0
            write_number(RowKey(self.name, 'steps'), steps, rows)

    def _schedulers_of(self, optimizer: Optimizer) -> list[LRScheduler]:
        return [scheduler for scheduler in self._places if scheduler.optimizer is optimizer]

    def _off(self, optimizers: list[Optimizer]) -> list[tuple[float, float]]:
        return [pair for one in optimizers for pair in _off_schedule(one, self._schedulers_of(one))]

    def _look_for_schedulers(self) -> None:
        """Look at every object there is, which takes a tenth of a second or so."""
        self._looks_left -= 1
        for thing in gc.get_objects():
            # Not isinstance: some objects run code of their own when they are asked for their class.
            if issubclass(type(thing), LRScheduler) and hasattr(thing, 'last_epoch'):
                self._places.setdefault(thing, None)

    def derive(self, table: RowTable) -> Iterator[tuple[str, float]]:
        """Yield how many rates are off, and how often the scheduler steps."""
        if off := _off(table):
            yield 'broken/schedule/rate', float(len(off))
        for name, figure in (('left', 'broken/schedule/optimizer'), ('steps', 'step/scheduler_steps')):
            if (row := table.get(RowKey(self.name, name))) is not None:
                yield figure, float(row[MAXIMUM])

    def notes(self, table: RowTable) -> Iterator[tuple[str, str]]:
        """Yield the first rate that is off, and what it should be."""
        for rate, said in _off(table)[:1]:
            yield 'broken/schedule/rate', f'{rate:g} in place of {said:g}'


@dataclass
class _Place:
    """Where a scheduler is.

    Arguments:
        epoch: how often it has stepped.
        rates: of its optimizer.
        settled: the rates before its last step: where they are the same, it may have come to a plateau.
    """

    epoch: int
    rates: list[float | None]
    settled: list[float | None]

    @classmethod
    def of(cls, scheduler: LRScheduler) -> _Place:
        return cls(scheduler.last_epoch, [_number(group['lr']) for group in scheduler.optimizer.param_groups], [])


def _off_schedule(optimizer: Optimizer, schedulers: list[LRScheduler]) -> Iterator[tuple[float, float]]:
    """Yield the rates of groups that none of the schedulers has set last, each with the one that one has."""
    for place, group in enumerate(optimizer.param_groups):
        # A group that was added later is none of an earlier scheduler's.
        last = [rates for scheduler in schedulers if len(rates := getattr(scheduler, '_last_lr', [])) > place]
        said = [number for rates in last if (number := _number(rates[place])) is not None]
        rate = _number(group['lr'])
        if said and rate is not None and rate not in said:
            yield rate, said[-1]


def _is_left_behind(optimizer: Optimizer, stepped: list[Optimizer]) -> bool:
    """Return whether another optimizer, which has no scheduler, has taken over its parameters."""
    if optimizer in stepped:
        return False
    held = _held(optimizer)
    return any(not _has_had_a_scheduler(other) and not held.isdisjoint(_held(other)) for other in stepped)


def _held(optimizer: Optimizer) -> set[int]:
    return {id(parameter) for group in optimizer.param_groups for parameter in group['params']}


def _has_had_a_scheduler(optimizer: Optimizer) -> bool:
    return any('initial_lr' in group for group in optimizer.param_groups)


def _has_ended(scheduler: LRScheduler, is_flat: bool) -> bool:
    """Return whether nothing is lost if it steps no more: it is at its end, as far as that can be known."""
    ends = [getattr(scheduler, name, None) for name in ('T_max', 'total_iters', 'total_steps')]
    ends += list(getattr(scheduler, '_milestones', ())) + list(getattr(scheduler, 'milestones', ()))
    known = [end for end in ends if isinstance(end, int)]
    if known:
        return scheduler.last_epoch >= max(known)
    groups = scheduler.optimizer.param_groups
    # The usual ends of a warm-up and of a decay; nobody but its author knows what a function does.
    is_usual = all(_number(group['lr']) in (0.0, _number(group.get('initial_lr'))) for group in groups)
    return is_usual or (isinstance(scheduler, LambdaLR) and is_flat)


def _number(rate: Any) -> float | None:
    """Return a rate as a number; None for one on an accelerator, which is not waited for."""
    if isinstance(rate, Tensor):
        return float(rate) if rate.device.type == 'cpu' else None
    return float(rate) if isinstance(rate, (int, float)) else None


def _off(table: RowTable) -> list[tuple[float, float]]:
    """Return the rates that are off, and what they should be."""
    found: list[tuple[float, float]] = []
    for place in itertools.count():
        rate = table.get(RowKey(Schedules.name, 'rate', None, f'{place}'))
        said = table.get(RowKey(Schedules.name, 'said', None, f'{place}'))
        if rate is None or said is None:
            return found
        found.append((float(rate[MEAN]), float(said[MEAN])))
    return found
