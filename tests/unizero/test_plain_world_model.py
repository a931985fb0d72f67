"""The plain model of the GPU's benchmark has the parameters of the real one."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from benchmarks.gpu.world_model import Size, WorldModel
from ding_normmon.core.parameter_groups import find_groups
from ding_normmon.unizero import TaskSpec, UniZeroMultitaskPolicy, multitask_policy_config


@pytest.mark.slow
def test_every_parameter_has_the_shape_that_it_has_in_the_real_model() -> None:
    tasks = [TaskSpec(f'task{task_id}', (3, 64, 64), 18) for task_id in range(2)]
    sizes = {'embed_dim': 768, 'num_layers': 4, 'num_heads': 8}
    config = multitask_policy_config(tasks, batch_size=2, model={'support_scale': 50, 'world_model_cfg': sizes})
    real = UniZeroMultitaskPolicy(config, enable_field=['learn'])._learn_model
    with torch.device('meta'):
        plain = WorldModel(Size(tasks=2))
    shapes = [Counter(tuple(parameter.shape) for parameter in model.parameters()) for model in (real, plain)]
    assert shapes[0] == shapes[1]
    names = [{group.key for group in find_groups(model, 2, None)} for model in (real, plain)]
    assert names[0] == names[1]
