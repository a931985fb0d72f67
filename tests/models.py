"""A small multi-task model, one learner step of it, and every metric of the step computed directly in float64.

The reference uses no groups, rows or merges: it takes the same tensors, selects the valid steps one by one,
concatenates them and calls torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ding_normmon import Monitor, Record
from ding_normmon.core.step import InertLearnerStep

EMBED = 8
OBSERVATION = 6
SUPPORT = 5
NORM_SIGNALS = {'x_token': ('norm/x_token', ''), 'embeddings/obs': ('embeddings/obs', 'norm_')}
PER_TASK = ('head_value', 'head_reward', 'head_policy', 'head_observation')


class Tokenizer(nn.Module):
    """The shared encoder in a list of length 1, as LightZero keeps it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleList([nn.Sequential(nn.Linear(OBSERVATION, EMBED), nn.Tanh())])


class Transformer(nn.Module):
    """Token mixing without attention; its experts are a ModuleList that has nothing to do with tasks."""

    def __init__(self, num_experts: int = 2) -> None:
        super().__init__()
        self.experts = nn.ModuleList([nn.Linear(EMBED, EMBED) for _ in range(num_experts)])
        self.norm = nn.LayerNorm(EMBED)

    def forward(self, tokens: Tensor, task_id: int) -> Tensor:
        return self.norm(tokens + sum(expert(tokens) for expert in self.experts) + tokens.mean(1, keepdim=True))


class SmallModel(nn.Module):
    """Encoder, transformer and four heads per task, under LightZero's attribute names.

    Arguments:
        actions: size of each task's action space; as many entries as there are tasks.
        num_experts: length of the transformer's list of experts.
    """

    def __init__(self, actions: Sequence[int] = (2, 3, 5), num_experts: int = 2) -> None:
        super().__init__()
        tasks = len(actions)
        self.num_tasks = tasks
        self.tokenizer = Tokenizer()
        self.transformer = Transformer(num_experts)
        self.pos_emb = nn.Embedding(64, EMBED)
        self.act_embedding_table = nn.Embedding(max(actions), EMBED)
        self.task_emb = nn.Embedding(tasks, EMBED)
        self.head_value_multi_task = nn.ModuleList([nn.Linear(EMBED, SUPPORT) for _ in range(tasks)])
        self.head_rewards_multi_task = nn.ModuleList([nn.Linear(EMBED, SUPPORT) for _ in range(tasks)])
        self.head_policy_multi_task = nn.ModuleList([nn.Linear(EMBED, size) for size in actions])
        self.head_observations_multi_task = nn.ModuleList([nn.Linear(EMBED, EMBED) for _ in range(tasks)])
        # The same heads a second time under other names, and parameters that no default group claims.
        self.head_dict = nn.ModuleDict({'head_value_multi_task': self.head_value_multi_task})
        self.unused = nn.Linear(3, 2)
        self.temperature = nn.Parameter(torch.tensor([1.5]))

    def forward(self, batch: TaskBatch) -> dict[str, Tensor]:
        """Return the published signals of one task, in the shapes that LightZero's world model has."""
        size, steps, _ = batch.observation.shape
        task_id = batch.task_id
        observation = self.tokenizer.encoder[0](batch.observation.reshape(size * steps, -1))
        action = self.act_embedding_table(batch.action)
        tokens = torch.stack([observation.view(size, steps, EMBED), action], dim=2).reshape(size, 2 * steps, EMBED)
        position = self.pos_emb(torch.arange(2 * steps))
        task = self.task_emb(torch.tensor(task_id))
        x_token = self.transformer(tokens + position + task, task_id=task_id)
        of_observations, of_actions = x_token[:, 0::2], x_token[:, 1::2]
        return {
            'embeddings/obs': observation.view(size * steps, 1, EMBED),
            'x_token': x_token,
            'logits/value': self.head_value_multi_task[task_id](of_observations) * self.temperature,
            'logits/policy': self.head_policy_multi_task[task_id](of_observations),
            'logits/reward': self.head_rewards_multi_task[task_id](of_actions),
            'observation': self.head_observations_multi_task[task_id](of_actions),
        }


@dataclass(frozen=True)
class TaskBatch:
    """One task's part of a batch; the mask is true where a step is data and not padding."""

    task_id: int
    observation: Tensor
    action: Tensor
    mask: Tensor


def make_batches(
    actions: Sequence[int] = (2, 3, 5),
    sizes: Sequence[int] = (4, 2, 7),
    steps: int = 3,
    tasks: Iterable[int] = (0, 1, 2),
) -> list[TaskBatch]:
    """Batches of unequal size with padded steps (the padded data is large) and a different mean for every task."""
    batches = []
    for task_id in tasks:
        size = sizes[task_id]
        generator = torch.Generator().manual_seed(100 + task_id)
        observation = torch.randn(size, steps, OBSERVATION, generator=generator) * (1 + task_id) + 2.0 * task_id
        mask = torch.rand(size, steps, generator=generator) < 0.7
        mask[0, 0], mask[-1, -1] = True, False
        observation[~mask] = 1e3
        action = torch.randint(actions[task_id], (size, steps), generator=generator)
        batches.append(TaskBatch(task_id, observation, action, mask))
    return batches


