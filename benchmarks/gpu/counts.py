"""Part 4: copies to the host, waits for the device and launches of a learner step, measured and not measured."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.gpu.world_model import Learner, Size
from ding_normmon.monitor.monitor import StepMonitor
from tests.accelerator import Operations

__all__ = ['count_step']

_WAITS = ('cudaStreamSynchronize', 'cudaDeviceSynchronize', 'cudaEventSynchronize')
_LAUNCHES = ('cudaLaunchKernel', 'cuLaunchKernel')


def count_step(device: torch.device, size: Size, preset: str) -> dict[str, Any]:
    """Return what a step takes without a monitor, when it is not due, and when it is due.

    On a CPU there are no launches, copies and waits; operations that compute something stand for launches.
    """
    learner = Learner(size, device)
    settings = {'monitor_norm_freq': 4, 'preset': preset, 'budget': None, 'diagnose': False, 'conflict_freq': 0}
    monitor = StepMonitor(learner.model, settings, num_tasks=size.tasks)

    def step(iteration: int) -> None:
        with monitor.step(iteration) as live:
            learner.step(live, iteration)

    for iteration in range(3, 6):
        step(iteration)
    count = _on_cuda if device.type == 'cuda' else _on_cpu
    found = {'bare': count(learner.step), 'off': count(lambda: step(7)), 'due': count(lambda: step(8))}
    monitor.close()
    return {**found, 'added when due': {key: found['due'][key] - found['bare'][key] for key in found['due']}}


def _on_cpu(function: Callable[[], Any]) -> dict[str, int]:
    with Operations() as operations:
        function()
    return {'operations': operations.total}


def _on_cuda(function: Callable[[], Any]) -> dict[str, int]:
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        function()
    names = [event.name for event in profile.events()]
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode('warn')
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            function()
    finally:
        torch.cuda.set_sync_debug_mode('default')
    said = [warning for warning in caught if 'synchronizing CUDA operation' in str(warning.message)]
    return {
        'launches': sum(name.startswith(_LAUNCHES) for name in names),
        'copies to the host': sum('Memcpy DtoH' in name for name in names),
        'waits': sum(name.startswith(_WAITS) for name in names),
        'waits that torch warns of': len(said),
        'of them in ding_normmon': sum('ding_normmon' in warning.filename for warning in said),
    }
