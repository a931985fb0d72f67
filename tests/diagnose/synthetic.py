"""Synthetic records of a healthy run with noisy and growing figures, and of runs with one fault."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ding_normmon.core.record import Matrix, Record

TASKS = {0: 'Pong', 1: 'Qbert', 2: 'Boxing', 3: 'Alien'}
HEADS = ('head_value', 'head_reward', 'head_policy', 'head_observation')
RECORDS, PLANTED, EVERY = 140, 80, 5

Change = Callable[[int, dict[str, float], dict[str, Matrix]], None]


def healthy(seed: int = 0, tasks: int = len(TASKS)) -> list[Record]:
    """Return records with noise, a learning trend, and tasks of different levels."""
    chance = np.random.default_rng(seed)
    level = {(task, head): np.exp(chance.normal(0, 1)) for task in range(tasks) for head in HEADS}
    records = []
    for number in range(RECORDS):
        grown = 1 + 0.004 * number

        def noisy(middle: float, spread: float = 0.3) -> float:
            return float(middle * np.exp(chance.normal(0, spread)))

        scalars: dict[str, float] = {'clip/model/coefficient': 1.0, 'monitor/missing_ranks': 0.0}
        scalars['learning_rate/encoder'] = 1e-3
        for group in ('encoder', 'transformer', 'model'):
            scalars[f'norm/{group}/_total_norm'] = 10 * grown
            scalars[f'grad/{group}/_total_norm'] = noisy(2.0)
            scalars[f'update/{group}/relative'] = noisy(3e-3)
        for task in range(tasks):
            for head in HEADS:
                scalars[f'norm/{head}_task{task}/_total_norm'] = noisy(2 * grown, 1e-3)
                scalars[f'grad/{head}_task{task}/_total_norm'] = noisy(level[task, head])
                scalars[f'update/{head}_task{task}/relative'] = noisy(3e-3)
            for loss, middle in (('value', 0.5), ('policy', 1.0), ('reward', 0.3), ('obs', 0.2)):
                scalars[f'noreduce_{loss}_loss_task{task}'] = noisy(middle / grown, 0.1)
            scalars[f'noreduce_target_policy_entropy_task{task}'] = noisy(1.0, 0.02)
            for head in ('value', 'policy', 'reward'):
                scalars[f'logits/{head}_task{task}/abs_max'] = noisy(5 * grown, 0.05)
            scalars[f'embeddings/obs_task{task}/norm_mean'] = noisy(2.0 + task, 0.05)
            scalars[f'embeddings/obs_task{task}/norm_max'] = noisy(3.0 + task, 0.05)
            scalars[f'embeddings/obs_task{task}/norm_min'] = noisy(1.0 + task, 0.05)
            scalars[f'data/reward_task{task}/abs_max'] = scalars[f'data/reward_task{task}/max'] = 1.0
            scalars[f'data/observation_change_task{task}/mean'] = noisy(0.05, 0.1)
        matrices = {}
        if number % 5 == 0:
            scalars['plasticity/encoder/dormant_tau0.025'] = 0.05
            for signal in ('embeddings/obs', 'x_token'):
                scalars[f'plasticity/{signal}/effective_rank'] = noisy(30, 0.05)
            for task in range(tasks):
                scalars[f'conflict/encoder_task{task}/share'] = 1 / tasks
                scalars[f'plasticity/x_token_task{task}/effective_rank'] = noisy(15, 0.1)
            cosine = np.clip(chance.normal(0.1, 0.1, (tasks, tasks)), -1, 1)
            cosine = (cosine + cosine.T) / 2
            matrices['conflict/encoder/cosine'] = Matrix(cosine, tuple(range(tasks)), tuple(range(tasks)))
        records.append(Record(EVERY * number, scalars, matrices))
    return records


def with_fault(change: Change, seed: int = 0) -> list[Record]:
    """Return a healthy run that ``change`` breaks in every record from PLANTED on."""
    records = healthy(seed)
    for number, record in enumerate(records):
        if number >= PLANTED:
            change(number - PLANTED, record.scalars, record.matrices)
    return records


def times(pattern: str, factor: float) -> Change:
    """Multiply every metric whose name holds ``pattern``."""

    def change(_: int, scalars: dict[str, float], __: dict[str, Matrix]) -> None:
        for name in scalars:
            if pattern in name:
                scalars[name] *= factor

    return change


def growing(pattern: str, rate: float) -> Change:
    """Let every metric whose name holds ``pattern`` grow by a rate per record."""

    def change(since: int, scalars: dict[str, float], _: dict[str, Matrix]) -> None:
        for name in scalars:
            if pattern in name:
                scalars[name] *= float(np.exp(rate * since))

    return change


def without(*patterns: str) -> Change:
    """Leave out every metric whose name holds one of ``patterns``."""

    def change(_: int, scalars: dict[str, float], __: dict[str, Matrix]) -> None:
        for name in [name for name in scalars if any(pattern in name for pattern in patterns)]:
            del scalars[name]

    return change


def setting(**values: float) -> Change:
    """Set metrics; the names are given with ``/`` as ``__``."""

    def change(_: int, scalars: dict[str, float], __: dict[str, Matrix]) -> None:
        scalars.update({name.replace('__', '/'): value for name, value in values.items()})

    return change
