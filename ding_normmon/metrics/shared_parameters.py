"""What several tasks train together: the groups on which their gradients meet, and one task's gradient of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ding_normmon.core.parameter_groups import Group
from ding_normmon.metrics.base import Setup
from ding_normmon.metrics.extra_backward import ExtraBackward
from ding_normmon.metrics.maths.sketch import ChunkTable, Sketch

__all__ = ['SharedGroup', 'SharedParameters', 'shared_parameters']

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

    def gradients(self, loss: Tensor, extra: ExtraBackward) -> list[Tensor | None]:
        """Return the gradient of one loss, one tensor per parameter, None where the loss does not depend on it.

        The graph stays, and no ``.grad`` is touched, so the training gradient that follows is the same to the last bit.
        """
        wanted = [index for index, parameter in enumerate(self.parameters) if parameter.requires_grad]
        found = extra.gradients(loss, [self.parameters[index] for index in wanted])
        gradients: list[Tensor | None] = [None] * len(self.parameters)
        for index, gradient in zip(wanted, found, strict=True):
            gradients[index] = gradient
        return gradients


def shared_parameters(setup: Setup) -> SharedParameters:
    """Return the shared parameters of a set-up; the metrics of one monitor use the same ones."""
    if 'shared_parameters' not in setup.common:
        config = setup.config
        setup.common['shared_parameters'] = SharedParameters(
            setup.groups, config.sketch_size, setup.device, config.conflict_blocks
        )
    shared: SharedParameters = setup.common['shared_parameters']
    return shared
