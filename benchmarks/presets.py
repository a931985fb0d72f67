"""What each preset costs per measured learner step: CPU milliseconds of the process, at several numbers of tasks.

    python benchmarks/presets.py --tasks 4 8 26

Turns without a monitor and with each preset follow each other; figures are median and quartiles over the rounds. Every
metric is measured in every step here (``budget=None``). CPU time counts what the monitor does in the background too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from easydict import EasyDict

from ding_normmon import NormMonitor

# The checkout, for whoever runs this file as a script and not with `python -m`.
sys.path.append(str(Path(__file__).resolve().parents[1]))
from benchmarks.peers import spread, take_turn
from benchmarks.workload import SIZES, learner_batches, make_policy

KINDS: dict[str, dict[str, Any] | None] = {
    'none': None,
    'basic': {},
    'multitask': {'preset': 'multitask'},
    'full': {'preset': 'full'},
}


def turn(policy: Any, batches: list[Any], config: dict[str, Any] | None, steps: int) -> float:
    """Return the CPU milliseconds of a learner step with such a monitor, or with none."""
    if config is None:
        return take_turn(policy, batches, lambda: None, steps)[1]
    monitor = NormMonitor(EasyDict(monitor_norm_freq=1, budget=None, **config), policy, destinations=[])
    context = SimpleNamespace(train_iter=-1, monitor_records=[])

    def begin() -> None:
        context.train_iter += 1
        monitor(context)

    measured: Callable[[], None] = begin
    cpu = take_turn(policy, batches, measured, steps)[1]
    monitor.close()
    return cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--size', choices=list(SIZES), default='small')
    parser.add_argument('--tasks', nargs='+', type=int, default=[4, 8, 26])
    parser.add_argument('--batch-size', type=int, default=None, help="per task; default: the size's own")
    parser.add_argument('--rounds', type=int, default=8)
    parser.add_argument('--steps', type=int, default=12)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print('| tasks | learner step | ' + ' | '.join(f'`{kind}` adds' for kind in KINDS if kind != 'none') + ' |')
    print('|---|---|' + '---|' * (len(KINDS) - 1))
    for num_tasks in args.tasks:
        policy = make_policy(args.size, num_tasks, batch_size=args.batch_size)
        batches = learner_batches(policy)
        times: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for turns in range(args.rounds):
            names = list(KINDS)
            for kind in names[turns % len(names) :] + names[: turns % len(names)]:
                times[kind].append(turn(policy, batches, KINDS[kind], args.steps))
        cells = [f'{spread(times["none"])} ms']
        for kind in KINDS:
            if kind != 'none':
                pairs = list(zip(times[kind], times['none'], strict=True))
                added, share = (
                    [mine - plain for mine, plain in pairs],
                    [mine / plain * 100 - 100 for mine, plain in pairs],
                )
                cells.append(f'{spread(added)} ms, {spread(share, 0)} %')
        print(f'| {num_tasks} | ' + ' | '.join(cells) + ' |', flush=True)


if __name__ == '__main__':
    main()
