"""``with Monitor(model, optimizer=...)`` around a loop of one's own: exact, inert, and no DI-engine in sight."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ding_normmon import INERT, ConfigurationError, Monitor, Record
from tests.models import Operations

PLAIN = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ('ding', 'lzero'):
            raise ImportError(f'{name} is blocked')

sys.meta_path.insert(0, Block())
import torch
from ding_normmon import Monitor

model = torch.nn.Linear(3, 1)
optimizer = torch.optim.Adam(model.parameters())
with Monitor(model, {'monitor_norm_freq': 2}, optimizer=optimizer) as monitor:
    for _ in range(5):
        optimizer.zero_grad()
        model(torch.ones(2, 3)).sum().backward()
        optimizer.step()
assert [record.iteration for record in monitor.take_records()] == [0, 2, 4]
assert not {'ding', 'lzero'} & set(sys.modules)
"""


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Linear(4, 8)
        self.head_value = nn.Linear(8, 1)

    def forward(self, data: Tensor) -> Tensor:
        return self.head_value(torch.tanh(self.encoder(data)))


def batches(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(5, 4, generator=generator) for _ in range(count)]


def norm(tensors: Any) -> float:
    return float(torch.cat([tensor.detach().double().flatten() for tensor in tensors]).norm())


@pytest.mark.slow
def test_it_works_without_di_engine() -> None:
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, '-c', PLAIN], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_figures_are_exact_and_training_is_the_same() -> None:
    plain, watched = Net(), Net()
    expected = []
    for model in (plain, watched):
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        frequency = 3 if model is watched else 0
        with Monitor(model, {'monitor_norm_freq': frequency}, optimizer=optimizer) as monitor:
            for data in batches(7):
                value = model(data)
                monitor.learner_step.publish('logits/value', value)
                optimizer.zero_grad()
                (value**2).sum().backward()
                if model is plain:
                    expected.append((norm(model.parameters()), norm(p.grad for p in model.parameters()), value))
                nn.utils.clip_grad_norm_(model.parameters(), 0.5)
                optimizer.step()
            assert monitor.learner_step is INERT or model is watched
        assert monitor.learner_step is INERT
        assert not optimizer._optimizer_step_pre_hooks
        assert not optimizer._optimizer_step_post_hooks
    records = monitor.take_records()
    assert [record.iteration for record in records] == [0, 3, 6]
    for record in records:
        weights, gradients, value = expected[record.iteration]
        assert record.scalars['norm/model/_total_norm'] == pytest.approx(weights, rel=1e-6)
        assert record.scalars['grad/model/_total_norm'] == pytest.approx(gradients, rel=1e-6)
        assert record.scalars['clip/model/coefficient'] == pytest.approx(min(1.0, 0.5 / (gradients + 1e-6)), rel=1e-6)
        assert record.scalars['logits/value/mean'] == pytest.approx(float(value.detach().double().mean()), rel=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), watched.parameters(), strict=True))


@pytest.mark.parametrize('told', [False, True])
def test_a_step_of_an_optimizer_that_has_stepped_is_another_step_unless_somebody_says_otherwise(told: bool) -> None:
    model = Net()
    first = torch.optim.SGD(model.encoder.parameters(), lr=0.1)
    last = torch.optim.SGD(model.head_value.parameters(), lr=0.1)
    gradients: dict[str, list[float]] = {'encoder': [], 'head_value': []}
    with Monitor(model, {'monitor_norm_freq': 1}, optimizer=[first, last]) as monitor:
        for index, data in enumerate(batches(3)):
            if told:
                monitor.begin(index)
            for optimizer in (first, first, last) if index == 1 else (first, last):
                optimizer.zero_grad()
                model(data).sum().backward()
                part = 'encoder' if optimizer is first else 'head_value'
                gradients[part].append(norm(p.grad for p in getattr(model, part).parameters()))
                optimizer.step()
    scalars = [record.scalars for record in monitor.take_records()]
    a, b, c, d = gradients['encoder']
    assert [s['grad/encoder/_total_norm'] for s in scalars] == pytest.approx([a, b, d] if told else [a, b, c, d])
    assert [s['grad/head_value/_total_norm'] for s in scalars if 'grad/head_value/_total_norm' in s] == pytest.approx(
        gradients['head_value'], rel=1e-6
    )
    assert ['grad/model/_total_norm' in s for s in scalars] == ([True] * 3 if told else [True, False, True, True])


def test_gradient_accumulation_is_one_step() -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, {'monitor_norm_freq': 1}, optimizer=optimizer) as monitor:
        for index, data in enumerate(batches(4)):
            model(data).sum().backward()
            if index % 2:
                expected = norm(p.grad for p in model.parameters())
                optimizer.step()
                optimizer.zero_grad()
    records = monitor.take_records()
    assert [record.iteration for record in records] == [0, 1]
    assert records[1].scalars['grad/model/_total_norm'] == pytest.approx(expected, rel=1e-6)


