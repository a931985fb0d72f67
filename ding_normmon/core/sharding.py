"""Parameters that are sharded over ranks: which of their elements this rank counts.

A ``DTensor`` (FSDP2, hybrid sharding, tensor parallelism) is split over the ranks of a mesh, or replicated on them,
along each dimension of the mesh. A sum of squares needs no gathering: every rank adds up the elements it holds, and
rank 0 adds up the sums. A replicated element is counted by the first rank that holds it.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from ding_normmon.core.config import ConfigurationError
from ding_normmon.core.parameter_groups import Group

__all__ = [
    'counted_elements',
    'counted_part',
    'is_sharded',
    'local_share',
    'refuse_unreadable',
    'replicated_value',
]


def is_sharded(tensor: object) -> bool:
    """Return whether a tensor is a ``DTensor``.

    >>> is_sharded(torch.zeros(2))
    False
    """
    # If a DTensor exists, its module has been imported; importing it here would be slow.
    module = sys.modules.get('torch.distributed.tensor')
    return module is not None and isinstance(tensor, module.DTensor)


def counted_part(tensor: Tensor) -> Tensor | None:
    """Return the elements of a tensor that this rank counts: its shard; None if another rank counts them.

    Nothing is communicated. A tensor that is not a ``DTensor`` is returned unchanged.

    Raises:
        ValueError: a ``DTensor`` with partial sums, which have not been reduced yet.
    """
    if not is_sharded(tensor):
        return tensor
    sharded = cast(Any, tensor)
    coordinate = sharded.device_mesh.get_coordinate()
    if coordinate is None:
        return None
    for placement, position in zip(sharded.placements, coordinate, strict=True):
        if placement.is_partial():
            raise ValueError(
                f'a DTensor of shape {tuple(tensor.shape)} has the placements {sharded.placements}: its values are '
                f'unknown until they are summed over the ranks'
            )
        if placement.is_replicate() and position > 0:
            return None
    with torch.no_grad():
        return cast(Tensor, sharded.to_local())


def replicated_value(tensor: Tensor) -> Tensor | None:
    """Return a tensor that every rank holds completely; None for a ``DTensor`` of which this rank holds a part."""
    if not is_sharded(tensor):
        return tensor
    if not all(placement.is_replicate() for placement in cast(Any, tensor).placements):
        return None
    with torch.no_grad():
        return cast(Tensor, cast(Any, tensor).to_local())


def counted_elements(group: Group) -> int:
    """Return the number of elements of a group's ``DTensor`` parameters that this rank counts."""
    parts = [counted_part(parameter) for parameter in group.parameters if is_sharded(parameter)]
    return sum(part.numel() for part in parts if part is not None)


def local_share(group: Group, owns: bool) -> Group | None:
    """Return the part of a group that this rank reports; None if there is none.

    Arguments:
        group: a parameter group.
        owns: whether this rank reports the group's unsharded parameters.
    """
    if owns:
        return group
    kept = [(path, p) for path, p in zip(group.paths, group.parameters, strict=True) if is_sharded(p)]
    if not kept:
        return None
    return replace(group, paths=tuple(path for path, _ in kept), parameters=tuple(parameter for _, parameter in kept))


def refuse_unreadable(model: nn.Module) -> None:
    """Refuse a model whose parameters cannot be measured on this rank.

    ``DistributedDataParallel`` keeps whole parameters and gradients on every rank, and every rank knows its shard of a
    ``DTensor``. But the flat parameters of FSDP's first version and DeepSpeed ZeRO-3 do not show which elements of
    which parameter a rank holds, and an FSDP2 module that is currently gathered shows temporary parameters.

    Complex parameters, parameters without a shape yet and parameters on the ``meta`` device are refused too, and so are
    models on several devices, because a record is one copy from one device.

    Raises:
        ConfigurationError: such a model; the message names its first such part.

    >>> refuse_unreadable(nn.Linear(2, 2))
    """
    for name, module in model.named_modules():
        if type(module).__name__ == 'FullyShardedDataParallel':
            raise ConfigurationError(_refusal('FullyShardedDataParallel'))
        if _is_gathered(module):
            raise ConfigurationError(
                f'monitor: the parameters of {name or type(module).__name__} are currently gathered (after a forward '
                f'pass without a backward pass); call its reshard() before the monitor is constructed'
            )
    first: tuple[str, torch.device] | None = None
    for name, parameter in model.named_parameters():
        if hasattr(parameter, 'ds_id'):
            raise ConfigurationError(_refusal(f'{name} belongs to DeepSpeed ZeRO-3'))
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise ConfigurationError(
                f'monitor: {name} has no shape yet; run a first batch through the model, then construct the monitor'
            )
        if parameter.is_complex():
            raise ConfigurationError(
                f'monitor: {name} is complex ({parameter.dtype}), which is not supported; keep its real and imaginary '
                f'parts as two parameters (torch.view_as_real)'
            )
        if parameter.device.type == 'meta':
            raise ConfigurationError(
                f'monitor: {name} is on the meta device and has no values; construct the monitor after the model has '
                f'been materialised (to_empty, load_state_dict(assign=True))'
            )
        first = first or (name, parameter.device)
        if parameter.device != first[1]:
            raise ConfigurationError(
                f'monitor: the model is spread over several devices ({first[0]} on {first[1]}, {name} on '
                f'{parameter.device}), and one monitor measures on one of them; make one Monitor for each part that is '
                f'on one device'
            )


def _is_gathered(module: nn.Module) -> bool:
    if not any(base.__name__ == 'FSDPModule' for base in type(module).__mro__):
        return False
    state = cast(Any, module)._get_fsdp_state()
    groups = getattr(state, '_fsdp_param_groups', None) or [getattr(state, '_fsdp_param_group', None)]
    return any(group is not None and not group.is_sharded for group in groups)


def _refusal(what: str) -> str:
    return (
        f'monitor: {what}: its parameters are not supported, because norms of one shard would pass for norms of the '
        f'whole. Use FSDP2 (fully_shard) or DistributedDataParallel, or set monitor.monitor_norm_freq=0'
    )
