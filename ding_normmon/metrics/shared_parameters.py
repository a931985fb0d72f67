"""What several tasks train together: the groups on which their gradients meet, and one task's gradient of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ding_normmon.core.parameter_groups import Group
from ding_normmon.metrics.base import Setup
from ding_normmon.metrics.maths.sketch import ChunkTable, Sketch

__all__ = ['SharedGroup', 'SharedParameters', 'has_reentrant_checkpoint', 'shared_parameters']

_EMBEDDINGS = ('task_embedding', 'action_embedding', 'position_embedding')
_BLOCK = re.compile(r'(?:^|\.)(?:blocks|layers|h)\.(\d+)\.')


@dataclass(frozen=True)
class SharedGroup:
    """A group that all tasks train.

    Arguments:
        name: as in metrics: ``encoder``, ``transformer``, ``transformer_block0``, ``embeddings``.
        indices: its parameters, as positions in :attr:`SharedParameters.parameters`.
        sketch: the sketch of their gradients, weights or updates.
    """

    name: str
    indices: tuple[int, ...]
    sketch: Sketch

    def of(self, tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Pick the group's tensors out of one tensor per shared parameter."""
        return [tensors[index] for index in self.indices]


class SharedParameters:
    """The parameters that belong to no single task, in groups; the three embeddings are one group.

    Arguments:
        groups: all groups of the model.
        size: length of the sketches.
        device: where the model is.
        blocks: whether every block of a group (``blocks.3.``, ``layers.3.``) is a group too.
    """

    def __init__(self, groups: Sequence[Group], size: int, device: torch.device, blocks: bool = False) -> None:
        self.parameters: list[nn.Parameter] = []
        members: dict[str, list[int]] = {}
        for group in groups:
            if group.task_id is not None:
                continue
            name = 'embeddings' if group.name in _EMBEDDINGS else group.name
            for path, parameter in zip(group.paths, group.parameters, strict=True):
                members.setdefault(name, []).append(len(self.parameters))
                if blocks and (block := _BLOCK.search(f'{path}.')):
                    members.setdefault(f'{name}_block{block[1]}', []).append(len(self.parameters))
                self.parameters.append(parameter)
        self._tables: dict[int, ChunkTable] = {}
        self.groups = tuple(
            SharedGroup(name, tuple(indices), self._sketch(indices, size, device)) for name, indices in members.items()
        )

    def _sketch(self, indices: Sequence[int], size: int, device: torch.device) -> Sketch:
        return Sketch([self.parameters[index].numel() for index in indices], size, device, self._tables)

    @property
    def bytes(self) -> int:
        """Size of the tables that all sketches share."""
        return sum(table.bytes for table in self._tables.values())

    def gradients(self, loss: Tensor) -> list[Tensor | None]:
        """Return the gradient of one loss, one tensor per parameter, None where the loss does not depend on it.

        The graph stays, and no ``.grad`` is touched, so the training gradient that follows is the same to the last bit.
        """
        wanted = [index for index, parameter in enumerate(self.parameters) if parameter.requires_grad]
        inputs = [self.parameters[index] for index in wanted]
        found = torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True)
        gradients: list[Tensor | None] = [None] * len(self.parameters)
        for index, gradient in zip(wanted, found, strict=True):
            gradients[index] = gradient
        return gradients


def has_reentrant_checkpoint(loss: Tensor) -> bool:
    """Tell whether a loss was computed with ``checkpoint(..., use_reentrant=True)``.

    Parameters inside such a checkpoint are not in the graph: ``torch.autograd.grad`` raises if it comes past one, and
    otherwise says in silence that the loss does not depend on them. The whole graph is searched.
    """
    waiting = [loss.grad_fn]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        if node is None:
            continue
        if node.name() == 'CheckpointFunctionBackward':
            return True
        fresh = {following for following, _ in node.next_functions} - seen
        seen |= fresh
        waiting += fresh
    return False


def shared_parameters(setup: Setup) -> SharedParameters:
    """Return the shared parameters of a set-up; the metrics of one monitor use the same ones."""
    if 'shared_parameters' not in setup.common:
        config = setup.config
        setup.common['shared_parameters'] = SharedParameters(
            setup.groups, config.sketch_size, setup.device, config.conflict_blocks
        )
    shared: SharedParameters = setup.common['shared_parameters']
    return shared
