"""`run_ranks` itself: results in order, and failures that show what happened on which rank."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests.distributed.ranks import RanksError, run_ranks

pytestmark = pytest.mark.distributed


def total(rank: int, scale: int) -> tuple[int, int]:
    value = torch.tensor(scale * (rank + 1))
    dist.all_reduce(value)
    return rank, int(value)


def fail_on_last(rank: int) -> None:
    print(f'rank {rank} says hello')
    if rank == dist.get_world_size() - 1:
        raise ValueError('no such task: 7')
    dist.barrier()


def hang_on_first(rank: int, pids: Path) -> None:
    if rank == 0:
        child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])
        pids.write_text(f'{os.getpid()} {child.pid}')
        sleep_here()


def sleep_here() -> None:
    time.sleep(600)


def die_on_last(rank: int) -> str:
    # Not before the others have connected: a death while they do would be an error of theirs.
    store, last = dist.distributed_c10d._get_default_store(), dist.get_world_size() - 1
    if rank == last:
        store.wait([f'connected-{other}' for other in range(last)])
        os.kill(os.getpid(), signal.SIGKILL)
    store.set(f'connected-{rank}', '1')
    return 'alive'


def return_what_does_not_pickle(rank: int) -> object:
    return lambda: rank


def is_running(pid: int) -> bool:
    try:
        return 'zombie' not in Path(f'/proc/{pid}/status').read_text()
    except OSError:
        return False


def test_results_come_in_the_order_of_the_ranks() -> None:
    assert run_ranks(total, 3, 10) == [(0, 60), (1, 60), (2, 60)]


def test_an_exception_fails_the_test_with_its_traceback_and_the_output_of_every_rank() -> None:
    with pytest.raises(RanksError) as caught:
        run_ranks(fail_on_last, 2)
    text = str(caught.value)
    assert 'fail_on_last failed on rank' in text
    assert 'ValueError: no such task: 7' in text
    assert 'in fail_on_last' in text
    assert 'rank 0 says hello' in text
    assert 'rank 1 says hello' in text


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
@pytest.mark.full
def test_a_rank_that_hangs_is_killed_with_its_children_and_tells_where_it_was(tmp_path: Path) -> None:
    pids = tmp_path / 'pids'
    begin = time.monotonic()
    with pytest.raises(RanksError, match='rank 0: did not finish in time') as caught:
        run_ranks(hang_on_first, 2, pids, timeout=12)
    assert time.monotonic() - begin < 25
    assert 'in sleep_here' in str(caught.value)
    assert 'rank 1: returned' in str(caught.value)
    assert not any(is_running(int(pid)) for pid in pids.read_text().split())


def test_a_death_is_reported_unless_it_is_part_of_the_test() -> None:
    with pytest.raises(RanksError, match=r'rank 1: died with exit code -9'):
        run_ranks(die_on_last, 2)
    assert run_ranks(die_on_last, 2, may_die=[1]) == ['alive', None]


def test_a_result_that_does_not_pickle_says_so() -> None:
    with pytest.raises(RanksError, match='the result does not pickle'):
        run_ranks(return_what_does_not_pickle, 1)
