"""LightZero's own figures (``norm_log_dict``) beside ours, in the same learner step of its git main's policies.

Run by ``test_checkout.py`` in a process in which ``lzero`` is the checkout. ``docs/lightzero_main.md`` is the table of
what is asserted here.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ding_normmon.core.parameter_groups import unwrap
from ding_normmon.integrations.lightzero import lightzero_adapter
from ding_normmon.integrations.lightzero.gradient import CORRECTED
from tests.integrations.lightzero import measure, multitask, policies
from tests.integrations.lightzero.libmtl_standin import FastMoCo, MoCo, MoCoCfg
from tests.integrations.lightzero.multitask import TASKS, learn, valid_steps, world_model_parts

NAME = 'unizero_multitask'
FAMILIES = ('norm/', 'grad/', 'logits/', 'embeddings/')
HEADS = ('value', 'reward', 'policy')


def compare(
    task_ids: Sequence[int] = range(TASKS), prepare: Any = None, **options: Any
) -> tuple[dict[str, float], dict[str, float], list[tuple[str, Any]], dict[str, Any]]:
    """Return their figures, ours, the outputs of the modules and what the learner step returned."""
    torch.manual_seed(0)
    np.random.seed(0)
    policy = multitask.POLICIES[NAME](monitor_norm_freq=1, **options)
    for iteration in range(2):
        learn(policy, NAME, iteration)
    if prepare is not None:
        prepare(unwrap(policy._learn_model).world_model)
    with (
        measure.Calls(world_model_parts(policy)) as calls,
        measure.monitored(policy, detail='parameter') as records,
    ):
        output = learn(policy, NAME, 2, task_ids)
    theirs = {name: value for name, value in output.items() if name.startswith(FAMILIES)}
    return theirs, measure.only(records).scalars, calls.log, output


def same(theirs: dict[str, float], ours: dict[str, float], names: Sequence[str]) -> None:
    assert names
    for name in names:
        assert ours[name] == pytest.approx(theirs[name], rel=1e-5, abs=1e-9), name


def test_transformer_and_heads_agree() -> None:
    """Norms of weights and gradients, in total and per parameter, wherever both have the name."""
    theirs, ours, _, _ = compare()
    names = [name for name in theirs if name.startswith(('norm/', 'grad/')) and '/encoder_task0/' not in name]
    assert len(names) > 150
    same(theirs, ours, names)


def test_the_shared_encoder_is_no_task_of_its_own() -> None:
    theirs, ours, _, _ = compare()
    for family in ('norm', 'grad'):
        total = f'{family}/encoder/_total_norm'
        assert total not in theirs
        assert ours[total] == pytest.approx(theirs[f'{family}/encoder_task0/_total_norm'], rel=1e-5)
        # Per parameter ours keep the position in the list that the encoder stands in.
        renamed = {name.replace('encoder_task0', 'encoder/0'): value for name, value in theirs.items()}
        same(renamed, ours, [name for name in renamed if '/encoder/0/' in name and not name.endswith('_total_norm')])


def test_a_shared_head_is_no_task_of_its_own() -> None:
    theirs, ours, _, _ = compare(share_head=True)
    for head in HEADS:
        assert ours[f'norm/head_{head}/_total_norm'] == pytest.approx(
            theirs[f'norm/head_{head}_task0/_total_norm'], rel=1e-5
        )
        assert f'norm/head_{head}_task0/_total_norm' not in ours


def last_task_with_padding(log: list[tuple[str, Any]], signal: str) -> Tensor:
    return [output for logged, output in log if logged.startswith(signal)][-1].detach().double()


def test_their_statistics_are_of_the_last_task_and_of_padding_too() -> None:
    theirs, ours, log, _ = compare()
    for head in HEADS:
        signal = f'logits/{head}'
        expected = measure.statistics_of(signal, last_task_with_padding(log, signal).reshape(-1))
        same(expected, theirs, list(expected))
        assert ours[f'{signal}/std'] != pytest.approx(theirs[f'{signal}/std'], rel=1e-4)
        valid = [
            output.detach().double()[valid_steps(task_id, output.shape[1])].reshape(-1)
            for task_id, output in enumerate(value for logged, value in log if logged.startswith(signal))
        ]
        expected = measure.statistics_of(signal, torch.cat(valid))
        same(expected, ours, list(expected))
    embeddings = last_task_with_padding(log, 'embeddings/obs').norm(dim=-1)
    expected = measure.statistics_of('embeddings/obs', embeddings)
    for name, value in expected.items():
        # They square and average in float32, where the spread of norms that a layer norm makes equal loses its digits.
        assert theirs[name] == pytest.approx(value, rel=1e-2)


def test_what_only_we_have() -> None:
    theirs, ours, _, _ = compare()
    assert not [name for name in theirs if 'x_token' in name]  # read, and never put there by the world model
    assert 'norm/x_token/mean' in ours
    assert not [name for name in theirs if 'head_observation' in name]
    monitored = sum(
        value**2
        for name, value in theirs.items()
        if name.startswith('grad/') and name.endswith('/_total_norm')
    )  # fmt: skip
    outside = 1 - monitored / ours['grad/model/_total_norm'] ** 2
    observation = sum(ours[f'grad/head_observation_task{task}/_total_norm'] ** 2 for task in range(TASKS))
    embeddings = sum(ours[f'grad/{group}/_total_norm'] ** 2 for group in ('action_embedding', 'position_embedding'))
    assert outside == pytest.approx((observation + embeddings) / ours['grad/model/_total_norm'] ** 2, abs=1e-4)
    print(f'share of the squared gradient outside their groups: {outside:.3f}')


def test_a_task_that_dropped_out() -> None:
    """Their gradient norm of its heads is 0, ours is absent; their losses are named by position, ours by task."""
    theirs, ours, _, output = compare(task_ids=(2, 0))
    for head in HEADS:
        assert theirs[f'grad/head_{head}_task1/_total_norm'] == 0.0
        assert f'grad/head_{head}_task1/_total_norm' not in ours
        assert ours[f'monitor/no_gradient/head_{head}_task1'] == 1.0
    assert float(output['noreduce_obs_loss_task0']) == pytest.approx(ours['noreduce_obs_loss_task2'])
    assert float(output['noreduce_obs_loss_task1']) == pytest.approx(ours['noreduce_obs_loss_task0'])


def test_a_frozen_module_keeps_its_norm() -> None:
    def freeze(world_model: nn.Module) -> None:
        world_model.transformer.requires_grad_(False)

    theirs, ours, _, _ = compare(prepare=freeze)
    assert theirs['norm/transformer/_total_norm'] == 0.0
    assert ours['norm/transformer/_total_norm'] > 1.0
    assert theirs['grad/transformer/_total_norm'] == 0.0
    assert 'grad/transformer/_total_norm' not in ours


def test_the_single_task_policy() -> None:
    """There the figures of tokens are published, and padding is their only difference."""
    policy = policies.POLICIES['unizero'](monitor_norm_freq=1)
    for iteration in range(2):
        policies.learn(policy, 'unizero', iteration)
    with measure.monitored(policy) as records:
        output = policies.learn(policy, 'unizero', 2)
    ours = measure.only(records).scalars
    theirs = {name: value for name, value in output.items() if name in ours}
    norms = [name for name in theirs if name.endswith('/_total_norm')]
    assert {'norm/encoder/_total_norm', 'grad/head_policy/_total_norm'} <= set(norms)
    same(theirs, ours, norms)
    assert 'norm/x_token/mean' in theirs
    assert theirs['logits/value/std'] != pytest.approx(ours['logits/value/std'], rel=1e-4)


@pytest.fixture
def gradient_correction(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the stand-in in the place of the library that LightZero imports."""
    module = import_module('lzero.policy.unizero_multitask')
    for name, kind in {'GradCorrect': MoCo, 'FastMoCo': FastMoCo, 'MoCoCfg': MoCoCfg}.items():
        monkeypatch.setattr(module, name, kind)


