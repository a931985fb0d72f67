"""What monitoring costs: today's per-parameter method, ours and the floor, in one run.

    python benchmarks/overhead.py --sizes small scalezero --tasks 2 4 8 26 --threads 1

(a) today's method: one norm and one host read per parameter and per gradient, five reductions and five reads per logit
    tensor, four per token and embedding tensor (for the last task only, as it is done today).
(b) ours: the same figures for all tasks, valid steps only, merged exactly.
(c) the floor: one pass over one flat tensor of the same bytes, for the weights and for the gradients.

Then whole learner steps with ``monitor_norm_freq=1``, publishing into an event file included, against the same steps
without a monitor, in turn. Last, the same with everything as by default (``monitor_norm_freq=5000``): watched steps,
rules, black box and history, at the cadence ``w`` that ``watch='auto'`` has chosen before.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from easydict import EasyDict
from rich.console import Console
from rich.table import Table
from tensorboardX import SummaryWriter

from ding_normmon import NormMonitor
from ding_normmon.core.step import INERT, LearnerStep
from ding_normmon.destinations import TensorBoard
from ding_normmon.metrics import GradientNorms, ParameterNorms
from ding_normmon.runs.history_file import HistoryFile

# The checkout, for whoever runs this file as a script and not with `python -m`.
sys.path.append(str(Path(__file__).resolve().parents[1]))
from benchmarks.workload import SIZES, learner_batches, make_policy

WARM_UP = 3
"""Learner steps of each turn that are not counted, at least."""

WARM_UP_SECONDS = 1.2
"""And for so long: a record is finished a quarter of a second after it was measured. So a turn begins with the work for
earlier records, and ends before that for its last ones is done."""


@dataclass
class Samples:
    """Times of one thing, in milliseconds."""

    values: list[float] = field(default_factory=list)

    def measure(self, function: Callable[[], Any]) -> None:
        start = time.perf_counter()
        function()
        self.values.append((time.perf_counter() - start) * 1e3)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def percent(self) -> str:
        """Median and quartiles of shares."""
        low, middle, high = statistics.quantiles(self.values, n=4) if len(self.values) > 3 else [self.median] * 3
        return f'{middle:+.1%} ({100 * low:+.1f} to {100 * high:+.1f})'

    def __str__(self) -> str:
        if len(self.values) < 4:
            return f'{self.median:.3g}'
        low, _, high = statistics.quantiles(self.values, n=4)
        return f'{self.median:.3g} ({low:.3g}-{high:.3g})'


def todays_norms(parameters: list[torch.nn.Parameter]) -> None:
    """One norm and one host read per parameter, then per gradient; the squares are added in Python."""
    for tensors in ([p.data for p in parameters], [p.grad.data for p in parameters if p.grad is not None]):
        total = 0.0
        for tensor in tensors:
            total += tensor.norm(2).item() ** 2
        math.sqrt(total)


def todays_signals(signals: dict[str, torch.Tensor]) -> None:
    """Five reductions and five reads per logit tensor, four per token tensor."""
    for name, tensor in signals.items():
        if name.startswith('logits'):
            for reduction in (tensor.mean(), tensor.std(), tensor.max(), tensor.min(), tensor.abs().max()):
                reduction.item()
        else:
            norms = tensor.norm(p=2, dim=-1)
            for reduction in (norms.mean(), norms.std(), norms.max(), norms.min()):
                reduction.item()


class Recorder:
    """Keeps the signals of one learner step, so that both methods are timed on the same tensors."""

    def __init__(self) -> None:
        self.published: list[tuple[str, torch.Tensor, int | None, torch.Tensor | None]] = []

    def on_publish(self, name: str, tensor: torch.Tensor, task_id: int | None, mask: torch.Tensor | None) -> None:
        self.published.append((name, tensor, task_id, mask))

    def on_publish_loss(self, name: str, value: Any, task_id: int | None) -> None:
        pass

    def on_clip(self, clip: Any) -> None:
        pass

    def on_hook_point(self, hook_point: str, step: LearnerStep) -> None:
        pass


def measure(size: str, num_tasks: int, args: argparse.Namespace) -> dict[str, Any]:
    """Return all figures of one model size and number of tasks."""
    cuda = args.device == 'cuda'
    wait = torch.cuda.synchronize if cuda else (lambda: None)
    policy = make_policy(size, num_tasks, cuda=cuda, batch_size=args.batch_size)
    batches = learner_batches(policy)
    recorder = Recorder()
    # The last layers begin at zero, and so do the gradients of everything before them.
    for _ in range(2):
        policy._forward_learn(batches)
    policy.learner_step = LearnerStep(0, recorder)
    policy._forward_learn(batches)
    policy.learner_step = INERT
    parameters = list(policy._learn_model.parameters())
    last = {name: tensor for name, tensor, task_id, _ in recorder.published if task_id == num_tasks - 1}
    # Not zeros: memory that nobody has written to is one page, and always in the cache. Nor one tensor twice: of a
    # large model the second pass would find it there.
    flat = torch.cat([parameter.detach().reshape(-1) for parameter in parameters])
    flat_gradient = flat.clone()

    monitor = NormMonitor(EasyDict(monitor_norm_freq=1), policy, destinations=[])
    core = monitor.monitor
    prepared = core._prepared
    norms = [q for q in core.metrics if isinstance(q, (ParameterNorms, GradientNorms))]
    wait()

    def our_norms() -> None:
        step = LearnerStep(0, recorder)
        step.fired = ['backward_end']
        prepared.buffer.begin(0)
        for metric in norms:
            metric.measure(metric.hook_points[0], step, prepared.buffer)
        cells = prepared.buffer.storage.cpu().numpy()
        for metric, span in prepared.batches._spans:
            if metric in norms:
                metric.unpack_rows(cells[span])

    def our_signals() -> None:
        step = core.begin_step(0)
        for name, tensor, task_id, mask in recorder.published:
            step.publish(name, tensor, task_id=task_id, mask=mask)
        wait()
        core.drop_step(step)

    figures: dict[str, Any] = {'tensors': len(parameters), 'elements': flat.numel()}
    names = ('today norms', 'our norms', 'floor', 'today signals', 'our signals')
    times = {name: Samples() for name in names}
    functions = (
        lambda: todays_norms(parameters),
        our_norms,
        lambda: (torch.dot(flat, flat), torch.dot(flat_gradient, flat_gradient), wait()),
        lambda: todays_signals(last),
        our_signals,
    )
    for function in functions:
        function()
    for _ in range(args.repeats if flat.numel() < 10_000_000 else max(5, args.repeats // 4)):
        for name, function in zip(names, functions, strict=True):
            times[name].measure(function)
    figures.update(times)
    core.close()
    monitor.close()
    figures.update(whole_steps(policy, batches, args))
    figures.update(watched_steps(policy, batches, args))
    if cuda:
        figures['waits'] = device_waits(policy, batches)
    return figures


@dataclass
class Turn:
    """The mean learner step of one turn, in milliseconds."""

    wall: float
    thread: float
    process: float


def take_turn(policy: Any, batches: list[Any], context: Any, steps: int) -> Turn:
    """Return the mean of so many learner steps, after those that are not counted."""
    clocks = (time.perf_counter, time.thread_time, time.process_time)
    begun, done = time.perf_counter(), 0
    while done < WARM_UP or time.perf_counter() - begun < WARM_UP_SECONDS:
        context.train_iter += 1
        policy._forward_learn(batches)
        done += 1
    starts = [clock() for clock in clocks]
    for _ in range(steps):
        context.train_iter += 1
        policy._forward_learn(batches)
    return Turn(*((clock() - start) / steps * 1e3 for clock, start in zip(clocks, starts, strict=True)))


def whole_steps(policy: Any, batches: list[Any], args: argparse.Namespace) -> dict[str, Any]:
    """Return learner steps with and without the monitor, in turn: wall, learner-thread CPU, whole-process CPU.

    A figure is a turn's mean, because the work for several records is done in one of its steps, and what the monitor
    adds is the difference of two turns that follow each other.
    """
    plain, added, own = Samples(), {clock: Samples() for clock in ('wall', 'thread', 'process')}, Samples()
    context = SimpleNamespace(train_iter=0, monitor_records=[])
    with tempfile.TemporaryDirectory() as folder:
        writer = SummaryWriter(folder)
        for turn in range(args.rounds):
            turns: dict[str, Turn] = {}
            # A machine that gets slower for a while should not do so at the cost of the same one each time.
            for kind in ('plain', 'watched') if turn % 2 == 0 else ('watched', 'plain'):
                monitor = None
                if kind == 'watched':
                    monitor = NormMonitor(EasyDict(monitor_norm_freq=1), policy, destinations=[TensorBoard(writer)])
                    monitor(context)
                turns[kind] = take_turn(policy, batches, context, args.steps)
                if monitor is not None:
                    monitor.close()
                    records = monitor.monitor.take_records()[-args.steps :]
                    own.values += [record.scalars['monitor/cost/ms'] for record in records]
            plain.values.append(turns['plain'].wall)
            for clock, samples in added.items():
                before = getattr(turns['plain'], clock)
                samples.values.append((getattr(turns['watched'], clock) - before) / before)
        writer.close()
    return {'plain': plain, 'own': own, **{f'added {clock}': samples for clock, samples in added.items()}}


def watched_steps(policy: Any, batches: list[Any], args: argparse.Namespace) -> dict[str, Any]:
    """Return what watching between the records costs by default: the cadence, and learner steps with and without."""
    context = SimpleNamespace(train_iter=1, monitor_records=[])
    added = {clock: Samples() for clock in ('wall', 'thread', 'process')}
    with tempfile.TemporaryDirectory() as folder:

        def monitored(number: str, watch: int | str) -> NormMonitor:
            history = HistoryFile(Path(folder) / number / 'history.arrows')
            monitor = NormMonitor(EasyDict(monitor_norm_freq=5000, watch=watch), policy, destinations=[history])
            monitor(context)
            return monitor

        monitor, begun = monitored('auto', 'auto'), time.perf_counter()
        while time.perf_counter() - begun < args.settle:
            context.train_iter += 1
            policy._forward_learn(batches)
        every = monitor.monitor._watching.every
        monitor.close()
        steps = args.steps * max(1, -(-2 * every // args.steps))
        for turn in range(args.rounds):
            turns: dict[str, Turn] = {}
            for kind in ('plain', 'watched') if turn % 2 == 0 else ('watched', 'plain'):
                monitor = monitored(str(turn), every or 'off') if kind == 'watched' else None
                turns[kind] = take_turn(policy, batches, context, steps)
                if monitor is not None:
                    monitor.close()
            for clock, samples in added.items():
                before = getattr(turns['plain'], clock)
                samples.values.append((getattr(turns['watched'], clock) - before) / before)
    return {'w': every, **{f'watched {clock}': samples for clock, samples in added.items()}}


def device_waits(policy: Any, batches: list[Any]) -> tuple[int, int]:
    """Return what one monitored step adds on a GPU: copies to the host, and calls that wait for the device."""

    def count() -> tuple[int, int]:
        activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as profile:
            policy._forward_learn(batches)
        names = [event.name for event in profile.events()]
        copies = sum('Memcpy DtoH' in name for name in names)
        return copies, sum(name.startswith(('cudaStreamSynchronize', 'cudaDeviceSynchronize')) for name in names)

    plain = count()
    context = SimpleNamespace(train_iter=0, monitor_records=[])
    monitor = NormMonitor(EasyDict(monitor_norm_freq=1), policy, destinations=[])
    monitor(context)
    for _ in range(WARM_UP):
        context.train_iter += 1
        policy._forward_learn(batches)
    context.train_iter += 1
    watched = count()
    monitor.close()
    return watched[0] - plain[0], watched[1] - plain[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--sizes', nargs='+', choices=list(SIZES), default=list(SIZES))
    parser.add_argument('--tasks', nargs='+', type=int, default=[2, 4, 8, 26])
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--repeats', type=int, default=40, help='of each method, in turn')
    parser.add_argument('--rounds', type=int, default=8, help='with and without the monitor, in turn')
    parser.add_argument('--steps', type=int, default=20, help='learner steps per turn that are counted')
    parser.add_argument('--settle', type=float, default=20.0, help="seconds in which watch='auto' finds its cadence")
    parser.add_argument('--batch-size', type=int, default=None, help="per task; default: the size's own")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    console = Console(width=150)
    place = torch.cuda.get_device_name() if args.device == 'cuda' else 'CPU'
    console.print(f'{place}, {args.threads} thread(s), torch {torch.__version__}; milliseconds, median (quartiles)')
    for size in args.sizes:
        methods = Table(title=f'{size}: norms and signals, per monitored step', title_justify='left')
        for column in ('tasks', 'tensors', 'elements', '(a) norms', '(b) norms', '(c) floor', 'a/b', 'b/c'):
            methods.add_column(column, justify='right')
        for column in ('(a) signals, 1 task', '(b) signals, all tasks'):
            methods.add_column(column, justify='right')
        steps = Table(title=f'{size}: learner steps with monitor_norm_freq=1', title_justify='left')
        for column in ('tasks', 'learner step', 'own ms', 'own share', 'thread CPU', 'process CPU', 'step time'):
            steps.add_column(column, justify='right')
        steps.add_column('frequency for 1% of all', justify='right')
        between = Table(title=f'{size}: everything by default, monitor_norm_freq=5000', title_justify='left')
        for column in ('tasks', 'w', 'thread CPU', 'process CPU', 'step time', 'steps per second, without and with'):
            between.add_column(column, justify='right')
        previous: tuple[int, float] | None = None
        for num_tasks in args.tasks:
            f = measure(size, num_tasks, args)
            methods.add_row(
                str(num_tasks),
                str(f['tensors']),
                f'{f["elements"] / 1e6:.1f} M',
                str(f['today norms']),
                str(f['our norms']),
                str(f['floor']),
                f'{f["today norms"].median / f["our norms"].median:.1f}',
                f'{f["our norms"].median / f["floor"].median:.2f}',
                str(f['today signals']),
                str(f['our signals']),
            )
            own, plain = f['own'].median, f['plain'].median
            worst = max(own / plain, f['added process'].median, 0.0)
            steps.add_row(
                str(num_tasks),
                str(f['plain']),
                str(f['own']),
                f'{own / plain:.2%}',
                *(f['added ' + clock].percent for clock in ('thread', 'process', 'wall')),
                str(max(1, math.ceil(worst / 0.01))),
            )
            slower = 1.0 + f['watched wall'].median
            between.add_row(
                str(num_tasks),
                str(f['w']),
                *(f['watched ' + clock].percent for clock in ('thread', 'process', 'wall')),
                f'{1e3 / plain:.4g}, {1e3 / plain / slower:.4g}',
            )
            if previous is not None:
                added = (own - previous[1]) / (num_tasks - previous[0])
                console.print(f'{size}: {added:.3f} ms per added task from {previous[0]} to {num_tasks} tasks')
            previous = (num_tasks, own)
            copies, waits = f.get('waits', (0, 0))
            console.print(f'{size}, {num_tasks} tasks: a monitored step adds {copies} device copies, {waits} waits')
        console.print(methods)
        console.print(steps)
        console.print(between)


if __name__ == '__main__':
    main()
