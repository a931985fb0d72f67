"""Started by `torchrun`: train with a monitor or without; end as told.

torchrun --nproc_per_node=2 torchrun_script.py (with|without) (fine|raise|kill|exit) OUTPUT
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parents[2]))

from ding_normmon import Monitor
from tests.distributed.multitask import make_model, train

TASKS = [[0, 2], [1]]


def main() -> None:
    monitored, end, output = sys.argv[1] == 'with', sys.argv[2], Path(sys.argv[3])
    torch.set_num_threads(1)
    dist.init_process_group('gloo')
    rank = dist.get_rank()

    def before_step(iteration: int) -> None:
        if iteration == 6 and rank == 1:
            if end == 'raise':
                raise RuntimeError('the training itself fails')
            if end == 'kill':
                os.kill(os.getpid(), signal.SIGKILL)
            if end == 'exit':
                sys.exit(3)

    model = make_model(3)
    config = {'monitor_norm_freq': 1, 'close_timeout': 5.0}
    monitor = Monitor(model, config, num_tasks=3, task_ids=TASKS[rank]) if monitored else None
    weights = train(model, monitor, TASKS[rank], range(12), True, before_step)
    if monitor is not None:
        monitor.close()
        for record in monitor.take_records():
            if record.scalars['monitor/missing_ranks'] == 0:
                with (output / 'records.txt').open('a') as file:
                    file.write(f'{record.iteration}\n')
    torch.save(weights, output / f'weights{rank}_{sys.argv[1]}.pt')
    dist.destroy_process_group()


if __name__ == '__main__':
    main()
