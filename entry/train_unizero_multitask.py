"""Train multi-task UniZero with a norm monitor.

One process:    python entry/train_unizero_multitask.py --config minigrid
Two processes:  torchrun --nproc_per_node=2 entry/train_unizero_multitask.py --config minigrid
"""

from pathlib import Path

from ding_normmon.unizero.quiet import import_quietly

import_quietly('gym', 'gymnasium', 'ding.framework.middleware', 'lzero.policy')

from ding.framework import task  # noqa: E402
from ding.framework.context import OnlineRLContext  # noqa: E402
from ding.framework.middleware import online_logger  # noqa: E402
from easydict import EasyDict  # noqa: E402

from ding_normmon import NormMonitor, init_writer  # noqa: E402
from ding_normmon.unizero.command_line import training_command  # noqa: E402
from ding_normmon.unizero.run import MultiTaskRun, prepare_folder  # noqa: E402


def main(cfg: EasyDict) -> int:
    """Build everything, hand it to the task pipeline and run."""
    prepare_folder(cfg)
    init_writer(cfg)
    with MultiTaskRun(cfg) as run, task.start(ctx=OnlineRLContext()):
        monitor = NormMonitor(
            cfg.policy.monitor, run.policy, stop=run.stop_agreement.ask, checkpoint=run.checkpointer.ask
        )
        run.watch(monitor)
        run.begin(task.ctx)
        task.use(run.collector)
        task.use(run.pusher)
        task.use(monitor)
        task.use(run.learner)
        task.use(run.stop_agreement)
        task.use(run.evaluator)
        task.use(run.return_tracker)
        task.use(run.return_writer)
        task.use(online_logger(train_show_freq=cfg.log.train_show_freq))
        task.use(run.checkpointer)
        task.use(run.show_progress)
        task.use(run.finish)
        task.run()
        return run.end(task.ctx)


if __name__ == '__main__':
    training_command(main, configs=Path(__file__).parent / 'configs', default='minigrid')()
