"""A small multi-task model in plain torch, with batches and training, for the tests of many ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ding_normmon import Monitor
from ding_normmon.core.step import INERT, InertLearnerStep

__all__ = ['MultitaskModel', 'batch_of', 'learner_step', 'make_model', 'train', 'weights_of']

FEATURES, WIDTH, STEPS = 6, 8, 3


class MultitaskModel(nn.Module):
    """A shared encoder and transformer, and two heads per task; every rank has the heads of all tasks."""

    def __init__(self, num_tasks: int) -> None:
        super().__init__()
        self.encoder = nn.Linear(FEATURES, WIDTH)
        self.transformer = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh())
        self.head_value_multi_task = nn.ModuleList(nn.Linear(WIDTH, 1) for _ in range(num_tasks))
        self.head_policy_multi_task = nn.ModuleList(nn.Linear(WIDTH, 2 + task % 3) for task in range(num_tasks))

    def shared(self) -> list[nn.Parameter]:
        return [*self.encoder.parameters(), *self.transformer.parameters()]


def make_model(num_tasks: int) -> MultitaskModel:
    torch.manual_seed(7)
    return MultitaskModel(num_tasks)


def batch_of(task_id: int, iteration: int) -> tuple[Tensor, Tensor]:
    """Observations (B, T, features) and mask (B, T): tasks differ in batch size, mean and scale."""
    generator = torch.Generator().manual_seed(1000 * iteration + task_id)
    size = 3 + 2 * task_id
    observations = torch.randn(size, STEPS, FEATURES, generator=generator) * (1 + task_id) + 3 * task_id
    mask = torch.rand(size, STEPS, generator=generator) > 0.3
    mask[:, 0] = True
    return observations, mask


def learner_step(
    model: MultitaskModel,
    optimizer: torch.optim.Optimizer,
    task_ids: Sequence[int],
    iteration: int,
    step: InertLearnerStep = INERT,
    group: dist.ProcessGroup | None = None,
    collective: bool = False,
) -> None:
    """One learner step of this rank's tasks; ``collective`` sums the gradients of shared parameters over the ranks."""
    optimizer.zero_grad()
    losses = {}
    for task_id in task_ids:
        observations, mask = batch_of(task_id, iteration)
        embedding = model.encoder(observations)
        token = model.transformer(embedding)
        value = model.head_value_multi_task[task_id](token)
        policy = model.head_policy_multi_task[task_id](token)
        step.publish('embeddings/obs', embedding, task_id, mask)
        step.publish('x_token', token, task_id, mask)
        step.publish('logits/value', value, task_id, mask)
        step.publish('logits/policy', policy, task_id, mask)
        losses[task_id] = ((value.square().mean(-1) + policy.square().mean(-1)) * mask).sum() / mask.sum()
        step.publish_loss('noreduce_value_loss', losses[task_id], task_id)
    step.forward_end(losses)
    if losses:
        torch.stack(list(losses.values())).sum().backward()
    if collective:
        for parameter in model.shared():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad, group=group)
    step.backward_end()
    optimizer.step()
    step.step_end()


def train(
    model: MultitaskModel,
    monitor: Monitor | None,
    task_ids: Sequence[int],
    iterations: Sequence[int],
    collective: bool = False,
    before_step: Callable[[int], Any] = lambda iteration: None,
) -> dict[str, Tensor]:
    """Train for some iterations, with a monitor or without, and return the weights."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for iteration in iterations:
        before_step(iteration)
        if monitor is None:
            learner_step(model, optimizer, task_ids, iteration, collective=collective)
        else:
            with monitor.step(iteration) as step:
                learner_step(model, optimizer, task_ids, iteration, step, collective=collective)
    return weights_of(model)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
