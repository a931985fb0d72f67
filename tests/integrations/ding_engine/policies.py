"""DI-engine's own policies, small, with random batches in the format that each of them learns from."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import treetensor.torch as ttorch
from ding.policy import (
    DDPGPolicy,
    DQNPolicy,
    IMPALAPolicy,
    PPOOffPolicy,
    PPOPolicy,
    R2D2Policy,
    SACPolicy,
    TD3Policy,
)
from ding.policy.mbpolicy.mbsac import MBSACPolicy
from ding.utils import deep_merge_dicts
from ding.world_model.base_world_model import DreamWorldModel
from easydict import EasyDict
from torch import Tensor, nn

OBSERVATION, ACTIONS, DIMENSIONS, BATCH, UNROLL, NSTEP = 4, 3, 2, 6, 8, 2


@dataclass(frozen=True)
class Case:
    """One policy: how it is made and fed, and what should be found on it.

    Arguments:
        make: makes the policy.
        batch: makes what ``_forward_learn`` is called with, from a generator.
        groups: group name and the module that it is.
        heads: signal name, the module that produces it, and the key of its output.
        several: one call makes several learner steps.
        coefficients: names of the clip coefficients.
        rests: groups whose optimizer does not step at odd iterations.
    """

    make: Callable[[], Any]
    batch: Callable[[torch.Generator], tuple[Any, ...]]
    groups: Mapping[str, str]
    heads: Mapping[str, tuple[str, str]]
    several: bool = False
    coefficients: tuple[str, ...] = ()
    rests: tuple[str, ...] = ()


def make_policy(cls: Any, **config: Any) -> Any:
    return cls(EasyDict(deep_merge_dicts(cls.default_config(), EasyDict(config))), enable_field=['learn', 'collect'])


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator)


def action(generator: torch.Generator) -> Tensor:
    return torch.randint(ACTIONS, (1,), generator=generator)


def transition(generator: torch.Generator, discrete: bool, **further: Any) -> dict[str, Any]:
    return {
        'obs': normal(generator, OBSERVATION),
        'next_obs': normal(generator, OBSERVATION),
        'action': action(generator) if discrete else normal(generator, DIMENSIONS).tanh(),
        'reward': normal(generator, 1),
        'done': torch.rand(1, generator=generator).lt(0.2)[0],
        **further,
    }


def transitions(generator: torch.Generator, discrete: bool) -> tuple[list[dict[str, Any]]]:
    return ([transition(generator, discrete) for _ in range(BATCH)],)


def rollout(generator: torch.Generator, size: int = 3 * BATCH) -> list[dict[str, Any]]:
    return [
        transition(
            generator,
            discrete=True,
            logit=normal(generator, ACTIONS),
            value=normal(generator, 1)[0],
            adv=normal(generator, 1)[0],
        )
        for _ in range(size)
    ]


def sequences(generator: torch.Generator) -> tuple[list[list[Any]]]:
    def step() -> Any:
        values = transition(generator, discrete=True)
        del values['next_obs']
        values['reward'] = normal(generator, NSTEP)
        state = {'h': normal(generator, 1, 1, 64), 'c': normal(generator, 1, 1, 64)}
        return ttorch.as_tensor({**values, 'prev_state': state})

    return ([[step() for _ in range(UNROLL)] for _ in range(BATCH)],)


def trajectories(generator: torch.Generator) -> tuple[list[list[Any]]]:
    def step() -> dict[str, Any]:
        return transition(generator, discrete=True, logit=normal(generator, ACTIONS))

    return ([[step() for _ in range(UNROLL)] for _ in range(BATCH)],)


class WorldModel(DreamWorldModel, nn.Module):
    """Linear dynamics; the rollout is DI-engine's."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.rollout_length_scheduler = lambda env_step: 2
        self.dynamics = nn.Linear(OBSERVATION + DIMENSIONS, OBSERVATION + 1)

    def step(self, obs: Tensor, act: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return reward, next observation and the probability that it is the last."""
        output = self.dynamics(torch.cat([obs, act], dim=-1))
        return output[..., 0], output[..., 1:], torch.zeros(obs.shape[:-1])

    def train(self, *_: Any) -> Any:  # type: ignore[override]
        """Part of DI-engine's interface; this one stays as it is."""

    def eval(self, *_: Any) -> Any:  # type: ignore[override]
        """Part of DI-engine's interface."""


def imagined(generator: torch.Generator) -> tuple[Any, ...]:
    torch.manual_seed(1)
    return (*transitions(generator, discrete=False), WorldModel(), 0)


DISCRETE = {'obs_shape': OBSERVATION, 'action_shape': ACTIONS, 'encoder_hidden_size_list': [16, 16]}
CRITIC = {
    'obs_shape': OBSERVATION,
    'action_shape': DIMENSIONS,
    'actor_head_hidden_size': 16,
    'critic_head_hidden_size': 16,
}
ACTOR_CRITIC = dict(**DISCRETE, actor_head_hidden_size=16, critic_head_hidden_size=16)
VAC_GROUPS = {'encoder': 'encoder', 'critic_head': 'critic_head', 'actor_head': 'actor_head'}
VAC_HEADS = {
    'outputs/actor_head/logit': ('actor_head', 'logit'),
    'outputs/critic_head/pred': ('critic_head', 'pred'),
}
QAC_GROUPS = {'actor_head': 'actor_head', 'critic_head': 'critic_head'}
REGRESSION_HEADS = {
    'outputs/actor_head/pred': ('actor_head.2', 'pred'),
    'outputs/critic_head/pred': ('critic_head.2', 'pred'),
}
TWIN_HEADS = {
    'outputs/critic_head_0/pred': ('critic_head.0.2', 'pred'),
    'outputs/critic_head_1/pred': ('critic_head.1.2', 'pred'),
}
SAC_HEADS = {
    'outputs/actor_head/mu': ('actor_head.2', 'mu'),
    'outputs/actor_head/sigma': ('actor_head.2', 'sigma'),
    **TWIN_HEADS,
}

discrete = functools.partial(transitions, discrete=True)
continuous = functools.partial(transitions, discrete=False)

CASES = {
    'DQN': Case(
        lambda: make_policy(DQNPolicy, model=dict(DISCRETE, dueling=False), nstep=1),
        discrete,
        {'encoder': 'encoder', 'head': 'head'},
        {'outputs/head/logit': ('head', 'logit')},
    ),
    'PPO': Case(
        lambda: make_policy(
            PPOPolicy,
            action_space='discrete',
            recompute_adv=False,
            model=dict(ACTOR_CRITIC, action_space='discrete'),
            learn={'epoch_per_collect': 2, 'batch_size': BATCH, 'grad_clip_type': 'clip_norm', 'grad_clip_value': 0.05},
        ),
        lambda generator: (rollout(generator),),
        VAC_GROUPS,
        VAC_HEADS,
        several=True,
        coefficients=('model',),
    ),
    'PPO (off-policy)': Case(
        lambda: make_policy(
            PPOOffPolicy,
            action_space='discrete',
            model=dict(ACTOR_CRITIC, action_space='discrete'),
            learn={'grad_clip_type': 'clip_norm', 'grad_clip_value': 0.05},
        ),
        lambda generator: (rollout(generator, BATCH),),
        VAC_GROUPS,
        VAC_HEADS,
        coefficients=('model',),
    ),
    'SAC': Case(
        lambda: make_policy(SACPolicy, model=dict(CRITIC, twin_critic=True, action_space='reparameterization')),
        continuous,
        QAC_GROUPS,
        SAC_HEADS,
    ),
    'TD3': Case(
        lambda: make_policy(TD3Policy, model=dict(CRITIC, twin_critic=True, action_space='regression')),
        continuous,
        QAC_GROUPS,
        {'outputs/actor_head/pred': ('actor_head.2', 'pred'), **TWIN_HEADS},
        rests=('actor_head',),
    ),
    'DDPG': Case(
        lambda: make_policy(DDPGPolicy, model=dict(CRITIC, twin_critic=False, action_space='regression')),
        continuous,
        QAC_GROUPS,
        REGRESSION_HEADS,
    ),
    'R2D2': Case(
        lambda: make_policy(
            R2D2Policy,
            model={'obs_shape': OBSERVATION, 'action_shape': ACTIONS, 'encoder_hidden_size_list': [16, 64]},
            priority=False,
            priority_IS_weight=False,
            burnin_step=2,
            nstep=NSTEP,
            learn_unroll_len=UNROLL - 2,
            learn={'batch_size': BATCH},
            collect={'env_num': 2},
        ),
        sequences,
        {'encoder': 'encoder', 'rnn': 'rnn', 'head': 'head'},
        {'outputs/head/logit': ('head', 'logit')},
    ),
    'IMPALA': Case(
        lambda: make_policy(
            IMPALAPolicy,
            unroll_len=UNROLL,
            model=ACTOR_CRITIC,
            learn={'grad_clip_type': 'clip_norm', 'clip_value': 0.05},
        ),
        trajectories,
        VAC_GROUPS,
        VAC_HEADS,
        coefficients=('model',),
    ),
    'MBSAC (world model)': Case(
        lambda: make_policy(
            MBSACPolicy,
            model=dict(CRITIC, twin_critic=True, action_space='reparameterization'),
            learn={'auto_alpha': False, 'alpha': 0.2, 'grad_clip': 0.05},
        ),
        imagined,
        QAC_GROUPS,
        SAC_HEADS,
        coefficients=('actor_head', 'critic_head'),
    ),
}
