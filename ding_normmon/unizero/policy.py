"""Multi-task UniZero: the policy around one world model with a head per task."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from ding.utils import POLICY_REGISTRY
from ditk import logging
from easydict import EasyDict
from lzero.policy import DiscreteSupport, InverseScalarTransform
from lzero.policy.utils import configure_optimizers_nanogpt
from numpy.typing import NDArray
from torch import Tensor, nn

from ding_normmon.core.blame import blame_task
from ding_normmon.core.step import INERT, InertLearnerStep
from ding_normmon.integrations.lightzero.batch import Declared, publish_checks
from ding_normmon.integrations.lightzero.buffer_age import BufferAges
from ding_normmon.unizero.acting_policy import ActingPolicy
from ding_normmon.unizero.data_signals import publish_data
from ding_normmon.unizero.dropout_stream import DropoutStream
from ding_normmon.unizero.gradient_synchronisation import (
    all_reduce_sum,
    broadcast_parameters,
    clip_gradients,
    squared_gradient_norm,
    sum_shared_gradients,
)
from ding_normmon.unizero.model import BoundModel, UniZeroMultitaskModel
from ding_normmon.unizero.policy_config import DEFAULTS, single_task_config, validate_policy_config
from ding_normmon.unizero.private_state import gather_private_state
from ding_normmon.unizero.quiet import quiet_construction
from ding_normmon.unizero.ranks import gather_objects
from ding_normmon.unizero.task_batch import TaskBatch, prepare_task_batch
from ding_normmon.unizero.task_metrics import (
    SHARED_METRICS,
    TASK_METRICS,
    loss_terms,
    publish_training_tensors,
    task_metrics,
)
from ding_normmon.unizero.task_spec import TaskSpec, check_task_ids

__all__ = ['UniZeroMultitaskPolicy']


class _TaskLoss(NamedTuple):
    """Results of one task's forward pass.

    Arguments:
        loss: weighted, with its graph.
        metrics: scalars by name, detached.
        terms: weighted terms of the loss, with their graphs; empty unless a metric reads them.
    """

    loss: Tensor
    metrics: dict[str, Tensor]
    terms: dict[str, Tensor]


class UniZeroMultitaskPolicy(ActingPolicy):
    """UniZero for several tasks at once, each trained by one rank, on one shared encoder and transformer.

    A learner step takes one batch per local task. The loss is the sum over the tasks present on all ranks, divided by
    their global number; gradients of shared parameters are summed over the ranks and all gradients clipped by one
    global norm, so a step does not depend on how the tasks are spread over the ranks.

    Attributes that a monitor relies on: ``learner_step``, ``task_ids`` (of this rank), ``num_tasks``, ``task_names``,
    ``_learn_model``, ``_target_model``, ``_optimizer_world_model``.

    Arguments:
        cfg: from :func:`multitask_policy_config`.
        model: built from the configuration by default.
        enable_field: any of ``'learn'``, ``'collect'``, ``'eval'``; all of them by default.

    Raises:
        ValueError: an invalid configuration, or a task that two ranks train.
    """

    config: ClassVar[dict[str, Any]] = DEFAULTS
    corrects_gradients: ClassVar[bool] = False
    """Whether ``_backward`` leaves more than the sum of the losses' gradients, for the monitor to say so."""

    def __init__(self, cfg: EasyDict, model: nn.Module | None = None, enable_field: list[str] | None = None) -> None:
        validate_policy_config(cfg)
        self.tasks = [TaskSpec(task.name, tuple(task.observation_shape), task.action_space_size) for task in cfg.tasks]
        self.num_tasks = len(self.tasks)
        self.task_names = [task.name for task in self.tasks]
        self.task_ids = check_task_ids(cfg.task_ids, self.num_tasks)
        self._task_cfgs = {task_id: single_task_config(cfg, task_id) for task_id in range(self.num_tasks)}
        self.learner_step: InertLearnerStep = INERT
        self.skipped_steps = 0
        self._ages = BufferAges()
        self._collect_mcts_temperature = float(cfg.temperature.start)
        self._collect_epsilon = 0.0
        self.value_support = DiscreteSupport(-cfg.model.support_scale, cfg.model.support_scale, delta=1)
        self.reward_support = self.value_support
        # Collecting and evaluating need it too, not only learning.
        self.inverse_scalar_transform_handle = InverseScalarTransform(
            cfg.model.support_scale, cfg.device, cfg.model.categorical_distribution
        )
        with quiet_construction():
            super().__init__(cfg, model, enable_field)

    def default_model(self) -> tuple[str, list[str]]:
        """Return the registered name of the model and the module that registers it."""
        return 'UniZeroMultitaskModel', ['ding_normmon.unizero.model']

    def _create_model(self, cfg: EasyDict, model: nn.Module | None = None) -> nn.Module:
        if model is None:
            model = UniZeroMultitaskModel(self.tasks, cfg.model)
        # Every rank starts with the same weights, whatever its random state.
        broadcast_parameters(model)
        return model

    # --- views of one task ------------------------------------------------------------------------------------------

    def task_cfg(self, task_id: int) -> EasyDict:
        """Return the configuration of one task alone, for game segments, replay buffers and tree searches.

        Raises:
            ValueError: the task id is out of range.
        """
        check_task_ids([task_id], self.num_tasks)
        return self._task_cfgs[task_id]

    def task_view(self, task_id: int) -> SimpleNamespace:
        """Return an object that ``UniZeroGameBuffer.sample(batch_size, policy)`` can use as the policy of one task."""
        return SimpleNamespace(
            _cfg=self.task_cfg(task_id),
            _target_model=self._target_views[task_id],
            value_support=self.value_support,
            reward_support=self.reward_support,
            inverse_scalar_transform_handle=self.inverse_scalar_transform_handle,
        )

    def collect_temperature(self, train_iter: int) -> float:
        """Return the temperature of the search's visit counts at a learner iteration."""
        schedule = self._cfg.temperature
        done = min(1.0, train_iter / max(1, schedule.decay_iterations))
        return float(schedule.start + (schedule.end - schedule.start) * done)

    # --- learning ---------------------------------------------------------------------------------------------------

    def _init_learn(self) -> None:
        owners = [task_id for rank_tasks in gather_objects(self.task_ids) for task_id in rank_tasks]
        if len(set(owners)) < len(owners):
            raise ValueError(f'a task can be trained by one rank only; task ids of all ranks: {sorted(owners)}')
        self._learn_model = self._model
        self._dropout = DropoutStream(self._model, seed=gather_objects(torch.initial_seed())[0])
        self._target_model = copy.deepcopy(self._model)
        self._target_model.requires_grad_(False)
        self._target_model.eval()
        self._target_views = {
            task_id: BoundModel(self._target_model, task_id) for task_id in range(self.num_tasks)
        }
        self._optimizer_world_model = configure_optimizers_nanogpt(
            model=self._model.world_model,
            learning_rate=self._cfg.learning_rate,
            weight_decay=self._cfg.weight_decay,
            device_type=self._cfg.device,
            betas=(0.9, 0.95),
        )
        private = self._model.private_parameters()
        self._shared_parameters = self._model.shared_parameters()
        self._own_parameters = [parameter for task_id in self.task_ids for parameter in private[task_id]]

    def _forward_learn(self, data: Sequence[TaskBatch]) -> dict[str, float]:
        """Do one learner step.

        Arguments:
            data: one ``(current_batch, target_batch, task_id)`` per local task that has data, see
                :func:`prepare_task_batch`; batch sizes may differ; may be empty as long as another rank has data.

        Returns:
            Metrics as Python floats: ``noreduce_*_task{i}`` of the tasks in ``data``, and the shared ones.

        Raises:
            ValueError: a task that this rank does not train, a task listed twice, or no data on any rank.
        """
        step = self.learner_step
        device = self._shared_parameters[0].device
        present = self._count_tasks([task_id for _, _, task_id in data], device)
        self._learn_model.train()
        self._target_model.eval()
        self._optimizer_world_model.zero_grad(set_to_none=True)

        losses: dict[int, Tensor] = {}
        parts: dict[int, dict[str, Tensor]] = {}
        metrics: dict[str, Tensor] = {}
        for current_batch, target_batch, task_id in data:
            try:
                found = self._task_loss(step, current_batch, target_batch, task_id)
            except Exception as raised:
                # Observations and rewards are the task's own; targets may come from a model that others have spoilt.
                is_broken = any(map(_has_nonfinite, (*current_batch, *target_batch[:1])))
                blame_task(raised, task_id, self.task_names[task_id], at_fault=is_broken)
                # What its batch holds is the first thing to ask for, but it may be too broken to be measured.
                try:
                    self._publish_batch(step, current_batch, target_batch, task_id, whole=True)
                except Exception as error:
                    logging.warning(f'task {task_id}: its batch cannot be measured: {type(error).__name__}: {error}')
                raise
            losses[task_id] = found.loss / present
            parts[task_id] = {name: term / present for name, term in found.terms.items()}
            metrics.update({f'{name}_task{task_id}': value for name, value in found.metrics.items()})
        # After all forward passes: between them it would cost four times as much.
        for current_batch, target_batch, task_id in data:
            self._publish_batch(step, current_batch, target_batch, task_id)
        step.forward_end(losses, parts, corrected=self.corrects_gradients)
        parts.clear()
        if losses:
            self._backward(losses)
        step.local_backward_end()
        sum_shared_gradients(self._shared_parameters)
        step.backward_end()

        local_loss = sum(float(loss.detach()) for loss in losses.values())
        private_squared_norm, total_loss = all_reduce_sum(
            [squared_gradient_norm(self._own_parameters), local_loss], device
        )
        squared_norm = squared_gradient_norm(self._shared_parameters) + private_squared_norm
        norm = clip_gradients(
            [*self._shared_parameters, *self._own_parameters], squared_norm, self._cfg.grad_clip_value
        )
        step.clipped(norm, self._cfg.grad_clip_value)
        # All ranks have the same norm, so they all decide the same. One NaN would make every weight NaN.
        if math.isfinite(norm):
            self._optimizer_world_model.step()
        else:
            self._count_skipped_step(norm)
        step.step_end()
        self._dropout.steps += 1
        self._update_target()
        return self._metrics(metrics, total_loss, norm)

    def _backward(self, losses: Mapping[int, Tensor]) -> None:
        """Leave the gradients of the losses in ``.grad``; a gradient correction takes its place here."""
        torch.stack(list(losses.values())).sum().backward()

    def _count_tasks(self, local: Sequence[int], device: torch.device) -> int:
        """Return how many tasks have data in this step, on all ranks."""
        foreign = sorted(set(local) - set(self.task_ids))
        if foreign or len(set(local)) < len(local):
            raise ValueError(
                f'this rank trains the tasks {self.task_ids}, one batch each; got batches of the tasks {list(local)}'
            )
        present = int(all_reduce_sum([len(local)], device)[0])
        if not present:
            raise ValueError('a learner step needs data of at least one task on one rank')
        return present

    def _publish_batch(
        self,
        step: InertLearnerStep,
        current_batch: Sequence[NDArray[Any]],
        target_batch: Sequence[NDArray[Any]],
        task_id: int,
        whole: bool = False,
    ) -> None:
        if step.due:
            scale = float(self._cfg.model.support_scale)
            declared = Declared(self.tasks[task_id].action_space_size, (-scale, scale), (-scale, scale))
            publish_data(step, current_batch, target_batch, task_id, whole)
            publish_checks(step, current_batch, target_batch, declared, task_id)
            self._ages.publish(step, current_batch, task_id)

    def _task_loss(
        self,
        step: InertLearnerStep,
        current_batch: Sequence[NDArray[Any]],
        target_batch: Sequence[NDArray[Any]],
        task_id: int,
    ) -> _TaskLoss:
        world_model, target = self._learn_model.world_model, self._target_model.world_model
        weight = world_model.task_embedding.weight
        batch = prepare_task_batch(
            current_batch, target_batch, self.tasks[task_id], self.value_support, weight.dtype, weight.device
        )
        with (
            world_model.bound(task_id),
            target.bound(task_id),
            self._dropout.for_task(task_id),
            world_model.keep_training_tensors() if step.due else nullcontext() as kept,
        ):
            result = world_model.compute_loss(batch, target.tokenizer, self.inverse_scalar_transform_handle)
            if kept is not None:
                publish_training_tensors(step, kept, batch['mask_padding'], task_id)
        metrics = task_metrics(result, batch)
        for name, value in metrics.items():
            step.publish_loss(name, value, task_id)
        weights = self._cfg.task_loss_weight
        weight_of_task = 1.0 if weights is None else weights[task_id]
        terms = {name: term * weight_of_task for name, term in loss_terms(result).items()} if step.reads_parts else {}
        return _TaskLoss(result.loss_total * weight_of_task, metrics, terms)

    def _count_skipped_step(self, norm: float) -> None:
        if not self.skipped_steps:
            logging.warning(f'gradient norm is {norm}: this optimizer step is skipped; later ones are not logged')
        self.skipped_steps += 1

    @torch.no_grad()
    def _update_target(self) -> None:
        """Move the target model's parameters towards the model's by ``target_update_theta``."""
        torch._foreach_lerp_(
            list(self._target_model.parameters()),
            list(self._learn_model.parameters()),
            float(self._cfg.target_update_theta),
        )

    def _metrics(self, metrics: dict[str, Tensor], total_loss: float, norm: float) -> dict[str, float]:
        # One transfer for all of them instead of one wait for the device per value.
        names = list(metrics)
        device = self._shared_parameters[0].device
        values = torch.stack([metrics[name].double().to(device) for name in names]).tolist() if names else []
        return {
            **dict(zip(names, values, strict=True)),
            'total_loss': total_loss,  # read by DI-engine's own trainer middleware
            'weighted_total_loss': total_loss,
            'total_grad_norm_before_clip_wm': norm,
            'cur_lr_world_model': float(self._optimizer_world_model.param_groups[0]['lr']),
            'collect_mcts_temperature': self._collect_mcts_temperature,
            'collect_epsilon': self._collect_epsilon,
            'skipped_steps': float(self.skipped_steps),
        }

    def end_learn_phase(self) -> None:
        """Clear the inference caches, which hold results of older weights; call it after each phase of updates."""
        models = [self._model] + ([self._target_model] if hasattr(self, '_target_model') else [])
        for model in models:
            model.world_model.clear_caches()
        actors = [*getattr(self, '_collectors', {}).values(), *getattr(self, '_evaluators', {}).values()]
        for view in [actor.model for actor in actors] + list(getattr(self, '_target_views', {}).values()):
            view.cache.clear()

    def recompute_pos_emb_diff_and_clear_cache(self) -> None:
        """Call :meth:`end_learn_phase`; this is the name that LightZero's training loops use."""
        self.end_learn_phase()

    def _monitor_vars_learn(self) -> list[str]:
        """Return every name that :meth:`_forward_learn` can return on this rank."""
        return [*SHARED_METRICS, *(f'{name}_task{task_id}' for task_id in self.task_ids for name in TASK_METRICS)]

    # --- checkpoints ------------------------------------------------------------------------------------------------

    def gather_private_parameters(self) -> None:
        """Copy all ranks' private heads and encoders, with their optimizer state, to rank 0; a collective."""
        gather_private_state(self._model, self._target_model, self._optimizer_world_model, self.task_ids)

    def _state_dict_learn(self) -> dict[str, Any]:
        """Return model, target model, optimizer and the number of learner steps so far."""
        return {**super()._state_dict_learn(), 'dropout_steps': self._dropout.steps}

    def _load_state_dict_learn(self, state_dict: dict[str, Any]) -> None:
        """Restore model, target model and optimizer; the tasks may be spread over the ranks differently than before."""
        super()._load_state_dict_learn(state_dict)
        self._dropout.steps = state_dict.get('dropout_steps', 0)
        self.end_learn_phase()


if 'unizero_multitask' not in POLICY_REGISTRY:
    # LightZero's main branch has a policy of this name; if that is installed, it keeps the name.
    POLICY_REGISTRY.register('unizero_multitask')(UniZeroMultitaskPolicy)


def _has_nonfinite(part: Any) -> bool:
    """Return whether a part of a batch holds NaN or infinity; it may be anything, as it has made training fail."""
    return isinstance(part, np.ndarray) and part.dtype.kind == 'f' and not bool(np.isfinite(part).all())
