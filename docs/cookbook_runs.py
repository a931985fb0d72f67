"""Small planted runs for the cookbook: three tasks on one encoder, trained in seconds, measured every second iteration.

The runs of real policies with planted faults are under tests/data/faults; these show what none of them has: a limit
that always clips, tasks whose gradients conflict together with the usual remedies, and a task that is forgotten.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ding_normmon import Monitor, Record

__all__ = ['Setting', 'moco', 'pcgrad', 'train']

TASKS = ('push', 'pull', 'reach')
ITERATIONS = 600
FEATURES, HIDDEN, BATCH = 8, 32, 64


@dataclass
class Setting:
    """What differs between runs.

    Arguments:
        clip: the limit of the gradient norm; None for no clipping.
        correct: combines the tasks' gradients of the encoder, shape (tasks, parameters), into one; None: their sum.
        weights: of the tasks' losses.
        new_weights: the same from ``change_at`` on.
        learning_rate: of the encoder; ten times that of the heads.
        growth: factor on all learning rates in each iteration from ``change_at`` on.
        weight_decay: of the encoder from ``change_at`` on.
        conflicting: whether the encoder is too narrow for what the tasks want of it.
    """

    clip: float | None = 10.0
    correct: Callable[[Tensor], Tensor] | None = None
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
    new_weights: tuple[float, float, float] | None = None
    change_at: int = 300
    learning_rate: float = 3e-2
    growth: float = 1.0
    weight_decay: float = 0.0
    conflicting: bool = False


def pcgrad(gradients: Tensor) -> Tensor:
    """PCGrad (Yu et al. 2020): take from each task's gradient what points against another's, then add up.

    Example:
        >>> pcgrad(torch.tensor([[1., 1.], [-1., 0.]]))
        tensor([-0.5000,  1.5000])
    """
    corrected = gradients.clone()
    for mine in corrected:
        for other in gradients:
            product = mine @ other
            if product < 0:
                mine -= product / (other @ other) * other
    return corrected.sum(0)


def moco(rate: float = 0.3, step: float = 0.02, regularisation: float = 0.01) -> Callable[[Tensor], Tensor]:
    """MoCo (Fernando et al. 2023): moving averages of the tasks' gradients, and weights of least conflict."""
    averages: Tensor | None = None
    weights = torch.full((len(TASKS),), 1 / len(TASKS))

    def correct(gradients: Tensor) -> Tensor:
        nonlocal averages, weights
        averages = gradients.clone() if averages is None else averages + rate * (gradients - averages)
        products = averages @ averages.T
        products = products / products.diagonal().mean().clamp(min=1e-12)
        weights = torch.softmax(weights.log() - step * (products + regularisation * torch.eye(len(TASKS))) @ weights, 0)
        return len(TASKS) * weights @ averages

    return correct


def train(setting: Setting) -> list[Record]:
    """Train three tasks and return the records of the run, findings included; it ends where a loss is not finite."""
    torch.manual_seed(0)
    width = 1 if setting.conflicting else 8
    model = nn.ModuleDict(
        {
            'encoder': nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, width)),
            'head_value': nn.ModuleList([nn.Linear(width, 1) for _ in TASKS]),
        }
    )
    teachers = torch.randn(len(TASKS), FEATURES)
    teachers[1] = 0.3 * teachers[1] - teachers[0]
    encoder: Any = model['encoder']
    heads: Any = model['head_value']
    groups = [
        {'params': list(encoder.parameters())},
        {'params': list(heads.parameters()), 'lr': setting.learning_rate / 10},
    ]
    optimizer = torch.optim.SGD(groups, lr=setting.learning_rate, momentum=0.9)
    shared = list(encoder.parameters())
    config = {'monitor_norm_freq': 2, 'preset': 'multitask', 'budget': None}
    records = []
    with Monitor(model, config, num_tasks=len(TASKS), task_names=TASKS) as monitor:
        for iteration in range(ITERATIONS):
            weights = setting.weights
            if setting.new_weights is not None and iteration >= setting.change_at:
                weights = setting.new_weights
            if iteration >= setting.change_at:
                for group in optimizer.param_groups:
                    group['lr'] *= setting.growth
                optimizer.param_groups[0]['weight_decay'] = setting.weight_decay
            with monitor.step(iteration) as step:
                losses = {}
                for task, weight in enumerate(weights):
                    inputs = torch.randn(BATCH, FEATURES)
                    loss = (heads[task](encoder(inputs)).squeeze(-1) - inputs @ teachers[task]).square().mean()
                    step.publish_loss('noreduce_value_loss', loss, task_id=task)
                    losses[task] = weight * loss
                if not all(torch.isfinite(loss) for loss in losses.values()):
                    break
                step.forward_end(losses, corrected=setting.correct is not None)
                optimizer.zero_grad()
                if setting.correct is None:
                    torch.stack(list(losses.values())).sum().backward()
                else:
                    rows = [
                        torch.cat([part.flatten() for part in torch.autograd.grad(loss, shared, retain_graph=True)])
                        for loss in losses.values()
                    ]
                    torch.stack(list(losses.values())).sum().backward()
                    combined = setting.correct(
                        torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])
                    )
                    sizes = [parameter.numel() for parameter in shared]
                    for parameter, part in zip(shared, combined.split(sizes), strict=True):
                        parameter.grad = part.view_as(parameter)
                step.backward_end()
                if setting.clip is not None:
                    step.clipped(nn.utils.clip_grad_norm_(model.parameters(), setting.clip), setting.clip)
                optimizer.step()
                step.step_end()
            records += monitor.take_records()
    return records + monitor.take_records()
