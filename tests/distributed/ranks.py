"""Run a function on several real ranks and collect what it returns.

    def total(rank, scale):
        value = torch.tensor(scale * (rank + 1))
        dist.all_reduce(value)
        return value.item()

    @pytest.mark.distributed
    def test_total():
        assert run_ranks(total, 2, 10) == [30, 30]

Each rank is a fork of one clean process that has imported torch, DI-engine and the monitor (a start takes 0.3 s of
CPU instead of 3). Gloo is set up through a file that outlives every rank, so a rank may die without removing the
rendezvous. Nothing outlives the call: a rank that is still running at the time limit prints where it hangs and is
killed together with its child processes.
"""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Collection
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

__all__ = ['RanksError', 'run_ranks']

PRELOADED = ['torch.distributed.tensor', 'ding.framework', 'ding_normmon.diagnose', 'tests.models']
"""What every rank needs and nobody changes; none of it starts a thread."""

GRACE = 3.0
"""Seconds that the other ranks get to end by themselves after one has failed."""


class RanksError(AssertionError):
    """At least one rank raised, died or did not finish in time; the text holds the output of every rank."""


@dataclass
class Rank:
    """One rank as the parent sees it."""

    number: int
    process: BaseProcess
    connection: Connection
    output: Path
    outcome: str = 'running'
    result: Any = None

    def read(self) -> None:
        """Take what the rank has sent, or note that it died."""
        try:
            self.outcome, self.result = self.connection.recv()
        except (EOFError, ConnectionError):
            self.process.join(GRACE)
            self.outcome = f'died with exit code {self.process.exitcode}'
        except Exception:  # the result cannot be rebuilt on this side
            self.outcome, self.result = 'raised', traceback.format_exc()

    def end(self) -> None:
        """End the rank and everything it started."""
        self.connection.close()
        for kill in (signal.SIGTERM, signal.SIGKILL):
            if self.process.pid is not None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.process.pid, kill)
            if kill == signal.SIGKILL:
                self.process.kill()  # it may not have come as far as having its own group
            self.process.join(GRACE if kill == signal.SIGTERM else None)
        self.process.close()

    def report(self) -> str:
        """The outcome, the traceback and the last lines of output."""
        lines = self.output.read_text(errors='replace').splitlines() if self.output.exists() else []
        cause = f'\n{self.result}' if self.outcome == 'raised' else ''
        shown = '\n'.join(f'    | {line}' for line in lines[-60:])
        return f'rank {self.number}: {self.outcome}{cause}' + (f'\n  its output:\n{shown}' if shown else '')


def run_ranks(
    function: Callable[..., Any],
    world_size: int,
    *args: Any,
    timeout: float = 60,
    may_die: Collection[int] = (),
) -> list[Any]:
    """Call `function(rank, *args)` on every rank and return the results in the order of the ranks.

    Args:
        function: A function at the top level of a module, so that the other process can import it. `torch.distributed`
            is initialised when it is called.
        world_size: Number of ranks.
        *args: Passed on; must pickle, as must the results.
        timeout: Seconds for everything, the start of the processes included (importing torch takes a few).
        may_die: Ranks whose death is part of the test: their result is None where they die.

    Raises:
        RanksError: A rank raised, died or was still running at the time limit.
    """
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory(prefix='ranks-') as folder:
        ranks = []
        try:
            for number in range(world_size):
                ours, theirs = context.Pipe()
                output = Path(folder, f'rank{number}.txt')
                process = context.Process(
                    target=_rank_main,
                    args=(theirs, folder, output, timeout, function, number, world_size, args),
                    name=f'rank {number}',
                )
                process.start()
                theirs.close()
                ranks.append(Rank(number, process, ours, output))
            _collect(ranks, time.monotonic() + timeout, may_die)
        finally:
            for rank in ranks:
                rank.end()
        failed = [r for r in ranks if r.outcome != 'returned' and not (r.number in may_die and 'died' in r.outcome)]
        if failed:
            numbers = ', '.join(str(rank.number) for rank in failed)
            reports = '\n\n'.join(rank.report() for rank in ranks)
            name = getattr(function, '__name__', function)
            raise RanksError(f'{name} failed on rank {numbers} of {world_size}\n\n{reports}')
    return [rank.result for rank in ranks]


def _collect(ranks: list[Rank], deadline: float, may_die: Collection[int]) -> None:
    """Wait until every rank has an outcome, one has failed and the others had their chance, or time is up."""
    waiting: dict[object, Rank] = {rank.connection: rank for rank in ranks}
    in_time = 'did not finish in time'
    while waiting:
        ready = wait([rank.connection for rank in waiting.values()], max(0.0, deadline - time.monotonic()))
        if not ready:
            break
        for connection in ready:
            rank = waiting.pop(connection)
            rank.read()
            if rank.outcome != 'returned' and rank.number not in may_die:
                deadline = min(deadline, time.monotonic() + GRACE)
                in_time = 'was still running after another rank had failed'
    for rank in waiting.values():
        rank.outcome = in_time
        with contextlib.suppress(ProcessLookupError):
            os.kill(rank.process.pid or 0, signal.SIGUSR1)  # it writes down where it is
    if waiting:
        time.sleep(0.5)


def _rank_main(
    connection: Connection,
    folder: str,
    output: Path,
    timeout: float,
    function: Callable[..., Any],
    rank: int,
    world_size: int,
    args: tuple[Any, ...],
) -> None:
    """What runs in a rank's process."""
    os.setpgid(0, 0)
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    faulthandler.dump_traceback_later(timeout + 4 * GRACE, exit=True)  # where the parent was killed
    if sys.platform == 'linux':
        os.environ.setdefault('GLOO_SOCKET_IFNAME', 'lo')  # the ranks share this machine; its name may not resolve

    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    try:
        store = dist.FileStore(os.path.join(folder, 'store'), world_size)  # type: ignore[attr-defined]
        dist.init_process_group('gloo', store=store, rank=rank, world_size=world_size)
        message = ('returned', function(rank, *args))
    except BaseException:
        message = ('raised', traceback.format_exc())
    try:
        connection.send(message)
    except Exception:
        connection.send(('raised', f'the result does not pickle\n{traceback.format_exc()}'))
    # Stay until the parent has heard from every rank: a rank that leaves early may cut off the last collective of one
    # that is still in it.
    with contextlib.suppress(EOFError, ConnectionError):
        connection.recv()
    if dist.is_initialized():
        dist.destroy_process_group()
