"""The target network of a plain loop, of a policy and of DI-engine's own: its distance, and whether it follows."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import nn

from benchmarks.silent.error import PLANTED
from ding_normmon import Monitor, attach
from ding_normmon.core.record import Record
from tests.integrations.ding_engine.policies import CASES
from tests.sampling import sampled

pytestmark = pytest.mark.slow


class Following:
    """A model with a target network.

    Arguments:
        factor: share of the model that the target takes over in an update; 1 copies the model.
        called: in which iterations it is updated.
    """

    def __init__(self, factor: float, called: Callable[[int], bool]) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
        self.target = copy.deepcopy(self.model)
        self.factor, self.called = factor, called
        self.distances: list[float] = []

    def run(self, steps: int = 60, frequency: int = 1) -> list[Record]:
        optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        config = {'monitor_norm_freq': frequency, 'budget': None}
        with Monitor(self.model, config, optimizer=optimizer, target=self.target) as monitor:
            for iteration in range(steps):
                online, away = (
                    torch.cat([p.detach().double().reshape(-1) for p in model.parameters()])
                    for model in (self.model, self.target)
                )
                self.distances.append(float((online - away).norm() / online.norm()))
                optimizer.zero_grad()
                self.model(torch.randn(16, 4)).square().mean().backward()
                optimizer.step()
                if self.called(iteration):
                    self.update()
        return monitor.take_records()

    @torch.no_grad()
    def update(self) -> None:
        for p, q in zip(self.model.parameters(), self.target.parameters(), strict=True):
            q.copy_(p) if self.factor == 1 else q.lerp_(p, self.factor)


def told(records: list[Record]) -> list[tuple[int, str]]:
    found = [entry for record in records for entry in record.findings if entry.is_active]
    assert {entry.rule for entry in found} <= {'target_network'}, found
    return [(entry.found, entry.sentence) for entry in found]


def test_the_distance_is_that_of_float64() -> None:
    following = Following(0.05, lambda iteration: iteration % 3 == 2)
    records = following.run(20)
    assert [record.scalars['target/distance'] for record in records] == pytest.approx(following.distances, rel=1e-6)
    fingerprints = [record.scalars['monitor/fingerprint/target'] for record in records]
    moved = [before != after for before, after in pairwise(fingerprints)]
    assert moved == [iteration % 3 == 2 for iteration in range(19)]


@pytest.mark.parametrize(('factor', 'frequency'), [(0.005, 1), (0.3, 1), (1.0, 1), (0.02, 3)])
def test_how_far_it_goes_is_the_factor_of_its_update(factor: float, frequency: int) -> None:
    records = Following(factor, lambda iteration: True).run(40, frequency)
    followed = [record.scalars['target/followed'] for record in records[1:]]
    # Over several iterations it is approximate, as the model moves on meanwhile.
    assert followed == pytest.approx([factor] * len(followed), rel=2e-3 if frequency == 1 else 0.5)


@pytest.mark.parametrize(('factor', 'later'), [(0.01, 0.99), (0.2, 0.01)])
def test_another_factor_is_told(factor: float, later: float) -> None:
    following = Following(factor, lambda iteration: True)

    def change(iteration: int) -> bool:
        following.factor = factor if iteration < PLANTED else later
        return True

    following.called = change
    ((found, sentence),) = told(following.run(PLANTED + 20))
    assert PLANTED < found <= PLANTED + 5
    assert sentence == (
        f'The target network goes {later:.3g} of the way to the model in an iteration; before it was {factor:.3g}.'
    )


@pytest.mark.parametrize(
    ('factor', 'period', 'frequency'),
    sampled([(0.05, 1, 1), (0.05, 2, 1), (1.0, 10, 1), (1.0, 7, 3), (1.0, 10, 5), (1.0, 5, 5)]),
)
def test_one_that_follows_by_whatever_rule_says_nothing(factor: float, period: int, frequency: int) -> None:
    assert told(Following(factor, lambda iteration: iteration % period == period - 1).run(150, frequency)) == []


@pytest.mark.parametrize(('factor', 'period'), sampled([(0.05, 1), (0.05, 2), (1.0, 5)], 2))
def test_one_that_follows_no_more_is_told(factor: float, period: int) -> None:
    following = Following(factor, lambda iteration: iteration % period == period - 1 and iteration < 44)
    ((found, sentence),) = told(following.run(60))
    # The first update that is missing is seen a period after the last one.
    last = max(iteration for iteration in range(44) if iteration % period == period - 1)
    assert found == last + 1 + period + 2
    assert 'no longer follows' in sentence


def test_one_that_becomes_the_model_itself_is_told() -> None:
    following = Following(0.05, lambda iteration: True)
    update = following.update

    def updated() -> None:
        following.factor = 0.05 if len(following.distances) < PLANTED else 1.0
        update()

    following.update = updated  # type: ignore[method-assign]
    ((found, sentence),) = told(following.run())
    assert (found, sentence) == (PLANTED + 2, 'The target network is the model itself, to the last bit.')


@pytest.mark.parametrize('name', ['DQN', 'SAC', 'TD3', 'DDPG'])
def test_the_target_networks_of_ding_engine_are_found(name: str) -> None:
    policy = CASES[name].make()
    attachment = attach(policy, {'monitor_norm_freq': 1})
    generator = torch.Generator().manual_seed(0)
    expected = []
    for _ in range(3):
        online, away = (
            torch.cat([p.detach().double().reshape(-1) for p in model.parameters()])
            for model in (policy._model, policy._target_model._model)
        )
        expected.append(float((online - away).norm() / online.norm()))
        policy._forward_learn(*CASES[name].batch(generator))
    attachment.detach()
    records = attachment.monitor.take_records()
    assert [record.scalars['target/distance'] for record in records] == pytest.approx(expected, rel=1e-6)
