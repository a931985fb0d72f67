"""Extra backward passes leave nothing behind, or are refused before the first of them."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ding_normmon import INERT, Monitor
from tests.asserts import assert_bitwise_equal

Train = Callable[[nn.Module, Tensor], Tensor]


class Model(nn.Module):
    """An encoder that two tasks share; ``forward`` is what the encoder makes of a batch."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head_value = nn.ModuleList([nn.Linear(8, 1) for _ in range(2)])
        self.hidden: list[Tensor] = []
        self.notes: list[Any] = []

    def features(self, data: Tensor) -> Tensor:
        return self.encoder(data)


class Drawing(nn.Module):
    """Draws from every kind of generator a module can have."""

    def __init__(self) -> None:
        super().__init__()
        self.own = torch.Generator().manual_seed(1)
        self.numpy = np.random.default_rng(1)
        self.legacy = np.random.RandomState(1)
        self.python = random.Random(1)

    def forward(self, x: Tensor) -> Tensor:
        numbers = np.random.rand() + random.random() + self.numpy.random() + self.legacy.rand() + self.python.random()
        return x + 0.01 * (torch.rand(x.shape, generator=self.own) + torch.rand_like(x) + numbers)

    def states(self) -> list[Any]:
        return [self.own.get_state(), self.numpy.bit_generator.state, self.legacy.get_state(), self.python.getstate()]


class Replacing(nn.Module):
    """Has a buffer that its forward pass replaces instead of writing into it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer('average', torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        self.average = 0.9 * self.average + 0.1 * x.detach().mean(0)
        return x - self.average


class Kept(Model):
    """Non-reentrant checkpoints; ``preserve`` is their ``preserve_rng_state``."""

    preserve = True

    def features(self, data: Tensor) -> Tensor:
        out: Tensor = checkpoint(self.encoder, data, use_reentrant=False, preserve_rng_state=self.preserve)
        return out


class Moving(Kept):
    preserve = False


def linear(*more: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), *more)


def train(make: Callable[[], Model], prepare: Callable[[Model], None], monitored: bool) -> tuple[Any, Monitor | None]:
    """Train three steps; return everything that is left behind, with the losses, and the monitor."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    model = make()
    prepare(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    config = {'monitor_norm_freq': 1, 'preset': 'full', 'conflict_by_loss': True, 'budget': None}
    monitor = Monitor(model, config, num_tasks=2) if monitored else None
    left: list[Any] = []
    for iteration in range(3):
        step = monitor.begin_step(iteration) if monitor else INERT
        losses, parts = {}, {}
        for task in range(2):
            features = model.features(torch.randn(6, 4) + task)
            for hang in model.hanging:
                hang(model, features)
            model.hidden.append(features)
            value = model.head_value[task](features)
            parts[task] = {'square': value.square().mean(), 'size': value.abs().mean()}
            losses[task] = sum(parts[task].values())
        step.forward_end(losses, parts)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        step.backward_end()
        optimizer.step()
        step.step_end()
        if monitor is not None:
            monitor.end_step(step)
        left += [loss.detach() for loss in losses.values()]
        left += [hidden.grad for hidden in model.hidden if hidden.retains_grad and hidden.grad is not None]
        model.hidden.clear()
    if monitor is not None:
        monitor.close()
    draws = [module.states() for module in model.modules() if isinstance(module, Drawing)]
    state = (model.state_dict(), optimizer.state_dict(), [parameter.grad for parameter in model.parameters()])
    return (left, state, draws, model.notes, torch.get_rng_state(), np.random.get_state(), random.getstate()), monitor


def nothing(model: Model) -> None:
    model.hanging = []


def parameter_hooks(model: Model) -> None:
    nothing(model)
    weight, bias = next(iter(model.encoder.modules())).parameters()
    weight.register_hook(lambda gradient: gradient + 0.01 * torch.randn_like(gradient))
    weight.register_hook(lambda gradient: model.notes.append('weight'))
    bias.register_post_accumulate_grad_hook(lambda parameter: model.notes.append('bias'))


def tensor_hook(model: Model) -> None:
    model.hanging = [lambda model, features: features.register_hook(lambda gradient: model.notes.append('tensor'))]


def retained(model: Model) -> None:
    model.hanging = [lambda model, features: features.retain_grad()]


def module_hook(model: Model) -> None:
    nothing(model)
    model.encoder.register_full_backward_hook(lambda *_: model.notes.append('module'))


def forward_hook(model: Model) -> None:
    nothing(model)
    model.encoder.register_forward_hook(lambda *_: model.notes.append('forward'))


def batch_norm() -> nn.Module:
    return linear(nn.BatchNorm1d(8), nn.ReLU())


def spectral_norm() -> nn.Module:
    return nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 8)), nn.Dropout(0.3))


def old_spectral_norm() -> nn.Module:
    return nn.Sequential(nn.utils.spectral_norm(nn.Linear(4, 8)), nn.Tanh())


