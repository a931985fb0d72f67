"""Under torchrun the monitor changes no exit code, and every way to start torch.distributed carries its messages."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from ding_normmon.ranks.transport import LocalTransport, StoreTransport, default_transport
from tests.distributed.faults import serve
from tests.distributed.ranks import run_ranks

pytestmark = pytest.mark.distributed

SCRIPT = Path(__file__).with_name('torchrun_script.py')


def torchrun(end: str, output: Path) -> list[int]:
    """Run with a monitor and without, at the same time; return the exit codes."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda monitored: run_one(monitored, end, output), ('with', 'without')))


def run_one(monitored: str, end: str, output: Path) -> int:
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2', str(SCRIPT)]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'GLOO_SOCKET_IFNAME': 'lo'}
    run = subprocess.run(
        [*command, monitored, end, str(output)], env=environment, capture_output=True, text=True, timeout=150
    )
    if end == 'fine' and run.returncode:
        pytest.fail(run.stdout + run.stderr)
    return run.returncode


@pytest.mark.full
def test_the_exit_code_and_the_weights_are_those_without_a_monitor(tmp_path: Path) -> None:
    assert torchrun('fine', tmp_path) == [0, 0]
    assert (tmp_path / 'records.txt').read_text().split() == [str(iteration) for iteration in range(12)]
    for rank in range(2):
        with_monitor, without = (torch.load(tmp_path / f'weights{rank}_{name}.pt') for name in ('with', 'without'))
        assert all(torch.equal(with_monitor[name], without[name]) for name in without)


@pytest.mark.parametrize('end', ['raise', pytest.param('kill', marks=pytest.mark.slow)])
@pytest.mark.full
def test_a_failing_run_has_the_same_exit_code(tmp_path: Path, end: str) -> None:
    with_monitor, without = torchrun(end, tmp_path)
    assert with_monitor == without != 0


# -- stores ----------------------------------------------------------------------------------------------------------


def talk(transport: Any) -> tuple[list[Any], list[bytes], bytes]:
    """State, send, post and read; return what each gave."""
    statements = transport.agree('hello', {'rank': transport.rank}, 20)
    if transport.rank == 0:
        transport.post(b'board')
    transport.agree('posted', {}, 20)
    for number in range(3):
        if transport.rank != 0:
            transport.send(bytes([transport.rank, number, 0, 255]))
    transport.agree('sent', {}, 20)
    received = transport.receive() if transport.rank == 0 else []
    assert transport.receive() == [] if transport.rank == 0 else True
    assert not transport.full()
    return statements, sorted(received), transport.read()


def every_store(rank: int, port: int, folder: str) -> dict[str, Any]:
    results: dict[str, Any] = {'file, as run_ranks does': talk(default_transport())}
    dist.destroy_process_group()
    tcp = f'tcp://127.0.0.1:{port}'
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port + 1), RANK=str(rank), WORLD_SIZE='3')
    server = dist.TCPStore('127.0.0.1', port, is_master=rank == 0, wait_for_workers=False)
    prefixed = dist.PrefixStore('mine', server)
    starts: dict[str, dict[str, Any]] = {
        'a store of the user': {'store': prefixed, 'rank': rank, 'world_size': 3},
        'file://': {'init_method': f'file://{folder}/store', 'rank': rank, 'world_size': 3},
        'tcp://': {'init_method': tcp.replace(str(port), str(port + 2)), 'rank': rank, 'world_size': 3},
        'env://': {'init_method': 'env://'},
    }
    for name, arguments in starts.items():
        dist.init_process_group('gloo', **arguments)
        transport = default_transport()
        assert isinstance(transport, StoreTransport)
        # What the training does with its store does not get in the way, nor the other way round.
        dist.barrier()
        results[name] = talk(transport)
        dist.barrier()
        dist.destroy_process_group()
    return results


def test_every_kind_of_rendezvous_carries_the_messages(tmp_path: Path) -> None:
    port = serve().port + 101
    for rank, results in enumerate(run_ranks(every_store, 3, port, str(tmp_path), timeout=90)):
        assert len(results) == 5
        for statements, received, board in results.values():
            assert statements == [{'rank': 0}, {'rank': 1}, {'rank': 2}]
            expected = [bytes([sender, number, 0, 255]) for sender in (1, 2) for number in range(3)]
            assert received == (expected if rank == 0 else [])
            assert board == b'board'


def test_a_single_process_needs_no_transport() -> None:
    assert isinstance(default_transport(), LocalTransport)
