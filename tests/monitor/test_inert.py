"""Nobody notices the monitor: training, memory, off steps."""

from __future__ import annotations

import copy
import gc
import random
import time
import tracemalloc
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ding_normmon import INERT, Monitor
from ding_normmon.core.step import SignalError
from tests.models import Operations, SmallModel, finished, learn, make_batches, small_monitor
from tests.monitor.steps import measure


def train(frequency: int | None, iterations: int = 6) -> tuple[Any, ...]:
    """Train from the same seed, monitored or not; everything that training leaves behind is the value."""
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    model = SmallModel()
    model.transformer.eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    monitor = None if frequency is None else small_monitor(model, frequency=frequency, detail='parameter')
    losses = []
    for iteration in range(iterations):
        batches = make_batches()
        if monitor is None:
            losses.append(learn(model, batches, INERT, optimizer, clip=1.0).losses)
        else:
            losses.append(measure(model, monitor, iteration, batches=batches, optimizer=optimizer, clip=1.0).losses)
        losses.append((torch.randn(3), random.random(), np.random.rand()))
    if monitor is not None:
        assert len(finished(monitor)) == (-(-iterations // frequency) if frequency else 0)
    state = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    flags = [module.training for module in model.modules()], [p.requires_grad for p in model.parameters()]
    return state, losses, flags, torch.get_rng_state(), random.getstate(), np.random.get_state()


def same(first: Any, second: Any) -> bool:
    """Equal to the last bit."""
    if isinstance(first, Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, np.ndarray):
        return np.array_equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


@pytest.mark.parametrize('frequency', [1, 2, 0])
def test_monitored_training_is_training(frequency: int) -> None:
    for monitored, plain in zip(train(frequency), train(None), strict=True):
        assert same(monitored, plain)


def test_nothing_of_the_step_stays_alive() -> None:
    model = SmallModel()
    monitor = small_monitor(model, detail='parameter')
    measure(model, monitor, 0)
    seen = []
    gc.collect()
    gc.disable()
    try:
        with monitor.step(1) as step:
            for batch in make_batches():
                signals = model(batch)
                for name, tensor in signals.items():
                    step.publish(name, tensor, task_id=batch.task_id, mask=batch.mask)
                loss = sum(tensor.sum() for tensor in signals.values())
                step.publish_loss('loss', loss, task_id=batch.task_id)
                seen += [weakref.ref(tensor) for tensor in (*signals.values(), loss, batch.mask)]
            step.forward_end({0: loss})
            loss.backward()
            step.backward_end()
            step.step_end()
        seen += [weakref.ref(p.grad) for p in model.parameters() if p.grad is not None]
        model.zero_grad()
        del signals, tensor, loss, batch
        alive = [reference() for reference in seen if reference() is not None]
    finally:
        gc.enable()
    assert len(seen) > 30
    assert alive == []
    monitor.close()


def test_nothing_of_a_step_that_failed_stays_alive() -> None:
    monitor = small_monitor(SmallModel())
    tensor = torch.zeros(2, dtype=torch.int64)
    seen = weakref.ref(tensor)
    with pytest.raises(SignalError), monitor.step(0) as step:  # noqa: PT012
        step.publish('odd', tensor, task_id=0)
        step.forward_end({0: tensor})
    del tensor
    gc.collect()
    assert seen() is None


def off_steps(monitor: Monitor, tensor: Tensor, mask: Tensor, first: int, count: int) -> None:
    """Steps that are not due, as a policy fires them."""
    for iteration in range(first, first + count):
        step = monitor.begin_step(iteration)
        step.publish('logits/value', tensor, task_id=0, mask=mask)
        step.publish_loss('loss', tensor, task_id=0)
        step.forward_end(None)
        step.backward_end()
        step.step_end()
        monitor.end_step(step)


def test_an_off_step_does_no_tensor_operation() -> None:
    model = SmallModel()
    monitor = small_monitor(model, frequency=100_000)
    measure(model, monitor, 0)
    operations = Operations()
    with operations:
        off_steps(monitor, torch.empty(0), torch.empty(0), 1, 100)
    monitor.close()
    assert [name for name in operations.names if 'empty' not in name] == []


@pytest.mark.parametrize('frequency', [100_000, 0])
def test_a_thousand_off_steps_allocate_nothing(frequency: int) -> None:
    model = SmallModel()
    monitor = small_monitor(model, frequency=frequency)
    measure(model, monitor, 0)
    tensor, mask = torch.ones(2, 3), torch.ones(2, 3)
    off_steps(monitor, tensor, mask, 1, 50)
    # What the background still allocates for the record of iteration 0 is not the off steps'.
    deadline = time.monotonic() + 10
    while frequency and not monitor.records and time.monotonic() < deadline:
        time.sleep(0.01)
    gc.collect()
    tracemalloc.start()
    try:
        off_steps(monitor, tensor, mask, 1000, 10)
        before, _ = tracemalloc.get_traced_memory()
        off_steps(monitor, tensor, mask, 2000, 1000)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    monitor.close()
    assert after - before < 512  # one integer of the loop may be alive, and what tracemalloc itself keeps


def test_the_row_buffers_are_small_and_their_size_is_told() -> None:
    model = SmallModel()
    monitor = small_monitor(model)
    measure(model, monitor)
    scalars = finished(monitor)[0].scalars
    assert 0 < scalars['monitor/cost/bytes'] < 64 * 1024 * 3
    assert scalars['monitor/cost/ms'] > 0
    assert scalars['monitor/cost/messages'] == 0
