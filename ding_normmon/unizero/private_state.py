"""Gathers the private parameters of all ranks on rank 0, so that it can save a complete model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ding_normmon.unizero.model import UniZeroMultitaskModel
from ding_normmon.unizero.ranks import is_distributed

__all__ = ['gather_private_state']


def gather_private_state(
    model: UniZeroMultitaskModel,
    target_model: UniZeroMultitaskModel,
    optimizer: torch.optim.Optimizer,
    task_ids: Sequence[int],
) -> None:
    """Copy the private parameters of the tasks of all ranks, and their optimizer state, into rank 0's objects.

    A collective. The objects of the other ranks do not change.

    Arguments:
        model: the trained model.
        target_model: the target model.
        optimizer: the optimizer over ``model``'s parameters.
        task_ids: the tasks that this rank trains.
    """
    if not is_distributed():
        return
    private, private_target = model.private_parameters(), target_model.private_parameters()
    own = {
        task_id: [
            (parameter.detach().cpu(), target.detach().cpu(), _to_cpu(optimizer.state.get(parameter, {})))
            for parameter, target in zip(private[task_id], private_target[task_id], strict=True)
        ]
        for task_id in (task_ids if dist.get_rank() else ())
    }
    gathered: list[Any] = [{}] * dist.get_world_size()
    dist.gather_object(own, gathered if dist.get_rank() == 0 else None, dst=0)
    with torch.no_grad():
        for states in gathered:
            for task_id, entries in states.items():
                for parameter, target, (value, target_value, state) in zip(
                    private[task_id], private_target[task_id], entries, strict=True
                ):
                    parameter.copy_(value)
                    target.copy_(target_value)
                    if state:
                        # AdamW keeps its step count on the CPU, whatever the parameter's device.
                        optimizer.state[parameter] = {
                            key: entry.to(parameter.device) if isinstance(entry, Tensor) and entry.dim() else entry
                            for key, entry in state.items()
                        }


def _to_cpu(state: dict[str, Any]) -> dict[str, Any]:
    return {key: value.detach().cpu() if isinstance(value, Tensor) else value for key, value in state.items()}
