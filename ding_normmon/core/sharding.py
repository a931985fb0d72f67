"""Parameters that are spread over ranks: what this rank counts of them, and when the sum over the ranks is whole.

A ``DTensor`` (FSDP2, hybrid sharding, tensor parallelism) is split over the ranks of a mesh, or repeated on them, along
each dimension of the mesh. A sum of squares needs no gathering: every rank adds up the elements it holds, and rank 0
adds up the sums. An element that is repeated is counted by the first rank that holds it.
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
    """Tell whether a tensor is a ``DTensor``.

    >>> is_sharded(torch.zeros(2))
    False
    """
    # Whoever has a DTensor has imported its module, which takes long.
    module = sys.modules.get('torch.distributed.tensor')
    return module is not None and isinstance(tensor, module.DTensor)


def counted_part(tensor: Tensor) -> Tensor | None:
    """Return the elements of a tensor that this rank counts: its shard; None where another rank counts them.

    Nothing is communicated. A tensor that is no ``DTensor`` is returned as it is.

    Raises:
        ValueError: a ``DTensor`` whose values are sums that are still to be made.
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
                f'a DTensor of shape {tuple(tensor.shape)} is laid out as {sharded.placements}: its values are not '
                f'known before they have been added up over the ranks'
            )
        if placement.is_replicate() and position > 0:
            return None
    with torch.no_grad():
        return cast(Tensor, sharded.to_local())


def replicated_value(tensor: Tensor) -> Tensor | None:
    """Return a tensor that every rank holds whole; None of a ``DTensor`` of which this rank holds only a part."""
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
    """Return the part of a group that this rank reports; None where that is nothing.

    Arguments:
        group: a parameter group.
        owns: whether this rank is the one that reports the group's whole parameters.
    """
    if owns:
        return group
    kept = [(path, p) for path, p in zip(group.paths, group.parameters, strict=True) if is_sharded(p)]
    if not kept:
        return None
    return replace(group, paths=tuple(path for path, _ in kept), parameters=tuple(parameter for _, parameter in kept))


def refuse_unreadable(model: nn.Module) -> None:
    """Refuse a model of which this process holds a part that cannot be told apart, or not measured.

    ``DistributedDataParallel`` keeps whole parameters and whole gradients on every rank, and of a ``DTensor`` every
    rank knows its shard. The flat parameters of FSDP's first version and DeepSpeed ZeRO-3 do not say which elements of
    which parameter a rank holds. A module of FSDP2 that is gathered at the moment shows temporary parameters.

    So is a model with parameters of which there is nothing to measure: complex ones, those without a shape yet and
    those on the ``meta`` device; and one on several devices, because a record is one copy from one device.

    Raises:
        ConfigurationError: such a model; it names the first such part.

    >>> refuse_unreadable(nn.Linear(2, 2))
    """
    for name, module in model.named_modules():
        if type(module).__name__ == 'FullyShardedDataParallel':
            raise ConfigurationError(_refusal('FullyShardedDataParallel'))
        if _is_gathered(module):
            raise ConfigurationError(
                f'monitor: the parameters of {name or type(module).__name__} are gathered at the moment (a forward '
                f'pass without a backward pass leaves them so); call its reshard() before the monitor is constructed'
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
                f'monitor: {name} is complex ({parameter.dtype}), of which no norm is taken; keep its real and '
                f'imaginary parts as two parameters (torch.view_as_real)'
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
        f'monitor: {what}: its parameters are not supported, because norms of one shard would be shown as norms of the '
        f'whole. Use FSDP2 (fully_shard) or DistributedDataParallel, or set monitor.monitor_norm_freq=0'
    )
