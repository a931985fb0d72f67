"""Figures of one learner step in float64 on the host, from copies of the step's own tensors; no line of the monitor."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ['Probe', 'difference']

_GROUPS = {
    'head_value': 'head_value',
    'head_rewards': 'head_reward',
    'head_policy': 'head_policy',
    'head_observations': 'head_observation',
    'task_embedding': 'task_embedding',
    'act_embedding_table': 'action_embedding',
    'pos_emb': 'position_embedding',
    'transformer': 'transformer',
    'tokenizer': 'encoder',
}
_OF_NORMS = {'x_token': ('norm/x_token', ''), 'embeddings/obs': ('embeddings/obs', 'norm_')}
_SHARED = ('encoder', 'transformer')


def _group(path: str) -> str:
    first, second, *_ = [*path.split('.'), '']
    name = _GROUPS[first]
    return f'{name}_task{second}' if first.startswith('head_') else name


def _host(tensor: Tensor) -> Tensor:
    return tensor.detach().to('cpu', torch.float64)


def _norm(tensors: Iterable[Tensor]) -> float:
    return math.sqrt(sum(float(tensor.square().sum()) for tensor in tensors))


class Probe:
    """Stands between a learner and a step of the monitor: copies everything to the host, then hands it on.

    Arguments:
        step: of the monitor.
        model: that is trained.
        per_task: whether each task's loss is differentiated too, which takes a second backward pass.
    """

    def __init__(self, step: Any, model: nn.Module, per_task: bool) -> None:
        self._step, self._model, self._per_task = step, model, per_task
        self.figures: dict[str, float] = {}
        self._signals: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}
        self._tasks: dict[int, dict[str, list[Tensor]]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._step, name)

    def _by_group(self, gradients: bool) -> dict[str, list[Tensor]]:
        found: dict[str, list[Tensor]] = {}
        for path, parameter in self._model.named_parameters():
            tensor = parameter.grad if gradients else parameter
            if tensor is not None:
                found.setdefault(_group(path), []).append(_host(tensor))
        return found

    def publish(self, name: str, tensor: Tensor, task_id: int, mask: Tensor) -> None:
        self._signals[name, task_id] = _host(tensor), mask.cpu()
        self._step.publish(name, tensor, task_id=task_id, mask=mask)

    def publish_loss(self, name: str, value: Tensor, task_id: int) -> None:
        self.figures[f'{name}_task{task_id}'] = float(_host(value))
        self._step.publish_loss(name, value, task_id)

    def forward_end(self, losses: dict[int, Tensor]) -> None:
        self._before = self._by_group(gradients=False)
        named = {path: p for path, p in self._model.named_parameters() if _group(path) in _SHARED}
        for task_id, loss in losses.items() if self._per_task else ():
            gradients = torch.autograd.grad(loss, list(named.values()), retain_graph=True, allow_unused=True)
            for path, gradient in zip(named, gradients, strict=True):
                if gradient is not None:
                    self._tasks.setdefault(task_id, {}).setdefault(_group(path), []).append(_host(gradient).flatten())
        self._step.forward_end(losses)

    def backward_end(self, scale: Tensor | float = 1.0) -> None:
        self._norms('grad', self._by_group(gradients=True))
        self._step.backward_end(scale)

    def step_end(self) -> None:
        after = self._by_group(gradients=False)
        for group, tensors in self._before.items():
            moved = _norm(new - old for new, old in zip(after[group], tensors, strict=True))
            self.figures[f'update/{group}/relative'] = moved / _norm(tensors)
        self._step.step_end()

    def clipped(self, norm: Tensor, max_norm: float) -> None:
        self.figures['clip/model/coefficient'] = min(1.0, max_norm / (float(_host(norm)) + 1e-6))
        self._step.clipped(norm, max_norm)

    def finish(self) -> dict[str, float]:
        """Return what the record of this step has to say."""
        self._norms('norm', self._before)
        for group, tensors in self._before.items():
            count = sum(tensor.numel() for tensor in tensors)
            self.figures[f'plasticity/{group}/weight_rms'] = _norm(tensors) / math.sqrt(count)
        names = {name for name, _ in self._signals}
        for name in names:
            tasks = {task: self._valid(*pair) for (of, task), pair in self._signals.items() if of == name}
            for suffix, valid in [('', torch.cat(list(tasks.values()))), *((f'_task{t}', v) for t, v in tasks.items())]:
                self._statistics(name, suffix, valid)
        self._conflict()
        return self.figures

    def _norms(self, family: str, groups: dict[str, list[Tensor]]) -> None:
        for group, tensors in groups.items():
            self.figures[f'{family}/{group}/_total_norm'] = _norm(tensors)
        self.figures[f'{family}/model/_total_norm'] = _norm(t for tensors in groups.values() for t in tensors)

    @staticmethod
    def _valid(tensor: Tensor, mask: Tensor) -> Tensor:
        """Return the valid vectors (N, E): each step has as many as the tensor has per entry of the mask."""
        return tensor.reshape(mask.numel(), -1, tensor.shape[-1])[mask.flatten()].flatten(0, 1)

    def _statistics(self, name: str, suffix: str, vectors: Tensor) -> None:
        family, prefix = _OF_NORMS.get(name, (name, ''))
        values = vectors.norm(dim=-1) if name in _OF_NORMS else vectors.flatten()
        found = {'mean': values.mean(), 'std': values.std(), 'max': values.max(), 'min': values.min()}
        if name in _OF_NORMS:
            sigma = torch.linalg.svdvals(vectors)
            share = sigma / sigma.sum()
            share = share[share > 1e-12]
            self.figures[f'plasticity/{name}{suffix}/effective_rank'] = float(torch.exp(-(share * share.log()).sum()))
            self.figures[f'plasticity/{name}{suffix}/stable_rank'] = float(sigma.square().sum() / sigma.max() ** 2)
        else:
            found['abs_max'] = values.abs().max()
        for statistic, value in found.items():
            self.figures[f'{family}{suffix}/{prefix}{statistic}'] = float(value)

    def _conflict(self) -> None:
        for group in _SHARED:
            vectors = [torch.cat(groups[group]) for groups in self._tasks.values() if group in groups]
            if len(vectors) < 2:
                continue
            norms = torch.stack([vector.norm() for vector in vectors])
            units = torch.stack([vector / norm for vector, norm in zip(vectors, norms, strict=True)])
            cosines = units @ units.T
            above = cosines[tuple(torch.triu_indices(len(vectors), len(vectors), 1))]
            self.figures[f'conflict/{group}/mean_cosine'] = float(above.mean())
            self.figures[f'conflict/{group}/min_cosine'] = float(above.min())
            for task_id, norm in enumerate(norms):
                self.figures[f'conflict/{group}_task{task_id}/share'] = float(norm / norms.sum())


def difference(name: str, found: float, expected: float) -> float:
    """Return how far a figure is off: relative, of a cosine and of a mean around zero absolute."""
    if not math.isfinite(found):
        return math.inf
    near_zero = 'cosine' in name or name.endswith('/mean')
    return abs(found - expected) / (max(1.0, abs(expected)) if near_zero else max(abs(expected), 1e-30))
