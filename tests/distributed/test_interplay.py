"""Interactions of tasks measured over several ranks equal those on one rank; agreement is compared with all pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from ding_normmon import Monitor, Record
from ding_normmon.core.step import LearnerStep
from ding_normmon.metrics import preset_metrics
from tests.distributed.ranks import run_ranks
from tests.unizero.builders import random_batch, tiny_policy

pytestmark = pytest.mark.distributed

TASKS = 4
LAYOUTS: dict[str, Sequence[Sequence[int]]] = {
    'even': [[0, 1], [2], [3]],
    'an idle rank': [[3, 0], [], [2, 1]],
    'in no order': [[2], [3, 1], [0]],
}


class WithLocalGradients(LearnerStep):
    """Keeps this rank's gradients as they are before the ranks add them up."""

    def watch(self, parameters: dict[str, list[torch.nn.Parameter]]) -> None:
        self.parameters, self.local = parameters, {}

    def local_backward_end(self, averaged_over: int = 1) -> None:
        for name, group in self.parameters.items():
            if any(parameter.grad is not None for parameter in group):
                found = [torch.zeros_like(p) if p.grad is None else p.grad for p in group]
                self.local[name] = torch.cat([gradient.double().reshape(-1) for gradient in found]).numpy()
        super().local_backward_end(averaged_over)


def one_step(layout: Sequence[Sequence[int]], rank: int, size: int) -> tuple[Record | None, dict[str, np.ndarray]]:
    policy = tiny_policy(TASKS, layout[rank])
    monitor = Monitor(
        policy._learn_model,
        {'monitor_norm_freq': 1, 'setup_timeout': 60, 'sketch_size': size, 'preset': 'multitask'},
        num_tasks=TASKS,
        task_ids=layout[rank],
        metrics=preset_metrics('multitask'),
    )
    step = monitor.begin_step(0)
    assert isinstance(step, LearnerStep)
    watched = WithLocalGradients(0, step.listener)
    world_model = policy._learn_model.world_model
    watched.watch(
        {
            'encoder': list(world_model.tokenizer.encoder.parameters()),
            'transformer': list(world_model.transformer.parameters()),
        }
    )
    policy.learner_step = watched
    policy._forward_learn([random_batch(policy, task, seed=task, batch_size=2 + task) for task in layout[rank]])
    step.fired = watched.fired
    monitor.end_step(step)
    monitor.close()
    assert not monitor.lost_data.total, monitor.lost_data.total
    records = monitor.take_records()
    return (records[0] if records else None), watched.local


def every_layout(rank: int) -> dict[tuple[str, int], Any]:
    results = {}
    for name, layout in LAYOUTS.items():
        for size in (256, 4096):
            results[name, size] = one_step(layout, rank, size)
    dist.barrier()
    return results


@pytest.fixture(scope='module')
def results() -> list[dict[tuple[str, int], tuple[Record, dict[str, np.ndarray]]]]:
    return run_ranks(every_layout, 3, timeout=200)


@pytest.mark.parametrize('size', [256, 4096])
@pytest.mark.parametrize('name', LAYOUTS)
@pytest.mark.full
def test_conflict_and_updates_do_not_depend_on_the_layout(results: Any, name: str, size: int) -> None:
    record, _ = results[0][name, size]
    reference, _ = one_step([range(TASKS)], 0, size)
    assert reference is not None
    names = {n for n in reference.scalars if n.startswith(('conflict/', 'update/'))}
    assert len(names) > 50
    assert {n for n in record.scalars if n.startswith(('conflict/', 'update/'))} == names
    for metric in names:
        # The optimizer divides by the size of a gradient: rounding of one that is nearly 0 moves the weight.
        tolerance = 1e-6 if metric.startswith('conflict/') else 1e-3
        assert record.scalars[metric] == pytest.approx(reference.scalars[metric], rel=tolerance, abs=1e-6), metric
    assert record.matrices.keys() == reference.matrices.keys()
    for metric, matrix in reference.matrices.items():
        if metric.startswith('conflict/'):
            assert record.matrices[metric].rows == matrix.rows
            assert np.abs(record.matrices[metric].values - matrix.values).max() < 1e-6, metric


@pytest.mark.parametrize('name', LAYOUTS)
@pytest.mark.full
def test_agreement_is_that_of_all_pairs_of_contributing_ranks(results: Any, name: str) -> None:
    record, _ = results[0][name, 4096]
    for group in ('encoder', 'transformer'):
        local = [rank[name, 4096][1][group] for rank in results if group in rank[name, 4096][1]]
        assert len(local) == sum(1 for tasks in LAYOUTS[name] if tasks)
        dots = [a @ b for i, a in enumerate(local) for j, b in enumerate(local) if i != j]
        expected = float(np.mean(dots))
        mean_square = float(np.mean([a @ a for a in local]))
        assert record.scalars[f'agreement/{group}/ranks'] == len(local)
        assert record.scalars[f'agreement/{group}/mean_dot'] == pytest.approx(expected, abs=1e-6 * mean_square)
        assert record.scalars[f'agreement/{group}/cosine'] == pytest.approx(expected / mean_square, abs=1e-6)


def test_one_rank_has_no_agreement() -> None:
    record, _ = one_step([range(TASKS)], 0, 4096)
    assert record is not None
    assert not [metric for metric in record.scalars if metric.startswith('agreement')]
