"""Every Python block of README and documentation runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r'^```python\n(.*?)^```', re.MULTILINE | re.DOTALL)
PAGES = [ROOT / 'README.md', ROOT / 'README.zh.md', *sorted((ROOT / 'docs').rglob('*.md'))]


def pipeline_names(folder: Path) -> dict[str, Any]:
    """Return what the README's pipeline takes for granted: a configuration, a policy, its other middleware."""
    from ding.framework import task
    from ding.framework.context import OnlineRLContext
    from ding.framework.middleware import online_logger
    from easydict import EasyDict

    from tests.unizero.builders import random_batch, tiny_policy

    policy = tiny_policy(2)

    def trainer(ctx: OnlineRLContext) -> None:
        ctx.train_output = policy._forward_learn([random_batch(policy, task_id, 0) for task_id in policy.task_ids])
        ctx.train_iter += 1
        task.finish = ctx.train_iter == 3

    def collector(ctx: OnlineRLContext) -> None:
        ctx.env_step += 1

    cfg = EasyDict(exp_name=str(folder), policy=dict(monitor=dict(monitor_norm_freq=1)))
    return {
        'cfg': cfg,
        'policy': policy,
        'task': task,
        'OnlineRLContext': OnlineRLContext,
        'online_logger': online_logger,
        'collector': collector,
        'trainer': trainer,
    }


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_block_runs(page: Path, tmp_path: Path) -> None:
    for block in BLOCK.findall(page.read_text(encoding='utf-8')):
        names = pipeline_names(tmp_path / 'run') if 'task.use(' in block else {}
        exec(compile(block, str(page), 'exec'), names)


@pytest.mark.slow
def test_the_pages_are_built_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, '-m', 'sphinx', '-W', '--keep-going', '-q', '-b', 'html', 'docs', str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {'index.html', 'first_run.html', 'metrics.html', 'api.html'} <= {path.name for path in tmp_path.iterdir()}
    assert (tmp_path / 'zh' / 'first_run.html').exists()
