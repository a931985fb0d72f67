"""A run on two ranks in which rewards become NaN: it saves a checkpoint, stops on both ranks, and prints why."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from ding_normmon.diagnose import Rule, Sign, Window
from tests.distributed.ranks import run_ranks
from tests.entry.launch import TINY

pytestmark = [pytest.mark.slow, pytest.mark.distributed]

TASKS = ['MiniGrid-Empty-Random-6x6-v0', 'MiniGrid-Empty-8x8-v0']
PLANTED = 150


@dataclass
class Early(Rule):
    """Finds something in the first records."""

    name: ClassVar[str] = 'early'
    advice: ClassVar[str] = 'Nothing.'
    severity: Any = 'info'
    confirm: int = 1
    clear: int = 2
    warmup: int = 0

    def signs(self, window: Window) -> Iterable[Sign]:
        if window.iteration < 10:
            yield Sign('It is early.')


def broken_run(rank: int, folder: str) -> dict[str, Any]:
    """Train one task per rank; from ``PLANTED`` on the rewards of rank 1's batches are NaN once."""
    from ding.framework import task
    from ding.framework.context import OnlineRLContext

    from benchmarks.faults.kinds import KINDS
    from ding_normmon import NormMonitor, init_writer
    from ding_normmon.ranks import reducer as reduce
    from ding_normmon.ranks.decisions import leader as decision_poster
    from ding_normmon.unizero.run import MultiTaskRun
    from ding_normmon.unizero.run_config import complete_config

    reduce.BEAT_SECONDS, decision_poster.LEAD_SECONDS = 0.4, 1.6
    settings = {'max_train_iter': 4000, 'max_minutes': 1.5, 'policy.monitor.budget': None}
    wanted = {'policy.monitor.on_finding': {'non_finite': 'stop', 'early': 'checkpoint'}}
    cfg = complete_config({'tasks': TASKS, 'exp_name': folder}, {**TINY, **settings, **wanted}, [rank])
    init_writer(cfg)
    printed = io.StringIO()
    with MultiTaskRun(cfg) as run, task.start(ctx=OnlineRLContext()):
        monitor = NormMonitor(
            cfg.policy.monitor, run.policy,
            rules=[Early()], stop=run.stop_agreement.ask, checkpoint=run.checkpointer.ask,
        )  # fmt: skip
        run.watch(monitor)
        if rank == 1:
            fault, sample = KINDS['nan_rewards'](run, (1,), 1.0), run.learner._sampler.sample
            begun = False

            def sample_with_fault() -> Any:
                nonlocal begun
                data = sample()
                if task.ctx.train_iter < PLANTED:
                    return data
                if not begun:
                    begun = True
                    fault.begin()
                return fault.alter(data)

            run.learner._sampler.sample = sample_with_fault  # type: ignore[method-assign]
        for middleware in (run.collector, run.pusher, monitor, run.learner, run.stop_agreement, run.checkpointer):
            task.use(middleware)
        task.use(run.finish)
        task.run()
        with contextlib.redirect_stdout(printed):
            code = run.end(task.ctx)
        return {'code': code, 'iteration': task.ctx.train_iter, 'printed': printed.getvalue()}


@pytest.mark.full
def test_nan_rewards_of_one_rank_stop_both_with_a_checkpoint_and_the_reason(tmp_path: Path) -> None:
    folder = tmp_path / 'run'
    first, second = run_ranks(broken_run, 2, str(folder), timeout=150)
    assert first['code'] == second['code'] == 3
    assert first['iteration'] == second['iteration'] >= PLANTED
    # One checkpoint that a rule of the user's asked for, one where the run ended, and no latest one that is spoiled.
    saved = {path.name for path in (folder / 'ckpt').iterdir()}
    assert f'finding_{first["iteration"]}.pth.tar' in saved
    [asked] = saved - {f'finding_{first["iteration"]}.pth.tar'}
    state = torch.load(folder / 'ckpt' / asked, weights_only=False)
    assert asked == f'finding_{state["context"]["train_iter"]}.pth.tar'
    assert len(state['shared_digests']) == 2
    assert len(set(state['shared_digests'])) == 1
    printed = ' '.join(first['printed'].split())
    assert 'stopped by a finding after' in printed
    assert 'stopped by: non_finite: Task 1 (MiniGrid-Empty-8x8-v0)' in printed
    assert second['printed'] == ''
