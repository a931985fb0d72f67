"""By which evidence the gradients of each optimizer are final, and that nothing of the watching stays."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Optimizer

from ding_normmon import Monitor
from ding_normmon.integrations.observe.hook_points import HookPoints
from ding_normmon.integrations.observe.stepping import Holder


class Listener:
    """Remembers what it hears."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def differentiates(self, roots: Sequence[Any]) -> None: ...

    def clips(self, parameters: Set[int]) -> None:
        self.heard.append(f'clips {len(parameters)}')

    def steps(self, holder: Holder) -> None:
        self.heard.append(f'{holder.name} steps')

    def stepped(self, holder: Holder) -> None:
        self.heard.append(f'{holder.name} stepped')

    def skipped(self, holder: Holder) -> None:
        self.heard.append(f'{holder.name} skipped')


def nothing(model: nn.Module) -> None:
    """Clip nothing."""


def by_call(model: nn.Module) -> None:
    nn.utils.clip_grad_norm_(model.parameters(), 0.1)


def true_norm(model: nn.Module) -> float:
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return float(sum(gradient.double().square().sum() for gradient in gradients)) ** 0.5


def make() -> tuple[nn.ModuleDict, dict[str, Optimizer]]:
    model = nn.ModuleDict({'encoder': nn.Linear(3, 4), 'head': nn.Linear(4, 1)})
    return model, {'body': SGD(model['encoder'].parameters(), lr=0.1), 'head': SGD(model['head'].parameters(), lr=0.1)}


@pytest.mark.parametrize(('clip', 'evidence'), [(nothing, 'step'), (by_call, 'clip')])
def test_the_first_evidence_of_an_optimizer_makes_its_gradients_final(
    clip: Callable[[nn.Module], None], evidence: str
) -> None:
    model, optimizers = make()
    monitor, listener = Monitor(model, {'monitor_norm_freq': 1}), Listener()
    points = HookPoints(lambda: monitor.groups, lambda: optimizers)
    step = monitor.begin_step(0)
    points.set_step(step)
    with points.watched(listener):
        model['head'](model['encoder'](torch.ones(2, 3))).square().sum().backward()
        expected = true_norm(model)
        clip(model)
        for optimizer in optimizers.values():
            optimizer.step()
        monitor.end_step(step)
    monitor.close()
    assert points.evidence == {'body': evidence, 'head': evidence}
    assert monitor.take_records()[0].scalars['grad/model/_total_norm'] == pytest.approx(expected, rel=1e-6)
    assert listener.heard == [
        *(['clips 4'] if evidence == 'clip' else []),
        *('body steps', 'body stepped', 'head steps', 'head stepped'),
    ]


def test_whoever_holds_a_parameter_first_has_it() -> None:
    model, optimizers = make()
    optimizers['all'] = SGD(model.parameters(), lr=0.1)
    monitor = Monitor(model, {'monitor_norm_freq': 1})
    stranger = nn.Linear(2, 2)
    optimizers['stranger'] = SGD(stranger.parameters(), lr=0.1)
    names = [holder.name for holder in HookPoints(lambda: monitor.groups, lambda: optimizers).holders()]
    assert 'stranger' not in names
    assert names[:2] == ['body', 'head']


def test_nothing_stays_when_the_block_ends_however_it_ends() -> None:
    model, optimizers = make()
    monitor = Monitor(model, {'monitor_norm_freq': 1})
    functions = (nn.utils.clip_grad_norm_, torch.autograd.backward, SGD.step)
    code = [function.__code__ for function in functions]
    points = HookPoints(lambda: monitor.groups, lambda: optimizers)
    with pytest.raises(KeyError), points.watched(Listener()):
        raise KeyError
    assert [function.__code__ for function in functions] == code
    assert not points.holders_watched
