"""A learner step does not depend on how the tasks are spread over the ranks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.distributed.ranks import run_ranks
from tests.unizero.builders import random_batch, tiny_policy
from tests.unizero.layouts import BATCH_SIZES, all_on_two_ranks, train

# Dropout as well: its random numbers belong to a task and not to a rank.
SETTINGS: dict[str, Any] = {
    'task_loss_weight': [1.0, 0.5, 2.0, 1.5],
    'grad_clip_value': 0.5,
    'model': {'world_model_cfg': {'resid_pdrop': 0.1, 'embed_pdrop': 0.1}},
}

LAYOUTS = [[[0, 1], [2, 3]], [[3, 0, 2], [1]], [[], [0, 1, 2, 3]]]

pytestmark = pytest.mark.distributed


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def compare(reference: dict[str, Any], ranks: list[dict[str, Any]], layout: list[list[int]]) -> None:
    """Compare a run on several ranks with one on a single rank."""
    private = reference['private']
    owner = {name: rank for rank, tasks in enumerate(layout) for task_id in tasks for name in private[task_id]}
    for name, expected in reference['gradients'].items():
        for rank, result in enumerate(ranks):
            gradient = result['gradients'][name]
            if owner.get(name, rank) == rank:
                np.testing.assert_allclose(gradient, expected, rtol=1e-9, atol=1e-14, err_msg=name)
            else:
                assert gradient is None, name
    for kind in ('weights', 'target'):
        for name, expected in reference[kind].items():
            for rank, result in enumerate(ranks):
                if owner.get(name, rank) == rank:
                    np.testing.assert_allclose(result[kind][name], expected, rtol=1e-6, atol=1e-9, err_msg=name)
                if name not in owner:
                    assert np.array_equal(result[kind][name], ranks[0][kind][name]), name
    for step, expected in enumerate(reference['outputs']):
        outputs = [result['outputs'][step] for result in ranks]
        for name, value in expected.items():
            for output in outputs:
                if name in output:
                    assert output[name] == pytest.approx(value, rel=1e-6, abs=1e-9), name
        assert {name for output in outputs for name in output} == set(expected)
        assert len({output['total_grad_norm_before_clip_wm'] for output in outputs}) == 1
        assert len({output['total_loss'] for output in outputs}) == 1
    assert reference['outputs'][0]['total_grad_norm_before_clip_wm'] > SETTINGS['grad_clip_value']


@pytest.fixture(scope='module')
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], Path]:
    path = tmp_path_factory.mktemp('two_ranks') / 'checkpoint'
    return run_ranks(all_on_two_ranks, 2, LAYOUTS, 3, SETTINGS, str(path), timeout=150), path


@pytest.mark.parametrize('mixed', [False, True])
@pytest.mark.full
def test_two_ranks_are_as_one(two_ranks: Any, mixed: bool) -> None:
    """Four tasks, split evenly, unevenly, and all on one of the two ranks; shared and private encoders."""
    reference = train(0, [[[0, 1, 2, 3]]], mixed, 3, SETTINGS)[0]
    for index, layout in enumerate(LAYOUTS):
        compare(reference, [results[f'mixed={mixed}'][index] for results in two_ranks[0]], layout)


@pytest.mark.full
def test_more_ranks_than_tasks() -> None:
    layout: list[list[int]] = [[0], [1], []]
    settings = {**SETTINGS, 'task_loss_weight': None}
    reference = train(0, [[[0, 1]]], False, 3, settings)[0]
    ranks = run_ranks(train, 3, [layout], False, 3, settings, timeout=150)
    compare(reference, [results[0] for results in ranks], layout)


def test_ranks_begin_with_equal_weights(two_ranks: Any) -> None:
    first, second = (result['initial'] for result in two_ranks[0])
    assert all(np.array_equal(left, right) for left, right in zip(first, second, strict=True))


def test_a_task_of_two_ranks_is_refused_on_both(two_ranks: Any) -> None:
    assert all('task ids of all ranks: [0, 0]' in result['refusal'] for result in two_ranks[0])


def test_a_checkpoint_of_two_ranks_continues_on_one(two_ranks: Any) -> None:
    reference, restored = tiny_policy(3, mixed=True), tiny_policy(3, mixed=True, seed=1)
    restored._load_state_dict_learn(torch.load(two_ranks[1]))
    for policy, seeds in ((reference, range(4)), (restored, range(2, 4))):
        for seed in seeds:
            present = [task_id for task_id in range(3) if not (seed == 1 and task_id == 1)]
            policy._forward_learn(
                [random_batch(policy, task_id, seed, batch_size=BATCH_SIZES[task_id]) for task_id in present]
            )
    for left, right in (
        (reference._model, restored._model),
        (reference._target_model, restored._target_model),
    ):
        for (name, expected), parameter in zip(left.named_parameters(), right.parameters(), strict=True):
            torch.testing.assert_close(parameter, expected, rtol=1e-6, atol=1e-9, msg=name)
