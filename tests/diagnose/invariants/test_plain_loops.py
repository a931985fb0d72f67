"""Every invariant in a plain loop: broken on purpose it speaks in time, and in what is nearly broken it is silent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import optimizer as optimizers

from benchmarks.silent.error import PLANTED, SilentError, judge
from benchmarks.silent.plain_loops import PLAIN_LOOPS, Loop
from ding_normmon import Monitor
from ding_normmon.core import backward_passes
from ding_normmon.core.record import Record
from ding_normmon.diagnose.invariants import EXACT, EXPECTED
from tests.sampling import sampled

pytestmark = pytest.mark.slow

NAMES = frozenset(rule.name for rule in (*EXACT, *EXPECTED))


def spoken(records: Iterable[Record]) -> Counter[str]:
    return Counter(finding.rule for record in records for finding in record.findings if finding.rule in NAMES)


@pytest.mark.parametrize('error', sampled(PLAIN_LOOPS, 4), ids=lambda error: error.name)
def test_an_error_is_told_in_time_and_nothing_before_it(error: SilentError) -> None:
    verdict = judge(error, NAMES)
    assert verdict.early == ()
    assert verdict.in_time, verdict.delay


class Accumulating(Loop):
    """Four backward passes for each step."""

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            (super().forward(self.batch()) / 4).backward()
        return super().forward(x) / 4


class ZeroedInPlace(Loop):
    def zero(self) -> None:
        self.optimizer.zero_grad(set_to_none=False)


class ZeroedAfterTheStep(Loop):
    def zero(self) -> None:
        pass

    def after(self) -> None:
        self.optimizer.zero_grad()


class Scheduled(Loop):
    """Some learning rate for every step: warm-up from 0, or decay to 0."""

    def __init__(self, rate: Callable[[int], float]) -> None:
        super().__init__()
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, rate)

    def after(self) -> None:
        self.schedule.step()


class Thawing(Loop):
    """Frozen from the start; the optimizer holds what thaws later."""

    def __init__(self) -> None:
        super().__init__()
        self.model[0].requires_grad_(False)

    def before(self) -> None:
        if self.iteration == PLANTED:
            self.model[0].requires_grad_(True)


class ThawingWithAGroup(Thawing):
    """What thaws is given to the optimizer at that moment."""

    def __init__(self) -> None:
        super().__init__()
        self.optimizer = self.make_optimizer([p for p in self.model.parameters() if p.requires_grad])

    def before(self) -> None:
        super().before()
        if self.iteration == PLANTED:
            self.optimizer.add_param_group({'params': list(self.model[0].parameters())})


class Freezing(Loop):
    """Frozen on purpose, and given no gradient any more."""

    def make_optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=1e-2, momentum=0.9, weight_decay=1e-4)

    def before(self) -> None:
        if self.iteration == PLANTED:
            self.model[0].requires_grad_(False)


class HeadMadeAnewWithItsOptimizer(Loop):
    def before(self) -> None:
        if self.iteration == PLANTED:
            self.model[6] = nn.Linear(32, 4)
            self.optimizer.param_groups[0]['params'] = list(self.model.parameters())


class StateLoaded(Loop):
    def before(self) -> None:
        if self.iteration == PLANTED:
            self.model.load_state_dict({name: value.clone() for name, value in self.model.state_dict().items()})


class LowRank(nn.Module):
    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(2, base.in_features) * 0.1)
        self.up = nn.Parameter(torch.zeros(base.out_features, 2))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x) + x @ self.down.T @ self.up.T
        return out


class Adapters(Loop):
    """LoRA: the base is frozen, and only what is trained is held."""

    def __init__(self) -> None:
        super().__init__()
        self.model[0] = LowRank(self.model[0])
        self.optimizer = self.make_optimizer([p for p in self.model.parameters() if p.requires_grad])

    def run(self, steps: int = 45) -> list[Record]:
        with Monitor(self.model, {'monitor_norm_freq': 1, 'budget': None}, optimizer=self.optimizer) as monitor:
            for self.iteration in range(steps):
                self.zero()
                self.forward(self.batch()).backward()
                self.optimizer.step()
        return monitor.take_records()


class HalfPrecision(Loop):
    """In bfloat16 many an update is below the resolution of its parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.model.bfloat16()
        self.optimizer = self.make_optimizer(self.model.parameters())

    def batch(self) -> Tensor:
        return super().batch().bfloat16()


class HardlyMoving(HalfPrecision):
    """In most steps a few entries move, and none in some."""

    def make_optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=1e-3)

    def run(self, steps: int = 120) -> list[Record]:
        return super().run(steps)


class Autocast(Loop):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast('cpu', dtype=torch.bfloat16):
            return super().forward(x)


class Evaluating(Loop):
    """Evaluates now and then, and goes back to training; then in evaluation mode for a single step."""

    def after(self) -> None:
        self.model.eval()
        with torch.no_grad():
            self.model(torch.randn(16, 8, generator=self.generator))
        self.model.train(self.iteration != PLANTED)


class AlwaysTheWholeData(Loop):
    """The same batch from the first step on."""

    def batch(self) -> Tensor:
        return torch.randn(32, 8, generator=torch.Generator().manual_seed(3))


class LastBatchOfAnEpoch(Loop):
    def batch(self) -> Tensor:
        x = super().batch()
        return x[:5] if self.iteration == PLANTED else x


