"""What is published on an accelerator: kept until the first hook point, never longer, never changed."""

from __future__ import annotations

import gc
import math
import weakref

import pytest
import torch
from torch import Tensor, nn

from ding_normmon.core.step import SignalError
from ding_normmon.metrics import TensorStatistics
from ding_normmon.metrics.kernels.device_signals import DeviceSignals, Published, write_numbers
from ding_normmon.monitor.monitor import StepMonitor
from ding_normmon.rows import RowBuffer, RowKey
from tests.models import finished
from tests.sampling import sampled

pytestmark = pytest.mark.usefixtures('as_accelerator')


def monitor_of(model: nn.Module) -> StepMonitor:
    return StepMonitor(model, {'monitor_norm_freq': 1}, num_tasks=2)


def published(monitor: StepMonitor, iteration: int, tensor: Tensor, change: bool = False) -> None:
    with monitor.step(iteration) as step:
        step.publish('features', tensor, task_id=1)
        step.publish_loss('loss', tensor.sum(), task_id=1)
        if change:
            tensor.mul_(2)
        step.forward_end()


def test_what_is_changed_in_place_is_left_out_once_and_measured_at_once_afterwards() -> None:
    monitor = monitor_of(nn.Linear(2, 2))
    published(monitor, 0, torch.full((2, 3), 5.0))
    for iteration in (1, 2):
        published(monitor, iteration, torch.full((2, 3), 5.0), change=True)
    records = finished(monitor)
    assert [record.scalars.get('features_task1/mean') for record in records] == [5.0, None, 5.0]
    # The loss was a tensor of its own.
    assert [record.scalars['loss_task1'] for record in records] == [30.0, 30.0, 30.0]
    assert monitor.lost_data.total == {'mistake': 1}


def test_a_mask_that_is_changed_in_place() -> None:
    monitor = monitor_of(nn.Linear(2, 2))
    with monitor.step(0) as step:
        mask = torch.tensor([[True, False]])
        step.publish('features', torch.tensor([[[1.0], [9.0]]]), task_id=0, mask=mask)
        mask.fill_(True)
        step.forward_end()
    assert 'features_task0/mean' not in finished(monitor)[0].scalars


def test_what_is_published_after_the_first_hook_point() -> None:
    monitor = monitor_of(nn.Linear(2, 2))
    with monitor.step(0) as step:
        step.forward_end()
        step.publish('late', torch.ones(3), task_id=0)
        step.publish_loss('late_loss', torch.tensor(4.0), task_id=0)
        step.backward_end()
    scalars = finished(monitor)[0].scalars
    assert (scalars['late_task0/mean'], scalars['late_loss_task0']) == (1.0, 4.0)


def test_a_policy_that_fires_no_forward_end() -> None:
    monitor = monitor_of(nn.Linear(2, 2))
    with monitor.step(0) as step:
        step.publish('features', torch.ones(3), task_id=0)
        step.backward_end()
    assert finished(monitor)[0].scalars['features_task0/mean'] == 1.0


def test_tensors_of_inference_mode_are_measured_at_once() -> None:
    monitor = monitor_of(nn.Linear(2, 2))
    with monitor.step(0) as step:
        with torch.inference_mode():
            tensor = torch.ones(2, 2)
            step.publish('features', tensor, task_id=0)
            tensor.zero_()
        step.forward_end()
    assert finished(monitor)[0].scalars['features_task0/mean'] == 1.0


@pytest.mark.parametrize('how', sampled(['forward_end', 'raised', 'no hook point']))
def test_nothing_of_a_step_is_kept(how: str) -> None:
    monitor = monitor_of(nn.Linear(2, 2))
    tensor = torch.ones(4, 4, requires_grad=True) * 2
    alive = weakref.ref(tensor.untyped_storage())
    try:
        with monitor.step(0) as step:
            step.publish('x_token', tensor, task_id=0)
            step.publish_loss('loss', tensor[0, 0], task_id=0)
            if how == 'raised':
                raise KeyError
            if how == 'forward_end':
                step.forward_end()
                del tensor
                gc.collect()
                assert alive() is None
    except KeyError:
        pass
    tensor = None  # type: ignore[assignment]
    gc.collect()
    assert alive() is None
    monitor.close()


def test_the_training_gradient_is_the_same_to_the_last_bit() -> None:
    gradients = []
    for watched in (False, True):
        torch.manual_seed(0)
        model = nn.Linear(4, 4)
        monitor = monitor_of(model)
        with monitor.step(0 if watched else 1) as step:
            output = model(torch.randn(5, 4))
            if watched:
                step.publish('x_token', output, task_id=0)
                step.publish_loss('loss', output.sum(), task_id=0)
                step.forward_end()
            output.square().sum().backward()
        gradients.append(model.weight.grad)
        monitor.close()
    assert torch.equal(*gradients)


def test_signals_of_all_kinds_in_one_step() -> None:
    monitor = monitor_of(nn.Linear(2, 2))
    mask = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    signals = {
        'half': torch.randn(2, 2, 3).half(),
        'wide': torch.randn(2, 4, 2, dtype=torch.float64),
        'flat': torch.randn(4, 5).bfloat16(),
        'strided': torch.randn(3, 8, 2).permute(1, 2, 0)[::4],
        'float8': torch.randn(2, 2, 2).to(torch.float8_e4m3fn),
    }
    with monitor.step(0) as step:
        for name, tensor in signals.items():
            step.publish(name, tensor, task_id=0, mask=mask)
        step.publish('empty', torch.zeros(2, 0, 3), task_id=0)
        step.publish('number', torch.tensor(math.nan), task_id=0)
        step.forward_end()
    scalars = finished(monitor)[0].scalars
    for name, tensor in signals.items():
        wide = tensor.to(torch.float64)
        kept = wide.reshape(2, 2, -1)[mask.bool()]
        assert scalars[f'{name}_task0/mean'] == pytest.approx(kept.mean().item(), rel=1e-6), name
        assert scalars[f'{name}_task0/max'] == kept.max().item(), name
    assert scalars['monitor/nonfinite/number_task0'] == 1.0
    assert not any('empty' in name and not name.startswith('monitor/') for name in scalars)


def test_the_host_measures_what_is_on_the_host() -> None:
    """A model on another device than the CPU: `meta` stands for it, on which nothing could be computed."""
    buffer = RowBuffer(torch.device('cpu'))
    buffer.device = torch.device('meta')
    metric = TensorStatistics()
    metric.on_publish('data/reward', torch.tensor([[1.0, 2.0]]), 0, torch.tensor([[True, False]]), buffer)
    pending = buffer.end()
    assert pending is not None
    rows, _ = buffer.read(pending)
    assert rows.tolist() == [[1.0, 1.0, 0.0, 1.0, 1.0, 0.0]]
    with pytest.raises(SignalError, match='its mask on meta'):
        metric.on_publish('data/reward', torch.ones(1, 2), 0, torch.empty(1, 2, device='meta'), buffer)


def test_numbers_that_were_changed_are_named() -> None:
    signals = DeviceSignals(write_numbers)
    buffer = RowBuffer(torch.device('cpu'))
    number = torch.tensor(1.0)
    signals.begin()
    signals.add(Published(RowKey('losses', 'value_loss', 0), number), buffer)
    signals.add(Published(RowKey('losses', 'reward_loss', 0), torch.tensor(2.0)), buffer)
    number.add_(1)
    with pytest.raises(SignalError, match=r'value_loss: changed in place .* before forward_end'):
        signals.write('forward_end', buffer)
    assert [key.name for key in buffer._keys] == ['reward_loss']
