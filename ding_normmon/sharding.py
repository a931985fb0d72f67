"""Parameters that are spread over ranks: which kinds cannot be measured, said at set-up."""

from __future__ import annotations

from torch import nn

from ding_normmon.configuration import ConfigurationError

__all__ = ['refuse_sharded']


def refuse_sharded(model: nn.Module) -> None:
    """Refuse a model of which this process holds only a part.

    ``DistributedDataParallel`` keeps whole parameters and whole gradients on every rank and is measured like the model
    inside it. Sharded parameters (FSDP, FSDP2 and other users of DTensor, DeepSpeed ZeRO-3) are not: a rank sees only
    its shard, and gathering the rest would be a collective in the middle of a learner step.

    Raises:
        ConfigurationError: a sharded parameter; it names the first one.

    >>> refuse_sharded(nn.Linear(2, 2))
    """
    for module in model.modules():
        if type(module).__name__ == 'FullyShardedDataParallel':
            raise ConfigurationError(_refusal('FullyShardedDataParallel'))
    for name, parameter in model.named_parameters():
        if type(parameter).__name__ == 'DTensor':
            raise ConfigurationError(_refusal(f'{name} is a DTensor (FSDP2 or tensor parallelism)'))
        if hasattr(parameter, 'ds_id'):
            raise ConfigurationError(_refusal(f'{name} belongs to DeepSpeed ZeRO-3'))


def _refusal(what: str) -> str:
    return (
        f'monitor: {what}: sharded parameters are not supported, because norms of one shard would be shown as norms of '
        f'the whole. Use DistributedDataParallel, or set monitor.monitor_norm_freq=0'
    )