CORRECTIONS = [
    {'use_moco': True, 'moco_version': 'v0'},
    {'use_moco': True, 'moco_version': 'v1'},
    {'use_moco': False, 'only_use_moco_stats': True, 'moco_version': 'v0'},
]


@pytest.mark.usefixtures('gradient_correction')
@pytest.mark.parametrize('options', CORRECTIONS)
def test_corrected_gradients(options: dict[str, Any]) -> None:
    """What is clipped, what the losses gave, and conflict between tasks, each under its own name."""
    states = []
    for is_watched in (False, True):
        torch.manual_seed(0)
        np.random.seed(0)
        policy = multitask.POLICIES[NAME](grad_correct_params={'beta': 0.5, 'gamma': 0.1}, **options)
        groups = {'encoder': list(policy._learn_model.world_model.tokenizer.encoder.parameters())}
        for iteration in range(2):  # in the first step LightZero's zero heads let no gradient through
            learn(policy, NAME, iteration)
        settings = {'preset': 'multitask', 'conflict_exact': 'rank', 'budget': None}
        watch = measure.monitored(policy, **settings) if is_watched else contextlib.nullcontext([])
        with measure.gradients_before_clipping(groups) as used, watch as records:
            learn(policy, NAME, 2)
        states.append(measure.state_of(policy))
    measure.assert_same(*states)
    scalars = measure.only(records).scalars
    assert scalars['grad/encoder/_total_norm'] == pytest.approx(measure.norm_of(used['encoder']), rel=1e-6)
    size = sum(parameter.numel() for parameter in groups['encoder'])
    tasks = [gradient[:size].double() for gradient in policy.grad_correct.seen]
    given = float(sum(tasks).norm())
    assert scalars['conflict/encoder/sum_norm'] == pytest.approx(given, rel=1e-5)
    assert scalars['conflict/encoder/sum_norm'] != pytest.approx(scalars['grad/encoder/_total_norm'], rel=1e-3)
    cosines = [float(a @ b / (a.norm() * b.norm())) for a, b in itertools.combinations(tasks, 2)]
    assert scalars['conflict/encoder/mean_cosine'] == pytest.approx(np.mean(cosines), rel=1e-4)
    assert lightzero_adapter(policy).gradient == CORRECTED


def test_the_unroll_of_every_task_goes_through_the_first_prediction_network() -> None:
    """LightZero's multi-task MuZero does not tell the unroll its task; our figures show where the gradient went."""
    name = 'muzero_multitask'
    policy = multitask.POLICIES[name]()
    for iteration in range(2):
        learn(policy, name, iteration)
    with measure.monitored(policy) as records:
        learn(policy, name, 2, (1, 2))
    scalars = measure.only(records).scalars
    assert scalars['grad/head_value_task0/_total_norm'] > scalars['grad/head_value_task1/_total_norm'] > 0
    assert 'logits/value_task0/mean' not in scalars