def test_a_gradient_scaler_is_divided_out() -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler('cpu', init_scale=256.0)
    expected = []
    with Monitor(model, {'monitor_norm_freq': 1}, optimizer=optimizer, scaler=scaler) as monitor:
        for data in batches(3):
            optimizer.zero_grad()
            scaler.scale(model(data).sum()).backward()
            expected.append(norm(p.grad for p in model.parameters()) / 256.0)
            scaler.step(optimizer)
            scaler.update()
    records = monitor.take_records()
    assert [record.scalars['grad/model/_total_norm'] for record in records] == pytest.approx(expected, rel=1e-6)
    assert 'step' not in vars(scaler)


@pytest.mark.parametrize('clips', [True, False])
@pytest.mark.parametrize('scaled_first', [True, False])
def test_only_what_the_scaler_steps_is_divided_by_its_scale(scaled_first: bool, clips: bool) -> None:
    models = nn.ModuleDict({'scaled': nn.Linear(4, 1), 'plain': nn.Linear(4, 1)})
    order = ('scaled', 'plain') if scaled_first else ('plain', 'scaled')
    optimizers = {name: torch.optim.SGD(models[name].parameters(), lr=1e-3) for name in order}
    config = {'monitor_norm_freq': 1, 'module_groups': {name: name for name in order}}
    scaler = torch.amp.GradScaler('cpu', init_scale=1024.0)
    expected = []
    with Monitor(models, config, optimizer=optimizers, scaler=scaler) as monitor:
        for data in batches(4):
            true = {}
            for name in order:
                model, optimizer = models[name], optimizers[name]
                optimizer.zero_grad()
                loss = model(data).square().mean()
                if name == 'plain':
                    loss.backward()
                else:
                    scaler.scale(loss).backward()
                    scaler.unscale_(optimizer)
                true[name] = norm(parameter.grad for parameter in model.parameters())
                if clips:
                    nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
                if name == 'plain':
                    optimizer.step()
                else:
                    scaler.step(optimizer)
                    scaler.update()
            expected.append(true)
    records = monitor.take_records()
    # Where the second optimizer steps further up, only the second step shows that the loop over both is inside of one.
    unclear = scaled_first and not clips
    assert [record.iteration for record in records] == ([1, 2, 3] if unclear else [0, 1, 2, 3])
    assert dict(monitor.lost_data.total) == ({'unclear_step': 1} if unclear else {})
    for record in records:
        for name, value in expected[record.iteration].items():
            assert record.scalars[f'grad/{name}/_total_norm'] == pytest.approx(value, rel=1e-6)


def train_by_closures(
    kind: Any, by_name: bool, clips: bool, frequency: int
) -> tuple[list[float], list[int], list[Tensor], list[Record]]:
    """Return the gradient norm of each evaluation, where each step's begin, the weights and the records."""
    model = Net()
    optimizer = kind(model.parameters(), lr=0.1)
    evaluations: list[float] = []
    first = []

    def closure_of(data: Tensor) -> Callable[[], Tensor]:
        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = model(data).square().mean()
            loss.backward()
            evaluations.append(norm(parameter.grad for parameter in model.parameters()))
            if clips:
                nn.utils.clip_grad_norm_(model.parameters(), 0.05)
            return loss

        return closure

    with Monitor(model, {'monitor_norm_freq': frequency}, optimizer=optimizer) as monitor:
        for data in batches(4):
            first.append(len(evaluations))
            closure = closure_of(data)
            assert (optimizer.step(closure=closure) if by_name else optimizer.step(closure)) is not None
    return evaluations, first, list(model.parameters()), monitor.take_records()


@pytest.mark.parametrize('clips', [False, True])
@pytest.mark.parametrize('by_name', [False, True])
@pytest.mark.parametrize('kind', [torch.optim.SGD, torch.optim.LBFGS])
def test_the_gradients_of_a_closure_are_those_of_its_first_evaluation(kind: Any, by_name: bool, clips: bool) -> None:
    plain, _, plain_weights, _ = train_by_closures(kind, by_name, clips, 0)
    evaluations, first, weights, records = train_by_closures(kind, by_name, clips, 1)
    expected = [evaluations[index] for index in first]
    assert [record.scalars['grad/model/_total_norm'] for record in records] == pytest.approx(expected, rel=1e-6)
    assert plain == evaluations
    assert all(map(torch.equal, plain_weights, weights))


class Unlucky(torch.optim.SGD):
    """Raises in its second step, before it has changed anything."""

    attempts = 0

    def _init_group(self, *args: Any) -> Any:
        self.attempts += 1
        if self.attempts == 2:
            raise RuntimeError('on purpose')
        return super()._init_group(*args)


