"""Actions of findings in a real run on two ranks, and how the run ends."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ding_normmon.runs import read_run
from ding_normmon.unizero.run import STOPPED_BY_FINDING
from tests.entry.launch import command, environment

pytestmark = [pytest.mark.slow, pytest.mark.distributed]

# A rule that finds something in every run: every step is larger than nothing.
SETTINGS = {
    'policy.monitor.preset': 'multitask',
    'policy.monitor.budget': None,
    'policy.monitor.rules': "{'update_range':{'largest':1e-9,'records':1,'confirm':1,'warmup':0}}",
    'policy.monitor.on_finding': "{'update_range':'stop'}",
    'max_train_iter': 4000,
    'max_minutes': 2,
}


@pytest.mark.full
def test_all_ranks_stop_at_one_iteration_with_a_checkpoint_and_say_why(tmp_path: Path) -> None:
    folder = tmp_path / 'run'
    options = [f'--set={key}={value}' for key, value in SETTINGS.items()]
    done = subprocess.run(
        command(2, folder, *options), env=environment(), capture_output=True, text=True, timeout=180, check=False
    )
    printed = done.stdout + done.stderr
    assert 'stopped by a finding' in printed, printed
    assert f'exitcode  : {STOPPED_BY_FINDING}' in printed or done.returncode == STOPPED_BY_FINDING, printed
    assert 'update_range' in printed
    assert len(list((folder / 'ckpt').glob('finding_*.pth.tar'))) == 1
    run = read_run(folder)
    assert run.tasks[3] == 'MiniGrid-FourRooms-v0'
    assert 'update_range' in {finding.rule for finding in run.findings}
    assert (folder / 'report.html').exists()
    assert f'report:       {folder / "report.html"}' in printed
