"""The batch of a policy that publishes nothing: its parts, its age, and what of it cannot be, told in that record."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from easydict import EasyDict
from torch import Tensor, nn

from ding_normmon import attach
from ding_normmon.core.record import Record


class Categorical:
    """A policy with three actions and values from -10 to 10, as DI-engine's C51 declares them."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self._cfg = EasyDict(model={'obs_shape': 4, 'action_shape': 3, 'v_min': -10, 'v_max': 10})
        self._learn_model = nn.Linear(4, 3)
        self._optimizer = torch.optim.SGD(self._learn_model.parameters(), lr=0.1)

    def _forward_learn(self, data: Any) -> None:
        observations = data['obs'] if isinstance(data, dict) else torch.stack([entry['obs'] for entry in data])
        self._optimizer.zero_grad()
        self._learn_model(observations).square().mean().backward()
        self._optimizer.step()


def transitions(iteration: int) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(iteration)
    return [
        {
            'obs': torch.randn(4, generator=generator),
            'action': torch.randint(3, (1,), generator=generator),
            'reward': torch.rand(1, generator=generator) * 20 - 10,
            'done': torch.tensor([bool(index % 2)]),
            'collect_iter': torch.tensor([iteration // 4 * 4 - index]),
        }
        for index in range(6)
    ]


def stacked(batch: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([entry[name] for entry in batch]) for name in batch[0]}


def records_of(batches: list[Any]) -> list[Record]:
    policy = Categorical()
    attachment = attach(policy, {'monitor_norm_freq': 1, 'budget': None})
    for batch in batches:
        policy._forward_learn(batch)
    attachment.detach()
    return attachment.monitor.take_records()


@pytest.mark.parametrize('as_mapping', [False, True])
def test_parts_and_age_against_float64(as_mapping: bool) -> None:
    batches = [transitions(iteration) for iteration in range(8)]
    records = records_of([stacked(batch) if as_mapping else batch for batch in batches])
    for iteration, (record, batch) in enumerate(zip(records, batches, strict=True)):
        rewards = stacked(batch)['reward'].double()
        assert record.scalars['data/reward/mean'] == pytest.approx(float(rewards.mean()), rel=1e-6)
        assert record.scalars['data/reward/std'] == pytest.approx(float(rewards.std()), rel=1e-6)
        ages = iteration - stacked(batch)['collect_iter'].double()
        assert record.scalars['data/age_iterations/mean'] == float(ages.mean())
        assert record.scalars['data/age_iterations/max'] == float(ages.max())
        assert not [name for name in record.scalars if name.startswith('data/outside/')]
        assert record.findings == ()


@pytest.mark.parametrize('as_mapping', [False, True])
@pytest.mark.parametrize(
    ('part', 'value', 'is_outside'),
    [
        ('reward', 10.001, True),
        ('reward', float('nan'), True),
        ('reward', -10.0, False),
        ('action', 3, True),
        ('action', -1, True),
        ('action', 2, False),
        ('done', 0.5, True),
        ('done', 1.0, False),
    ],
)
def test_what_cannot_be_is_told_in_its_record(part: str, value: float, is_outside: bool, as_mapping: bool) -> None:
    clean, spoilt = transitions(0), transitions(1)
    for index, entry in enumerate(spoilt):
        entry['done'] = entry['done'].float()
        if index in (2, 5):
            entry[part] = torch.tensor([value]).to(entry[part].dtype)
    records = records_of([stacked(batch) if as_mapping else batch for batch in (clean, spoilt)])
    found = {name: value for name, value in records[1].scalars.items() if name.startswith('data/outside/')}
    assert found == ({f'data/outside/{part}': 2.0} if is_outside else {})
    told = [entry.found for record in records for entry in record.findings if entry.rule == 'outside_support']
    assert told == ([1] if is_outside else [])