@dataclass
class Measured:
    """What one learner step has shown: the tensors themselves, copied."""

    signals: dict[tuple[str, int | None], tuple[Tensor, Tensor | None]] = field(default_factory=dict)
    parameters: dict[int, Tensor] = field(default_factory=dict)
    gradients: dict[int, Tensor | None] = field(default_factory=dict)
    losses: dict[int, float] = field(default_factory=dict)


def task_loss(signals: Mapping[str, Tensor], batch: TaskBatch) -> Tensor:
    """A scalar loss that reaches every head of the task, over the valid steps only."""
    mask = batch.mask
    value = signals['logits/value'][mask].pow(2).mean()
    reward = (signals['logits/reward'][mask] - 1).pow(2).mean()
    policy = F.cross_entropy(signals['logits/policy'][mask], batch.action[mask])
    return value + reward + policy + signals['observation'][mask].pow(2).mean()


def learn(
    model: SmallModel,
    batches: Sequence[TaskBatch],
    step: InertLearnerStep,
    optimizer: torch.optim.Optimizer | None = None,
    backward: bool = True,
    clip: float | None = None,
) -> Measured:
    """One learner step as a policy would write it; what it published and what it computed is the value."""
    measured = Measured()
    total = torch.zeros(())
    losses = {}
    for batch in batches:
        signals = model(batch)
        for name in ('embeddings/obs', 'x_token', 'logits/value', 'logits/policy', 'logits/reward'):
            step.publish(name, signals[name], task_id=batch.task_id, mask=batch.mask)
            measured.signals[name, batch.task_id] = (signals[name].detach().clone(), batch.mask.clone())
        losses[batch.task_id] = task_loss(signals, batch)
        step.publish_loss('noreduce_loss', losses[batch.task_id], task_id=batch.task_id)
        measured.losses[batch.task_id] = losses[batch.task_id].item()
        total = total + losses[batch.task_id]
    measured.parameters = {id(p): p.detach().clone() for p in model.parameters()}
    step.forward_end(losses)
    total.backward()
    if not backward:
        return measured
    measured.gradients = {id(p): None if p.grad is None else p.grad.detach().clone() for p in model.parameters()}
    step.backward_end()
    if clip is not None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    if optimizer is not None:
        optimizer.step()
        optimizer.zero_grad()
    step.step_end()
    return measured


# -- the reference ---------------------------------------------------------------------------------------------------


def reference_groups(model: SmallModel) -> dict[str, list[nn.Parameter]]:
    """The groups of the small model, written down by hand."""
    groups = {
        'encoder': list(model.tokenizer.parameters()),
        'transformer': list(model.transformer.parameters()),
        'task_embedding': list(model.task_emb.parameters()),
        'action_embedding': list(model.act_embedding_table.parameters()),
        'position_embedding': list(model.pos_emb.parameters()),
        'other': [*model.unused.parameters(), model.temperature],
    }
    lists = (
        model.head_value_multi_task,
        model.head_rewards_multi_task,
        model.head_policy_multi_task,
        model.head_observations_multi_task,
    )
    for name, heads in zip(PER_TASK, lists, strict=True):
        for task_id, head in enumerate(heads):
            groups[f'{name}_task{task_id}'] = list(head.parameters())
    return groups


