"""Whether a run is running, silent, ended or dead, told from its files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tensorboardX import SummaryWriter

from ding_normmon.core.record import Record
from ding_normmon.runs import Series
from ding_normmon.runs.history_file import HistoryFile
from ding_normmon.runs.status import Status, status_of

WRITER = """
import sys, time
from ding_normmon.core.record import Record
from ding_normmon.runs.history_file import HistoryFile
file = HistoryFile(sys.argv[1])
for iteration in range(3):
    file.publish(Record(iteration, {'grad/model/_total_norm': 1.0}))
print('written', flush=True)
time.sleep(60)
"""


def later(folder: Path, seconds: float) -> Status:
    return status_of(folder, now=time.time() + seconds)


def test_a_run_is_running_until_it_ends(tmp_path: Path) -> None:
    file = HistoryFile(tmp_path / 'history.arrows')
    file.publish(Record(0, {'grad/model/_total_norm': 1.0}))
    assert later(tmp_path, 5).state == 'running'
    assert later(tmp_path, 500).state == 'silent'
    assert str(later(tmp_path, 500)) == 'silent for 8 min 20 s'
    file.close()
    assert later(tmp_path, 500).state == 'ended'
    again = HistoryFile(tmp_path / 'history.arrows')
    again.publish(Record(5, {'grad/model/_total_norm': 1.0}))
    assert later(tmp_path, 5).state == 'running'
    again.close()


def test_points_that_come_slowly_are_no_silence(tmp_path: Path) -> None:
    file = HistoryFile(tmp_path / 'history.arrows')
    file.publish(Record(0, {'grad/model/_total_norm': 1.0}))
    series = {'grad/model/_total_norm': Series(np.arange(5), np.ones(5), 100.0 * np.arange(5))}
    assert status_of(tmp_path, series, time.time() + 400).state == 'running'
    assert status_of(tmp_path, series, time.time() + 600).state == 'silent'
    file.close()


@pytest.mark.skipif(not Path('/proc/locks').exists(), reason='this system does not list locks')
def test_a_killed_run_has_died(tmp_path: Path) -> None:
    path = tmp_path / 'history.arrows'
    process = subprocess.Popen([sys.executable, '-c', WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == 'written\n'
    assert later(tmp_path, 5).state == 'running'
    assert later(tmp_path, 500).state == 'silent'
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    # Where other containers could hold the file, only after a while.
    assert later(tmp_path, 5).state in ('died', 'running')
    assert later(tmp_path, 500).state == 'died'


def test_event_files_alone_never_end(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_scalar('loss', 1.0, 0)
    assert later(tmp_path, 5).state == 'running'
    assert later(tmp_path, 500).state == 'silent'
