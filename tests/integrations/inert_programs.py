"""Small multi-task programs of every kind, which train with a monitor or without and return all that is left behind."""

from __future__ import annotations

import contextlib
import functools
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.utils.checkpoint import checkpoint

from ding_normmon import INERT, Monitor, attach

__all__ = ['DTYPES', 'KINDS', 'MODES', 'PRESETS', 'STEPS', 'plain', 'train']

DTYPES = ('float32', 'float64', 'bfloat16', 'autocast')
KINDS = (
    'plain',
    'parameter hooks',
    'BatchNorm',
    'dropout',
    'reentrant checkpoint',
    'checkpoint',
    'checkpoint that moves generators',
    'compiled',
    'tied',
    'frozen',
    'tensor and module hooks',
    'spectral norm',
    'accumulated',
    'scaled',
    'closure',
)
PRESETS = ('basic', 'multitask', 'full')
MODES = ('attach', 'loop', 'publishing')
STEPS = 3


class Model(nn.Module):
    """An encoder that two tasks share, made as the kind of program wants it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        first: nn.Module = nn.Linear(4, 8)
        if kind == 'spectral norm':
            first = nn.utils.parametrizations.spectral_norm(first)
        layers = [first]
        if kind in ('BatchNorm', 'reentrant checkpoint', 'checkpoint', 'checkpoint that moves generators'):
            layers.append(nn.BatchNorm1d(8))
        if kind == 'dropout' or 'checkpoint' in kind:
            layers.append(nn.Dropout(0.2))
        self.encoder = nn.Sequential(*layers, nn.ReLU())
        self.transformer = nn.Linear(8, 8)
        self.head_value = nn.ModuleList([nn.Linear(8, 1) for _ in range(2)])
        if kind == 'tied':
            self.head_value[1].weight = self.head_value[0].weight
        if kind == 'frozen':
            self.encoder.requires_grad_(False)
        self.kind = kind
        self._call = torch.compile(self.encoder, backend='aot_eager') if kind == 'compiled' else self.encoder

    def forward(self, data: Tensor) -> Tensor:
        """Return what the shared layers make of a batch."""
        if self.kind == 'reentrant checkpoint':
            hidden = checkpoint(self.encoder, data.requires_grad_(), use_reentrant=True)
        elif self.kind == 'checkpoint':
            hidden = checkpoint(self.encoder, data, use_reentrant=False)
        elif self.kind == 'checkpoint that moves generators':
            hidden = checkpoint(self.encoder, data, use_reentrant=False, preserve_rng_state=False)
        else:
            hidden = self._call(data)
        return torch.tanh(self.transformer(hidden))


class Policy:
    """One learner step per call of ``_forward_learn``; it publishes where it has a ``learner_step``."""

    num_tasks: int | None = None

    def __init__(self, kind: str, dtype: str) -> None:
        for seed in (torch.manual_seed, np.random.seed, random.seed):
            seed(0)
        self.kind, self.notes = kind, []
        self._autocast = dtype == 'autocast'
        self._dtype = torch.float32 if self._autocast else getattr(torch, dtype)
        self._learn_model = Model(kind).to(self._dtype)
        trained = [parameter for parameter in self._learn_model.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(trained, lr=0.05)
        self._scaler = torch.amp.GradScaler('cpu', init_scale=64.0, enabled=kind == 'scaled')
        weight = self._learn_model.transformer.weight
        if kind == 'parameter hooks':
            weight.register_hook(lambda gradient: gradient + 0.01 * torch.randn_like(gradient))
            weight.register_hook(lambda gradient: self.notes.append('hook'))
            weight.register_post_accumulate_grad_hook(lambda parameter: self.notes.append(float(parameter.grad.sum())))
        if kind == 'tensor and module hooks':
            self._learn_model.transformer.register_full_backward_hook(lambda *_: self.notes.append('module'))
            self._learn_model.encoder.register_forward_hook(lambda *_: self.notes.append('forward'))

    def _losses(self, step: Any) -> dict[int, Tensor]:
        losses, parts = {}, {}
        around = torch.autocast('cpu', torch.bfloat16) if self._autocast else contextlib.nullcontext()
        for task in range(2):
            data = torch.randn(6, 4, dtype=self._dtype) + task
            with around:
                features = self._learn_model(data)
                if self.kind == 'tensor and module hooks':
                    features.register_hook(lambda gradient: self.notes.append('tensor'))
                value = self._learn_model.head_value[task](features)
            step.publish('embeddings/obs', features, task_id=task)
            step.publish('logits/value', value, task_id=task)
            parts[task] = {'square': value.float().square().mean(), 'size': 0.1 * value.float().abs().mean()}
            losses[task] = sum(parts[task].values())
        step.forward_end(losses, parts)
        return losses

    def _forward_learn(self, step: Any) -> dict[str, float]:
        seen: list[Tensor] = []

        def evaluate() -> Tensor:
            self._optimizer.zero_grad()
            losses = self._losses(step)
            total = sum(losses.values())
            for part in [0.5 * total, 0.5 * total] if self.kind == 'accumulated' else [total]:
                self._scaler.scale(part).backward(retain_graph=self.kind == 'accumulated')
            seen.extend(loss.detach() for loss in losses.values())
            step.backward_end()
            self._scaler.unscale_(self._optimizer)
            clip_grad_norm_(self._learn_model.parameters(), 0.5)
            return total

        if self.kind == 'closure':
            self._optimizer.step(evaluate)
        else:
            evaluate()
            self._scaler.step(self._optimizer)
            self._scaler.update()
        step.step_end()
        return {str(index): float(loss) for index, loss in enumerate(seen)}


class Publishing(Policy):
    """Publishes into the step that the monitor hands it."""

    num_tasks = 2

    def __init__(self, kind: str, dtype: str) -> None:
        super().__init__(kind, dtype)
        self.learner_step = INERT

    def _forward_learn(self, data: Any) -> dict[str, float]:
        return super()._forward_learn(self.learner_step)


def train(kind: str, dtype: str, mode: str | None, preset: str = 'basic') -> tuple[dict[str, Any], int]:
    """Train some steps; return everything that is left behind, and how many records there are (mode None: none).

    Arguments:
        kind: one of :data:`KINDS`.
        dtype: one of :data:`DTYPES`.
        mode: one of :data:`MODES`; None trains without a monitor.
        preset: one of :data:`PRESETS`.
    """
    if kind == 'compiled':
        torch._dynamo.reset()
    policy = (Publishing if mode == 'publishing' else Policy)(kind, dtype)
    config = {
        'monitor_norm_freq': 1, 'preset': preset, 'budget': None, 'history': False, 'conflict_by_loss': preset == 'full'
    }
    outputs, records = [], 0
    if mode == 'loop':
        scaler = policy._scaler if kind == 'scaled' else None
        with Monitor(policy._learn_model, config, optimizer=policy._optimizer, scaler=scaler, num_tasks=2) as monitor:
            for _ in range(STEPS):
                outputs.append(policy._forward_learn(monitor.learner_step))
        records = len(monitor.take_records())
    elif mode is None:
        outputs = [policy._forward_learn(INERT) for _ in range(STEPS)]
    else:
        attachment = attach(policy, config)
        outputs = [policy._forward_learn(INERT) for _ in range(STEPS)]
        attachment.detach()
        records = len(attachment.monitor.take_records())
    model = policy._learn_model
    left = {
        'outputs': outputs,
        'weights and buffers': dict(model.state_dict()),
        'gradients': {name: parameter.grad for name, parameter in model.named_parameters()},
        'optimizer': policy._optimizer.state_dict(),
        'scaler': policy._scaler.state_dict(),
        'hooks': policy.notes,
        'hooks that are left': [
            (len(parameter._backward_hooks or ()), len(parameter._post_accumulate_grad_hooks or ()))
            for parameter in model.parameters()
        ],
        'flags': [module.training for module in model.modules()] + [p.requires_grad for p in model.parameters()],
        'torch': torch.get_rng_state(),
        'numpy': np.random.get_state(),
        'python': random.getstate(),
    }
    return left, records


@functools.cache
def plain(kind: str, dtype: str) -> dict[str, Any]:
    """Return what is left behind without a monitor."""
    return train(kind, dtype, None)[0]
