"""Stand-in for the multi-task MuZero on LightZero's git main; see ``lightzero_main_standin.py``."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.integrations.lightzero.main_standin import EMBED, StandinPolicy


class Prediction(nn.Module):
    def __init__(self, actions: int, support: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList([nn.Conv2d(EMBED, EMBED, 3, padding=1)])
        self.conv1x1_value, self.conv1x1_policy = nn.Conv2d(EMBED, 2, 1), nn.Conv2d(EMBED, 2, 1)
        self.norm_value, self.norm_policy = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
        self.fc_value, self.fc_policy = nn.LazyLinear(support), nn.LazyLinear(actions)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.relu(self.resblocks[0](x))
        value = self.fc_value(self.norm_value(self.conv1x1_value(x)).flatten(1))
        return self.fc_policy(self.norm_policy(self.conv1x1_policy(x)).flatten(1)), value


class Dynamics(nn.Module):
    def __init__(self, support: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(EMBED + 1, EMBED, 3, padding=1)
        self.conv1x1_reward, self.norm_reward = nn.Conv2d(EMBED, 2, 1), nn.BatchNorm2d(2)
        self.fc_reward_head = nn.LazyLinear(support)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        state = torch.relu(self.conv(x))
        return state, self.fc_reward_head(self.norm_reward(self.conv1x1_reward(state)).flatten(1))


class MuZeroMTModel(nn.Module):
    """Shared encoder and dynamics, one prediction network per task."""

    def __init__(self, shape: tuple[int, ...], actions: int, support: int, task_num: int) -> None:
        super().__init__()
        self.task_num = task_num
        self.representation_network = nn.Sequential(nn.Conv2d(shape[0], EMBED, 3, padding=1), nn.BatchNorm2d(EMBED))
        self.dynamics_network = Dynamics(support)
        self.prediction_networks = nn.ModuleList(Prediction(actions, support) for _ in range(task_num))
        self.projection_network = nn.Sequential(nn.LazyLinear(4), nn.BatchNorm1d(4))
        self.prediction_head = nn.Linear(4, 4)
        with torch.no_grad():
            images = torch.zeros(2, *shape)
            state = self.initial_inference(images).latent_state
            for network in self.prediction_networks:
                network(state)
            self.project(self.recurrent_inference(state, torch.zeros(2, 1)).latent_state)

    def initial_inference(self, obs: Tensor, task_id: int = 0) -> SimpleNamespace:
        state = self.representation_network(obs)
        policy, value = self.prediction_networks[task_id](state)
        return SimpleNamespace(value=value, reward=[0.0] * len(obs), policy_logits=policy, latent_state=state)

    def recurrent_inference(self, latent_state: Tensor, action: Tensor, task_id: int = 0) -> SimpleNamespace:
        plane = action.float().view(-1, 1, 1, 1).expand(-1, 1, *latent_state.shape[2:])
        state, reward = self.dynamics_network(torch.cat([latent_state, plane], dim=1))
        policy, value = self.prediction_networks[task_id](state)
        return SimpleNamespace(value=value, reward=reward, policy_logits=policy, latent_state=state)

    def project(self, state: Tensor, with_grad: bool = True) -> Tensor:
        projected = self.projection_network(state.flatten(1))
        return self.prediction_head(projected) if with_grad else projected.detach()


class MuZeroMTPolicy(StandinPolicy):
    def __init__(self, model: MuZeroMTModel, shape: tuple[int, ...], **options: Any) -> None:
        super().__init__(model, **options)
        self._learn_model, self._shape = model, shape
        self._optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def _forward_learn(self, data: Any) -> dict[str, float]:
        self._learn_model.train()
        total: Any = 0.0
        channels = self._shape[0]
        for current, target, task_id in data:
            observations = torch.from_numpy(current[0])
            actions, mask = torch.from_numpy(current[1]).unsqueeze(-1), torch.from_numpy(current[2])
            rewards, values = torch.from_numpy(target[0]), torch.from_numpy(target[1])
            out = self._learn_model.initial_inference(observations[:, :channels], task_id=task_id)
            loss = (out.value.logsumexp(-1) - values[:, 0]) ** 2 - F.log_softmax(out.policy_logits, -1).mean(-1)
            for step in range(actions.shape[1]):
                # The unroll is not told the task: every task's later steps go through the first prediction network.
                out = self._learn_model.recurrent_inference(out.latent_state, actions[:, step])
                seen = observations[:, (step + 1) * channels : (step + 2) * channels]
                wanted = self._learn_model.initial_inference(seen, task_id=task_id).latent_state
                ours, theirs = self._learn_model.project(out.latent_state), self._learn_model.project(wanted, False)
                loss = loss - F.cosine_similarity(ours, theirs) * mask[:, step]
                loss = loss + (out.value.logsumexp(-1) - values[:, step + 1]) ** 2
                loss = loss + (out.reward.logsumexp(-1) - rewards[:, step]) ** 2
                loss = loss - F.log_softmax(out.policy_logits, -1).mean(-1)
            total += loss.mean()
        self._optimizer.zero_grad()
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self._learn_model.parameters(), self._cfg.grad_clip_value)
        if self._cfg.multi_gpu:
            self.sync_gradients(self._learn_model)
        self._optimizer.step()
        return {'total_grad_norm_before_clip_wm': norm.item(), 'weighted_total_loss': total.item()}
