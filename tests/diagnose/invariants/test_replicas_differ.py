"""Replicas on real ranks: equal to the last bit, or told in the first record, with the ranks and the group."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from benchmarks.silent.two_ranks import HEALTHY, TWO_RANKS, train_rank
from ding_normmon import Monitor
from ding_normmon.core.record import Record
from ding_normmon.diagnose import Diagnosis
from tests.distributed.multitask import batch_of, learner_step, make_model
from tests.distributed.ranks import run_ranks


def with_errors(rank: int, names: list[str]) -> dict[str, list[tuple[int, str, str]]]:
    found = {}
    for name in names:
        records = train_rank(rank, name)
        found[name] = [(entry.found, entry.rule, entry.sentence) for record in records for entry in record.findings]
        dist.barrier()
    return found


@pytest.mark.distributed
@pytest.mark.full
def test_what_ranks_do_apart_is_told_in_the_first_record() -> None:
    names = [HEALTHY, *(error.name for error in TWO_RANKS)]
    found, _ = run_ranks(with_errors, 2, names, timeout=120)
    assert found[HEALTHY] == []
    for error in TWO_RANKS:
        (iteration, rule, sentence), *_ = found[error.name]
        assert rule in error.rules
        assert iteration == (error.planted if error.exact else error.planted + 2)
        assert not error.exact or 'rank 1 from rank 0' in sentence


@pytest.mark.distributed
@pytest.mark.full
@pytest.mark.parametrize('ranks', [1, 3, 4])
def test_any_number_of_healthy_ranks_says_nothing(ranks: int) -> None:
    found, *_ = run_ranks(with_errors, ranks, [HEALTHY], timeout=120)
    assert found == {HEALTHY: []}


def spoiled(rank: int, kind: str) -> list[tuple[int, str]]:
    """Four ranks, two tasks on each pair; rank 2 goes astray at iteration 5."""
    model = make_model(4)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    monitor = Monitor(model, {'monitor_norm_freq': 1}, num_tasks=4, task_ids=[rank])
    for iteration in range(8):
        with monitor.step(iteration) as step:
            learner_step(model, optimizer, [rank], iteration, step, collective=True)
        if iteration == 4 and rank == 2:
            bias = model.transformer[0].bias.data
            if kind == 'last bit':
                bias.view(torch.int32)[3] ^= 1
            elif kind == 'places':
                bias[:2] = bias[:2].flip(0)
            elif kind == 'own head':
                # Nobody else has this one.
                model.head_value_multi_task[rank].bias.data += 1
    monitor.close()
    return [(entry.found, entry.sentence) for record in monitor.take_records() for entry in record.findings]


@pytest.mark.distributed
@pytest.mark.parametrize('kind', ['last bit', 'places', 'own head'])
def test_the_rank_is_named_that_differs_from_most(kind: str) -> None:
    found, *others = run_ranks(spoiled, 4, kind, timeout=90)
    assert others == [[]] * 3
    sentence = 'The ranks do not have the same parameters of transformer: rank 2 from ranks 0, 1, 3.'
    assert found == ([] if kind == 'own head' else [(5, sentence)])


def unused(rank: int) -> list[Any]:
    """A part that nobody uses has other weights on every rank, and so has a part of the data's own."""
    torch.manual_seed(0)
    model = nn.ModuleDict({'body': nn.Linear(6, 4), 'never': nn.Linear(4, 4)})
    with torch.no_grad():
        model['never'].weight.fill_(float(rank))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = Monitor(model, {'monitor_norm_freq': 1})
    for iteration in range(5):
        with monitor.step(iteration) as step:
            optimizer.zero_grad()
            model['body'](batch_of(rank, iteration)[0]).square().mean().backward()
            dist.all_reduce(model['body'].weight.grad)
            dist.all_reduce(model['body'].bias.grad)
            step.backward_end()
            optimizer.step()
            step.step_end()
    monitor.close()
    return [entry.sentence for record in monitor.take_records() for entry in record.findings]


@pytest.mark.distributed
def test_what_nobody_trains_may_differ() -> None:
    assert run_ranks(unused, 2, timeout=60) == [[], []]


def test_groups_that_differ_since_one_record_are_one_finding() -> None:
    diagnosis = Diagnosis({})
    together = {f'broken/replicas/{group}/parameters': 1.0 for group in ('encoder', 'transformer')}
    (finding,) = diagnosis.observe(Record(0, together))
    assert (finding.severity, finding.since, finding.found) == ('error', 0, 0)
    assert 'parameters of encoder, transformer' in finding.sentence
    assert diagnosis.observe(Record(1, together)) == ()
    (finding,) = diagnosis.observe(Record(2, {**together, 'broken/replicas/other/gradient': 1.0}))
    assert 'synchronised gradient of other' in finding.sentence
