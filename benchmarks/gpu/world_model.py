"""A plain model with the parameter tensors of multi-task UniZero at ScaleZero's size, and one learner step of it.

It stands in for the real policy where LightZero cannot be installed. Every parameter has the shape that it has there
(``tests/unizero/test_plain_world_model.py``), and the same signals are published; the losses are simpler.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ding_normmon.core.step import INERT, InertLearnerStep

__all__ = ['Batch', 'Learner', 'Size', 'WorldModel', 'make_batch']


@dataclass(frozen=True)
class Size:
    """How large everything is; the defaults are ScaleZero's."""

    tasks: int
    embed: int = 768
    layers: int = 4
    heads: int = 8
    batch: int = 64
    steps: int = 5
    image: int = 64
    actions: int = 18
    support: int = 101


@dataclass(frozen=True)
class Batch:
    """One task's batch: observations (B, T + 1, 3, H, W), actions (B, T), mask (B, T), targets (B, T)."""

    observations: Tensor
    actions: Tensor
    mask: Tensor
    targets: dict[str, Tensor]


def make_batch(size: Size, device: torch.device, seed: int) -> Batch:
    """Return a random batch, a tenth of it padding; the same on every device."""
    generator = torch.Generator().manual_seed(seed)

    def draw(high: int) -> Tensor:
        return torch.randint(0, high, (size.batch, size.steps), generator=generator).to(device)

    mask = torch.ones(size.batch, size.steps, dtype=torch.bool)
    mask[: -(-size.batch // 5), (size.steps + 1) // 2 :] = False
    shape = (size.batch, size.steps + 1, 3, size.image, size.image)
    return Batch(
        torch.rand(shape, generator=generator).to(device),
        draw(size.actions),
        mask.to(device),
        {'value': draw(size.support), 'reward': draw(size.support), 'policy': draw(size.actions)},
    )


class _ResidualBlock(nn.Module):
    def __init__(self, channels: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out))
        self.conv2 = nn.Sequential(nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out))
        if stride > 1:
            self.conv3 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.act = nn.GELU(approximate='tanh')

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.conv3(x) if hasattr(self, 'conv3') else x
        return self.act(self.conv2(self.act(self.conv1(x))) + shortcut)


