"""Parts 2 and 3: is every figure right on the device, and is training the same to the last bit?"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from benchmarks.gpu.reference import Probe, difference
from benchmarks.gpu.world_model import Learner, Size
from ding_normmon.monitor.monitor import StepMonitor

__all__ = ['SETTINGS', 'check_figures', 'check_graphs', 'check_inert']

SMALL = Size(tasks=3, embed=64, layers=2, heads=4, batch=8, image=16)

SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    'basic, float32': ('basic', {}),
    'multitask, float32': ('multitask', {}),
    'full, float32': ('full', {}),
    'full, bfloat16 weights': ('full', {'dtype': torch.bfloat16}),
    'full, bfloat16 autocast': ('full', {'autocast': torch.bfloat16}),
    'full, float16 autocast and GradScaler': ('full', {'autocast': torch.float16, 'scaled': True}),
    'multitask, gradients accumulated over 2 steps': ('multitask', {'cycle': 2}),
}
"""What is compared with float64 on the host: preset, and how the learner works. torch.compile comes last."""

_TOLERANCE = 1e-6


@contextlib.contextmanager
def _exact_arithmetic() -> Iterator[None]:
    """Have one step's forward pass and a second one through the same graph give the same numbers."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic)


def check_figures(device: torch.device, preset: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Measure two cycles of a small learner and compare the second record, name by name.

    Returns:
        how many names were compared, how many the record has without its own costs, the largest difference and where.
    """
    with _exact_arithmetic():
        learner = Learner(SMALL, device, **options)
        monitor = StepMonitor(
            learner.model,
            {
                'monitor_norm_freq': learner.cycle,
                'preset': preset,
                'budget': None,
                'diagnose': False,
                'conflict_exact': 'rank',
            },
            num_tasks=SMALL.tasks,
        )
        probe: Probe | None = None
        for iteration in range(2 * learner.cycle):
            with monitor.step(iteration) as step:
                number = iteration % learner.cycle
                if iteration == learner.cycle:
                    probe = Probe(step, learner.model, per_task=preset != 'basic')
                elif probe is not None:
                    # The step that completes the cycle.
                    probe._step = step
                learner.step(step if probe is None else probe, number)
        monitor.close()
    record = next(record for record in monitor.take_records() if record.iteration == learner.cycle)
    assert probe is not None
    expected = probe.finish()
    compared = {name: value for name, value in expected.items() if name in record.scalars}
    off = {name: difference(name, record.scalars[name], value) for name, value in compared.items()}
    worst = max(off, key=lambda name: off[name])
    own = [name for name in record.scalars if not name.startswith('monitor/')]
    return {
        'compared': len(compared),
        'names': len(own),
        'largest difference': off[worst],
        'where': worst,
        'wrong': sorted(name for name, value in off.items() if value > _tolerance(name)),
        'lost': dict(monitor.lost_data.total),
    }


def _tolerance(name: str) -> float:
    """Return what a figure may be off by; the graph of a task is walked twice, which is not bitwise on every card."""
    if name.startswith('conflict/'):
        return 1e-4
    # Of a rank of a matrix with tiny singular values, and of a step that is a difference of near numbers.
    return 1e-3 if name.startswith(('plasticity/', 'update/')) else _TOLERANCE


def check_inert(device: torch.device, preset: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Train with and without the monitor from the same state, and compare every bit of what is left."""
    results = []
    with _deterministic():
        for watched in (False, True):
            learner = Learner(SMALL, device, **options)
            settings = {'monitor_norm_freq': 1 if watched else 0, 'preset': preset, 'budget': None, 'diagnose': False}
            with StepMonitor(learner.model, settings, num_tasks=SMALL.tasks) as monitor:
                for iteration in range(4):
                    with monitor.step(iteration) as step:
                        learner.step(step, iteration)
            generator = torch.get_rng_state()
            state = [*learner.model.state_dict().values(), *learner.target.state_dict().values(), generator]
            if device.type == 'cuda':
                state.append(torch.cuda.get_rng_state())
            for entry in learner.optimizer.state.values():
                state += [value for value in entry.values() if isinstance(value, torch.Tensor)]
            results.append(state)
    different = sum(not torch.equal(a, b) for a, b in zip(*results, strict=True))
    return {'tensors': len(results[0]), 'different': different}


@contextlib.contextmanager
def _deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def check_graphs(device: torch.device) -> dict[str, Any]:
    """Publish and fire hook points inside the capture of a CUDA graph, and say what comes of it."""
    model = torch.nn.Linear(64, 64, device=device)
    monitor = StepMonitor(model, {'monitor_norm_freq': 1, 'diagnose': False}, num_tasks=1)
    batch = torch.randn(8, 64, device=device)
    for _ in range(3):
        model(batch).sum().backward()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    said = 'captured'
    try:
        with monitor.step(0) as step, torch.cuda.graph(graph):
            output = model(batch)
            step.publish('x_token', output, task_id=0)
            step.forward_end()
            output.sum().backward()
            step.backward_end()
    except Exception as error:
        said = f'{type(error).__name__}: {error}'.splitlines()[0]
    captured = dict(monitor.lost_data.total)
    # Beside a graph that replays the forward and backward pass, hook points are fired between its replays.
    fresh = torch.cuda.CUDAGraph()
    model.zero_grad(set_to_none=False)
    with torch.cuda.graph(fresh):
        output = model(batch)
        output.sum().backward()
    with monitor.step(1) as step:
        fresh.replay()
        step.publish('x_token', output, task_id=0)
        step.forward_end()
        step.backward_end()
    monitor.close()
    records = {record.iteration: record.scalars for record in monitor.take_records()}
    expected = float(output.detach().double().norm(dim=-1).mean().cpu())
    found = records.get(1, {}).get('norm/x_token_task0/mean', float('nan'))
    return {
        'inside a capture': said,
        'lost inside': captured,
        'beside a replayed graph': 'right' if abs(found - expected) <= 1e-6 * expected else f'{found} for {expected}',
    }
