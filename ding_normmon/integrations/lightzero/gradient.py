"""Which gradient a LightZero policy has in hand when it clips: its own, or the mean over the ranks."""

from __future__ import annotations

import dis
from collections.abc import Iterator
from types import CodeType
from typing import Any

import torch.distributed as dist

from ding_normmon.integrations.adapter import LOCAL_GRADIENT

__all__ = ['CORRECTED', 'ONE_RANK', 'SYNCHRONISED', 'remarks_on', 'reported_gradient']

ONE_RANK = 'local (one rank), before clipping'
SYNCHRONISED = 'synchronised, before clipping'
CORRECTED = 'corrected by the policy, before clipping'


def reported_gradient(policy: Any) -> str:
    """Return which gradient is there at the policy's first clip call.

    LightZero's policies disagree on what comes first, clipping or averaging over the ranks, and a policy's
    configuration does not say. The order of the two names in its own ``_forward_learn`` does.
    """
    config = getattr(policy, '_cfg', None)
    # With `only_use_moco_stats` the losses are added to what computing the statistics has left in `.grad`.
    if getattr(config, 'use_moco', False) or getattr(config, 'only_use_moco_stats', False):
        return CORRECTED
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return ONE_RANK
    return SYNCHRONISED if _averages_before_clipping(policy) else LOCAL_GRADIENT


def remarks_on(gradient: str) -> Iterator[str]:
    """Yield what a reader of the gradient norms has to know."""
    if gradient == LOCAL_GRADIENT:
        yield (
            'grad/{shared group}: absent, because each rank clips its own gradient before they are averaged; '
            'grad_local/{group}/{mean,min,max} over the ranks and grad_synced/{group}/_total_norm stand in for it'
        )
    elif gradient == CORRECTED:
        yield (
            'grad/{shared group}: what is in .grad after the gradient correction, not what the losses gave; '
            'conflict/{group}/sum_norm is the norm before it'
        )


def _averages_before_clipping(policy: Any) -> bool:
    if not getattr(getattr(policy, '_cfg', None), 'multi_gpu', False):
        return False
    for owner in type(policy).__mro__:
        code = getattr(vars(owner).get('_forward_learn'), '__code__', None)
        names = [name for name in _names(code) if name in ('clip_grad_norm_', 'clip_grad_value_', 'sync_gradients')]
        if names:
            return names[0] == 'sync_gradients'
    return False


def _names(code: CodeType | None) -> Iterator[str]:
    """Yield the names that a function uses, in the order of its instructions."""
    if code is not None:
        for instruction in dis.get_instructions(code):
            if instruction.opname.startswith('LOAD_'):
                yield str(instruction.argval)
