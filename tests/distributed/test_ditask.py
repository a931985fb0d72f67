"""DI-engine's own distribution: processes with roles and its real message queue, one of which owns the event file."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.distributed.ditask_script import FREQUENCY, GROUPS, LIMIT, STEPS

pytestmark = pytest.mark.distributed

SCRIPT = Path(__file__).with_name('ditask_script.py')
MEASURED = list(range(0, STEPS, FREQUENCY))


def ports_in_a_row(count: int) -> int:
    """Return the first of several free ports, below those that the system gives to others."""
    for first in range(20_000 + os.getpid() % 1000 * 10, 32_000, count):
        with contextlib.ExitStack() as open_sockets:
            try:
                for port in range(first, first + count):
                    open_sockets.enter_context(socket.socket()).bind(('127.0.0.1', port))
            except OSError:
                continue
            return first
    raise OSError(f'no {count} free ports in a row')


def run(folder: Path) -> tuple[list[dict[str, Any]], dict[str, list[int]], str]:
    """Run the three processes; return what they saw, the steps of every curve, and what was printed."""
    port = ports_in_a_row(3)
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), str(folder), str(port)],
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        pytest.fail(f'did not end within {LIMIT} s\n{output}')
    assert process.returncode == 0, output
    accumulator = EventAccumulator(str(folder / 'run'), size_guidance={'scalars': 0})
    accumulator.Reload()
    curves = {tag: [point.step for point in accumulator.Scalars(tag)] for tag in accumulator.Tags().get('scalars', [])}
    return [json.loads((folder / f'node{node}.json').read_text()) for node in range(3)], curves, output


@pytest.mark.full
def test_records_of_the_learner_reach_the_process_that_owns_the_event_file(tmp_path: Path) -> None:
    nodes, curves, output = run(tmp_path)
    assert [node['wrapped'] for node in nodes] == [True, False, False]
    # Other roles see nothing, and train nothing.
    assert [node['seen'] for node in nodes[1:]] == [[], []]
    assert not any(node['lost'] for node in nodes), output
    assert len(list((tmp_path / 'run').glob('events.*'))) == 1
    assert {f'{family}/part{number}/_total_norm' for family in ('norm', 'grad') for number in range(GROUPS)} <= set(
        curves
    )
    assert all(steps == MEASURED for name, steps in curves.items() if name.startswith(('norm/', 'grad/')))
