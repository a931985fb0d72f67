"""The learning rate against its scheduler: every kind of schedule is left in peace, and what breaks one is told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler

from benchmarks.silent.error import PLANTED
from benchmarks.silent.plain_loops import Loop, Scheduled
from ding_normmon import attach
from ding_normmon.core.finding import Finding
from ding_normmon.core.record import Record
from ding_normmon.diagnose.invariants import EXACT, EXPECTED
from tests.sampling import sampled

pytestmark = pytest.mark.slow

NAMES = frozenset(rule.name for rule in (*EXACT, *EXPECTED))


def findings(records: Iterable[Record]) -> list[Finding]:
    return [entry for record in records for entry in record.findings if entry.rule in NAMES and entry.is_active]


class With(Loop):
    """A loop with any scheduler.

    Arguments:
        make: makes it.
        called: in which iterations it steps.
    """

    def __init__(
        self, make: Callable[[Optimizer], Any], called: Callable[[int], bool] = lambda iteration: True
    ) -> None:
        super().__init__()
        self.scheduler, self.called = make(self.optimizer), called

    def after(self) -> None:
        if self.called(self.iteration):
            plateau = isinstance(self.scheduler, lr_scheduler.ReduceLROnPlateau)
            self.scheduler.step(1.0) if plateau else self.scheduler.step()


class WithAverage(Scheduled):
    """Another scheduler takes over, made in the middle of the run."""

    def after(self) -> None:
        if self.iteration < PLANTED:
            super().after()
        else:
            if self.iteration == PLANTED:
                self.average = torch.optim.swa_utils.SWALR(self.optimizer, swa_lr=1e-4, anneal_epochs=3)
            self.average.step()


class ByHandFromTheBeginning(Scheduled):
    def before(self) -> None:
        self.optimizer.param_groups[0]['lr'] = 1e-3 * min(1, self.iteration / 50)


def sequence(optimizer: Optimizer) -> lr_scheduler.LRScheduler:
    parts = [lr_scheduler.LinearLR(optimizer, 0.1, 1, 10), lr_scheduler.CosineAnnealingLR(optimizer, 100)]
    return lr_scheduler.SequentialLR(optimizer, parts, [10])


def chain(optimizer: Optimizer) -> Any:
    parts = [lr_scheduler.LinearLR(optimizer, 0.1, 1, 10), lr_scheduler.ExponentialLR(optimizer, 0.9)]
    return lr_scheduler.ChainedScheduler(parts)


def warm_up(optimizer: Optimizer) -> lr_scheduler.LRScheduler:
    return lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 25))


def begin(iteration: int) -> bool:
    return iteration < 25


HEALTHY: dict[str, Callable[[], Loop]] = {
    'cosine': Scheduled,
    'steps': lambda: With(lambda optimizer: lr_scheduler.StepLR(optimizer, 7)),
    'milestones': lambda: With(lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [5, 20])),
    'one cycle': lambda: With(lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=100)),
    'cycles': lambda: With(lambda o: lr_scheduler.CyclicLR(o, 1e-4, 1e-2, 5, cycle_momentum=False)),
    'warm restarts': lambda: With(lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 10)),
    'plateau': lambda: With(lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer, patience=2)),
    'a sequence': lambda: With(sequence),
    'a chain': lambda: With(chain),
    'every epoch': lambda: With(lambda o: lr_scheduler.ExponentialLR(o, 0.9), lambda iteration: iteration % 7 == 6),
    'warm-up alone': lambda: With(warm_up, begin),
    'decay to its end': lambda: With(lambda o: lr_scheduler.CosineAnnealingLR(o, 25, 1e-5), begin),
    'decay to 0': lambda: With(lambda o: lr_scheduler.LambdaLR(o, lambda step: max(0.0, 1 - step / 25)), begin),
    'another one takes over': WithAverage,
    'by hand from the beginning': ByHandFromTheBeginning,
}


_QUICK = ('cosine', 'a sequence', 'warm-up alone', 'another one takes over')


@pytest.mark.parametrize('kind', [k if k in _QUICK else pytest.param(k, marks=pytest.mark.full) for k in HEALTHY])
def test_a_schedule_as_it_should_be_says_nothing(kind: str) -> None:
    assert findings(HEALTHY[kind]().run(60)) == []


@pytest.mark.parametrize(
    'make',
    sampled(
        [
            lambda optimizer: lr_scheduler.StepLR(optimizer, 10),
            lambda optimizer: lr_scheduler.ExponentialLR(optimizer, 0.99),
            lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: 0.99**step),
            sequence,
        ]
    ),
    ids=['steps', 'exponential', 'function', 'a sequence'],
)
def test_one_that_steps_no_more_is_told(make: Callable[[Optimizer], Any]) -> None:
    (finding,) = findings(With(make, lambda iteration: iteration < PLANTED).run())
    assert (finding.rule, finding.since, finding.found) == ('scheduler_steps_change', PLANTED + 1, PLANTED + 3)


def test_a_rate_set_by_hand_is_told_in_its_record_and_cleared_when_the_scheduler_sets_it_again() -> None:
    class ByHand(Scheduled):
        def before(self) -> None:
            if self.iteration == PLANTED:
                self.optimizer.param_groups[0]['lr'] = 0.5

    told = [entry for record in ByHand().run() for entry in record.findings]
    # Such a jump of the rate is a pattern for other rules too.
    raised, cleared = [entry for entry in told if entry.rule in NAMES]
    assert (raised.rule, raised.found) == ('rate_off_schedule', PLANTED)
    expected = 0.5e-3 * (1 + torch.cos(torch.tensor(torch.pi * PLANTED / 200, dtype=torch.float64)))
    assert f'0.5 in place of {float(expected):g}' in raised.sentence
    assert not cleared.is_active


class Policy:
    """Makes its optimizer anew, and keeps the scheduler of the old one."""

    def __init__(self, keeps: bool) -> None:
        torch.manual_seed(0)
        self.keeps = keeps
        self._learn_model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        self._make()
        self.scheduler = lr_scheduler.LambdaLR(self._optimizer, lambda step: 0.99**step)

    def _make(self) -> None:
        self._optimizer = torch.optim.Adam(self._learn_model.parameters(), lr=1e-3)

    def _forward_learn(self, data: Tensor) -> None:
        loss = self._learn_model(data).square().mean()
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self.scheduler.step()

    def make_anew(self) -> None:
        self._make()
        if not self.keeps:
            self.scheduler = lr_scheduler.LambdaLR(self._optimizer, lambda step: 0.99**step)


@pytest.mark.parametrize('keeps', [True, False])
def test_a_scheduler_of_an_optimizer_that_was_replaced(keeps: bool) -> None:
    policy = Policy(keeps)
    attachment = attach(policy, {'monitor_norm_freq': 1, 'budget': None})
    for iteration in range(45):
        if iteration == PLANTED:
            policy.make_anew()
        policy._forward_learn(torch.randn(16, 4))
    attachment.detach()
    found = [(entry.rule, entry.found) for entry in findings(attachment.monitor.take_records())]
    assert found == ([('rate_off_schedule', PLANTED)] if keeps else [])


@pytest.mark.full
@pytest.mark.parametrize('frequency', [2, 3, 7])
def test_the_steps_are_those_of_a_learner_step_however_often_it_is_measured(frequency: int) -> None:
    policy = Policy(keeps=True)
    attachment = attach(policy, {'monitor_norm_freq': frequency, 'budget': None})
    for _ in range(60):
        policy._forward_learn(torch.randn(16, 4))
    attachment.detach()
    first, *records = [record.scalars for record in attachment.monitor.take_records()]
    assert 'step/scheduler_steps' not in first
    assert Counter(scalars['step/scheduler_steps'] for scalars in records) == {1.0: len(records)}
