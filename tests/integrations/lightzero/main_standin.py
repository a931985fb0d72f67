"""Stand-ins for the multi-task policies on LightZero's git main, which no package contains.

They were written here to have the structure that matters to whoever looks from outside, and nothing else: names of
attributes, what is called with what, what is registered twice, what is left over, and the order of a learner step. The
same tests run on the real policies where ``LIGHTZERO_SRC`` names a checkout.
"""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EMBED = 8


class Encoder(nn.Module):
    """An encoder that is not told the task."""

    def __init__(self, observation: int) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(observation, EMBED), nn.LayerNorm(EMBED)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(torch.tanh(self.linear(x)))


class TaskEncoder(nn.Module):
    """One encoder with a part for every task, as observations of different sizes need it."""

    def __init__(self, observations: list[int]) -> None:
        super().__init__()
        self.fc_representation = nn.ModuleList(nn.Linear(observation, EMBED) for observation in observations)
        self.norm = nn.LayerNorm(EMBED)

    def forward(self, x: Tensor, task_id: int) -> Tensor:
        return self.norm(torch.tanh(self.fc_representation[task_id](x)))


class Tokenizer(nn.Module):
    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def encode_to_obs_embeddings(self, x: Tensor, task_id: int) -> Tensor:
        x = x.reshape(-1, x.shape[-1])
        if isinstance(self.encoder, TaskEncoder):
            return self.encoder(x, task_id=task_id).unsqueeze(1)
        # One shared encoder in a list of length 1.
        return self.encoder[0](x).unsqueeze(1)


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix, self.ln_f = nn.Linear(EMBED, EMBED), nn.LayerNorm(EMBED)

    def forward(self, sequences: Tensor, task_id: int = 0) -> Tensor:
        return self.ln_f(sequences + torch.cumsum(self.mix(sequences), dim=1))


class Head(nn.Module):
    """Puts out one vector per time step, from the observation or from the action token."""

    def __init__(self, outputs: int, first_token: int) -> None:
        super().__init__()
        self.head_module = nn.Sequential(nn.Linear(EMBED, EMBED), nn.GELU(), nn.Linear(EMBED, outputs))
        self.first_token = first_token

    def forward(self, x: Tensor) -> Tensor:
        return self.head_module(x[:, self.first_token :: 2])


class WorldModel(nn.Module):
    """What the multi-task world model inherits from: a single-task one, whose heads it never uses."""

    def __init__(self, tokenizer: Tokenizer, actions: int, support: int) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.pos_emb = nn.Embedding(64, EMBED)
        self.transformer = Transformer()
        self.act_embedding_table = nn.Embedding(16, EMBED)
        self.head_policy, self.head_value = Head(actions, 0), Head(support, 0)
        self.head_rewards, self.head_observations = Head(support, 1), Head(EMBED, 1)
        self.head_dict = self._head_dict()

    def _head_dict(self) -> nn.ModuleDict:
        return nn.ModuleDict({name: child for name, child in self.named_children() if name.startswith('head_')})


class WorldModelMT(WorldModel):
    def __init__(
        self, tokenizer: Tokenizer, actions: int, support: int, task_num: int, share_head: bool, continuous: bool
    ) -> None:
        super().__init__(tokenizer, actions, support)
        self.task_num, self.share_head, self.do_analysis = task_num, share_head, False
        self.continuous_action_space = continuous
        outputs = 2 * actions if continuous else actions
        heads = 1 if share_head else task_num
        self.head_policy_multi_task = nn.ModuleList(Head(outputs, 0) for _ in range(heads))
        self.head_value_multi_task = nn.ModuleList(Head(support, 0) for _ in range(heads))
        self.head_rewards_multi_task = nn.ModuleList(Head(support, 1) for _ in range(heads))
        self.head_observations_multi_task = nn.ModuleList(Head(EMBED, 1) for _ in range(heads))
        if continuous:
            self.act_embedding_table = nn.ModuleList(nn.Linear(actions, EMBED, bias=False) for _ in range(task_num))
        # The per-task heads are listed a second time, under a name that comes first.
        self.head_dict = nn.ModuleDict(
            {name: child for name, child in self.named_children() if name.endswith('_multi_task')}
        )

    def forward(self, embeddings: Tensor, actions: Tensor, task_id: int) -> SimpleNamespace:
        batch, steps = actions.shape[:2]
        table = self.act_embedding_table
        act = table[task_id](actions) if isinstance(table, nn.ModuleList) else table(actions)
        tokens = torch.stack([embeddings.reshape(batch, steps, EMBED), act], dim=2).reshape(batch, 2 * steps, EMBED)
        x = self.transformer(tokens + self.pos_emb.weight[: 2 * steps], task_id=task_id)
        head = 0 if self.share_head else task_id
        return SimpleNamespace(
            observations=self.head_observations_multi_task[head](x),
            rewards=self.head_rewards_multi_task[head](x),
            policy=self.head_policy_multi_task[head](x),
            value=self.head_value_multi_task[head](x),
        )

    def compute_loss(
        self, batch: Any, target_tokenizer: Any = None, handle: Any = None, task_id: int = 0, **kwargs: Any
    ) -> SimpleNamespace:
        embeddings = self.tokenizer.encode_to_obs_embeddings(batch['observations'], task_id=task_id)
        if self.do_analysis:
            with torch.no_grad():
                self.tokenizer.encode_to_obs_embeddings(batch['observations'] * 3, task_id=task_id)
        out = self.forward(embeddings, batch['actions'], task_id)
        if self.do_analysis:
            with torch.no_grad():
                self.forward(embeddings * 3, batch['actions'], task_id)
        with torch.no_grad():
            target = target_tokenizer.encode_to_obs_embeddings(batch['observations'], task_id=task_id)
        mask = batch['mask_padding']
        wanted = target.reshape(*mask.shape, EMBED)
        losses = {
            'loss_obs': ((out.observations[:, :-1] - wanted[:, 1:]) ** 2).mean(-1)[mask[:, 1:]].mean(),
            'loss_rewards': (out.rewards.logsumexp(-1) - batch['rewards']).square()[mask].mean(),
            'loss_policy': F.log_softmax(out.policy, dim=-1).mean(-1).neg()[mask].mean(),
            'loss_value': (out.value.logsumexp(-1) - batch['target_value']).square()[mask].mean(),
        }
        total = 10 * losses['loss_obs'] + losses['loss_rewards'] + losses['loss_policy'] + 0.5 * losses['loss_value']
        found = {**losses, 'obs_embeddings': embeddings.detach(), 'logits_value': out.value.detach()}
        return SimpleNamespace(loss_total=total, intermediate_losses=found)


