"""The few collectives of a run outside the learner step; all of them also work in a single process."""

from __future__ import annotations

import os
from typing import TypeVar

import torch
import torch.distributed as dist

__all__ = [
    'all_ranks',
    'any_rank',
    'gather_by_task',
    'gather_objects',
    'is_distributed',
    'join_process_group',
    'leave_process_group',
    'local_rank',
    'rank',
    'world_size',
]

Item = TypeVar('Item')


def rank() -> int:
    """Return this process's rank; before the process group exists, the one set by the launcher."""
    return dist.get_rank() if is_distributed() else int(os.environ.get('RANK', 0))


def local_rank() -> int:
    """Return this process's rank on its host."""
    return int(os.environ.get('LOCAL_RANK', 0))


def world_size() -> int:
    """Return the number of ranks; before the process group exists, the one set by the launcher."""
    return dist.get_world_size() if is_distributed() else int(os.environ.get('WORLD_SIZE', 1))


def is_distributed() -> bool:
    """Return whether a process group exists."""
    return dist.is_available() and dist.is_initialized()


def join_process_group() -> None:
    """Join the launcher's process group: gloo, plus NCCL for tensors on a GPU; does nothing in a single process."""
    if world_size() > 1 and not is_distributed():
        backend = 'gloo'
        if torch.cuda.is_available():
            torch.cuda.set_device(local_rank() % torch.cuda.device_count())
            backend = 'cpu:gloo,cuda:nccl'
        dist.init_process_group(backend)


def leave_process_group() -> None:
    """Leave the process group, if there is one."""
    if is_distributed():
        dist.destroy_process_group()


def gather_objects(item: Item) -> list[Item]:
    """Return every rank's ``item``, in the order of the ranks, on every rank."""
    if not is_distributed():
        return [item]
    gathered: list[Item | None] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, item)
    return gathered  # type: ignore[return-value]


def gather_by_task(items: dict[int, Item]) -> dict[int, Item]:
    """Return the items of the tasks of all ranks, by global task id, on every rank."""
    return {task_id: item for of_rank in gather_objects(items) for task_id, item in of_rank.items()}


def any_rank(flag: bool) -> bool:
    """Return whether ``flag`` is true on at least one rank."""
    return _reduce(flag, dist.ReduceOp.MAX)


def all_ranks(flag: bool) -> bool:
    """Return whether ``flag`` is true on every rank."""
    return _reduce(flag, dist.ReduceOp.MIN)


def _reduce(flag: bool, operation: dist.ReduceOp.RedOpType) -> bool:
    if not is_distributed():
        return flag
    tensor = torch.tensor([int(flag)])  # on the CPU, so it goes through gloo and does not wait for the GPU
    dist.all_reduce(tensor, operation)
    return bool(tensor.item())