@pytest.mark.parametrize('by_closure', [False, True])
def test_a_loop_that_survives_a_step_that_raised_is_measured_on(by_closure: bool) -> None:
    model = Net()
    optimizer = Unlucky(model.parameters(), lr=0.1)
    true = []

    def closure_of(data: Tensor) -> Callable[[], Tensor]:
        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = model(data).sum()
            loss.backward()
            return loss

        return closure

    with Monitor(model, {'monitor_norm_freq': 1}, optimizer=optimizer) as monitor:
        for data in batches(5):
            closure = closure_of(data)
            try:
                if by_closure:
                    optimizer.step(closure)
                else:
                    closure()
                    optimizer.step()
            except RuntimeError:
                # No step has ended: the next attempt is the same step again.
                continue
            true.append(norm(parameter.grad for parameter in model.parameters()))
    records = monitor.take_records()
    assert [record.iteration for record in records] == [0, 1, 2, 3]
    assert [record.scalars['grad/model/_total_norm'] for record in records] == pytest.approx(true, rel=1e-6)
    assert not monitor.lost_data.total


def test_clipping_in_an_off_step_is_only_clipping() -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    counts = {}
    for frequency in (0, 1000):
        with Monitor(model, {'monitor_norm_freq': frequency}, optimizer=optimizer):
            for index, data in enumerate(batches(3)):
                optimizer.zero_grad()
                model(data).sum().backward()
                with Operations() as operations:
                    nn.utils.clip_grad_norm_(model.parameters(), 0.5)
                if index == 2:
                    counts[frequency] = operations.names
                optimizer.step()
    assert counts[1000] == counts[0] != []


def test_an_exception_in_the_loop_takes_the_hooks_off() -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    clip = nn.utils.clip_grad_norm_
    monitor = Monitor(model, {'monitor_norm_freq': 1}, optimizer=optimizer)

    def loop() -> None:
        with monitor:
            model(batches(1)[0]).sum().backward()
            optimizer.step()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop()
    assert [record.iteration for record in monitor.take_records()] == [0]
    assert nn.utils.clip_grad_norm_ is clip
    assert not optimizer._optimizer_step_pre_hooks


def test_an_optimizer_of_another_model_is_refused() -> None:
    optimizer = torch.optim.SGD(Net().parameters(), lr=0.1)
    with pytest.raises(ConfigurationError, match='none of the optimizers holds a parameter of the model'):
        Monitor(Net(), {'monitor_norm_freq': 1}, optimizer=optimizer)


@pytest.mark.parametrize('clip', [nn.utils.clip_grad_norm_, nn.utils.clip_grad_value_])
@pytest.mark.parametrize('shared', ['encoder', 'everything'])
def test_what_is_clipped_for_another_optimizer_is_not_of_this_ones_step(shared: str, clip: Any) -> None:
    """An auxiliary loss, or another policy, trains the same encoder in turns, and is not monitored."""
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    other = torch.optim.SGD((model.encoder if shared == 'encoder' else model).parameters(), lr=0.01)
    right: dict[str, list[float]] = {'norm/model/_total_norm': [], 'grad/model/_total_norm': []}
    with Monitor(model, {'monitor_norm_freq': 1}, optimizer=optimizer) as monitor:
        for data in batches(6):
            right['norm/model/_total_norm'].append(norm(model.parameters()))
            optimizer.zero_grad()
            model(data).square().mean().backward()
            right['grad/model/_total_norm'].append(norm(parameter.grad for parameter in model.parameters()))
            optimizer.step()
            other.zero_grad()
            (7 * model(data)).abs().mean().backward()
            clip(other.param_groups[0]['params'], 0.01)
            other.step()
    records = monitor.take_records()
    assert [record.iteration for record in records] == [*range(6)]
    for name, figures in right.items():
        assert [record.scalars[name] for record in records] == pytest.approx(figures, rel=1e-6)
    assert not any('clip/model/coefficient' in record.scalars for record in records)


def test_what_is_clipped_once_for_two_optimizers_is_of_both() -> None:
    model = Net()
    optimizer, other = (torch.optim.SGD(model.parameters(), lr=0.01) for _ in range(2))
    right = []
    with Monitor(model, {'monitor_norm_freq': 1}, optimizer=optimizer) as monitor:
        for data in batches(5):
            optimizer.zero_grad()
            model(data).square().mean().backward()
            right.append(norm(parameter.grad for parameter in model.parameters()))
            nn.utils.clip_grad_norm_(model.parameters(), 0.01)
            other.step()
            optimizer.step()
    found = [record.scalars['grad/model/_total_norm'] for record in monitor.take_records()]
    assert found == pytest.approx(right, rel=1e-6)
