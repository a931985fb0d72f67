"""What a step moves, seen from a few words of each parameter."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from ding_normmon import Monitor
from ding_normmon.core.record import Record

STILL = 'broken/still/other'


class Stuck(torch.optim.SGD):
    """Loses the steps of its first parameter from some step on."""

    halt: int | None = None
    steps = 0

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        parameter = self.param_groups[0]['params'][0]
        kept = parameter.clone()
        super().step()
        if self.halt is not None and self.steps >= self.halt:
            parameter.copy_(kept)
        self.steps += 1


def trained(steps: int, halt: int | None = None, dead: bool = False) -> list[Record]:
    """Train two layers."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 30), nn.Linear(30, 1))
    optimizer = Stuck(model.parameters(), lr=0.1)
    optimizer.halt = halt
    # Of the words that a sample takes some belong to inputs that are always 0.
    used = torch.arange(40) % 5 == 3 if dead else torch.ones(40, dtype=torch.bool)
    with Monitor(model, {'monitor_norm_freq': 1, 'budget': None}, optimizer=optimizer) as monitor:
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.randn(8, 40) * used).square().mean().backward()
            optimizer.step()
    return monitor.take_records()


def trained_with(steps: int, between: Callable[[nn.Module, torch.optim.Optimizer, int], None]) -> list[Record]:
    """Train two layers, and do something between the steps."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 30), nn.Linear(30, 1), nn.Linear(1, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with Monitor(model, {'monitor_norm_freq': 1, 'budget': None}, optimizer=optimizer) as monitor:
        for step in range(steps):
            optimizer.zero_grad()
            model(torch.randn(8, 40)).square().mean().backward()
            optimizer.step()
            between(model, optimizer, step)
    return monitor.take_records()


def first_with(records: list[Record], name: str) -> int | None:
    return next((record.iteration for record in records if name in record.scalars), None)


def test_a_parameter_that_stands_still_is_told_within_five_records() -> None:
    for halt in (20, 21, 22):
        first = first_with(trained(40, halt), STILL)
        assert first is not None
        assert halt <= first < halt + 5


def test_once_told_it_is_told_in_every_record() -> None:
    records = trained(60, 30)
    first = first_with(records, STILL)
    assert first is not None
    assert all(STILL in record.scalars for record in records[first:])


def test_a_parameter_of_which_only_some_entries_move_is_no_still_one() -> None:
    assert first_with(trained(60, dead=True), STILL) is None


def keep(model: nn.Module) -> dict[str, torch.Tensor]:
    return copy.deepcopy(model.state_dict())


@pytest.mark.parametrize('begins', [20, 21])
@pytest.mark.parametrize('only', ['', '0.weight'])
def test_weights_that_are_written_back_after_each_step(begins: int, only: str) -> None:
    kept: dict[str, torch.Tensor] = {}

    def write_back(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        if step == begins:
            kept.update({name: weight for name, weight in keep(model).items() if name.startswith(only)})
        if kept:
            model.load_state_dict(kept, strict=False)

    records = trained_with(40, write_back)
    first = first_with(records, STILL)
    assert first is not None
    assert begins < first <= begins + 7
    assert all(STILL in record.scalars for record in records if record.iteration >= first)
    stuck = [record.scalars[STILL] for record in records if record.iteration >= first]
    # Single numbers are left out: they may come back by themselves.
    assert stuck[-1] == (1.0 if only else 3.0)


def average(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Evaluate with other weights, and put the own ones back."""
    own = keep(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    model.load_state_dict(own)


def clamp(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Push all weights but a few to a bound, as the critic of a WGAN does in the end."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.sign(parameter), alpha=0.003).clamp_(-0.05, 0.05)


def rewind(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Go back to a checkpoint now and then."""
    global checkpoint
    if step % 10 == 0:
        checkpoint = keep(model)
    elif step in (25, 37):
        model.load_state_dict(checkpoint)


checkpoint: dict[str, torch.Tensor] = {}


@pytest.mark.parametrize('between', [average, clamp, rewind])
def test_weights_that_are_written_and_move_on_are_nothing_wrong(
    between: Callable[[nn.Module, torch.optim.Optimizer, int], None],
) -> None:
    assert first_with(trained_with(45, between), STILL) is None


@pytest.mark.parametrize('preset', ['basic', 'full'])
def test_a_parameter_without_entries_cannot_stand_still(preset: str) -> None:
    model = nn.Linear(3, 1)
    model.register_parameter('bonus', nn.Parameter(torch.zeros(0, 2)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, {'monitor_norm_freq': 1, 'preset': preset}, optimizer=optimizer) as monitor:
        for _ in range(20):
            optimizer.zero_grad()
            (model(torch.randn(4, 3)).square().mean() + model.bonus.sum()).backward()
            optimizer.step()
    assert not monitor.lost_data.total
    assert not any(STILL in record.scalars for record in monitor.take_records())
