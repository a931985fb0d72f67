"""The parameters that several tasks train together, and backward passes for the gradient of a single loss."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ding_normmon.core.config import ConfigurationError
from ding_normmon.core.parameter_groups import Group
from ding_normmon.core.sharding import is_sharded
from ding_normmon.metrics.base import LearnerStep, Metric, Setup
from ding_normmon.metrics.extra_backward import ExtraBackward
from ding_normmon.metrics.maths.sketch import ChunkTable, Sketch

__all__ = ['SharedGradients', 'SharedGroup', 'SharedParameters', 'shared_parameters']

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


def shared_parameters(setup: Setup) -> SharedParameters:
    """Return the shared parameters of a set-up; the metrics of one monitor use the same ones."""
    if 'shared_parameters' not in setup.common:
        config = setup.config
        setup.common['shared_parameters'] = SharedParameters(
            setup.groups, config.sketch_size, setup.device, config.conflict_blocks
        )
    shared: SharedParameters = setup.common['shared_parameters']
    return shared


class SharedGradients(Metric):
    """Base of metrics that make backward passes of their own through the shared parameters, at ``forward_end``.

    Attributes:
        shared: the shared parameters.
    """

    shared: SharedParameters
    _off = False
    _listening = False

    def start(self, setup: Setup) -> None:
        """Find the shared parameters; to be called in ``prepare`` where the metric is measured.

        Raises:
            ConfigurationError: the model has ``DTensor`` parameters (FSDP2, tensor parallelism).
        """
        if any(map(is_sharded, setup.model.parameters())):
            raise ConfigurationError(
                'monitor.conflict_freq: gradient conflict cannot be measured on sharded parameters (DTensor), where a '
                'backward pass per task would gather and scatter them once more per task; set conflict_freq=0'
            )
        self.shared = shared_parameters(setup)
        self._extra: ExtraBackward = setup.common.setdefault('extra_backward', ExtraBackward(setup.model, setup.device))

    def begin(self, step: LearnerStep) -> None:
        """Note what is attached to the graph of the step's forward pass."""
        if not self._off:
            self._listening = True
            self._extra.begin()

    def release(self) -> None:
        """Stop noting it."""
        if self._listening:
            self._listening = False
            self._extra.release()

    def state_bytes(self) -> int:
        """Return the size of the sketches' tables."""
        return 0 if self._off else self.shared.bytes

    def check(self, losses: Mapping[Any, Tensor], tasks: Sequence[int], what: str) -> None:
        """Check that these losses can be differentiated without side effects.

        Raises:
            ValueError: a task that this rank does not train.
            RuntimeError: they cannot; the metric is off from then on.
        """
        for task_id in tasks:
            if task_id not in self.setup.task_ids:
                raise ValueError(f'the loss of task {task_id} was given on a rank that trains {self.setup.task_ids}')
        why = self._extra.refusal(losses)
        if why is not None:
            self._off = True
            raise RuntimeError(f'{why}. {what} switched off')

    def gradients(self, loss: Tensor) -> list[Tensor | None]:
        """Return the gradient of one loss, one tensor per shared parameter; None if the loss does not depend on it.

        The graph stays and no ``.grad`` is touched, so the training gradient that follows is the same to the last bit.
        """
        parameters = self.shared.parameters
        wanted = [index for index, parameter in enumerate(parameters) if parameter.requires_grad]
        found = self._extra.gradients(loss, [parameters[index] for index in wanted])
        self.extra_backward += 1
        gradients: list[Tensor | None] = [None] * len(parameters)
        for index, gradient in zip(wanted, found, strict=True):
            gradients[index] = gradient
        return gradients
