"""Random numbers for dropout that do not depend on which rank trains a task."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

__all__ = ['DropoutStream']


class DropoutStream:
    """Gives each task of each learner step its own random numbers and leaves the global random state alone.

    With the global state, a task's numbers would depend on which tasks its rank trained before it, so the same step
    would differ between one rank and two. Models without dropout pay nothing.

    Arguments:
        model: the model to be trained.
        seed: the same on all ranks.
    """

    def __init__(self, model: nn.Module, seed: int) -> None:
        self.steps = 0
        self._seed = seed
        self._is_needed = any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules())

    @contextlib.contextmanager
    def for_task(self, task_id: int) -> Iterator[None]:
        """Draw from a task's own stream inside the block; the caller increases ``steps`` between learner steps."""
        if not self._is_needed:
            yield
            return
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with torch.random.fork_rng(devices=devices):
            # Neighbouring triples must give unrelated seeds; Python hashes tuples of ints the same way everywhere.
            torch.manual_seed(hash((self._seed, self.steps, task_id)) & 0x7FFF_FFFF_FFFF_FFFF)
            yield
