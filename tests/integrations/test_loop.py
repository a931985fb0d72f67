"""What a plain loop is told: where it goes on, that nothing was measured, and what was given as its optimizer."""

from __future__ import annotations

import gc
import logging
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ding_normmon import ConfigurationError, Monitor, attach
from tests.integrations.observe.loops import Lookahead, Net, norm
from tests.sampling import sampled

EVERY = {'monitor_norm_freq': 1}


def train(model: nn.Module, optimizer: Any, steps: int, *, step: Callable[[], object] | None = None) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(2, 4)).square().mean().backward()
        (step or optimizer.step)()


# -- resuming ------------------------------------------------------------------------------------------------------


def part(start: int, resume: Callable[[Monitor], None], inside: bool) -> tuple[list[int], dict[str, int]]:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    first = {} if start == 0 or resume is not by_argument else {'first_iteration': start}
    monitor = Monitor(model, {'monitor_norm_freq': 5}, optimizer=optimizer, **first)
    if not inside:
        resume(monitor)
    with monitor:
        if inside:
            resume(monitor)
        train(model, optimizer, 18)
        state = monitor.state_dict()
    assert monitor.state_dict()['next_iteration'] == state['next_iteration']
    return [record.iteration for record in monitor.take_records()], state


def by_argument(monitor: Monitor) -> None:
    """It was given at construction."""


@pytest.mark.parametrize('way', ['argument', 'state before', 'state inside'])
def test_a_resumed_loop_goes_on_where_it_was(way: str) -> None:
    iterations, state = part(0, by_argument, inside=False)
    assert iterations == [0, 5, 10, 15]
    assert state['next_iteration'] == 18
    resume = by_argument if way == 'argument' else lambda monitor: monitor.load_state_dict(state)
    iterations, state = part(18, resume, inside=way == 'state inside')
    assert iterations == [20, 25, 30, 35]
    assert state['next_iteration'] == 36


def test_a_checkpoint_without_a_loop_has_no_iteration_to_go_on_at() -> None:
    monitor = Monitor(Net(), EVERY)
    with monitor.step(0):
        pass
    monitor.close()
    assert 'next_iteration' not in monitor.state_dict()


# -- nothing measured ----------------------------------------------------------------------------------------------


class Policy:
    def __init__(self) -> None:
        self._learn_model = Net()
        self._optimizer = torch.optim.SGD(self._learn_model.parameters(), lr=0.1)

    def _forward_learn(self, data: Any) -> None:
        train(self._learn_model, self._optimizer, 1)


def without_optimizer() -> None:
    model = Net()
    with Monitor(model, EVERY):
        train(model, torch.optim.SGD(model.parameters(), lr=0.1), 3)


def without_entering() -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = Monitor(model, EVERY, optimizer=optimizer)
    train(model, optimizer, 3)
    monitor.close()


