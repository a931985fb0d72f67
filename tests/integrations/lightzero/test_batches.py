"""What LightZero's policies are given: sizes, rewards, targets against float64, what cannot be, and its age."""

from __future__ import annotations

import gc
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from lzero.mcts.buffer.game_buffer_muzero import MuZeroGameBuffer

from ding_normmon import attach
from ding_normmon.core.record import Record
from ding_normmon.integrations.lightzero.batch import mask_entry
from tests.integrations.lightzero.policies import BATCH, POLICIES, SUPPORT, UNROLL, batch, quietly
from tests.sampling import sampled

QUICK = ('unizero', 'muzero', 'gumbel_muzero')
each_policy = pytest.mark.parametrize(
    'name', [name if name in QUICK else pytest.param(name, marks=pytest.mark.full) for name in POLICIES]
)


def records_of(name: str, batches: list[Any]) -> list[Record]:
    policy = POLICIES[name]()
    attachment = attach(policy, {'monitor_norm_freq': 1})
    with quietly():
        for data in batches:
            policy._forward_learn(data)
    attachment.detach()
    return attachment.monitor.take_records()


def parts(data: Any) -> tuple[Any, Any, Any, Any]:
    """Return mask, rewards, values and policies."""
    found = mask_entry(data[0])
    assert found is not None
    return found[1], data[1][0], data[1][1], data[1][2]


@each_policy
def test_sizes_rewards_and_targets_against_float64(name: str) -> None:
    data = batch(name, 0)
    mask, rewards, values, _ = parts(data)
    valid = mask[:, :UNROLL] == 1
    expected = {'data/batch_size': float(BATCH), 'data/valid_steps': float(valid.sum())}
    for figure, table in (('reward', rewards), ('value_target', values)):
        kept = table[:, :UNROLL].astype(np.float64)[valid]
        expected |= {f'data/{figure}/mean': kept.mean(), f'data/{figure}/std': kept.std(ddof=1)}
        expected |= {f'data/{figure}/max': kept.max(), f'data/{figure}/min': kept.min()}
    (record,) = records_of(name, [data])
    for figure, value in expected.items():
        assert record.scalars[figure] == pytest.approx(value, rel=1e-6), figure
    assert not [figure for figure in record.scalars if figure.startswith('data/outside/')]
    assert 'target/distance' in record.scalars


@each_policy
@pytest.mark.parametrize('kind', sampled(['reward', 'value_target', 'policy_target', 'padded reward', 'at the edge']))
def test_what_is_outside_of_the_support_is_told_in_its_record(name: str, kind: str) -> None:
    clean, spoilt = batch(name, 0), batch(name, 1)
    _, rewards, values, policies = parts(spoilt)
    # h(x) = sqrt(x + 1) - 1 + x / 1000 is SUPPORT at about 117.6.
    largest = next(x / 1000 for x in range(130_000) if np.sqrt(x / 1000 + 1) - 1 + x / 1e6 > SUPPORT)
    if kind == 'reward':
        rewards[1, :2] = largest + 1, -largest - 1
    elif kind == 'value_target':
        values[2, 0] = largest + 0.01
    elif kind == 'policy_target':
        # Below 0 sampled policies take its logarithm, and end the run themselves.
        policies[1, 1, 0] = 1.01
    elif kind == 'padded reward':
        rewards[3, 1] = 1e6
    else:
        rewards[1, 1], values[1, 1] = largest - 0.01, -largest + 0.01
    records = records_of(name, [clean, spoilt])
    found = {figure: value for figure, value in records[1].scalars.items() if figure.startswith('data/outside/')}
    wrong = {'reward': 2.0, 'value_target': 1.0, 'policy_target': 1.0}
    assert found == ({f'data/outside/{kind}': wrong[kind]} if kind in wrong else {})
    told = [finding.found for record in records for finding in record.findings if finding.rule == 'outside_support']
    assert told == ([1] if kind in wrong else [])


def store(buffer: Any, *lengths: int) -> None:
    """Store segments of these lengths; what is in them is nothing to the buffer."""
    segments = [SimpleNamespace(action_segment=[0] * length) for length in lengths]
    buffer.push_game_segments((segments, [{'done': True, 'priorities': None}] * len(lengths)))


@pytest.mark.parametrize('frequency', sampled([2, 1]))
def test_age_and_refill_rate_are_those_of_the_real_buffer(frequency: int) -> None:
    # Buffers of earlier tests.
    gc.collect()
    policy = POLICIES['muzero'](replay_buffer_size=1000)
    buffer = MuZeroGameBuffer(policy._cfg)
    attachment = attach(policy, {'monitor_norm_freq': frequency})
    expected: list[dict[str, float]] = []
    total = new = 0
    with quietly():
        for iteration in range(6):
            lengths = [3 + iteration, 4] if iteration != 3 else []
            store(buffer, *lengths)
            total += sum(lengths)
            new += sum(lengths)
            data = batch('muzero', iteration)
            places = np.random.default_rng(iteration).choice(total, BATCH, replace=False)
            data[0][3] = places
            if iteration % frequency == 0:
                ages = (total - 1 - places).astype(np.float64)
                # Stored since the measured step before.
                expected.append({'mean': ages.mean(), 'max': ages.max(), 'min': ages.min(), 'rate': new / frequency})
                new = 0
            policy._forward_learn(data)
    attachment.detach()
    records = attachment.monitor.take_records()
    assert len(records) == 6 // frequency
    for record, figures in zip(records, expected, strict=True):
        for statistic in ('mean', 'max', 'min'):
            assert record.scalars[f'data/age_transitions/{statistic}'] == pytest.approx(figures[statistic], rel=1e-6)
        if record.iteration:
            assert record.scalars['data/refill_rate'] == figures['rate']
    assert 'data/refill_rate' not in records[0].scalars


def test_batches_of_no_buffer_have_no_age() -> None:
    gc.collect()
    records = records_of('muzero', [batch('muzero', 0)])
    assert not [name for name in records[0].scalars if name.startswith(('data/age', 'data/refill'))]
