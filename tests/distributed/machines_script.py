"""Started by `torchrun --nnodes=2`: train under a monitor, first together, then separately while the link is cut.

torchrun --nnodes=2 --node_rank=K --nproc_per_node=1 --master_addr=HOST --master_port=PORT machines_script.py FOLDER
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parents[2]))

from ding_normmon import Monitor
from tests.distributed.multitask import learner_step, make_model, train, weights_of

TASKS = [[0, 2], [1]]
IN_STEP = range(12)
ALONE = range(100)
CUT_AT = 10
PAUSE = 0.08
DEADLINES = {'patient': 60.0, 'impatient': 1.0}


def monitored(rank: int, frequency: int, deadline: float) -> Monitor:
    config = {'monitor_norm_freq': frequency, 'deadline': deadline, 'close_timeout': 60.0}
    return Monitor(make_model(3), config, num_tasks=3, task_ids=TASKS[rank])


def in_step(rank: int) -> Monitor:
    """Train with a collective in every step."""
    monitor = monitored(rank, 1, 60.0)
    train(monitor.model, monitor, TASKS[rank], IN_STEP, collective=True)
    monitor.close()
    return monitor


def alone(rank: int, folder: Path) -> dict[str, Monitor]:
    """Train two models without a collective, one under a patient monitor and one under an impatient one."""
    monitors = {name: monitored(rank, 2, deadline) for name, deadline in DEADLINES.items()}
    optimizers = {name: torch.optim.Adam(monitor.model.parameters(), lr=1e-2) for name, monitor in monitors.items()}
    for iteration in ALONE:
        if iteration == CUT_AT and rank == 0:
            (folder / 'cut').touch()
        time.sleep(PAUSE)
        for name, monitor in monitors.items():
            with monitor.step(iteration) as step:
                learner_step(monitor.model, optimizers[name], TASKS[rank], iteration, step)
    for monitor in monitors.values():
        monitor.close()
    return monitors


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    dist.init_process_group('gloo')
    rank = dist.get_rank()
    monitors = {'in step': in_step(rank), **alone(rank, folder)}
    result = {
        name: {
            'records': [(record.iteration, record.scalars) for record in monitor.take_records()],
            'lost': dict(monitor.lost_data.total),
            'weights': weights_of(monitor.model),
        }
        for name, monitor in monitors.items()
    }
    torch.save(result, folder / f'rank{rank}.pt')
    dist.destroy_process_group()


if __name__ == '__main__':
    main()
