"""The monitor on a GPU; what does not need one runs on a CPU too, on the path of accelerators.

No test of this file needs DI-engine or LightZero.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ding_normmon.monitor.monitor import StepMonitor
from tests.accelerator import take_accelerators_path
from tests.asserts import assert_bitwise_equal
from tests.models import finished

TASKS = 3
EMBED = 16


class Model(nn.Module):
    """A shared encoder and transformer, and heads per task."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(6, EMBED), nn.GELU())
        self.transformer = nn.Sequential(nn.Linear(EMBED, EMBED), nn.GELU(), nn.Dropout(0.1), nn.LayerNorm(EMBED))
        self.head_value = nn.ModuleList(nn.Linear(EMBED, 5) for _ in range(TASKS))
        self.head_policy = nn.ModuleList(nn.Linear(EMBED, 2 + task_id) for task_id in range(TASKS))

    def forward(self, batch: Tensor, task_id: int) -> dict[str, Tensor]:
        latent = self.encoder(batch)
        x = self.transformer(latent)
        return {
            'embeddings/obs': latent,
            'x_token': x,
            'logits/value': self.head_value[task_id](x),
            'logits/policy': self.head_policy[task_id](x),
        }


class Training:
    """Learner steps of the model; what a step has published and its gradients are there afterwards."""

    def __init__(self, device: torch.device, autocast: torch.dtype | None = None) -> None:
        torch.manual_seed(0)
        self.device, self.autocast = device, autocast
        self.model = Model().to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        self.batches = [torch.randn(4 + task_id, 3, 6).to(device) for task_id in range(TASKS)]
        self.masks = [(torch.rand(4 + task_id, 3) < 0.7).to(device) for task_id in range(TASKS)]
        self.signals: dict[tuple[str, int], Tensor] = {}
        self.losses: dict[int, Tensor] = {}

    def step(self, monitor: StepMonitor, iteration: int) -> None:
        with monitor.step(iteration) as step:
            self.optimizer.zero_grad(set_to_none=True)
            for task_id, (batch, mask) in enumerate(zip(self.batches, self.masks, strict=True)):
                with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
                    signals = self.model(batch, task_id)
                for name, tensor in signals.items():
                    self.signals[name, task_id] = tensor
                    step.publish(name, tensor, task_id=task_id, mask=mask)
                self.losses[task_id] = sum(tensor.float().square().mean() for tensor in signals.values())
                step.publish_loss('noreduce_loss', self.losses[task_id], task_id)
            step.forward_end(self.losses)
            self.weights = [parameter.detach().clone() for parameter in self.model.parameters()]
            torch.stack(list(self.losses.values())).sum().backward()
            self.gradients = [parameter.grad.clone() for parameter in self.model.parameters()]
            step.backward_end()
            step.clipped(nn.utils.clip_grad_norm_(self.model.parameters(), 0.1), 0.1)
            self.optimizer.step()
            step.step_end()


def monitor_of(training: Training, preset: str = 'full', **config: Any) -> StepMonitor:
    settings = {'monitor_norm_freq': 1, 'preset': preset, 'budget': None, 'diagnose': False, **config}
    return StepMonitor(training.model, settings, num_tasks=TASKS)


