"""What a step moves, seen from a few words of each parameter."""

from __future__ import annotations

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
