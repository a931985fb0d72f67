"""What others measure and what it costs, on one learner step: LightZero's way, wandb.watch, Lightning, Composer, ours.

    make peers                      # their pinned versions in build/peers, then this program with --tasks 4 26

Every method is put on the same multi-task UniZero policy and measures every learner step. A round is one turn of each,
in an order that changes from round to round; what a method adds is the mean step of its turn less that of the turn
without any. Each writes what it measures the way its users have it written: single scalars into an event file
(LightZero, Lightning, Composer), an offline run (wandb), one event (ours).

The figures are what is added to the learner step of the same round, median over the rounds and quartiles: by the clock,
and CPU time of the whole process, which other programs on the machine disturb less. Batches are small so that a step is
short and the difference is seen; no method but ours looks at data that depends on the batch, and ours hardly costs more
for it.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from easydict import EasyDict
from torch.utils.tensorboard import SummaryWriter

from ding_normmon import NormMonitor
from ding_normmon.destinations import TensorBoard

# The checkout, for whoever runs this file as a script and not with `python -m`.
sys.path.append(str(Path(__file__).resolve().parents[1]))
from benchmarks.workload import SIZES, learner_batches, make_policy

WARM_UP_STEPS, WARM_UP_SECONDS = 3, 1.0
"""Of each turn, not counted: what is done in the background for earlier steps begins and ends within a turn."""

Attach = Callable[[Any, Path], contextlib.AbstractContextManager[Callable[[], None]]]
"""Puts a method on a policy; yields what is called before each learner step."""


def before_optimizer_step(policy: Any, measure: Callable[[], None]) -> Any:
    """Call ``measure`` where gradients are complete, right before the optimizer steps."""
    return policy._optimizer_world_model.register_step_pre_hook(lambda *_: measure())


def write_scalars(writer: SummaryWriter, values: dict[str, Any], step: int) -> None:
    """Write one event per figure, as these libraries' loggers do."""
    for name, value in values.items():
        writer.add_scalar(name, value, step)


@contextlib.contextmanager
def nothing(policy: Any, folder: Path) -> Iterator[Callable[[], None]]:
    """No monitor."""
    yield lambda: None


@contextlib.contextmanager
def lightzero(policy: Any, folder: Path) -> Iterator[Callable[[], None]]:
    """The method of LightZero's main branch: a norm and a read per parameter and per gradient, sums in Python."""
    model, writer, count = policy._learn_model, SummaryWriter(str(folder)), 0

    def measure() -> None:
        nonlocal count
        figures: dict[str, float] = {}
        for kind in ('norm', 'grad'):
            totals: dict[str, float] = {}
            for name, parameter in model.named_parameters():
                tensor = parameter.data if kind == 'norm' else parameter.grad
                group = '/'.join(name.split('.')[:3])
                square = 0.0 if tensor is None else tensor.data.norm(2).item() ** 2
                totals[group] = totals.get(group, 0.0) + square
            figures |= {f'{kind}/{group}/_total_norm': math.sqrt(total) for group, total in totals.items()}
        write_scalars(writer, figures, count)
        count += 1

    handle = before_optimizer_step(policy, measure)
    yield lambda: None
    handle.remove()
    writer.close()


@contextlib.contextmanager
def wandb_watch(policy: Any, folder: Path) -> Iterator[Callable[[], None]]:
    """``wandb.watch(model, log='gradients', log_freq=1)``: a histogram per gradient."""
    import wandb

    run = wandb.init(dir=str(folder), mode='offline', settings=wandb.Settings(silent=True))
    wandb.watch(policy._learn_model, log='gradients', log_freq=1)
    yield lambda: run.log({})
    wandb.unwatch(policy._learn_model)
    run.finish()


@contextlib.contextmanager
def lightning(policy: Any, folder: Path) -> Iterator[Callable[[], None]]:
    """Lightning's ``grad_norm`` in ``on_before_optimizer_step``, logged with its TensorBoard logger."""
    from lightning.pytorch.loggers import TensorBoardLogger
    from lightning.pytorch.utilities import grad_norm

    logger, count = TensorBoardLogger(str(folder)), 0

    def measure() -> None:
        nonlocal count
        logger.log_metrics(grad_norm(policy._learn_model, norm_type=2), count)
        count += 1

    handle = before_optimizer_step(policy, measure)
    yield lambda: None
    handle.remove()
    logger.finalize('success')


