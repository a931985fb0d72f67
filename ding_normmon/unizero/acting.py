"""Choosing actions by tree search, for the environments of one task in one mode (collect or eval)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from easydict import EasyDict
from lzero.mcts import UniZeroMCTSCtree
from lzero.policy import InverseScalarTransform, mz_network_output_unpack, select_action
from numpy.typing import NDArray
from torch import Tensor

from ding_normmon.unizero.model import BoundModel

__all__ = ['TaskActor']


class TaskActor:
    """Chooses actions for the environments of one task and keeps each one's last observation and action.

    Environments are independent: one that starts an episode, or is left out of a call, does not affect the others.

    Arguments:
        model: the model, bound to the task and a cache of its own.
        cfg: configuration of the task alone.
        explore: True while collecting: adds noise at the root and samples actions by visit count.
    """

    def __init__(self, model: BoundModel, cfg: EasyDict, explore: bool) -> None:
        self.model = model
        self.explore = explore
        self._cfg = cfg
        self._search = UniZeroMCTSCtree(cfg)
        self._inverse_transform = InverseScalarTransform(
            cfg.model.support_scale, cfg.device, cfg.model.categorical_distribution
        )
        self._last_observations: dict[int, Tensor] = {}
        self._last_actions: dict[int, int] = {}

    def reset(self, environment_ids: Iterable[int] | None = None) -> None:
        """Forget environments whose episode is over; None forgets all of them."""
        if environment_ids is None:
            environment_ids = [*self._last_actions, *self.model.cache.contexts]
        for environment_id in list(environment_ids):
            self._last_observations.pop(int(environment_id), None)
            self._last_actions.pop(int(environment_id), None)
            self.model.cache.forget_environment(int(environment_id))

    @torch.no_grad()
    def act(
        self,
        observations: Tensor,
        action_mask: Sequence[NDArray[Any]],
        to_play: Sequence[int],
        environment_ids: Sequence[int],
        timestep: Sequence[int],
        temperature: float = 1.0,
        epsilon: float = 0.0,
    ) -> dict[int, dict[str, Any]]:
        """Choose one action per environment.

        Arguments:
            observations: (n, *shape).
            action_mask: n arrays (A,), 1 if the action is legal.
            to_play: n players, -1 in single-player environments.
            environment_ids: n ids.
            timestep: n numbers of steps taken so far in each episode.
            temperature: temperature of the visit counts; used only when exploring.
            epsilon: probability of a random action; used only with ``cfg.eps.eps_greedy_exploration_in_collect``.

        Returns:
            LightZero's dictionary per environment id: ``action``, ``visit_count_distributions``, ``searched_value`` ...

        Raises:
            ValueError: the arguments differ in length.
        """
        count = len(observations)
        ids = [int(environment_id) for environment_id in environment_ids]
        if not len(action_mask) == len(to_play) == len(ids) == len(timestep) == count:
            raise ValueError(
                f'{count} observations, but {len(action_mask)} action masks, {len(to_play)} players, {len(ids)} '
                f'environment ids and {len(timestep)} time steps'
            )
        self.model.eval()
        observations = observations.to(self._cfg.device)
        last_actions = [self._last_actions.get(environment_id, -1) for environment_id in ids]
        last_observations = torch.stack(
            [
                self._last_observations.get(environment_id, observation)
                for environment_id, observation in zip(ids, observations, strict=True)
            ]
        )
        output = self.model.initial_inference(last_observations, last_actions, observations, timestep, ids)
        latent_states, rewards, value_logits, policy_logits = mz_network_output_unpack(output)
        values = self._inverse_transform(value_logits).cpu().numpy()  # (n, 1)
        policy_logits = policy_logits.cpu().numpy().tolist()

        legal_actions = [np.flatnonzero(np.asarray(mask) == 1).tolist() for mask in action_mask]
        roots = self._search.roots(count, legal_actions)
        if self.explore:
            noises = [
                np.random.dirichlet([self._cfg.root_dirichlet_alpha] * len(legal)).astype(np.float32).tolist()
                for legal in legal_actions
            ]
            roots.prepare(self._cfg.root_noise_weight, noises, rewards, policy_logits, list(to_play))
        else:
            roots.prepare_no_noise(rewards, policy_logits, list(to_play))
        self._search.search(roots, self.model, latent_states.cpu().numpy(), list(to_play), timestep)

        decisions: dict[int, dict[str, Any]] = {}
        eps_greedy = self.explore and self._cfg.eps.eps_greedy_exploration_in_collect
        for row, (environment_id, visits, value) in enumerate(
            zip(ids, roots.get_distributions(), roots.get_values(), strict=True)
        ):
            index, entropy = select_action(
                visits, temperature=temperature if self.explore else 1, deterministic=not self.explore or eps_greedy
            )
            action = legal_actions[row][int(index)]
            if eps_greedy and np.random.rand() < epsilon:
                action = int(np.random.choice(legal_actions[row]))
            decisions[environment_id] = {
                'action': action,
                'visit_count_distributions': visits,
                'visit_count_distribution_entropy': entropy,
                'searched_value': value,
                'predicted_value': values[row],
                'predicted_policy_logits': policy_logits[row],
                'timestep': timestep[row],
            }
            self._last_actions[environment_id] = action
            self._last_observations[environment_id] = observations[row]
        return decisions