MEASURED: dict[str, tuple[Callable[[], Model], Callable[[Model], None]]] = {
    'plain': (lambda: Model(linear()), nothing),
    'BatchNorm': (lambda: Model(batch_norm()), nothing),
    'BatchNorm in a checkpoint': (lambda: Kept(batch_norm()), nothing),
    'spectral norm in a checkpoint': (lambda: Kept(spectral_norm()), nothing),
    'old spectral norm in a checkpoint': (lambda: Kept(old_spectral_norm()), nothing),
    'dropout in a checkpoint that moves the generator': (lambda: Moving(linear(nn.Dropout(0.5))), nothing),
    'generators in a checkpoint': (lambda: Moving(linear(Drawing(), nn.Linear(8, 8), nn.Tanh())), nothing),
    'a replaced buffer in a checkpoint': (lambda: Kept(linear(Replacing())), nothing),
    'forward hooks': (lambda: Model(linear()), forward_hook),
}
REFUSED: dict[str, tuple[Callable[[], Model], Callable[[Model], None], str]] = {
    'a tensor hook': (lambda: Model(linear()), tensor_hook, 'gradient hook on a tensor'),
    'retain_grad': (lambda: Model(linear()), retained, 'retain_grad'),
    'a module hook': (lambda: Model(linear()), module_hook, 'backward hook of the module encoder'),
    'a forward hook in a checkpoint': (lambda: Kept(linear()), forward_hook, 'forward hook of the module encoder'),
}


def conflict_of(monitor: Monitor | None, of: str = '') -> list[str]:
    assert monitor is not None
    return [name for record in monitor.take_records() for name in record.scalars if name.startswith(f'conflict/{of}')]


@pytest.mark.parametrize('kind', MEASURED)
def test_what_can_be_put_back_is_measured_and_nothing_is_left(kind: str) -> None:
    make, prepare = MEASURED[kind]
    plain, _ = train(make, prepare, monitored=False)
    watched, monitor = train(make, prepare, monitored=True)
    assert_bitwise_equal(plain, watched)
    # A checkpoint that draws another mask in every backward pass has no one gradient that could be explained.
    assert bool(conflict_of(monitor, 'encoder/')) == (kind != 'dropout in a checkpoint that moves the generator')


@pytest.mark.filterwarnings('ignore:Full backward hook is firing')
@pytest.mark.parametrize('kind', REFUSED)
def test_what_runs_the_users_code_is_refused_with_the_reason(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    make, prepare, reason = REFUSED[kind]
    plain, _ = train(make, prepare, monitored=False)
    watched, monitor = train(make, prepare, monitored=True)
    assert_bitwise_equal(plain, watched)
    assert not conflict_of(monitor)
    assert sum(reason in entry.getMessage() for entry in caplog.records) == 2  # conflict, and contributions of losses


def test_hooks_of_parameters_are_left_out_and_stay() -> None:
    model = Model(nn.Linear(4, 8))
    plain, _ = train(lambda: model.__class__(nn.Linear(4, 8)), parameter_hooks, monitored=False)
    watched, monitor = train(lambda: model.__class__(nn.Linear(4, 8)), parameter_hooks, monitored=True)
    assert_bitwise_equal(plain, watched)
    assert conflict_of(monitor)


def test_hooks_on_saved_tensors_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    unpacked = []
    model = Model(linear())
    monitor = Monitor(model, {'monitor_norm_freq': 1, 'preset': 'multitask'}, num_tasks=2)
    with monitor.step(0) as step:
        with torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: unpacked.append(1) or x):
            losses = {task: model.head_value[task](model.features(torch.ones(2, 4))).sum() for task in range(2)}
        step.forward_end(losses)
        before = list(unpacked)
        sum(losses.values()).backward()
    monitor.close()
    assert unpacked
    assert not before
    assert 'hooks on saved tensors' in caplog.text


def test_of_several_losses_none_is_differentiated_where_one_is_refused() -> None:
    passes = []
    model = Model(linear())
    monitor = Monitor(model, {'monitor_norm_freq': 1, 'preset': 'multitask'}, num_tasks=2)

    class Counted(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            passes.append(1)
            return gradient

    with monitor.step(0) as step:
        first = model.head_value[0](Counted.apply(model.features(torch.ones(2, 4)))).sum()
        hidden = model.features(torch.ones(2, 4))
        hidden.register_hook(lambda gradient: None)
        step.forward_end({0: first, 1: model.head_value[1](hidden).sum()})
    monitor.close()
    assert not passes


def test_torch_is_as_it_was_afterwards() -> None:
    code = Tensor.register_hook.__code__, torch.autograd.graph.saved_tensors_hooks.__enter__.__code__
    model = Model(linear())
    monitor = Monitor(model, {'monitor_norm_freq': 1, 'preset': 'full'}, num_tasks=2)
    with pytest.raises(KeyError), monitor.step(0):  # noqa: PT012
        assert Tensor.register_hook.__code__ is not code[0]
        raise KeyError
    monitor.close()
    assert (Tensor.register_hook.__code__, torch.autograd.graph.saved_tensors_hooks.__enter__.__code__) == code
    assert 'retain_grad' not in vars(Tensor)
