"""A model that all tasks share but for a head each."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Shared(nn.Module):
    """An encoder of any size; what a task makes of it is up to the test."""

    def __init__(self, inputs: int = 40, outputs: int = 30) -> None:
        super().__init__()
        self.encoder = nn.Linear(inputs, outputs)
        self.head_value = nn.ModuleList(nn.Linear(outputs, 1) for _ in range(4))


def loss_of(model: nn.Module, task: int, seed: int | None = None) -> Tensor:
    data = torch.randn(5, model.encoder.in_features, generator=torch.Generator().manual_seed(seed or task))
    return model.head_value[task](torch.tanh(model.encoder(data))).square().mean()
