"""A stand-in for LibMTL's gradient correction, of which LightZero's git main needs a fork that is not public.

It was written from the paper (MoCo, https://openreview.net/forum?id=dLAYGdKTi2) and from how LightZero calls it: the
tasks' gradients of a shared module are followed by moving averages, weighted by what keeps their sum short, and written
into ``.grad``; everything else gets the gradient of the sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ['FastMoCo', 'MoCo', 'MoCoCfg']


@dataclass
class MoCoCfg:
    """What LightZero sets; the moving average's step and the weights' are used."""

    beta0: float = 0.9
    beta_sigma: float = 0.95
    gamma0: float = 0.1
    gamma_sigma: float = 0.95
    rho: float = 0.01
    stat_interval: int = 10000


class MoCo:
    """Version 0: called with ``losses=`` and further settings by name."""

    def __init__(self, shared_module: nn.Module, world_task_num: int, device: Any, multi_gpu: bool) -> None:
        self._shared = list(shared_module.parameters())
        self._averages = torch.zeros(world_task_num, sum(parameter.numel() for parameter in self._shared))
        self._weights = torch.full((world_task_num,), 1.0 / world_task_num)
        self.rep_grad = True
        self.seen: list[Tensor] = []
        """The gradient of every task's loss in the last step, shape (shared parameters,)."""

    def init_param(self) -> None:
        """Begin with gradients of 0."""
        self._averages.zero_()

    def backward(self, losses: Sequence[Tensor], **settings: Any) -> tuple[Tensor, dict[str, float]]:
        """Differentiate every loss, correct the shared gradient; return the tasks' weights and some figures."""
        self.seen = []
        for task, loss in enumerate(losses):
            before = [None if parameter.grad is None else parameter.grad.clone() for parameter in self._shared]
            loss.backward(retain_graph=True)
            gradients = []
            for parameter, earlier in zip(self._shared, before, strict=True):
                gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
                gradients.append((gradient if earlier is None else gradient - earlier).flatten())
                parameter.grad = earlier
            self.seen.append(torch.cat(gradients))
            self._averages[task] += settings.get('beta', 0.5) * (self.seen[-1] - self._averages[task])
        averages, weights = self._averages[: len(losses)], self._weights[: len(losses)]
        weights = torch.softmax(weights - settings.get('gamma', 0.1) * averages @ (weights @ averages), dim=0)
        self._weights[: len(losses)] = weights
        corrected = weights @ averages
        for parameter, gradient in zip(self._shared, corrected.split([p.numel() for p in self._shared]), strict=True):
            parameter.grad = gradient.view_as(parameter).clone()
        return weights, {'norm': float(corrected.norm())}


class FastMoCo(MoCo):
    """Version 1: called with the losses alone."""

    def __init__(
        self, shared_module: nn.Module, world_task_num: int, device: Any, multi_gpu: bool, cfg: MoCoCfg
    ) -> None:
        super().__init__(shared_module, world_task_num, device, multi_gpu)
        self._beta = 1.0 - cfg.beta0

    def backward(self, losses: Sequence[Tensor], **settings: Any) -> tuple[Tensor, dict[str, float]]:
        """See :meth:`MoCo.backward`."""
        return super().backward(losses, beta=self._beta, **settings)
