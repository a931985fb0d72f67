"""What a small change of a figure is, as its declaration says, and what is known of a figure while it is judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ding_normmon.core.figure import Figure, Stage
from ding_normmon.core.metric_names import task_in
from ding_normmon.diagnose.past import FEWEST

__all__ = ['STATE', 'TOLERANCES', 'Tolerance', 'declare', 'is_judged', 'unit_of']

_SELF_MADE = ('noreduce_obs_loss', 'noreduce_latent_recon_loss', 'noreduce_perceptual_loss', 'loss/')
"""Losses whose targets the model makes itself, which rise when these begin to say something; and sums with them."""

_SMALL_FACTOR = 1e-4
_SPREAD_OF_FACTOR = 0.4
"""What counts as 0, and as a spread, of a share that is drawn on a logarithmic scale, such as a clip coefficient."""

_SMALL_PART, _PART_OF_GRADIENT = 0.04, 0.09
"""Smallest spread that is believed of a share; that of a gradient is told by two norms of single batches."""

_RESTLESS, _FEWEST = ('representation', 'update'), 6
"""Stages whose figures take longer to come to rest, and the points without which they have no past."""

_PACE, _PACE_OF_TASKS = 0.007, 0.03
"""Smallest spread that is believed of how fast weights shrink: those of all tasks, and those of one."""

_JUMPS_OF_TASKS: Mapping[Stage, float] = {'output': 0.0, 'update': 1.5}
"""What one task has of its own learns from a first reward at once: factor on the floor of its jumps."""


@dataclass(frozen=True)
class Tolerance:
    """What counts as a small change at one stage.

    Arguments:
        spread: smallest spread that is believed, of the transformed value.
        zero: what counts as 0, as a fraction of the figure's usual size.
        alone: factor on the threshold where no other task tells whether it is part of learning.
        is_steady: whether training leaves the figure as it is, so that a drift is a change too.
        only_rises: whether only a rise is a change for the worse.
        grows: whether training lets it grow, so that ``alone`` is meant for a rise only.
        jump: smallest spread that is believed of the differences between neighbouring points; 0 where a jump that the
            past has room for is none.
    """

    spread: float
    zero: float
    alone: float = 1.0
    is_steady: bool = False
    only_rises: bool = False
    grows: bool = False
    jump: float = 0.0


TOLERANCES: Mapping[Stage, Tolerance] = {
    'data': Tolerance(0.15, 0.3, is_steady=True),
    'target': Tolerance(0.15, 0.3, is_steady=True, jump=0.05),
    'loss': Tolerance(0.07, 0.15, 3.0, is_steady=True, only_rises=True, jump=0.07),
    'output': Tolerance(0.10, 0.20, 2.0, jump=0.10),
    'representation': Tolerance(0.12, 0.05, 1.5, is_steady=True),
    'gradient': Tolerance(0.25, 0.01, 1.5, is_steady=True),
    'update': Tolerance(0.20, 0.01, 2.5, jump=0.20),
    'weight': Tolerance(0.05, 0.05, 3.0, grows=True, jump=0.05),
}

_REWARD, _VALUE = 'reward', 0.05
REWARDS = Tolerance(0.25, 1.0, is_steady=True)
"""Of figures in units of reward: that there are rewards, and values of their size, is what training is for."""

_PARTS_OF_ONE = ('share', 'rate', 'cosine')
_STATISTICS = ('mean', 'std', 'max', 'min')


STATE = np.dtype(
    [
        ('stem', np.intp),
        ('part', np.float64),
        ('floor', np.float64),
        ('direction', np.float64),
        ('size', np.float64),
        ('zero', np.float64),
        ('near_middle', np.float64),
        ('near_spread', np.float64),
        ('near_moved', np.float64),
        ('near_low', np.float64),
        ('near_high', np.float64),
        ('near_half', np.float64),
        ('far_middle', np.float64),
        ('far_spread', np.float64),
        ('far_moved', np.float64),
        ('far_low', np.float64),
        ('far_high', np.float64),
        ('far_half', np.float64),
        ('last_middle', np.float64),
        ('last_spread', np.float64),
        ('last_moved', np.float64),
        ('last_steps', np.float64),
        ('last_low', np.float64),
        ('last_high', np.float64),
        ('last_half', np.float64),
        ('level', np.float64),
        ('now', np.float64),
        ('shift', np.float64),
        ('strength', np.float64),
        ('away', np.int64),
        ('since', np.int64),
        ('is_sparse', np.bool_),
        ('drifts', np.bool_),
        ('tells_size', np.bool_),
        ('is_step', np.bool_),
        ('ignores_repeats', np.bool_),
        ('latest', np.int64),
        ('seen', np.int64),
        ('gap', np.int64),
        ('is_ready', np.bool_),
        ('is_held', np.bool_),
        ('is_sudden', np.bool_),
        ('smallest', np.float64),
        ('may_vanish', np.bool_),
        ('fewest', np.int64),
        ('jump_floor', np.float64),
        ('pace', np.float64),
        ('jump', np.float64),
        ('jump_before', np.float64),
        ('streak', np.int64),
        ('jumps_up', np.bool_),
        ('is_value', np.bool_),
        ('jumped', np.bool_),
        ('least_size', np.float64),
        ('unlearns', np.bool_),
        ('largest', np.float64),
        ('has_sign', np.bool_),
        ('balance', np.float64),
        ('is_mixed', np.bool_),
        ('opposite', np.float64),
    ]
)
"""What is known of one figure."""


def is_judged(name: str, figure: Figure) -> bool:
    """Return whether a figure is compared with its past.

    Not the mean of logits: a softmax does not depend on it, so that training leaves it to chance.
    """
    return bool(figure.stage) and not (name.startswith('logits/') and name.endswith('/mean'))


def unit_of(name: str, figure: Figure) -> str:
    """Return what figures of one size have in common: statistics of one signal; rewards and values of all tasks."""
    if figure.unit == _REWARD:
        return _REWARD
    stem, _, statistic = name.rpartition('/')
    return stem if statistic.rpartition('_')[2] in _STATISTICS else name


def declare(entry: Any, name: str, figure: Figure, repeats: bool) -> None:
    """Note what the declaration of a figure says.

    Arguments:
        entry: a row of :data:`STATE`, changed in place.
        name: the figure's.
        figure: its declaration.
        repeats: whether the same value again is the last measurement, written once more.
    """
    stage, statistic = figure.stage, name.rpartition('/')[2]
    is_reward = figure.unit == _REWARD
    tolerance = REWARDS if is_reward else TOLERANCES[stage]
    is_part = figure.kind in _PARTS_OF_ONE and figure.scale == 'linear'
    is_factor = figure.kind == 'share' and figure.scale == 'log'
    entry['part'] = 0.0 if is_part else _SMALL_FACTOR if is_factor else tolerance.zero
    of_part = _PART_OF_GRADIENT if stage == 'gradient' else _SMALL_PART
    entry['floor'] = of_part if is_part else _SPREAD_OF_FACTOR if is_factor else tolerance.spread
    if stage == 'data' and statistic == 'min' and not figure.signed:
        # A batch without a single frame that stands still is nothing unusual.
        entry['floor'] = 0.3
    entry['drifts'] = not tolerance.is_steady or name.startswith(_SELF_MADE)
    entry['pace'] = (_PACE if task_in(name) is None else _PACE_OF_TASKS) if tolerance.grows else 0.0
    entry['direction'] = float(tolerance.only_rises)
    entry['unlearns'] = tolerance.only_rises and not name.startswith(_SELF_MADE)
    # A head of the only task has no task in its name.
    is_own = task_in(name) is not None or (stage == 'update' and '/head_' in name)
    entry['jump_floor'] = tolerance.jump * (_JUMPS_OF_TASKS.get(stage, 1.0) if is_own else 1.0)
    # What a task has learnt takes smaller steps.
    entry['jumps_up'] = stage == 'update' and is_own
    if entry['unlearns'] != tolerance.only_rises:
        entry['jump_floor'] = 0.0
    entry['is_sparse'] = stage in ('data', 'target')
    entry['fewest'] = _FEWEST if stage in _RESTLESS else FEWEST
    # Where there has never been a reward, values of a size come out of nothing.
    entry['least_size'] = _VALUE if is_reward and stage == 'target' and statistic in ('min', 'mean') else 0.0
    entry['has_sign'] = is_reward and statistic == 'mean'
    entry['is_value'] = is_reward and stage == 'target' and statistic in ('mean', 'std', 'abs_max')
    # Rewards, and the smallest of anything, are 0 every now and then.
    entry['may_vanish'] = is_reward or statistic.endswith('min')
    # What is frozen does not tell how fast it may move once it is trained.
    entry['ignores_repeats'] = not (tolerance.is_steady or is_factor) or (repeats and stage == 'gradient')
    entry['is_step'] = stage == 'update' and figure.kind == 'ratio'
    entry['smallest'] = np.inf
