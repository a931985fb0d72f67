"""What seeing tasks work against each other costs: every metric as a share of the learner step.

    python benchmarks/interplay.py --sizes small --tasks 2 4 8 26

A learner step without a monitor is timed in turn with a step in which every metric is measured; the share that a
metric would take of training at a frequency is its share of the step divided by that frequency. The last column is
the frequency at which everything together stays under 1%.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from easydict import EasyDict
from rich.console import Console
from rich.table import Table

from ding_normmon import NormMonitor

# The checkout, for whoever runs this file as a script and not with `python -m`.
sys.path.append(str(Path(__file__).resolve().parents[1]))
from benchmarks.workload import SIZES, learner_batches, make_policy


def timed_steps(policy: Any, batches: list[Any], monitor: NormMonitor, rounds: int, wait: Any) -> dict[str, Any]:
    """Return medians: the plain step, the measured one, and milliseconds, bytes and backward passes by metric."""
    context = SimpleNamespace(train_iter=0, monitor_records=[])
    plain, measured, records = [], [], []
    for iteration in range(2 * rounds + 2):
        # Odd iterations are off steps: the same process, the same caches, no monitor.
        context.train_iter = iteration
        monitor(context)
        records += context.monitor_records
        wait()
        start = time.perf_counter()
        policy._forward_learn(batches)
        wait()
        (plain if iteration % 2 else measured).append((time.perf_counter() - start) * 1e3)
    monitor.close()
    records += monitor.monitor.take_records()
    prefix = 'monitor/cost/'
    figures: dict[str, dict[str, float]] = {}
    for name in sorted({name for record in records[1:] for name in record.scalars if name.startswith(prefix)}):
        what, _, unit = name.removeprefix(prefix).rpartition('/')
        values = [record.scalars[name] for record in records[1:] if name in record.scalars]
        figures.setdefault(what or 'all', {})[unit] = statistics.median(values)
    return {'plain': statistics.median(plain[1:]), 'measured': statistics.median(measured[1:]), 'metrics': figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--sizes', nargs='+', choices=list(SIZES), default=['small'])
    parser.add_argument('--tasks', nargs='+', type=int, default=[2, 4, 8, 26])
    parser.add_argument('--preset', choices=['basic', 'multitask', 'full'], default='multitask')
    parser.add_argument('--by-loss', action='store_true', help='also the terms of the losses')
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--rounds', type=int, default=8)
    parser.add_argument('--batch-size', type=int, default=None, help="per task; default: the size's own")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    wait = torch.cuda.synchronize if args.device == 'cuda' else (lambda: None)
    console = Console(width=140)
    place = torch.cuda.get_device_name() if args.device == 'cuda' else 'CPU'
    console.print(f'{place}, {args.threads} thread(s), torch {torch.__version__}; medians of {args.rounds} rounds')
    for size in args.sizes:
        table = Table(title=f'{size}: cost of one measurement', title_justify='left')
        for column in ('tasks', 'quantity', 'ms', 'share of the step', 'kB', 'extra backward'):
            table.add_column(column, justify='left' if column == 'quantity' else 'right')
        for num_tasks in args.tasks:
            policy = make_policy(size, num_tasks, cuda=args.device == 'cuda', batch_size=args.batch_size)
            config = EasyDict(monitor_norm_freq=2, preset=args.preset, budget=None, conflict_by_loss=args.by_loss)
            monitor = NormMonitor(config, policy, destinations=[])
            found = timed_steps(policy, learner_batches(policy), monitor, args.rounds, wait)
            plain, extra = found['plain'], found['measured'] - found['plain']
            frequency = max(1, math.ceil(extra / plain / 0.01))
            table.add_row(str(num_tasks), 'learner step', f'{plain:.1f}', '', '', '')
            for name, units in sorted(found['metrics'].items(), key=lambda item: -item[1].get('ms', 0.0)):
                if name == 'all' or 'ms' not in units:
                    continue
                backward = units.get('extra_backward', 0.0)
                table.add_row(
                    '',
                    name,
                    f'{units["ms"]:.2f}',
                    f'{units["ms"] / plain:.1%}',
                    f'{units.get("bytes", 0.0) / 1e3:.0f}',
                    f'{backward:.0f}' if backward else '',
                )
            row = ('', 'measured step minus plain step', f'{extra:.1f}', f'{extra / plain:.1%}', '', '')
            table.add_row(*row)
            table.add_row('', f'under 1% of training at a frequency of {frequency}', '', '', '', '', end_section=True)
        console.print(table)


if __name__ == '__main__':
    main()
