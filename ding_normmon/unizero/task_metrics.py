"""Results of a learner step for one task: metrics under LightZero's names, and tensors published to the monitor."""

from __future__ import annotations

from typing import Any

import torch
from lzero.model.unizero_world_models.utils import LossWithIntermediateLosses
from torch import Tensor

from ding_normmon.core.step import InertLearnerStep
from ding_normmon.unizero.world_model import TrainingTensors

__all__ = ['SHARED_METRICS', 'TASK_METRICS', 'loss_terms', 'publish_training_tensors', 'task_metrics']

TASK_METRICS = {
    'noreduce_obs_loss': 'loss_obs',
    'noreduce_latent_recon_loss': 'latent_recon_loss',
    'noreduce_perceptual_loss': 'perceptual_loss',
    'noreduce_latent_state_l2_norms': 'latent_state_l2_norms',
    'noreduce_policy_loss': 'loss_policy',
    'noreduce_orig_policy_loss': 'orig_policy_loss',
    'noreduce_policy_entropy': 'policy_entropy',
    'noreduce_reward_loss': 'loss_rewards',
    'noreduce_value_loss': 'loss_value',
    'noreduce_target_policy_entropy': 'target_policy_entropy',
}
"""Per-task metrics: LightZero's name, without ``_task{i}``, and the name among the world model's losses."""

SHARED_METRICS = (
    'total_loss',
    'weighted_total_loss',
    'total_grad_norm_before_clip_wm',
    'cur_lr_world_model',
    'collect_mcts_temperature',
    'collect_epsilon',
    'skipped_steps',
)
"""Metrics of a learner step that belong to no task."""


def task_metrics(losses: LossWithIntermediateLosses, batch: dict[str, Any]) -> dict[str, Tensor]:
    """Return the scalars of one task by name, without ``_task{i}``, detached.

    Arguments:
        losses: output of ``compute_loss``.
        batch: input of ``compute_loss``.
    """
    target_policy = batch['target_policy'][batch['mask_padding']]  # (valid steps, A)
    entropy = -(target_policy * (target_policy + 1e-9).log()).sum(-1).mean()
    values = {**losses.intermediate_losses, 'target_policy_entropy': entropy}
    return {name: torch.as_tensor(values[source]).detach() for name, source in TASK_METRICS.items()}


def loss_terms(losses: LossWithIntermediateLosses) -> dict[str, Tensor]:
    """Return the weighted, differentiable terms of a task's loss; they add up to ``loss_total``."""
    weights = {
        'observation': ('loss_obs', losses.obs_loss_weight),
        'reward': ('loss_rewards', losses.reward_loss_weight),
        'policy': ('loss_policy', losses.policy_loss_weight),
        'value': ('loss_value', losses.value_loss_weight),
        'reconstruction': ('latent_recon_loss', losses.latent_recon_loss_weight),
        'perception': ('perceptual_loss', losses.perceptual_loss_weight),
    }
    terms = {name: (losses.intermediate_losses[source], weight) for name, (source, weight) in weights.items()}
    return {name: loss * weight for name, (loss, weight) in terms.items() if loss.requires_grad and weight}


def publish_training_tensors(step: InertLearnerStep, kept: TrainingTensors, mask: Tensor, task_id: int) -> None:
    """Publish the intermediate tensors of one task's forward pass.

    Arguments:
        step: the learner step.
        kept: the tensors.
        mask: (B, T), true where a step is data and not padding.
        task_id: global task id.
    """
    outputs = kept.outputs
    if outputs is None:
        return
    step.publish('x_token', outputs.output_sequence, task_id=task_id, mask=mask)  # (B, 2T, E)
    step.publish('logits/value', outputs.logits_value, task_id=task_id, mask=mask)  # (B, T, S)
    step.publish('logits/policy', outputs.logits_policy, task_id=task_id, mask=mask)  # (B, T, A)
    step.publish('logits/reward', outputs.logits_rewards, task_id=task_id, mask=mask)  # (B, T, S)
    step.publish('embeddings/obs', kept.obs_embeddings, task_id=task_id, mask=mask)  # (B*T, 1, E)