class InputsGrow(Loop):
    """Up to ten times what they were, which curricula do."""

    def batch(self) -> Tensor:
        return super().batch() * (1 + self.iteration / 5)


class Clipped(Loop):
    """Clipped to next to nothing, by a hook of the optimizer's."""

    def make_optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        optimizer = super().make_optimizer(parameters)
        optimizer.register_step_pre_hook(lambda *_: nn.utils.clip_grad_norm_(self.model.parameters(), 1e-6) and None)
        return optimizer


class LessGradient(Loop):
    """Gradients become a millionth: a plain optimizer's step then changes nothing."""

    def make_optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=1e-2)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1e-9 if self.broken else 1.0)


HEALTHY: dict[str, Callable[[], Loop]] = {
    'as it is': Loop,
    'accumulating': Accumulating,
    'zeroed in place': ZeroedInPlace,
    'zeroed after the step': ZeroedAfterTheStep,
    'warm-up from 0': lambda: Scheduled(lambda step: min(1.0, step / 20)),
    'decay to 0': lambda: Scheduled(lambda step: max(0.0, 1 - step / 30)),
    'decay by factors': lambda: Scheduled(lambda step: 0.3**step),
    'thawing': Thawing,
    'thawing with a group': ThawingWithAGroup,
    'freezing': Freezing,
    'head and optimizer made anew': HeadMadeAnewWithItsOptimizer,
    'state loaded': StateLoaded,
    'adapters': Adapters,
    'half precision': HalfPrecision,
    'half precision that hardly moves': HardlyMoving,
    'autocast': Autocast,
    'evaluating': Evaluating,
    'always the whole data': AlwaysTheWholeData,
    'last batch of an epoch': LastBatchOfAnEpoch,
    'inputs grow': InputsGrow,
    'clipped': Clipped,
    'less gradient': LessGradient,
}


@pytest.mark.parametrize('kind', sampled(HEALTHY, 4))
def test_what_is_nearly_broken_says_nothing(kind: str) -> None:
    assert spoken(HEALTHY[kind]().run()) == Counter()


@pytest.mark.full
@pytest.mark.parametrize('frequency', [2, 3, 7])
@pytest.mark.parametrize('kind', HEALTHY)
def test_nor_where_only_some_steps_are_monitored(kind: str, frequency: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Monitor.__init__

    def less_often(self: Monitor, model: nn.Module, config: dict[str, Any], **arguments: Any) -> None:
        kept(self, model, {**config, 'monitor_norm_freq': frequency}, **arguments)

    monkeypatch.setattr(Monitor, '__init__', less_often)
    assert spoken(HEALTHY[kind]().run(90)) == Counter()


def test_a_scaler_that_skips_steps_says_nothing() -> None:
    loop = Loop()
    scaler = torch.amp.GradScaler('cpu', init_scale=2.0**120, growth_interval=3)
    config = {'monitor_norm_freq': 1, 'budget': None}
    with Monitor(loop.model, config, optimizer=loop.optimizer, scaler=scaler) as monitor:
        for loop.iteration in range(60):
            loop.zero()
            scaler.scale(loop.forward(loop.batch())).backward()
            scaler.step(loop.optimizer)
            scaler.update()
    assert spoken(monitor.take_records()) == Counter()


def test_a_rule_is_switched_off_by_name() -> None:
    class Other(Loop):
        def run(self, steps: int = 45) -> list[Record]:
            config = {'monitor_norm_freq': 1, 'budget': None, 'rules': {'unheld_parameter': False}}
            with Monitor(self.model, config, optimizer=self.optimizer) as monitor:
                for self.iteration in range(steps):
                    self.zero()
                    self.forward(self.batch()).backward()
                    self.optimizer.step()
            return monitor.take_records()

    loop = Other()
    loop.optimizer = loop.make_optimizer(loop.model[6].parameters())
    records = loop.run(5)
    assert spoken(records) == Counter()
    assert any(name.startswith('broken/unheld/') for name in records[0].scalars)


def test_exact_invariants_judge_every_record_whatever_the_budget() -> None:
    loop = Loop()
    with Monitor(loop.model, {'monitor_norm_freq': 1, 'budget': 1e-6}, optimizer=loop.optimizer) as monitor:
        for loop.iteration in range(60):
            if loop.iteration == 50:
                loop.model[6] = nn.Linear(32, 4)
            loop.zero()
            loop.forward(loop.batch()).backward()
            loop.optimizer.step()
    found = [finding for record in monitor.take_records() for finding in record.findings]
    assert ('unheld_parameter', 50) in [(finding.rule, finding.found) for finding in found]


def test_no_hook_stays_and_torch_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    # Other tests of this process have trained in several threads, where the hook on optimizers stays.
    monkeypatch.setattr(backward_passes._Threads, 'first', None)
    monkeypatch.setattr(backward_passes._Threads, 'several', False)
    functions = (torch.autograd.backward, torch.autograd._engine_run_backward)
    code = [function.__code__ for function in functions]
    loop = Loop()
    loop.run(3)
    assert [function.__code__ for function in functions] == code
    assert not loop.model._forward_pre_hooks
    assert not loop.model._forward_hooks
    assert not optimizers._global_optimizer_pre_hooks
