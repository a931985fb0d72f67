"""Several processes of DI-engine's own: a learner, a collector and an evaluator in a mesh; the evaluator has the file.

python ditask_script.py FOLDER PORT
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from ding.framework import Parallel, task
from ding.framework.context import OnlineRLContext
from easydict import EasyDict
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from ding_normmon import NormMonitor, init_writer

STEPS = 60
FREQUENCY = 3
# Of as many figures as a real policy has, so that a burst of messages would overflow the queue.
GROUPS = 60
ROLES = (task.role.LEARNER, task.role.COLLECTOR, task.role.EVALUATOR)
WRITER_NODE = 2
LIMIT = 150


class Policy:
    """The least that can be monitored."""

    def __init__(self) -> None:
        torch.manual_seed(3)
        self._learn_model = nn.ModuleDict({f'part{number}': nn.Linear(2, 2) for number in range(GROUPS)})
        self._optimizer = torch.optim.SGD(self._learn_model.parameters(), lr=0.01)

    def _forward_learn(self, data: torch.Tensor) -> dict[str, float]:
        loss = torch.stack([layer(data).square().mean() for layer in self._learn_model.values()]).sum()
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        return {'loss': loss.item()}


def main(folder: str) -> None:
    """What every process runs, as in DI-engine's examples."""
    torch.set_num_threads(1)
    node = task.router.node_id
    is_learner = ROLES[node] == task.role.LEARNER
    init_writer(EasyDict(exp_name=f'{folder}/run'), owns_file=node == WRITER_NODE)
    seen: list[int] = []
    with task.start(ctx=OnlineRLContext()):
        task.add_role(ROLES[node])
        policy = Policy()
        middleware = NormMonitor({'monitor_norm_freq': FREQUENCY, 'close_timeout': 60.0}, policy)
        wrapped = '_forward_learn' in vars(policy)

        def learn(ctx: OnlineRLContext) -> None:
            policy._forward_learn(torch.ones(3, 2))
            ctx.train_iter += 1

        def wait(ctx: OnlineRLContext) -> None:
            # The learner says when it is finished.
            time.sleep(0.1)

        task.use(middleware)
        task.use(lambda ctx: seen.extend(record.iteration for record in ctx.monitor_records))
        task.use(learn if is_learner else wait)
        # The processes find each other in about a second, and what is sent before is lost.
        time.sleep(2)
        task.run(max_step=STEPS if is_learner else LIMIT * 10)
    result = {'wrapped': wrapped, 'seen': seen, 'lost': dict(middleware.monitor.lost_data.total)}
    Path(folder, f'node{node}.json').write_text(json.dumps(result))


if __name__ == '__main__':
    Parallel.runner(
        n_parallel_workers=3,
        protocol='tcp',
        address='127.0.0.1',
        ports=int(sys.argv[2]),
        topology='mesh',
        startup_interval=0,
    )(main, sys.argv[1])