def without_entering_or_closing() -> None:
    model = Net()
    Monitor(model, EVERY, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    gc.collect()


def without_a_step() -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def move() -> None:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad

    with Monitor(model, EVERY, optimizer=optimizer) as monitor:
        train(model, optimizer, 3, step=move)
    assert monitor.take_records() == []


def with_another_optimizer() -> None:
    model = Net()
    given, used = (torch.optim.Adam(model.parameters(), lr=0.1) for _ in range(2))
    with Monitor(model, EVERY, optimizer=given):
        train(model, used, 3)


def with_an_early_learn_mode() -> None:
    policy = Policy()
    forward = policy._forward_learn
    attachment = attach(policy, EVERY)
    for _ in range(3):
        forward(None)
    attachment.detach()


CAUSES = {
    without_optimizer: 'it was given no optimizer=',
    without_entering: 'the monitor was never entered',
    without_entering_or_closing: 'the monitor was never entered',
    without_a_step: r'no step\(\) of optimizer \(SGD\) was seen',
    with_another_optimizer: r'no step\(\) of optimizer \(Adam\) was seen',
    with_an_early_learn_mode: 'its learn_mode was taken before the monitor was attached',
}


@pytest.mark.parametrize('program', sampled(CAUSES))
def test_that_nothing_was_measured_is_said_once_with_the_likely_cause(
    program: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    gc.collect()
    with caplog.at_level(logging.WARNING, 'ding_normmon'):
        program()
    said = [message for message in caplog.messages if 'nothing was measured' in message]
    assert len(said) == 1
    assert re.search(CAUSES[program], said[0])


def test_nothing_is_said_where_there_is_something(caplog: pytest.LogCaptureFixture) -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with caplog.at_level(logging.WARNING, 'ding_normmon'):
        with Monitor(model, {'monitor_norm_freq': 100}, optimizer=optimizer, first_iteration=1):
            train(model, optimizer, 3)
        with Monitor(model, EVERY) as monitor, monitor.step(0) as step:
            step.forward_end()
        Monitor(model, {'monitor_norm_freq': 0}, optimizer=optimizer).close()
        attach(Policy(), EVERY).detach(only_looked=True)
        with pytest.raises(KeyError), Monitor(model, EVERY, optimizer=optimizer):
            raise KeyError
    assert not caplog.messages


Optimizers = Callable[[nn.Module, torch.optim.Optimizer], Iterator[Any]]


def once(model: nn.Module, given: torch.optim.Optimizer) -> Iterator[Any]:
    yield from [given] * 4
    yield from [torch.optim.Adam(model.parameters(), lr=0.1)] * 6


def of_another_class(model: nn.Module, given: torch.optim.Optimizer) -> Iterator[Any]:
    yield from [given] * 4
    yield from [torch.optim.SGD(model.parameters(), lr=0.1)] * 6


def in_every_epoch(model: nn.Module, given: torch.optim.Optimizer) -> Iterator[Any]:
    yield from [given] * 4
    for _ in range(3):
        yield from [torch.optim.Adam(model.parameters(), lr=0.1)] * 2


def wrapped(model: nn.Module, given: torch.optim.Optimizer) -> Iterator[Any]:
    yield from [given] * 4
    yield from [Lookahead(torch.optim.RMSprop(model.parameters(), lr=0.1))] * 6


def made_before(model: nn.Module, given: torch.optim.Optimizer) -> Iterator[Any]:
    another = torch.optim.SGD(model.parameters(), lr=0.1)
    yield from [given] * 4 + [another] * 6


def with_the_earlier_one_again(model: nn.Module, given: torch.optim.Optimizer) -> Iterator[Any]:
    yield from [given] * 2
    yield from [torch.optim.SGD(model.parameters(), lr=0.1)] * 2 + [given] * 5


def steps_with(optimizers: Optimizers, caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what is logged while a loop is trained with one optimizer after another, of which one is given.

    What is measured is right, in the iteration in which it was.
    """
    model = Net()
    given = torch.optim.Adam(model.parameters(), lr=0.1)
    right = []
    with caplog.at_level(logging.WARNING, 'ding_normmon'), Monitor(model, EVERY, optimizer=given) as monitor:
        for optimizer in optimizers(model, given):
            weights = norm(model.parameters())
            train(model, optimizer, 1)
            right.append((weights, norm(parameter.grad for parameter in model.parameters())))
    if optimizers in MISSED:
        records = monitor.take_records()
        assert {record.iteration for record in records} == set(range(len(right))) - MISSED[optimizers]
        for record in records:
            found = [record.scalars[f'{what}/model/_total_norm'] for what in ('norm', 'grad')]
            assert found == pytest.approx(right[record.iteration], rel=1e-6)
    return caplog.messages


MISSED = {
    once: {4},
    of_another_class: {4},
    in_every_epoch: {4, 6, 8},
    wrapped: {4},
    with_the_earlier_one_again: {2, 4},
    made_before: {4, 5, 6},
}
"""Iterations of which nobody could know; in the last, the optimizer might have been one besides the given one."""


@pytest.mark.parametrize('optimizers', MISSED)
def test_an_optimizer_that_is_made_anew_is_measured_from_its_second_step_on(
    optimizers: Optimizers, caplog: pytest.LogCaptureFixture
) -> None:
    said = steps_with(optimizers, caplog)
    assert said[0].startswith('monitor: optimizer (Adam) steps no more; another optimizer (')
    assert f'The {3 if optimizers is made_before else 1} of its steps from iteration ' in said[0]
    assert said[1:] == [f"monitor: lost in this run: {{'replaced_optimizer': {len(MISSED[optimizers])}}}"]


def rarely_besides(model: nn.Module, given: torch.optim.Optimizer) -> Iterator[Any]:
    besides = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(4):
        yield from (given, besides, besides)


def of_another_model(model: nn.Module, given: torch.optim.Optimizer) -> Iterator[Any]:
    other = torch.optim.Adam(Net().parameters(), lr=0.1)
    yield from [given] * 2 + [other] * 10 + [given] * 2


def in_a_wrapper(model: nn.Module, given: torch.optim.Optimizer) -> Iterator[Any]:
    yield from [given] * 2 + [Lookahead(given)] * 10


@pytest.mark.parametrize('optimizers', [rarely_besides, of_another_model, in_a_wrapper])
def test_optimizers_besides_the_given_one_are_not_told_of(
    optimizers: Optimizers, caplog: pytest.LogCaptureFixture
) -> None:
    assert steps_with(optimizers, caplog) == []


@pytest.mark.slow
@pytest.mark.full
def test_it_is_said_when_the_process_ends() -> None:
    program = (
        'import torch\n'
        'from ding_normmon import Monitor\n'
        'model = torch.nn.Linear(2, 1)\n'
        'monitor = Monitor(model, {"monitor_norm_freq": 1}, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))\n'
        'model(torch.ones(1, 2)).sum().backward()\n'
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, '-c', program], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr.count('nothing was measured') == 1


def test_a_monitor_that_was_closed_cannot_be_entered_again() -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = Monitor(model, EVERY, optimizer=optimizer)
    with monitor:
        train(model, optimizer, 1)
    with pytest.raises(ConfigurationError, match='closed at the end of its "with" block'), monitor:
        pass


def test_begin_is_for_the_loop() -> None:
    model = Net()
    monitor = Monitor(model, EVERY, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(RuntimeError, match='inside of "with Monitor'):
        monitor.begin(0)
    Monitor(model, {'monitor_norm_freq': 0}).begin(0)


# -- what is called an optimizer -----------------------------------------------------------------------------------


class Prepared(torch.optim.Optimizer):
    """As accelerate wraps one: an optimizer that never called its base class, and steps only now and then."""

    def __init__(self, optimizer: torch.optim.Optimizer, every: int) -> None:
        self.optimizer, self.every, self.count = optimizer, every, 0

    @property
    def param_groups(self) -> Any:  # type: ignore[override]
        return self.optimizer.param_groups

    def zero_grad(self, set_to_none: bool = True) -> None:
        if self.count % self.every == 0:
            self.optimizer.zero_grad(set_to_none)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.count += 1
        if self.count % self.every == 0:
            self.optimizer.step()


class Several:
    """No optimizer at all, but a list of them."""

    def __init__(self, *optimizers: torch.optim.Optimizer) -> None:
        self._optimizers = list(optimizers)

    def zero_grad(self) -> None:
        for optimizer in self._optimizers:
            optimizer.zero_grad()

    def step(self) -> None:
        for optimizer in self._optimizers:
            optimizer.step()


def test_a_prepared_optimizer_is_seen_where_it_really_steps() -> None:
    model = Net()
    optimizer = Prepared(torch.optim.SGD(model.parameters(), lr=0.1), every=2)
    right = []
    with Monitor(model, EVERY, optimizer=optimizer) as monitor:
        for index in range(6):
            optimizer.zero_grad()
            model(torch.full((2, 4), index + 1.0)).square().mean().backward()
            if index % 2:
                right.append(norm(parameter.grad for parameter in model.parameters()))
            optimizer.step()
    found = [record.scalars['grad/model/_total_norm'] for record in monitor.take_records()]
    assert found == pytest.approx(right, rel=1e-6)


def test_optimizers_that_somebody_puts_together_are_all_seen() -> None:
    model = Net()
    both = Several(
        torch.optim.SGD(model.head_value.parameters(), lr=0.1), Lookahead(torch.optim.Adam(model.encoder.parameters()))
    )
    with Monitor(model, EVERY, optimizer=both) as monitor:
        train(model, both, 3)
    records = monitor.take_records()
    assert [record.iteration for record in records] == [0, 1, 2]
    assert all('grad/model/_total_norm' in record.scalars for record in records)


@pytest.mark.parametrize('given', [7, nn.Linear(2, 1), {'actor': 'Adam'}, [None]])
def test_what_is_no_optimizer_is_refused(given: Any) -> None:
    with pytest.raises(ConfigurationError, match=r'is no torch\.optim\.Optimizer, and holds none'):
        Monitor(Net(), EVERY, optimizer=given)


@pytest.mark.parametrize('planted', [4, 60])
def test_a_jump_by_ten_orders_is_told_while_training(planted: int) -> None:
    """In a run of fast steps, in which most records are not judged by all rules."""
    model, told = Net(), []
    optimizer = torch.optim.Adam(model.parameters())
    factor = [1.0]
    for parameter in model.parameters():
        parameter.register_hook(lambda gradient: gradient * factor[0])
    with Monitor(model, EVERY, optimizer=optimizer, callback=told.append):
        for step in range(planted + 12):
            factor[0] = 1e10 if step >= planted else 1.0
            train(model, optimizer, 1)
    finding = next(finding for finding in told if finding.rule == 'spike')
    assert planted <= finding.found < planted + 8
    assert finding.evidence


def converted(model: nn.Module) -> None:
    """Change all tensors, as ``Module.to`` does where it swaps them."""
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        model.double().float()
        model.load_state_dict({name: 2 * value for name, value in model.state_dict().items()})
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


def swapped(model: nn.Module) -> None:
    """Swap every parameter with another."""
    for parameter in model.parameters():
        torch.utils.swap_tensors(parameter, nn.Parameter(0.5 * parameter.detach()))


@pytest.mark.parametrize('preset', ['basic', 'full'])
@pytest.mark.parametrize('change', [converted, swapped])
def test_tensors_can_be_swapped_as_without_a_monitor(change: Callable[[nn.Module], None], preset: str) -> None:
    """Torch refuses to swap a tensor that somebody has a weak reference to."""
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    right = []
    with Monitor(model, {'monitor_norm_freq': 1, 'preset': preset}, optimizer=optimizer) as monitor:
        for iteration in range(6):
            if iteration == 3:
                optimizer.zero_grad()
                change(model)
            right.append(norm(model.parameters()))
            train(model, optimizer, 1)
    found = [record.scalars['norm/model/_total_norm'] for record in monitor.take_records()]
    assert found == pytest.approx(right, rel=1e-6)


class Shared(torch.optim.Optimizer):
    """Another optimizer moves the first half of its parameters, and it the rest by itself."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(list(parameters), {'lr': 0.1})
        held = self.param_groups[0]['params']
        self.rest = held[len(held) // 2 :]
        self.optim = torch.optim.SGD(held[: len(held) // 2], lr=0.1)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        self.optim.step()
        for parameter in self.rest:
            parameter.sub_(parameter.grad, alpha=0.1)


def test_an_optimizer_that_moves_a_part_itself_is_measured_to_the_end_of_its_step() -> None:
    model = Net()
    optimizer = Shared(model.parameters())
    right = []
    with Monitor(model, {'monitor_norm_freq': 1, 'preset': 'full'}, optimizer=optimizer) as monitor:
        for _ in range(4):
            before = [parameter.detach().clone() for parameter in model.head_value.parameters()]
            train(model, optimizer, 1)
            moved = [p.detach() - was for p, was in zip(model.head_value.parameters(), before, strict=True)]
            right.append(norm(moved) / norm(before))
    found = [record.scalars['update/head_value/relative'] for record in monitor.take_records()]
    assert found == pytest.approx(right, rel=1e-4)
