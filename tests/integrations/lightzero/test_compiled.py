"""Policies whose parts are compiled on their own; LightZero compiles the model as a whole, and never calls it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from ding_normmon.core.parameter_groups import unwrap
from tests.integrations.lightzero import measure
from tests.integrations.lightzero.multitask import learn, warmed_up
from tests.sampling import sampled

NAME = 'unizero_multitask'


def wrapped(module: nn.Module) -> Any:
    return torch.compile(module, backend='eager')


def in_place(module: nn.Module) -> nn.Module:
    module.compile(backend='eager')
    return module


def compile_part(policy: Any, part: str, how: Callable[[nn.Module], Any]) -> None:
    world_model = unwrap(policy._learn_model).world_model
    if part == 'transformer':
        world_model.transformer = how(world_model.transformer)
    else:
        modules = world_model.tokenizer.encoder if part == 'encoder' else getattr(world_model, part)
        modules[0] = how(modules[0])


@pytest.mark.slow
@pytest.mark.parametrize('how', [pytest.param(wrapped, marks=pytest.mark.full), in_place])
@pytest.mark.parametrize('part', sampled(['transformer', 'head_value_multi_task', 'encoder']))
def test_compiled_parts_have_the_same_figures(part: str, how: Callable[[nn.Module], Any]) -> None:
    found = []
    for compiled in (False, True):
        policy = warmed_up(NAME)
        if compiled:
            compile_part(policy, part, how)
            learn(policy, NAME, 5)  # a call before anything is attached
        else:
            learn(policy, NAME, 5)
        with measure.monitored(policy) as records:
            learn(policy, NAME, 2)
        found.append(measure.only(records).scalars)
    plain, compiled_record = found
    for metric, value in plain.items():
        if not metric.startswith('monitor/cost'):
            assert compiled_record[metric] == pytest.approx(value, rel=1e-6), metric
