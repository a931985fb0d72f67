"""Which runs there are: every fault with three seeds, and healthy runs."""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass

__all__ = ['DEFAULT_TASKS', 'FAULTS', 'HELD_OUT_FAULTS', 'SHARED_FAULTS', 'Scenario', 'all_scenarios']

DEFAULT_TASKS = (
    'MiniGrid-Empty-Random-6x6-v0',
    'MiniGrid-Empty-8x8-v0',
    'MiniGrid-LavaGapS5-v0',
    'MiniGrid-FourRooms-v0',
)
"""The tasks of `make train`."""

OTHER_TASKS = (
    'MiniGrid-Empty-5x5-v0',
    'MiniGrid-Empty-Random-5x5-v0',
    'MiniGrid-Empty-6x6-v0',
    'MiniGrid-LavaGapS6-v0',
    'MiniGrid-DoorKey-5x5-v0',
    'MiniGrid-SimpleCrossingS9N1-v0',
)

SHARED_FAULTS = ('frozen_encoder', 'dead_encoder')
"""Faults of parts that all tasks share: judged by rule, there is no task to name."""

HELD_OUT_FAULTS = ('head_learning_rate', 'swapped_batches', 'zeroed_gradients')
"""Chosen before any run was looked at; nobody looks at them while rules are tuned."""

FAULTS = (
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
"""See :mod:`benchmarks.faults.plants`."""

SEEDS = (0, 1, 2)
HELD_OUT_SEED = 2
HEALTHY_RUNS = 12

ITERATIONS, SHORT_ITERATIONS = 1200, 800
"""Of a full run, and of those that are recorded under tests/data."""


@dataclass(frozen=True)
class Scenario:
    """One run.

    Arguments:
        fault: one of :data:`FAULTS`, or ``healthy``.
        seed: of the run.
        iterations: learner iterations.
        planted: iteration at which the fault begins; None in a healthy run.
        task: the task at fault; None where shared parts are, or nothing is.
        tasks: names of the tasks.
        learning_rate_factor: on the configuration's learning rate.
    """

    fault: str
    seed: int
    iterations: int
    planted: int | None = None
    task: int | None = None
    tasks: tuple[str, ...] = DEFAULT_TASKS
    learning_rate_factor: float = 1.0

    @property
    def name(self) -> str:
        """Unique among all runs."""
        return f'{self.fault}-{self.seed}'

    @property
    def is_held_out(self) -> bool:
        """Whether nobody looks at it while rules are tuned."""
        return self.fault != 'healthy' and (self.seed == HELD_OUT_SEED or self.fault in HELD_OUT_FAULTS)


def all_scenarios(full: bool = False) -> list[Scenario]:
    """Return every run, those needed first first.

    Example:
        >>> runs = all_scenarios()
        >>> len(runs), len({run.name for run in runs}), sum(run.fault == 'healthy' for run in runs)
        (54, 54, 12)
    """
    iterations = ITERATIONS if full else SHORT_ITERATIONS
    healthy = [_healthy(seed, iterations) for seed in range(HEALTHY_RUNS)]
    runs = []
    for seed in SEEDS:
        runs += [_faulty(fault, number, seed, iterations) for number, fault in enumerate(FAULTS)]
    # Tuning begins with what is there: healthy runs and one of each fault, held-out ones last.
    order = [*healthy[:4], *runs[: len(FAULTS)], *healthy[4:], *runs[len(FAULTS) :]]
    return sorted(order, key=lambda run: run.is_held_out)


def _healthy(seed: int, iterations: int) -> Scenario:
    chance = random.Random(f'healthy-{seed}')
    tasks = DEFAULT_TASKS
    if seed % 3 == 2:
        tasks = tuple(chance.sample([*DEFAULT_TASKS, *OTHER_TASKS], chance.choice([3, 4, 5])))
    return Scenario('healthy', seed, iterations, tasks=tasks, learning_rate_factor=3 ** chance.uniform(-0.5, 0.5))


def _faulty(fault: str, number: int, seed: int, iterations: int) -> Scenario:
    chance = random.Random(zlib.crc32(f'{fault}-{seed}'.encode()))
    planted = chance.randint(iterations // 3, iterations * 7 // 12)
    # Each fault meets different tasks with different seeds. Rewards can only be wrong where there are some.
    candidates = 2 if fault == 'reward_scale' else 4
    task = None if fault in SHARED_FAULTS else (number + seed + seed * (number % 2)) % candidates
    return Scenario(fault, seed, iterations, planted, task)
