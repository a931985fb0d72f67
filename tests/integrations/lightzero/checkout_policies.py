"""The multi-task policies of LightZero's git repository, small, with random batches; see ``checkout.py``.

At some commits some of them cannot be imported or built as they are. :func:`repair` does what is missing, and only
that; it is a work-around for the tests and says nothing about how LightZero should be mended.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
import torch.distributed as dist

from tests.integrations.lightzero import multitask
from tests.integrations.lightzero.multitask import OBSERVATIONS, TASKS
from tests.integrations.lightzero.policies import (
    ACTIONS,
    BATCH,
    CONTINUOUS,
    SAMPLED,
    SUPPORTS,
    build,
    quietly,
    world_model_config,
)

IMAGE = (3, 64, 64)


def repair() -> list[str]:
    """Add names that are used but not defined at some commits; return what was added."""
    added = []

    def add(owner: Any, name: str, value: Any) -> None:
        if not hasattr(owner, name):
            setattr(owner, name, value)
            added.append(f'{owner.__name__}.{name}')

    with quietly():
        # muzero_multitask imports it, and calls it only with `cal_dormant_ratio=True`.
        add(import_module('lzero.model.utils'), 'cal_dormant_ratio', None)
        # sampled_unizero_multitask imports it from where it no longer is.
        utils = import_module('lzero.policy.utils')
        add(import_module('lzero.entry.utils'), 'initialize_zeros_batch', utils.initialize_zeros_batch)
        # The multi-task world model overrides the method that sets these three.
        world_model = import_module('lzero.model.unizero_world_models.world_model_multitask').WorldModelMT
        add(world_model, 'exact_kv_window_reset', False)
        add(world_model, 'rebuild_kv_window_from_tokens', False)
        add(world_model, 'use_new_cache_manager', False)
        # The balance entry calls these two without their logger when a stage begins.
        balance = import_module('lzero.entry.train_unizero_multitask_balance_segment_ddp')
        for name in ('log_module_trainable_status', 'log_param_statistics'):
            function = getattr(balance, name)
            if 'logger' in inspect.signature(function).parameters:
                setattr(balance, name, functools.partial(function, logger=logging.getLogger('lightzero')))
                added.append(f'{balance.__name__}.{name}: logger')
        # The multi-task MuZero model builds its prediction networks with names of arguments that have changed.
        module = import_module('lzero.model.muzero_model_multitask')
        network = module.PredictionNetwork
        if 'fc_value_layers' not in inspect.signature(network).parameters:
            module.PredictionNetwork = lambda **options: network(
                **{RENAMED.get(name, name): value for name, value in options.items()}
            )
            added.append('MuZeroMTModel: arguments of PredictionNetwork')
        # Its policy builds the supports in the way of an older version, after its base class has built them rightly.
        module, scaling = (
            import_module('lzero.policy.muzero_multitask'),
            import_module('lzero.policy.scaling_transform'),
        )
        if 'delta' not in inspect.signature(scaling.DiscreteSupport).parameters:
            module.DiscreteSupport = lambda low, high, delta: scaling.DiscreteSupport(low, high + 1, delta)
            module.InverseScalarTransform = lambda scale, device, categorical: scaling.InverseScalarTransform(
                scaling.DiscreteSupport(-scale, scale + 1), categorical
            )
            added.append('MuZeroMTPolicy: arguments of DiscreteSupport')
    return added


def repair_ranks() -> None:
    """Do what several ranks need beside DI-engine 0.5.3: average gradients over the ranks that have them.

    What ``LogReduceHook`` reduces has a name on one rank only, and needs an accelerator; it is left out.
    """
    from ding.policy import Policy
    from ding.worker.learner.learner_hook import LogReduceHook

    def sync_gradients(policy: Any, model: torch.nn.Module) -> None:
        for parameter in model.parameters():
            if parameter.requires_grad:
                gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                holders = torch.tensor(float(parameter.grad is not None))
                dist.all_reduce(gradient)
                dist.all_reduce(holders)
                if parameter.grad is not None:
                    gradient.div_(holders)

    Policy.sync_gradients = sync_gradients
    LogReduceHook.__call__ = lambda hook, engine: None


RENAMED = {
    'fc_value_layers': 'value_head_hidden_channels',
    'fc_policy_layers': 'policy_head_hidden_channels',
    'flatten_output_size_for_value_head': 'flatten_input_size_for_value_head',
    'flatten_output_size_for_policy_head': 'flatten_input_size_for_policy_head',
}


MULTI_TASK: dict[str, Any] = {
    'task_id': 0,
    'task_num': TASKS,
    'total_task_num': TASKS,
    'batch_size': [BATCH] * TASKS,
    'use_moco': False,
    'only_use_moco_stats': False,
}


def world_model(**overrides: Any) -> dict[str, Any]:
    config = world_model_config(
        ACTIONS, task_num=TASKS, share_head=False, use_task_embed=False, task_embed_option=None, task_embed_dim=8,
        use_normal_head=True, use_moe_head=False, use_softmoe_head=False, num_experts_in_moe_head=1,
        continuous_action_space=False, encoder_type='resnet', final_norm_option_in_encoder='LayerNorm',
        final_norm_option_in_obs_head='LayerNorm', predict_latent_loss_type='mse', game_segment_length=20,
        analysis_dormant_ratio_weight_rank=False, use_priority=False, num_simulations=2,
    )  # fmt: skip
    return {**config, 'obs_type': 'image', **overrides}


def unizero_multitask(
    share_head: bool = False,
    encoder_clip: float = 0.0,
    world_model_options: dict[str, Any] | None = None,
    **overrides: Any,
) -> Any:
    model = {
        'observation_shape': IMAGE, 'action_space_size': ACTIONS, 'norm_type': 'LN', 'model_type': 'conv',
        'num_res_blocks': 1, 'num_channels': 4, 'task_num': TASKS, **SUPPORTS,
        'world_model_cfg': world_model(share_head=share_head, **(world_model_options or {})),
    }  # fmt: skip
    options = {
        **MULTI_TASK, 'use_adaptive_entropy_weight': False, 'use_encoder_clip_annealing': encoder_clip > 0,
        'encoder_clip_start_value': encoder_clip, 'encoder_clip_end_value': encoder_clip,
        'label_smoothing_eps': 0.1, 'monitor_norm_freq': 0,
    }  # fmt: skip
    return build('unizero_multitask', 'UniZeroMTPolicy', model, **{**options, **overrides})


def sampled_unizero_multitask(**overrides: Any) -> Any:
    continuous = {
        'continuous_action_space': True, 'num_of_sampled_actions': SAMPLED, 'sigma_type': 'conditioned',
        'bound_type': None, 'fixed_sigma_value': 0.5, 'policy_loss_type': 'kl',
    }  # fmt: skip
    config = world_model(
        obs_type='vector', observation_shape_list=OBSERVATIONS, action_space_size_list=[CONTINUOUS] * TASKS,
        action_space_size=CONTINUOUS, use_shared_projection=False, **continuous,
    )  # fmt: skip
    model = {
        'observation_shape_list': OBSERVATIONS, 'action_space_size_list': [CONTINUOUS] * TASKS, 'norm_type': 'LN',
        'action_space_size': CONTINUOUS, 'model_type': 'mlp', **SUPPORTS, **continuous, 'world_model_cfg': config,
    }  # fmt: skip
    options = {**MULTI_TASK, 'init_w': 3e-3, **overrides}
    return build('sampled_unizero_multitask', 'SampledUniZeroMTPolicy', model, **options)


def muzero_multitask(**overrides: Any) -> Any:
    model = {
        'observation_shape': multitask.IMAGE, 'image_channel': multitask.IMAGE[0], 'action_space_size': ACTIONS,
        'model_type': 'conv', 'num_channels': 8, 'downsample': False, 'task_num': TASKS,
        **SUPPORTS, 'self_supervised_learning_loss': True, 'proj_hid': 8, 'proj_out': 8, 'pred_hid': 8, 'pred_out': 8,
        'discrete_action_encoding_type': 'not_one_hot', 'last_linear_layer_init_zero': False,
    }  # fmt: skip
    options = {**MULTI_TASK, 'ssl_loss_weight': 2, 'optim_type': 'Adam', **overrides}
    return build('muzero_multitask', 'MuZeroMTPolicy', model, **options)


def unizero_image(**overrides: Any) -> Any:
    """Return the single-task UniZero on images; on vectors its model cannot be built at some commits."""
    config = world_model_config(
        ACTIONS, encoder_type='resnet', final_norm_option_in_encoder='LayerNorm', predict_latent_loss_type='mse',
        final_norm_option_in_obs_head='LayerNorm', use_priority=False, task_embed_option=None,
        analysis_dormant_ratio_weight_rank=False, game_segment_length=20, num_simulations=2,
    )  # fmt: skip
    model = {
        'observation_shape': IMAGE, 'action_space_size': ACTIONS, 'norm_type': 'LN', 'model_type': 'conv',
        'num_res_blocks': 1, 'num_channels': 4, **SUPPORTS, 'world_model_cfg': {**config, 'obs_type': 'image'},
    }  # fmt: skip
    return build('unizero', 'UniZeroPolicy', model, **overrides)


MULTI_TASK_POLICIES: dict[str, Callable[..., Any]] = {
    'unizero_multitask': unizero_multitask,
    'sampled_unizero_multitask': sampled_unizero_multitask,
    'muzero_multitask': muzero_multitask,
}
"""Name of a multi-task policy, and how a small one is built."""
