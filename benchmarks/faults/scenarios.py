"""Draws what runs there are: faults of every kind with random strength, task and time, and healthy runs of many sorts.

A third of the kinds is held out: nobody looks at them while thresholds are set. A hash of their names chooses them,
among the kinds that no rule was ever written for.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
from dataclasses import dataclass
from typing import Any

__all__ = [
    'HEALTHY',
    'ITERATIONS',
    'LONG_HEALTHY',
    'LONG_KINDS',
    'PLANTED',
    'TASKS',
    'Scenario',
    'draw',
    'healthy',
    'held_out_kinds',
    'lengthened',
]

TASKS = (
    'MiniGrid-Empty-Random-6x6-v0',
    'MiniGrid-Empty-8x8-v0',
    'MiniGrid-LavaGapS5-v0',
    'MiniGrid-FourRooms-v0',
    'MiniGrid-Empty-5x5-v0',
    'MiniGrid-Empty-Random-5x5-v0',
    'MiniGrid-Empty-6x6-v0',
    'MiniGrid-LavaGapS6-v0',
    'MiniGrid-DoorKey-5x5-v0',
    'MiniGrid-SimpleCrossingS9N1-v0',
)
"""The first four are those of `make train`."""

MIXED = ('CartPole-v0', 'MiniGrid-Empty-Random-6x6-v0', 'MiniGrid-Empty-8x8-v0', 'MinAtar-space_invaders')

ITERATIONS = 140
PLANTED = (60, 80)
"""First and last iteration at which a fault may begin."""

RULES_WERE_WRITTEN_FOR = (
    'loss_weight_up',
    'loss_weight_down',
    'reward_scale',
    'head_learning_rate',
    'label_noise',
    'frozen_head',
    'frozen_encoder',
    'negated_policy',
    'weight_decay',
    'zeroed_gradients',
    'dead_encoder',
    'nan_rewards',
    'constant_observations',
    'swapped_batches',
)
"""Kinds that earlier rules were tuned on; none of them can be held out."""

HEALTHY: dict[str, dict[str, Any]] = {
    'default': {},
    'fast': {'learning_rate': 3.0},
    'slow': {'learning_rate': 0.3},
    'small_batch': {'batch_size': 4},
    'large_batch': {'batch_size': 24},
    'cosine': {'schedule': 'cosine'},
    'step_decay': {'schedule': 'step'},
    'warm_up': {'schedule': 'warm_up'},
    'resume': {'event': 'resume'},
    'task_leaves': {'event': 'leaves'},
    'one_task': {'tasks': 1},
    'two_tasks': {'tasks': 2},
    'eight_tasks': {'tasks': 8},
    'mixed': {'names': MIXED},
    'solved': {'names': ('MiniGrid-Empty-5x5-v0', 'MiniGrid-FourRooms-v0'), 'iterations': 300, 'more_data': True},
    'many_tasks': {'tasks': 26, 'iterations': 90},
}
"""Healthy runs: what differs from the default."""

LONGER = 5
"""A long run has so many times as many iterations before its fault, and after it began."""

LONG_KINDS = (
    'constant_observations',
    'loss_weight_up',
    'state_lost',
    'value_offset',
    'dead_encoder',
    'rank_weight',
    'loss_weight_ramps',
    'reward_noise',
    'head_gradient_scaled',
    'label_noise',
    'head_reset',
    'negated_value',
    'rate_swings',
    'weight_decay',
)
"""Known kinds of all families whose short runs show them: what their long runs tell is what frequency does."""

LONG_HEALTHY = ('default', 'cosine')


@dataclass(frozen=True)
class Scenario:
    """One run.

    Arguments:
        kind: kind of the fault, or ``healthy``.
        variation: which run of its kind it is.
        seed: of the run.
        iterations: learner iterations.
        names: the tasks.
        family: family of the kind.
        scope: who is at fault: a ``task``, ``all`` tasks or shared parts, or the tasks of one ``rank``.
        tasks: global ids of the tasks at fault; empty where all or shared parts are.
        planted: iteration at which the fault begins; None in a healthy run.
        ends: iteration at which it ends; None where it stays.
        strength: in the kind's own unit.
        breaks_invariant: whether an invariant is enough to find it.
        learning_rate: factor on the configuration's.
        batch_size: per task.
        schedule: of the learning rate.
        event: what happens half way through a healthy run.
        more_data: whether it collects enough to learn something.
    """

    kind: str
    variation: str
    seed: int
    iterations: int
    names: tuple[str, ...]
    family: str = 'healthy'
    scope: str = ''
    tasks: tuple[int, ...] = ()
    planted: int | None = None
    ends: int | None = None
    strength: float = 1.0
    breaks_invariant: bool = False
    learning_rate: float = 1.0
    batch_size: int = 8
    schedule: str = ''
    event: str = ''
    more_data: bool = False

    @property
    def name(self) -> str:
        """Unique among all runs."""
        return f'{self.kind}-{self.variation}'

    @property
    def is_healthy(self) -> bool:
        """Whether nothing was planted."""
        return self.planted is None


def held_out_kinds(kinds: list[str]) -> set[str]:
    """Return the third of the kinds that is held out.

    Example:
        >>> sorted(held_out_kinds(['reward_scale', 'a', 'b', 'c', 'd', 'e']))
        ['c', 'd']
    """
    candidates = [kind for kind in kinds if kind not in RULES_WERE_WRITTEN_FOR]
    chosen = sorted(candidates, key=lambda kind: hashlib.sha256(kind.encode()).hexdigest())
    return set(chosen[: len(kinds) // 3])


def healthy(variation: str, seed: int) -> Scenario:
    """Return a healthy run."""
    chance = random.Random(f'healthy-{variation}-{seed}')
    options = dict(HEALTHY[variation])
    number = options.pop('tasks', chance.choice([2, 2, 3]))
    names = options.pop('names', None) or tuple(chance.choice(TASKS) for _ in range(number))
    options.setdefault('learning_rate', 2 ** chance.uniform(-0.7, 0.7))
    iterations = options.pop('iterations', ITERATIONS)
    return Scenario('healthy', f'{variation}_{seed}', 1000 + seed, iterations, names, **options)


def draw(kind: str, seed: int) -> Scenario:
    """Return a run with a fault; everything but its kind is drawn from the seed."""
    from benchmarks.faults.kinds import KINDS

    fault = KINDS[kind]
    chance = random.Random(f'{kind}-{seed}')
    scope = chance.choice(fault.scopes)
    number = chance.choice([1, 2, 2, 3, 4] if scope == 'all' else [2, 2, 3, 3, 4] if scope == 'task' else [4])
    if kind == 'swapped_batches':
        number = max(number, 3)
    tasks: tuple[int, ...] = ()
    if scope == 'task':
        tasks = (chance.randrange(number),)
    elif scope == 'rank':
        tasks = tuple(range(number // 2, number))
    planted = chance.randint(*PLANTED)
    low, high = fault.strengths
    return Scenario(
        kind,
        str(seed),
        seed,
        ITERATIONS,
        tuple(chance.sample(TASKS, number)),
        family=fault.__module__.rpartition('.')[2],
        scope=scope,
        tasks=tasks,
        planted=planted,
        ends=planted + chance.randint(35, 50) if fault.passes and chance.random() < 0.4 else None,
        strength=low * (high / low) ** chance.random(),
        breaks_invariant=fault.breaks_invariant,
        learning_rate=2 ** chance.uniform(-0.7, 0.7),
        batch_size=chance.choice([4, 6, 8]),
    )


def lengthened(scenario: Scenario) -> Scenario:
    """Return the same run with more iterations before its fault, and after it began."""
    return dataclasses.replace(
        scenario,
        iterations=LONGER * scenario.iterations,
        planted=None if scenario.planted is None else LONGER * scenario.planted,
        ends=None if scenario.ends is None else LONGER * scenario.ends,
    )