class _Encoder(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        half = size.image // 2
        self.conv1 = nn.Conv2d(3, 32, 3, 2, 1, bias=False)
        self.norm1 = nn.LayerNorm([32, half, half])
        self.blocks = nn.Sequential(
            _ResidualBlock(32, 32),
            _ResidualBlock(32, 64, stride=2),
            _ResidualBlock(64, 64),
            nn.AvgPool2d(3, 2, 1),
            _ResidualBlock(64, 64),
            _ResidualBlock(64, 64),
        )
        self.last_linear = nn.Linear(64 * (size.image // 8) ** 2, size.embed, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.last_linear(self.blocks(F.gelu(self.norm1(self.conv1(images)))).flatten(1))


class _Block(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.heads = size.heads
        self.ln1, self.ln2 = nn.LayerNorm(size.embed), nn.LayerNorm(size.embed)
        self.key, self.query, self.value, self.proj = (nn.Linear(size.embed, size.embed) for _ in range(4))
        wide = 4 * size.embed
        self.mlp = nn.Sequential(nn.Linear(size.embed, wide), nn.GELU(), nn.Linear(wide, size.embed))

    def forward(self, x: Tensor) -> Tensor:
        batch, length, embed = x.shape
        normed = self.ln1(x)
        query, key, value = (
            linear(normed).view(batch, length, self.heads, -1).transpose(1, 2)
            for linear in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.proj(mixed.transpose(1, 2).reshape(batch, length, embed))
        return x + self.mlp(self.ln2(x))


class WorldModel(nn.Module):
    """Encoder, transformer and four heads per task, with UniZero's attribute names."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.tokenizer = nn.ModuleDict({'encoder': _Encoder(size)})
        self.transformer = nn.Sequential(*(_Block(size) for _ in range(size.layers)), nn.LayerNorm(size.embed))
        self.pos_emb = nn.Embedding(2 * size.steps, size.embed)
        self.act_embedding_table = nn.Embedding(size.actions, size.embed)
        self.task_embedding = nn.Embedding(size.tasks, size.embed)

        def heads(out: int) -> nn.ModuleList:
            return nn.ModuleList(
                nn.Sequential(nn.Linear(size.embed, size.embed), nn.GELU(), nn.Linear(size.embed, out))
                for _ in range(size.tasks)
            )

        self.head_value, self.head_rewards = heads(size.support), heads(size.support)
        self.head_policy, self.head_observations = heads(size.actions), heads(size.embed)

    def forward(self, batch: Batch, task_id: int) -> dict[str, Tensor]:
        """Return the published signals of one task and the predicted next latent states (B, T, E)."""
        size, steps = batch.actions.shape
        images = batch.observations[:, :steps].flatten(0, 1).to(self.pos_emb.weight.dtype)
        latent = self.tokenizer['encoder'](images)
        pairs = torch.stack([latent.view(size, steps, -1), self.act_embedding_table(batch.actions)], dim=2)
        tokens = pairs.flatten(1, 2) + self.pos_emb.weight + self.task_embedding.weight[task_id]
        x = self.transformer(tokens)
        return {
            'embeddings/obs': latent[:, None],
            'x_token': x,
            'logits/value': self.head_value[task_id](x[:, 0::2]),
            'logits/policy': self.head_policy[task_id](x[:, 0::2]),
            'logits/reward': self.head_rewards[task_id](x[:, 1::2]),
            'next': self.head_observations[task_id](x[:, 1::2]),
        }


class Learner:
    """The learner step of all tasks: forward passes, one backward pass, clipping, AdamW, target network.

    Arguments:
        size: of model and batches.
        device: where they are.
        dtype: of the weights.
        autocast: dtype of the forward pass, None for that of the weights.
        scaled: whether the loss is scaled by a ``GradScaler``.
        cycle: learner steps whose gradients are accumulated.
        backend: compiles the model; None for none.
        observe: called with (task id, signals, losses, mask) of every forward pass.
    """

    def __init__(
        self,
        size: Size,
        device: torch.device,
        *,
        dtype: torch.dtype = torch.float32,
        autocast: torch.dtype | None = None,
        scaled: bool = False,
        cycle: int = 1,
        backend: str | None = None,
        observe: Callable[[int, dict[str, Tensor], dict[str, Tensor], Tensor], None] | None = None,
    ) -> None:
        torch.manual_seed(0)
        self.size, self.device, self.cycle, self.observe = size, device, cycle, observe
        self.model = WorldModel(size).to(device, dtype)
        self.target = copy.deepcopy(self.model).requires_grad_(False)
        self.call: Any = self.model if backend is None else torch.compile(self.model, backend=backend)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self.scaler = torch.amp.GradScaler(device.type, enabled=scaled, init_scale=2.0**10)
        self.batches = [make_batch(size, device, seed) for seed in range(size.tasks)]
        self._autocast = autocast

    def _casting(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._autocast is None else torch.autocast(self.device.type, self._autocast)

    def step(self, step: InertLearnerStep = INERT, number: int = 0) -> dict[int, Tensor]:
        """Do one learner step and return the losses by task; ``number`` counts within a cycle of accumulation."""
        if number % self.cycle == 0:
            self.optimizer.zero_grad(set_to_none=True)
        losses: dict[int, Tensor] = {}
        for task_id, batch in enumerate(self.batches):
            with self._casting():
                signals = self.call(batch, task_id)
                terms = self._losses(signals, batch)
            self._publish(step, task_id, signals, terms, batch.mask)
            losses[task_id] = torch.stack(list(terms.values())).sum() / (len(self.batches) * self.cycle)
        step.forward_end(losses)
        self.scaler.scale(torch.stack(list(losses.values())).sum()).backward()
        if (number + 1) % self.cycle:
            return losses
        self.scaler.unscale_(self.optimizer)
        step.backward_end()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        step.clipped(norm, 1.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        step.step_end()
        with torch.no_grad():
            torch._foreach_lerp_(list(self.target.parameters()), list(self.model.parameters()), 0.05)
        return losses

    def _losses(self, signals: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        with torch.no_grad():
            images = batch.observations[:, 1:].flatten(0, 1).to(self.target.pos_emb.weight.dtype)
            following = self.target.tokenizer['encoder'](images).view_as(signals['next'])
        weight = batch.mask / batch.mask.sum()
        terms = {
            name: (F.cross_entropy(signals[f'logits/{name}'].flatten(0, 1), target.flatten(), reduction='none'))
            for name, target in batch.targets.items()
        }
        terms['obs'] = (signals['next'] - following).square().mean(-1).flatten()
        return {name: (term * weight.flatten()).sum() for name, term in terms.items()}

    def _publish(
        self, step: InertLearnerStep, task_id: int, signals: dict[str, Tensor], terms: dict[str, Tensor], mask: Tensor
    ) -> None:
        for name, tensor in signals.items():
            if name != 'next':
                step.publish(name, tensor, task_id=task_id, mask=mask)
        for name, term in terms.items():
            step.publish_loss(f'noreduce_{name}_loss', term, task_id)
        if self.observe is not None:
            self.observe(task_id, signals, terms, mask)
