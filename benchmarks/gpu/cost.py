"""Parts 5 and 6: what the monitor costs at frequency 1, against today's method, in time and memory."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from benchmarks.gpu.world_model import Learner, Size
from ding_normmon.metrics.kernels.squares import SquareSums
from ding_normmon.monitor.monitor import StepMonitor

__all__ = ['compare_norms', 'compare_steps']


def _wait(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize()


def _seconds(device: torch.device, function: Callable[[], Any], times: int) -> float:
    """Return the mean duration, from an idle device to an idle device."""
    _wait(device)
    started = time.perf_counter()
    for _ in range(times):
        function()
    _wait(device)
    return (time.perf_counter() - started) / times


def _peak(device: torch.device, function: Callable[[], Any]) -> float:
    """Return the largest amount of memory in use, in MB; not known of a CPU."""
    if device.type != 'cuda':
        return float('nan')
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    function()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() / 1e6


@contextlib.contextmanager
def _busy_streams(device: torch.device, streams: int) -> Iterator[Callable[[], None]]:
    """Yield what keeps so many side streams busy for some milliseconds."""
    if not streams or device.type != 'cuda':
        yield lambda: None
        return
    others = [torch.cuda.Stream() for _ in range(streams)]
    squares = [torch.randn(2048, 2048, device=device) for _ in others]

    def enqueue() -> None:
        for stream, square in zip(others, squares, strict=True):
            with torch.cuda.stream(stream):
                for _ in range(4):
                    torch.mm(square, square)

    yield enqueue
    torch.cuda.synchronize()


def compare_steps(
    device: torch.device, size: Size, preset: str, autocast: torch.dtype | None, seconds: float, streams: int = 0
) -> dict[str, Any]:
    """Do turns of learner steps with and without the monitor at frequency 1, one after the other.

    Arguments:
        device: where.
        size: of model and batches.
        preset: of the monitor.
        autocast: dtype of the forward pass, None for float32.
        seconds: to spend on it, about.
        streams: side streams that are kept busy.
    """
    learner = Learner(size, device, autocast=autocast)
    settings = {'monitor_norm_freq': 1, 'preset': preset, 'budget': None}
    if preset == 'multitask':
        # Its backward passes are one more for each task: what is compared is everything else.
        settings['conflict_freq'] = 0
    with _busy_streams(device, streams) as enqueue:

        def bare() -> None:
            enqueue()
            learner.step()

        bare()
        one = _seconds(device, bare, 2)
        steps = max(1, min(50, int(seconds / 8 / one)))
        iteration = 0
        plain: list[float] = []
        added: list[float] = []
        own: list[float] = []
        peaks = {'bare': _peak(device, bare)}
        for turn in range(4):
            times = {}
            for kind in ('bare', 'watched') if turn % 2 else ('watched', 'bare'):
                if kind == 'bare':
                    times[kind] = _seconds(device, bare, steps)
                    continue
                monitor = StepMonitor(learner.model, settings, num_tasks=size.tasks)

                def watched(monitor: StepMonitor = monitor) -> None:
                    nonlocal iteration
                    enqueue()
                    with monitor.step(iteration) as step:
                        learner.step(step)
                    iteration += 1

                watched()
                if 'watched' not in peaks:
                    peaks['watched'] = _peak(device, watched)
                times[kind] = _seconds(device, watched, steps)
                monitor.close()
                own += [record.scalars['monitor/cost/ms'] for record in monitor.take_records()[1:]]
            plain.append(times['bare'])
            added.append(times['watched'] / times['bare'] - 1)
    step_ms, own_ms = 1e3 * statistics.median(plain), statistics.median(own) if own else float('nan')
    return {
        'learner step, ms': step_ms,
        'own, ms': own_ms,
        'own share': own_ms / step_ms,
        'added to a step': statistics.median(added),
        'smallest and largest': [min(added), max(added)],
        'steps per turn': steps,
        'peak MB': peaks.get('bare'),
        'peak MB, watched': peaks.get('watched'),
    }


def compare_norms(device: torch.device, size: Size, seconds: float) -> dict[str, Any]:
    """Time the norms of all weights and gradients: today's method, torch's own, ours, and one pass over the memory."""
    learner = Learner(size, device)
    learner.step()
    parameters = [parameter for parameter in learner.model.parameters() if parameter.grad is not None]
    lists = [[p.detach() for p in parameters], [p.grad for p in parameters if p.grad is not None]]
    count = len(parameters)
    sums = [SquareSums(tensors) for tensors in lists]
    out = torch.zeros(2, 2, count, dtype=torch.float64, device=device)
    flat = torch.cat([tensor.reshape(-1) for tensor in lists[0]])

    def today() -> None:
        for tensors in lists:
            for tensor in tensors:
                tensor.norm(2).item()

    def foreach() -> None:
        for tensors in lists:
            torch.stack(torch._foreach_norm(tensors)).norm().item()

    def ours() -> None:
        for square_sums, tensors, (squares, nonfinite) in zip(sums, lists, out, strict=True):
            square_sums(tensors, squares, nonfinite)
        out.cpu()

    def floor() -> None:
        for _ in lists:
            torch.dot(flat, flat)

    found: dict[str, Any] = {'tensors': count, 'elements': flat.numel()}
    for name, function in (('today', today), ('foreach', foreach), ('ours', ours), ('one pass', floor)):
        function()
        once = _seconds(device, function, 1)
        found[f'{name}, ms'] = 1e3 * _seconds(device, function, max(1, min(100, int(seconds / 4 / once))))
    found['today / ours'] = found['today, ms'] / found['ours, ms']
    return found
