"""The terms of the losses, against full gradients of each."""

from __future__ import annotations

import pytest
import torch

from ding_normmon import Monitor
from ding_normmon.learner_step import INERT, LearnerStep
from ding_normmon.quantities import LossContributions
from tests.quantities.test_gradient_conflict import Shared, batches
from tests.unizero.builders import tiny_policy


class Spy:
    """Differentiates every term of every task on the encoder."""

    def __init__(self, parameters: list[torch.nn.Parameter]) -> None:
        self.parameters = parameters
        self.terms: dict[int, dict[str, torch.Tensor]] = {}
        self.totals: dict[int, torch.Tensor] = {}

    def on_publish(self, *args: object) -> None: ...
    def on_publish_loss(self, *args: object) -> None: ...
    def on_clip(self, *args: object) -> None: ...

    def gradient(self, loss: torch.Tensor) -> torch.Tensor:
        found = torch.autograd.grad(loss, self.parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
        return torch.cat([gradient.double().reshape(-1) for gradient in found])

    def on_hook_point(self, hook_point: str, step: LearnerStep) -> None:
        if hook_point == 'forward_end':
            assert step.losses is not None
            assert step.parts is not None
            for task, parts in step.parts.items():
                self.terms[task] = {name: self.gradient(part) for name, part in parts.items()}
                self.totals[task] = self.gradient(step.losses[task])


@pytest.mark.parametrize('size', [64, 1 << 20])
def test_norms_shares_and_cosines_are_those_of_full_gradients(size: int) -> None:
    twin = tiny_policy(2, task_loss_weight=[1.0, 5.0])
    spy = Spy(list(twin._learn_model.world_model.tokenizer.encoder.parameters()))
    twin.learner_step = LearnerStep(0, spy)
    twin._forward_learn(batches(twin, 0))
    twin.learner_step = INERT
    policy = tiny_policy(2, task_loss_weight=[1.0, 5.0])
    config = {'monitor_norm_freq': 1, 'conflict_by_loss': True, 'sketch_size': size}
    monitor = Monitor(policy._learn_model, config, num_tasks=2, quantities=[LossContributions()])
    with monitor.step(0) as step:
        policy.learner_step = step
        policy._forward_learn(batches(policy, 0))
    monitor.close()
    assert not monitor.losses.total
    scalars = monitor.take_records()[0].scalars
    for task, terms in spy.terms.items():
        assert set(terms) == {'observation', 'reward', 'policy', 'value'}
        total = torch.stack(list(terms.values())).sum(0)
        # The terms are those of the loss: their gradients add up to its own.
        assert torch.allclose(total, spy.totals[task], rtol=1e-4, atol=1e-7)
        norms = {name: float(gradient.norm()) for name, gradient in terms.items()}
        for name, gradient in terms.items():
            prefix = f'conflict/encoder_task{task}/{name}'
            assert scalars[f'{prefix}/norm'] == pytest.approx(norms[name], rel=1e-6)
            assert scalars[f'{prefix}/share'] == pytest.approx(norms[name] / sum(norms.values()), rel=1e-6)
            cosine = float(gradient @ total / gradient.norm() / total.norm())
            error = 1e-6 if len(gradient) <= size else 4 * size**-0.5
            assert scalars[f'{prefix}/cosine'] == pytest.approx(cosine, abs=error)


def test_it_is_off_unless_asked_for_and_says_once_what_is_missing(caplog: pytest.LogCaptureFixture) -> None:
    model = Shared()
    for by_loss in (False, True):
        config = {'monitor_norm_freq': 1, 'conflict_by_loss': by_loss}
        monitor = Monitor(model, config, num_tasks=2, quantities=[LossContributions()])
        for iteration in range(2):
            with monitor.step(iteration) as step:
                step.forward_end({0: model.encoder.weight.sum()})
        monitor.close()
        assert not [name for r in monitor.take_records() for name in r.scalars if 'conflict' in name]
    assert len([entry for entry in caplog.records if 'gives no terms' in entry.getMessage()]) == 1
