"""The default metrics raise the peak memory of a learner step by less than 1%."""

from __future__ import annotations

import tracemalloc
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from easydict import EasyDict

from ding_normmon import NormMonitor
from tests.unizero.builders import random_batch, tiny_policy

SETTINGS: dict[str, Any] = {'batch_size': 64, 'model': {'world_model_cfg': {'embed_dim': 64, 'num_layers': 2}}}


def torch_peak(policy: Any, batches: list[Any]) -> int:
    """Return the largest number of bytes that torch had allocated at once during one learner step."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        policy._forward_learn(batches)
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == '[memory]']
    allocated = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        allocated += event.nbytes()
        peak = max(peak, allocated)
    return peak


@pytest.mark.full
def test_peak_memory_of_a_measured_step_is_within_a_hundredth() -> None:
    policy = tiny_policy(4, **SETTINGS)
    batches = [random_batch(policy, task_id, 0) for task_id in policy.task_ids]
    policy._forward_learn(batches)
    plain = torch_peak(policy, batches)
    monitor = NormMonitor(EasyDict(monitor_norm_freq=1), policy, destinations=[])
    context = SimpleNamespace(train_iter=0, monitor_records=[])
    for context.train_iter in range(2):
        monitor(context)
        policy._forward_learn(batches)
    context.train_iter = 2
    watched = torch_peak(policy, batches)
    # What NumPy allocates does not pass through torch's allocator.
    tracemalloc.start()
    step = monitor.monitor.begin_step(3)
    for task_id in policy.task_ids:
        step.publish('x_token', torch.ones(64, 8, 64), task_id=task_id, mask=torch.ones(64, 4, dtype=torch.bool))
    step.forward_end()
    step.backward_end()
    monitor.monitor.end_step(step)
    numpy_peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    monitor.close()
    assert plain > 1_000_000
    assert watched + numpy_peak <= 1.01 * plain + 64 * 1024
