"""The default checkpoint of ``on_finding='checkpoint'`` in DI-engine's pipelines."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch.distributed as dist
from ding.utils import DistributedWriter, save_file

__all__ = ['FindingCheckpoint']

logger = logging.getLogger('ding_normmon')


class FindingCheckpoint:
    """Saves the policy as DI-engine's ``CkptSaver`` does and next to its files: ``ckpt/finding_{iteration}.pth.tar``.

    Rank 0 saves, in the folder of DI-engine's writer (``cfg.exp_name``). Where ranks own parameters of their own, or a
    checkpoint is more than the policy, a function of the user's is the right one.

    Arguments:
        policy: has DI-engine's ``learn_mode``.
    """

    def __init__(self, policy: Any) -> None:
        self._policy = policy

    def __call__(self, ctx: Any) -> None:
        """Save before the learner step of ``ctx.train_iter``."""
        if dist.is_available() and dist.is_initialized() and dist.get_rank() != 0:
            return
        writer = DistributedWriter.get_instance()
        folder = Path('.' if writer is None else writer.logdir) / 'ckpt'
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f'finding_{ctx.train_iter}.pth.tar'
        save_file(str(path), self._policy.learn_mode.state_dict())
        logger.warning('monitor: saved %s, because of what was found', path)