def _flat(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([tensor.double().reshape(-1) for tensor in tensors])


def reference_norms(family: str, groups: Mapping[str, Sequence[Tensor]]) -> dict[str, float]:
    """Group norms, their spread across tasks and the norm of everything; groups without tensors are absent."""
    metrics = {
        f'{family}/{key}/_total_norm': _flat(tensors).norm().item() for key, tensors in groups.items() if tensors
    }
    for name in PER_TASK:
        norms = [value for key, value in metrics.items() if key.startswith(f'{family}/{name}_task')]
        if norms:
            metrics[f'{family}/{name}_all_tasks/mean'] = torch.tensor(norms, dtype=torch.float64).mean().item()
        if len(norms) > 1:
            metrics[f'{family}/{name}_all_tasks/std'] = torch.tensor(norms, dtype=torch.float64).std().item()
    everything = [tensor for tensors in groups.values() for tensor in tensors]
    if everything:
        metrics[f'{family}/model/_total_norm'] = _flat(everything).norm().item()
    return metrics


def valid_steps(tensor: Tensor, mask: Tensor | None) -> Tensor:
    """The valid steps of a (B, n*T, ...) or (B*T, ...) tensor in float64, picked one by one."""
    if mask is None:
        return tensor.double()
    size, steps = mask.shape
    picked = []
    for b in range(size):
        for t in range(steps):
            if not mask[b, t]:
                continue
            if tensor.shape[0] == size * steps and steps > 1:
                picked.append(tensor[b * steps + t])
            else:
                repeats = tensor.shape[1] // steps
                picked += [tensor[b, t * repeats + k] for k in range(repeats)]
    return torch.stack(picked).double() if picked else torch.zeros(0, *tensor.shape[2:], dtype=torch.float64)


def _statistics(prefix: str, values: Tensor, abs_max: bool) -> dict[str, float]:
    values = values[values.isfinite()]
    if values.numel() == 0:
        return {}
    metrics = {f'{prefix}mean': values.mean(), f'{prefix}max': values.max(), f'{prefix}min': values.min()}
    if values.numel() > 1:
        metrics[f'{prefix}std'] = values.std()
    if abs_max:
        metrics[f'{prefix}abs_max'] = values.abs().max()
    return {name: value.item() for name, value in metrics.items()}


def reference_signals(
    signals: Mapping[tuple[str, int | None], tuple[Tensor, Tensor | None]],
) -> dict[str, float]:
    """Statistics of each signal per task, and over all tasks from the concatenation of their values."""
    values: dict[str, dict[int | None, Tensor]] = {}
    for (name, task_id), (tensor, mask) in signals.items():
        valid = valid_steps(tensor, mask)
        if name in NORM_SIGNALS:
            valid = valid.reshape(-1, valid.shape[-1]).norm(dim=-1)
        values.setdefault(name, {})[task_id] = valid.reshape(-1)
    metrics: dict[str, float] = {}
    for name, tasks in values.items():
        family, prefix = NORM_SIGNALS.get(name, (name, ''))
        for task_id, numbers in [(None, torch.cat(list(tasks.values()))), *tasks.items()]:
            suffix = '' if task_id is None else f'_task{task_id}'
            metrics |= _statistics(f'{family}{suffix}/{prefix}', numbers, name not in NORM_SIGNALS)
            if nonfinite := int((~numbers.isfinite()).sum()):
                metrics[f'monitor/nonfinite/{name}{suffix}'] = float(nonfinite)
    return metrics


def reference(model: SmallModel, measured: Measured) -> dict[str, float]:
    """Every metric of one learner step but those of :data:`ELSEWHERE`."""
    groups = reference_groups(model)
    gradients = {
        key: [found for p in parameters if (found := measured.gradients[id(p)]) is not None]
        for key, parameters in groups.items()
    }
    metrics = reference_norms('norm', {key: [measured.parameters[id(p)] for p in g] for key, g in groups.items()})
    metrics |= reference_norms('grad', gradients)
    metrics |= reference_signals(measured.signals)
    metrics |= {f'noreduce_loss_task{task_id}': value for task_id, value in measured.losses.items()}
    metrics['parameters/model/trainable'] = float(sum(p.numel() for p in model.parameters() if p.requires_grad))
    for key, parameters in groups.items():
        missing = len(parameters) - len(gradients[key])
        if missing == len(parameters):
            metrics[f'monitor/no_gradient/{key}'] = 1.0
        elif missing:
            metrics[f'monitor/without_gradient/{key}'] = float(missing)
    return metrics


EXACT = ('/max', '/min', '/abs_max')

ELSEWHERE = ('monitor/cost/', 'learning_rate/', 'step/', 'loss/', 'inputs/', 'mode/')
"""Figures of what is seen from outside: they have tests of their own."""


def assert_same(scalars: Mapping[str, float], expected: Mapping[str, float]) -> None:
    """The same names, 1e-6 relative; to the last bit for counts and for min and max of what was published as it is."""
    scalars = {name: value for name, value in scalars.items() if not name.startswith(ELSEWHERE)}
    assert sorted(scalars) == sorted(expected)
    for name, value in expected.items():
        counted = name.startswith(('monitor/', 'parameters/'))
        if counted or (name.startswith('logits/') and name.endswith(EXACT)):
            assert scalars[name] == value, name
        else:
            assert scalars[name] == pytest.approx(value, rel=1e-6, abs=1e-12), name


def small_monitor(model: nn.Module, frequency: int = 1, tasks: int | None = 3, **config: object) -> Monitor:
    """A monitor of the small model on one process."""
    return Monitor(model, {'monitor_norm_freq': frequency, **config}, num_tasks=tasks)


def finished(monitor: Monitor) -> list[Record]:
    """Close a monitor and return its records."""
    monitor.close()
    return monitor.take_records()


class Operations(TorchDispatchMode):
    """Counts the operations on tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))