class UniZeroMTModel(nn.Module):
    def __init__(self, encoder: nn.Module, **options: Any) -> None:
        super().__init__()
        self.representation_network = encoder
        self.tokenizer = Tokenizer(encoder)
        self.world_model = WorldModelMT(self.tokenizer, **options)


class StandinPolicy:
    """What both kinds of stand-in have in common."""

    def __init__(self, model: nn.Module, task_id: int, task_num: int, **config: Any) -> None:
        self._cfg = SimpleNamespace(multi_gpu=False, grad_clip_value=0.5, use_moco=False, encoder_clip=0.0, **config)
        self._target_model = copy.deepcopy(model)
        self.task_id, self.task_num_for_current_rank = task_id, task_num
        self._model = model
        self.sync_calls = 0

    def sync_gradients(self, model: nn.Module) -> None:
        """Average over the ranks every gradient that is there."""
        self.sync_calls += 1
        if not torch.distributed.is_initialized():
            return
        for parameter in model.parameters():
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            torch.distributed.all_reduce(gradient)
            gradient /= torch.distributed.get_world_size()
            if parameter.grad is not None:
                parameter.grad.copy_(gradient)


class UniZeroMTPolicy(StandinPolicy):
    """The order of a learner step: losses, backward, encoder clip, gradient clip, averaging over the ranks, step."""

    def __init__(self, model: nn.Module, **options: Any) -> None:
        super().__init__(model, **options)
        self._optimizer_world_model = torch.optim.AdamW(model.world_model.parameters(), lr=1e-3)
        self.log_alpha = nn.Parameter(torch.zeros(1))
        self.alpha_optimizer = torch.optim.Adam([self.log_alpha], lr=1e-3)
        # Compiled, and never called as a whole.
        self._model = self._learn_model = torch.compile(model)

    def _forward_learn(self, data: Any, train_iter: int | None = None, ignore_grad: bool = False) -> dict[str, float]:
        self._learn_model.train()
        output: dict[str, float] = {}
        total: Any = 0.0
        for position, (current, target, task_id) in enumerate(data):
            mask = next(torch.from_numpy(entry) for entry in current if entry.dtype == 'float32' and entry.ndim == 2
                        and set(entry.ravel().tolist()) <= {0.0, 1.0}) == 1.0  # fmt: skip
            batch_size, steps = mask.shape
            observations = torch.from_numpy(current[0]).reshape(batch_size, steps, -1)
            batch = {
                'observations': observations[:, :-1],
                'actions': torch.from_numpy(current[1]),
                'mask_padding': mask[:, :-1],
                'rewards': torch.from_numpy(target[0])[:, :-1],
                'target_value': torch.from_numpy(target[1])[:, :-1],
            }
            losses = self._learn_model.world_model.compute_loss(
                batch, self._target_model.world_model.tokenizer, None, task_id=task_id
            )
            total += losses.loss_total
            # Losses are named by position in the batch.
            for name, loss in (('obs', 'loss_obs'), ('value', 'loss_value')):
                output[f'noreduce_{name}_loss_task{self.task_id + position}'] = losses.intermediate_losses[loss].item()
        self._optimizer_world_model.zero_grad()
        total.backward()
        with torch.no_grad():
            largest = losses.intermediate_losses['obs_embeddings'].norm(dim=-1).max()
            if 0 < self._cfg.encoder_clip < largest:
                for parameter in self._model.world_model.tokenizer.encoder.parameters():
                    parameter.mul_(self._cfg.encoder_clip / largest)
        norm = torch.nn.utils.clip_grad_norm_(self._learn_model.world_model.parameters(), self._cfg.grad_clip_value)
        if ignore_grad:
            self._optimizer_world_model.zero_grad()
        if self._cfg.multi_gpu:
            self.sync_gradients(self._learn_model)
        self._optimizer_world_model.step()
        return {**output, 'total_grad_norm_before_clip_wm': norm.item(), 'weighted_total_loss': total.item()}
