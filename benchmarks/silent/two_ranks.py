"""Two ranks with one error between them."""

from __future__ import annotations

import functools
import multiprocessing
import os
import tempfile
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.silent.error import PLANTED, STEPS, SilentError
from ding_normmon import Monitor
from ding_normmon.core.record import Record

__all__ = ['HEALTHY', 'TWO_RANKS', 'train_rank']

HEALTHY = 'none'
"""A run without an error, by DistributedDataParallel."""


_SEEDED_AGAIN: dict[str, Callable[[int, int], int]] = {
    'ranks draw the same batch since a restart': lambda rank, iteration: iteration,
    'every rank has one batch for ever': lambda rank, iteration: rank,
}
"""With which seed ranks draw a batch from the planted iteration on."""


def train_rank(rank: int, error: str) -> list[Record]:
    """Train on this rank; the error begins at :data:`PLANTED`, or with the run."""
    torch.manual_seed(0 if error != 'weights are not broadcast' else rank)
    model = nn.Sequential(nn.Linear(8, 32), nn.LayerNorm(32), nn.ReLU(), nn.Linear(32, 4))
    by_ddp = error in ('the model is called past DDP', 'parameters of DDP were moved', HEALTHY)
    trained: nn.Module = DistributedDataParallel(model) if by_ddp else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0 if error == 'ranks draw the same batch' else rank)
    groups = {'body': '0', 'norm': '1', 'head': '3'}
    config = {'monitor_norm_freq': 1, 'budget': None, 'module_groups': groups}
    with Monitor(model, config, optimizer=optimizer) as monitor:
        for iteration in range(STEPS):
            broken = iteration >= PLANTED
            if broken and error in _SEEDED_AGAIN:
                generator.manual_seed(_SEEDED_AGAIN[error](rank, iteration))
            x = torch.randn(32, 8, generator=generator)
            optimizer.zero_grad()
            if broken and error == 'the model is called past DDP':
                trained = model
            if iteration == PLANTED and error == 'parameters of DDP were moved':
                # Elsewhere and back, for which another dtype does as well: DDP's hooks are on what was there before.
                trained.double().float()
            (trained(x) - x[:, :4]).square().mean().backward()
            if not by_ddp:
                _synchronise(model, broken and error == 'transfers lose data' and rank == 1)
            if error == 'clipping by the norm of one rank' and broken:
                _clip_by_own_norm(model, rank)
            if broken and error == 'optimizer state differs' and iteration == PLANTED and rank == 1:
                state: dict[str, Any] = optimizer.state[model[3].weight]
                state['exp_avg_sq'].mul_(4.0)
            optimizer.step()
            if error == 'one rank changes its weights' and iteration == PLANTED - 1 and rank == 1:
                with torch.no_grad():
                    model[1].bias[3] += 1e-6
    return monitor.take_records()


def _synchronise(model: nn.Module, loses: bool) -> None:
    for parameter in model.parameters():
        assert parameter.grad is not None
        dist.all_reduce(parameter.grad)
        parameter.grad /= 2
    if loses:
        first: Tensor = next(model.parameters()).grad  # type: ignore[assignment]
        first.view(-1)[:4] = 0


def _clip_by_own_norm(model: nn.Module, rank: int) -> None:
    """Clip by a norm that counts replicated parameters on rank 0 only, as DeepSpeed's BF16 optimizer did."""
    counted = [p for p in model.parameters() if rank == 0 or p.ndim > 1]
    norm = torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in counted if p.grad is not None]))
    factor = min(1.0, 0.1 / (float(norm) + 1e-6))
    for parameter in model[1].parameters():
        parameter.grad *= factor


def _rank_main(rank: int, folder: str, answer: Any) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault('GLOO_SOCKET_IFNAME', 'lo')
    found = {}
    for place, error in enumerate([HEALTHY, *(entry[0] for entry in _ERRORS)]):
        store = dist.FileStore(os.path.join(folder, f'store{place}'), 2)
        dist.init_process_group('gloo', store=store, rank=rank, world_size=2)
        found[error] = train_rank(rank, error)
        dist.barrier()
        dist.destroy_process_group()
    if rank == 0:
        answer.put(found)


@functools.cache
def _run_all() -> dict[str, list[Record]]:
    """Train with every error on two processes, which take long to start; return rank 0's records."""
    context = multiprocessing.get_context('spawn')
    with tempfile.TemporaryDirectory(prefix='silent-') as folder:
        answer = context.Queue()
        ranks = [context.Process(target=_rank_main, args=(rank, folder, answer)) for rank in range(2)]
        for process in ranks:
            process.start()
        try:
            records: dict[str, list[Record]] = answer.get(timeout=1500)
        finally:
            for process in ranks:
                process.join(20)
                if process.is_alive():
                    process.kill()
    return records


def _two(error: str) -> Callable[[], list[Record]]:
    return lambda: _run_all()[error]


_DIFFER = frozenset({'replicas_differ'})
_ERRORS: tuple[tuple[str, str, frozenset[str], bool, int], ...] = (
    ('clipping by the norm of one rank', 'deepspeed-1801 (BLOOM-176B)', _DIFFER, True, PLANTED),
    ('the model is called past DDP', 'x-jxmnop', _DIFFER, True, PLANTED),
    ('parameters of DDP were moved', 'pytorch-104336', _DIFFER, True, PLANTED),
    ('transfers lose data', 'pytorch-84803, pytorch-96600, baichuan2-86', _DIFFER, True, PLANTED),
    ('weights are not broadcast', '', _DIFFER, True, 0),
    ('optimizer state differs', '', _DIFFER, True, PLANTED),
    ('one rank changes its weights', '', _DIFFER, True, PLANTED),
    ('ranks draw the same batch', '', frozenset({'ranks_share_batch'}), False, 0),
    ('ranks draw the same batch since a restart', '', frozenset({'ranks_share_batch'}), False, PLANTED),
    ('every rank has one batch for ever', '', frozenset({'batch_repeats'}), False, PLANTED + 1),
)

TWO_RANKS: tuple[SilentError, ...] = tuple(
    SilentError(name, source, rules, exact, _two(name), planted) for name, source, rules, exact, planted in _ERRORS
)
"""Errors that only several ranks can have."""