@contextlib.contextmanager
def composer(policy: Any, folder: Path) -> Iterator[Callable[[], None]]:
    """Composer's ``OptimizerMonitor``, every batch."""
    from composer.callbacks import OptimizerMonitor

    writer, monitor = SummaryWriter(str(folder)), OptimizerMonitor(batch_log_interval=1)
    batch = SimpleNamespace(value=0)
    state = SimpleNamespace(
        model=policy._learn_model,
        optimizers=[policy._optimizer_world_model],
        timestamp=SimpleNamespace(batch=batch),
        fsdp_enabled=False,
    )
    logger: Any = SimpleNamespace(log_metrics=lambda figures: write_scalars(writer, figures, batch.value))

    def measure() -> None:
        monitor.batch_end(state, logger)  # type: ignore[arg-type]
        batch.value += 1

    handle = before_optimizer_step(policy, measure)
    yield lambda: None
    handle.remove()
    writer.close()


@contextlib.contextmanager
def ours(policy: Any, folder: Path) -> Iterator[Callable[[], None]]:
    """``NormMonitor(dict(monitor_norm_freq=1), policy)``: everything of ``preset='basic'``, rules included."""
    writer = SummaryWriter(str(folder))
    monitor = NormMonitor(EasyDict(monitor_norm_freq=1), policy, destinations=[TensorBoard(writer)])
    context = SimpleNamespace(train_iter=-1, monitor_records=[])

    def begin() -> None:
        context.train_iter += 1
        monitor(context)

    yield begin
    monitor.close()
    writer.close()


METHODS: dict[str, tuple[Attach, str]] = {
    'none': (nothing, ''),
    "LightZero's in-tree method": (lightzero, ''),
    'wandb.watch': (wandb_watch, 'wandb'),
    "Lightning's grad_norm": (lightning, 'lightning'),
    "Composer's OptimizerMonitor": (composer, 'mosaicml'),
    'ding_normmon, basic': (ours, 'ding_normmon'),
}
"""Name, how it is attached, and the package whose version is printed."""


def take_turn(policy: Any, batches: list[Any], begin: Callable[[], None], steps: int) -> tuple[float, float]:
    """Return the mean milliseconds of so many learner steps: by the clock, and CPU of the process."""
    started, done = time.perf_counter(), 0
    while done < WARM_UP_STEPS or time.perf_counter() - started < WARM_UP_SECONDS:
        begin()
        policy._forward_learn(batches)
        done += 1
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        begin()
        policy._forward_learn(batches)
    return (time.perf_counter() - wall) / steps * 1e3, (time.process_time() - cpu) / steps * 1e3


def spread(values: list[float], digits: int = 1) -> str:
    """Return median and quartiles.

    Example:
        >>> spread([1.0, 2.0, 3.0, 4.0, 5.0])
        '3.0 (1.5 to 4.5)'
    """
    low, middle, high = statistics.quantiles(values, n=4)
    return f'{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})'


def compare(size: str, num_tasks: int, args: argparse.Namespace) -> None:
    """Print the table of one number of tasks."""
    policy = make_policy(size, num_tasks, batch_size=args.batch_size)
    batches = learner_batches(policy)
    turns: dict[str, list[tuple[float, float]]] = {name: [] for name in METHODS}
    names = list(METHODS)
    for turn in range(args.rounds):
        order = names[turn % len(names) :] + names[: turn % len(names)]
        for name in order:
            with tempfile.TemporaryDirectory() as folder, METHODS[name][0](policy, Path(folder)) as begin:
                turns[name].append(take_turn(policy, batches, begin, args.steps))
    tensors = len(list(policy._learn_model.parameters()))
    plain = turns['none']
    step = f'{spread([wall for wall, _ in plain])} ms by the clock, {spread([cpu for _, cpu in plain])} ms of CPU'
    print(f'\n{size}, {num_tasks} tasks, {tensors} tensors; a learner step takes {step}\n')
    print('| method | version | added by the clock | added CPU | added CPU, ms |')
    print('|---|---|---|---|---|')
    for name, (_, package) in METHODS.items():
        if name == 'none':
            continue
        pairs = list(zip(turns[name], plain, strict=True))
        shares = [[mine[clock] / other[clock] * 100 - 100 for mine, other in pairs] for clock in (0, 1)]
        cells = [*(f'{spread(share, 0)} %' for share in shares), spread([mine[1] - other[1] for mine, other in pairs])]
        print(f'| {name} | {version(package) if package else ""} | ' + ' | '.join(cells) + ' |', flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--size', choices=list(SIZES), default='small')
    parser.add_argument('--tasks', nargs='+', type=int, default=[4, 26])
    parser.add_argument('--batch-size', type=int, default=4, help='per task')
    parser.add_argument('--rounds', type=int, default=12, help='turns of each method')
    parser.add_argument('--steps', type=int, default=15, help='learner steps per turn that are counted')
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f'CPU, 1 thread, torch {torch.__version__}')
    for num_tasks in args.tasks:
        compare(args.size, num_tasks, args)


if __name__ == '__main__':
    main()
