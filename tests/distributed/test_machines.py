"""Two machines with their own addresses and a link that can be cut: two network namespaces and a veth pair."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed.machines_script import ALONE, IN_STEP, TASKS
from tests.distributed.multitask import make_model, train

pytestmark = pytest.mark.distributed

SCRIPT = Path(__file__).with_name('machines_script.py')
SECONDS_CUT = 3
LIMIT = 180


@dataclass
class Machine:
    """A network namespace with one address.

    Arguments:
        name: of the namespace.
        interface: its end of the link.
        address: on that interface.
    """

    name: str
    interface: str
    address: str

    def link(self, state: str) -> None:
        ip('-n', self.name, 'link', 'set', self.interface, state)

    def start(self, *command: str, output: Path) -> subprocess.Popen[bytes]:
        environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'GLOO_SOCKET_IFNAME': self.interface}
        with output.open('wb') as file:
            return subprocess.Popen(
                ['ip', 'netns', 'exec', self.name, *command], env=environment, stdout=file, stderr=subprocess.STDOUT
            )


def ip(*arguments: str) -> None:
    subprocess.run(['ip', *arguments], check=True, capture_output=True, text=True)


@pytest.fixture(scope='module')
def machines() -> Iterator[list[Machine]]:
    if shutil.which('ip') is None:
        pytest.skip('needs the command ip (iproute2)')
    pair = [Machine(f'normmon{os.getpid()}x{end}', f'nm{os.getpid()}x{end}', f'10.213.7.{end + 1}') for end in (0, 1)]
    try:
        try:
            for machine in pair:
                ip('netns', 'add', machine.name)
            ends = [('name', machine.interface, 'netns', machine.name) for machine in pair]
            ip('link', 'add', *ends[0], 'type', 'veth', 'peer', *ends[1])
            for machine in pair:
                ip('-n', machine.name, 'address', 'add', f'{machine.address}/24', 'dev', machine.interface)
                ip('-n', machine.name, 'link', 'set', 'lo', 'up')
                machine.link('up')
                ip('netns', 'exec', machine.name, 'true')
        except subprocess.CalledProcessError as error:
            pytest.skip(f'network namespaces cannot be made here: {error.stderr.strip()}')
        yield pair
    finally:
        for machine in pair:
            with contextlib.suppress(subprocess.CalledProcessError):  # it may never have been made
                ip('netns', 'delete', machine.name)


def torchrun(machines: list[Machine], folder: Path) -> list[subprocess.Popen[bytes]]:
    return [
        machine.start(
            sys.executable,
            *('-m', 'torch.distributed.run', '--nnodes=2', f'--node_rank={node}', '--nproc_per_node=1'),
            *(f'--master_addr={machines[0].address}', '--master_port=29500'),
            *(str(SCRIPT), str(folder)),
            output=folder / f'node{node}.txt',
        )
        for node, machine in enumerate(machines)
    ]


def wait_for(path: Path, processes: list[subprocess.Popen[bytes]]) -> None:
    end = time.monotonic() + LIMIT
    while not path.exists():
        assert time.monotonic() < end
        assert all(process.poll() is None for process in processes)
        time.sleep(0.05)


@pytest.fixture(scope='module')
def results(machines: list[Machine], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp('machines')
    processes = torchrun(machines, folder)
    try:
        wait_for(folder / 'cut', processes)
        machines[1].link('down')
        time.sleep(SECONDS_CUT)
        machines[1].link('up')
        codes = [process.wait(LIMIT) for process in processes]
    except (AssertionError, subprocess.TimeoutExpired) as error:
        raise AssertionError('\n'.join(path.read_text() for path in sorted(folder.glob('node*.txt')))) from error
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert codes == [0, 0], '\n'.join(path.read_text() for path in sorted(folder.glob('node*.txt')))
    return [torch.load(folder / f'rank{rank}.pt') for rank in range(2)]


@pytest.mark.full
def test_records_of_ranks_on_two_machines_are_complete(results: list[dict[str, Any]]) -> None:
    found = results[0]['in step']
    assert [iteration for iteration, _ in found['records']] == list(IN_STEP)
    for _, scalars in found['records']:
        assert scalars['monitor/missing_ranks'] == 0
        assert all(f'norm/x_token_task{task}/mean' in scalars for task in range(3))
    assert not any(result['in step']['lost'] for result in results)


@pytest.mark.parametrize('name', ['patient', 'impatient'])
@pytest.mark.full
def test_training_does_not_notice_that_the_link_is_cut(results: list[dict[str, Any]], name: str) -> None:
    for rank, tasks in enumerate(TASKS):
        expected = train(make_model(3), None, tasks, ALONE)
        assert all(torch.equal(results[rank][name]['weights'][key], expected[key]) for key in expected)


@pytest.mark.full
def test_records_become_complete_once_the_link_is_back(results: list[dict[str, Any]]) -> None:
    found = results[0]['patient']
    assert [iteration for iteration, _ in found['records']] == list(ALONE[::2])
    assert {scalars['monitor/missing_ranks'] for _, scalars in found['records']} == {0}
    assert not found['lost']


@pytest.mark.full
def test_missed_data_is_counted(results: list[dict[str, Any]]) -> None:
    found = results[0]['impatient']
    assert [iteration for iteration, _ in found['records']] == list(ALONE[::2])
    missing = [scalars['monitor/missing_ranks'] for _, scalars in found['records']]
    assert found['lost']['missing_rank'] == sum(missing) > 0
    for (_, scalars), count in zip(found['records'], missing, strict=True):
        assert ('norm/x_token_task1/mean' in scalars) == (count == 0)
        assert 'norm/x_token_task2/mean' in scalars
