"""Checkpoints of a multi-task run: writing them to disk, and loading them on every rank."""

from __future__ import annotations

import hashlib
import operator
import os
import pickle
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
        torch.save(_plain(state), file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)


def _plain(value: Any) -> Any:
    """Return nested values with Python's numbers and lists for NumPy's, which need code to be made again."""
    if isinstance(value, dict):
        changed = {key: _plain(entry) for key, entry in value.items()}
        # A module's dictionary carries the versions of its modules.
        return value if all(changed[key] is value[key] for key in changed) else changed
    if type(value) in (list, tuple):
        entries = [_plain(entry) for entry in value]
        return value if all(map(operator.is_, entries, value)) else type(value)(entries)
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    return value


def digest(tensors: Iterable[Tensor]) -> str:
    """Return a hash of the tensors' bits; two ranks get the same one only if every element is the same."""
    hashed = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        hashed.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return hashed.hexdigest()


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint on rank 0 and broadcast it to every rank; a collective.

    A checkpoint holds tensors and plain values, and nothing in it is executed.

    Raises:
        ConfigurationError: there is none, or none that can be read so, on every rank.
    """
    message: list[Any] = [None, '']
    if rank() == 0:
        message = list(_read(path))
    if is_distributed():
        dist.broadcast_object_list(message, src=0, device=torch.device('cpu'))
    state, refusal = message
    if refusal:
        raise ConfigurationError(refusal)
    return dict(state)


def _read(path: Path) -> tuple[dict[str, Any] | None, str]:
    """Return the checkpoint, or why there is none."""
    if not path.is_file():
        others = sorted(path.parent.glob('finding_*.pth.tar'))
        hint = f'; to resume from {others[-1].name}, which was saved at a finding, copy it there' if others else ''
        return None, f'--resume: there is no checkpoint {path}{hint}'
    try:
        state = torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError:
        return None, (
            f'--resume: {path} holds more than tensors and plain values: an earlier version wrote it, or somebody '
            f'else. Reading it could run code, so it is left alone; finish that run with the version that began it, or '
            f'start anew with another --exp-name'
        )
    except Exception as error:
        # torch raises whatever the archive's reader meets.
        return None, f'--resume: {path} cannot be read ({type(error).__name__}: {str(error)[:200]})'
    if not isinstance(state, dict) or not state.keys() >= _PARTS:
        return None, f'--resume: {path} is no checkpoint of a multi-task run'
    return state, ''


_PARTS = {'policy', 'context', 'random_states', 'returns', 'task_names'}
"""What every checkpoint has."""


def random_states() -> dict[str, Any]:
    """Return the states of this process's random number generators, as plain values and tensors."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    states: dict[str, Any] = {
        'python': random.getstate(),
        'numpy': [str(kind), np.asarray(keys).tolist(), *rest],
        'torch': torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states['cuda'] = torch.cuda.get_rng_state()
    return states


def restore_random_states(states: dict[str, Any]) -> None:
    """Set this process's random number generators to ``states``."""
    version, numbers, gauss = states['python']
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, *rest = states['numpy']
    np.random.set_state((kind, np.array(keys, np.uint32), *rest))
    torch.set_rng_state(states['torch'])
    if 'cuda' in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states['cuda'])
