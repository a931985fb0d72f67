"""Checkpoints of a multi-task run: writing them to disk, and loading them on every rank."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ding_normmon.core.config import ConfigurationError
from ding_normmon.unizero.ranks import is_distributed, rank

__all__ = [
    'CHECKPOINT_NAME',
    'checkpoint_path',
    'digest',
    'load_checkpoint',
    'random_states',
    'restore_random_states',
    'save_file',
]

CHECKPOINT_NAME = 'latest.pth.tar'


def checkpoint_path(run_folder: str | Path) -> Path:
    """Return the path of a run's newest checkpoint."""
    return Path(run_folder) / 'ckpt' / CHECKPOINT_NAME


def save_file(state: dict[str, Any], path: Path) -> None:
    """Write ``state`` atomically: ``path`` holds a complete checkpoint even if the process dies while writing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + '.unfinished')
    with open(unfinished, 'wb') as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)


def digest(tensors: Iterable[Tensor]) -> str:
    """Return a hash of the tensors' bits; two ranks get the same one only if every element is the same."""
    hashed = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        hashed.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return hashed.hexdigest()


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint on rank 0 and broadcast it to every rank; a collective.

    Raises:
        ConfigurationError: there is no checkpoint; raised on every rank.
    """
    message: list[Any] = [None]
    if rank() == 0 and path.is_file():
        message[0] = torch.load(path, map_location='cpu', weights_only=False)
    if is_distributed():
        dist.broadcast_object_list(message, src=0, device=torch.device('cpu'))
    if message[0] is None:
        others = sorted(path.parent.glob('finding_*.pth.tar')) if rank() == 0 else []
        hint = f'; to resume from {others[-1].name}, which was saved at a finding, copy it there' if others else ''
        raise ConfigurationError(f'--resume: there is no checkpoint {path}{hint}')
    state: dict[str, Any] = message[0]
    return state


def random_states() -> dict[str, Any]:
    """Return the states of this process's random number generators."""
    states = {'python': random.getstate(), 'numpy': np.random.get_state(), 'torch': torch.get_rng_state()}
    if torch.cuda.is_available():
        states['cuda'] = torch.cuda.get_rng_state()
    return states


def restore_random_states(states: dict[str, Any]) -> None:
    """Set this process's random number generators to ``states``."""
    random.setstate(states['python'])
    np.random.set_state(states['numpy'])
    torch.set_rng_state(states['torch'])
    if 'cuda' in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states['cuda'])