@pytest.fixture(params=['cpu', pytest.param('cuda', marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """A GPU, or a CPU that takes its path."""
    if request.param == 'cpu':
        take_accelerators_path(monkeypatch)
    return torch.device(request.param)


def total_norm(tensors: list[Tensor]) -> float:
    return torch.cat([tensor.detach().cpu().double().flatten() for tensor in tensors]).norm().item()


@pytest.mark.parametrize('autocast', [None, torch.bfloat16])
@pytest.mark.parametrize('preset', ['basic', 'multitask', 'full'])
def test_figures_are_those_of_float64_on_the_host(
    device: torch.device, preset: str, autocast: torch.dtype | None
) -> None:
    training = Training(device, autocast)
    monitor = monitor_of(training, preset)
    for iteration in range(2):
        training.step(monitor, iteration)
    scalars = finished(monitor)[1].scalars
    assert not monitor.lost_data.total
    assert scalars['norm/model/_total_norm'] == pytest.approx(total_norm(training.weights), rel=1e-6)
    assert scalars['grad/model/_total_norm'] == pytest.approx(total_norm(training.gradients), rel=1e-6)
    for (name, task_id), tensor in training.signals.items():
        valid = tensor.detach().cpu().double()[training.masks[task_id].cpu()]
        family = {'x_token': 'norm/x_token', 'embeddings/obs': 'embeddings/obs'}.get(name, name)
        prefix = 'norm_' if name == 'embeddings/obs' else ''
        values = valid if name.startswith('logits') else valid.norm(dim=-1)
        key = f'{family}_task{task_id}/{prefix}'
        assert scalars[f'{key}mean'] == pytest.approx(values.mean().item(), rel=1e-6, abs=1e-9)
        assert scalars[f'{key}std'] == pytest.approx(values.std().item(), rel=1e-6)
        assert scalars[f'{key}max'] == pytest.approx(values.max().item(), rel=1e-12)
    for task_id, loss in training.losses.items():
        assert scalars[f'noreduce_loss_task{task_id}'] == loss.item()


@pytest.mark.parametrize('preset', ['basic', 'multitask', 'full'])
def test_training_is_the_same_to_the_last_bit(
    device: torch.device, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    torch.use_deterministic_algorithms(True)
    try:
        states = []
        for frequency in (0, 1):
            training = Training(device)
            monitor = monitor_of(training, preset, monitor_norm_freq=frequency)
            for iteration in range(4):
                training.step(monitor, iteration)
            monitor.close()
            generators = [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if device.type == 'cuda' else [])]
            states.append([training.model.state_dict(), training.optimizer.state_dict(), generators])
    finally:
        torch.use_deterministic_algorithms(False)
    assert_bitwise_equal(*states)


def test_entries_that_are_not_finite(device: torch.device) -> None:
    training = Training(device)
    monitor = monitor_of(training, 'basic')
    tensor = torch.tensor([[1.0, float('nan'), float('inf')], [2.0, 3.0, 4.0]], device=device)
    with monitor.step(0) as step:
        step.publish('features', tensor, task_id=0)
        with torch.no_grad():
            training.model.encoder[0].weight[0, 0] = float('nan')
        step.forward_end()
    scalars = finished(monitor)[0].scalars
    assert (scalars['features_task0/mean'], scalars['features_task0/max']) == (2.5, 4.0)
    assert scalars['monitor/nonfinite/features_task0'] == 2.0
    assert scalars['monitor/nonfinite/norm/encoder'] == 1.0
    expected = total_norm([torch.nan_to_num(parameter) for parameter in training.model.encoder.parameters()])
    assert scalars['norm/encoder/_total_norm'] == pytest.approx(expected, rel=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize('preset', ['basic', 'multitask'])
def test_a_due_step_waits_for_nothing(preset: str) -> None:
    training = Training(torch.device('cuda'))
    monitor = monitor_of(training, preset, conflict_freq=0)
    for iteration in range(3):
        training.step(monitor, iteration)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode('error')
    try:
        for iteration in range(3, 6):
            training.step(monitor, iteration)
    finally:
        torch.cuda.set_sync_debug_mode('default')
    assert len(finished(monitor)) == 6


@pytest.mark.gpu
def test_a_due_step_makes_one_copy_to_the_host() -> None:
    training = Training(torch.device('cuda'))
    monitor = monitor_of(training, 'multitask', conflict_freq=0, monitor_norm_freq=4)
    copies = []
    for iteration in range(3, 9):
        training_step = torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        )
        with training_step as profile:
            training.step(monitor, iteration)
            torch.cuda.synchronize()
        copies.append(sum('Memcpy DtoH' in event.name for event in profile.events()))
    monitor.close()
    # Iterations 4 and 8 are due.
    assert [later - copies[4] for later in copies] == [0, 1, 0, 0, 0, 1]


@pytest.mark.gpu
def test_signals_of_a_side_stream() -> None:
    training = Training(torch.device('cuda'))
    monitor = monitor_of(training, 'basic')
    stream = torch.cuda.Stream()
    with monitor.step(0) as step:
        with torch.cuda.stream(stream):
            torch.cuda._sleep(50_000_000)
            tensor = torch.full((64, 64), 3.0, device='cuda')
            step.publish('features', tensor, task_id=0)
        step.forward_end()
    assert finished(monitor)[0].scalars['features_task0/mean'] == 3.0
