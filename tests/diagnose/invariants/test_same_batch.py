"""Batches that come back: what a loop has done from its beginning is left in peace, what begins later is told."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ding_normmon.core.finding import Finding
from ding_normmon.core.record import Record
from ding_normmon.diagnose import Diagnosis

PLANTED = 40


def findings(batch_of: Callable[[int], dict[str, float]], steps: int = 80) -> list[Finding]:
    diagnosis = Diagnosis({0: 'Pong', 1: 'Boxing'})
    found = [entry for i in range(steps) for entry in diagnosis.observe(Record(i, batch_of(i)))]
    assert {entry.rule for entry in found} <= {'batch_repeats', 'tasks_share_data'}
    return [entry for entry in found if entry.is_active]


def inputs(number: float) -> dict[str, float]:
    return {'monitor/fingerprint/inputs': float(number)}


def distinct(share: float) -> dict[str, float]:
    return {'inputs/distinct': share}


def data(seed: int, task_id: int) -> dict[str, float]:
    values = np.random.default_rng(abs(seed) + 10**6 * (seed < 0)).normal(size=4)
    names = ('mean', 'std', 'max', 'min')
    return {f'data/obs_task{task_id}/{name}': float(v) for name, v in zip(names, values, strict=True)}


def of_a_single_task(seed: int) -> dict[str, float]:
    return {name.replace('_task0', ''): value for name, value in data(seed, 0).items()}


UNEVEN = np.cumsum([2, 4, 3, 5, 2, 7, 10, 3, 10, 9, 10, 9, 9])

FEW = [*range(4)] * 3 + [0, 1, 1, 3, 2, 0, 0, 3, 3, 2, 1, 2, 0, 0, 3, 1, 1, 2, 2, 0, 3, 1]
"""Batches out of a replay buffer that holds little: the same one twice in a row comes late, and is chance."""

HEALTHY: dict[str, Callable[[int], dict[str, float]]] = {
    'all different': inputs,
    'four times each': lambda i: inputs(i // 4),
    'two to ten times each': lambda i: inputs(np.searchsorted(UNEVEN, i)),
    'always the same': lambda i: inputs(0),
    'twice by chance': lambda i: inputs(i - (i in (40, 55))),
    'twenty batches in turn': lambda i: inputs(i % 20),
    'a few batches in any order': lambda i: inputs(np.random.default_rng(i).integers(0, 5)),
    'four minibatches in four epochs': lambda i: inputs(i // 16 * 4 + i % 4),
    'two epochs of many batches': lambda i: inputs(i % 45),
    'rewards that are few numbers': lambda i: {**data(i, 0), **data(i % 3 if i > 40 else i, 1)},
    'two tasks': lambda i: {**data(i, 0), **data(i + 1000, 1)},
    'two tasks with the same data from the beginning': lambda i: {**data(i, 0), **data(i, 1)},
    'two tasks with the same data by chance': lambda i: {**data(i, 0), **data(i + 1000 * (i != 40), 1)},
    'a buffer that fills': lambda i: distinct(min(1.0, (i + 1) / 60)),
    'samples that are mostly alike': lambda i: distinct((1 + i % 3) / 16),
    'a batch of one sample now and then': lambda i: distinct(1 / 16 if i in (40, 41, 50, 51) else 1.0),
    'few data, of which one looks like another': lambda i: {
        **data(FEW[i] if i < len(FEW) else i, 0),
        **data(-1 - i, 1),
    },
    'rewards of 0': lambda i: {f'data/reward_task0/{name}': 0.0 for name in ('mean', 'std', 'max', 'min')},
}


@pytest.mark.parametrize('kind', HEALTHY)
def test_what_has_always_been_so_says_nothing(kind: str) -> None:
    assert findings(HEALTHY[kind]) == []


BROKEN: dict[str, tuple[Callable[[int], dict[str, float]], str, int, tuple[int, ...]]] = {
    'three in turn': (lambda i: inputs(i if i < PLANTED else PLANTED + i % 3), 'batch_repeats', PLANTED + 5, ()),
    'the same for ever': (lambda i: inputs(min(i, PLANTED)), 'batch_repeats', PLANTED + 3, ()),
    'every one twice': (lambda i: inputs(i if i < PLANTED else i // 2 + 1000), 'batch_repeats', PLANTED + 5, ()),
    'four times each, then for ever': (lambda i: inputs(min(i, PLANTED) // 4), 'batch_repeats', PLANTED + 15, ()),
    'one task': (lambda i: {**data(min(i, PLANTED), 0), **data(i, 1)}, 'batch_repeats', PLANTED + 3, (0,)),
    'few data, then one of them for ever': (
        lambda i: {**data(FEW[min(i, 20)], 0), **data(-1 - i, 1)},
        'batch_repeats',
        57,
        (0,),
    ),
    'a single task': (lambda i: of_a_single_task(min(i, PLANTED)), 'batch_repeats', PLANTED + 3, ()),
    'one task, whose data grows old': (
        lambda i: {**data(min(i, PLANTED), 0), 'data/age_transitions_task0/mean': float(i)},
        'batch_repeats',
        PLANTED + 3,
        (0,),
    ),
    'one sample': (lambda i: distinct(1.0 if i < PLANTED else 1 / 16), 'batch_repeats', PLANTED + 2, ()),
    'one sample, after a buffer has filled': (
        lambda i: distinct(min(1.0, (i + 1) / 20) if i < 70 else 1 / 16),
        'batch_repeats',
        72,
        (),
    ),
    'pairs of samples': (
        lambda i: distinct((14 + i % 3 if i < PLANTED else 6 + i % 2) / 16),
        'batch_repeats',
        PLANTED + 2,
        (),
    ),
    "another task's": (
        lambda i: {**data(i, 0), **data(i + 1000 * (i < PLANTED), 1)},
        'tasks_share_data',
        PLANTED + 2,
        (0, 1),
    ),
}


@pytest.mark.parametrize('kind', BROKEN)
def test_what_begins_later_is_told(kind: str) -> None:
    batch_of, rule, found, tasks = BROKEN[kind]
    (finding,) = findings(batch_of)
    assert (finding.rule, finding.found, finding.tasks) == (rule, found, tasks)


@pytest.mark.parametrize(('batches', 'told'), [(lambda i: i // 8, False), (lambda i: min(i, 240) // 8, True)])
def test_records_that_lie_closer_together_than_before_see_one_batch_more_often(
    batches: Callable[[int], int], told: bool
) -> None:
    """Eight learner steps from each batch, as in PPO; every eighth is watched at first, and then every second."""
    diagnosis = Diagnosis({})
    iterations = [*range(0, 160, 8), *range(160, 300, 2)]
    found = [entry for i in iterations for entry in diagnosis.observe(Record(i, of_a_single_task(batches(i))))]
    assert [entry.rule for entry in found if entry.is_active] == ['batch_repeats'] * told
