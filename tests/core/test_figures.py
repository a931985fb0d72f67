"""Looking up the declaration of a name, and names that are declared twice."""

from __future__ import annotations

import pytest

from ding_normmon.core.figure import Chart, Figure
from ding_normmon.core.figures import Figures
from ding_normmon.metrics import DECLARED, PRESETS, preset_metrics
from ding_normmon.metrics.local_gradients import with_local_gradients

GROUPS = ['encoder', 'transformer', *(f'head_value_task{task}' for task in range(3))]


@pytest.mark.parametrize('preset', PRESETS)
@pytest.mark.parametrize('local', [False, True])
def test_no_two_metrics_of_a_preset_declare_one_name(preset: str, local: bool) -> None:
    metrics = preset_metrics(preset)
    metrics = with_local_gradients(metrics) if local else metrics
    figures = Figures([(metric.name, figure) for metric in metrics for figure in metric.figures])
    assert list(figures.declared_twice(GROUPS)) == []


@pytest.mark.parametrize(
    ('pattern', 'name', 'other'),
    [
        ('norm/model/_total_norm', 'norm/model/_total_norm', 'parameter_norms'),
        ('grad/encoder/_total_norm', 'grad/encoder/_total_norm', 'gradient_norms'),
        ('norm/x_token_task{i}/max', 'norm/x_token_task0/max', 'tensor_statistics'),
        ('clip/{model}/{coefficient,mine}', 'clip/model/coefficient', 'clipping'),
    ],
)
def test_one_name_declared_twice_is_found_with_both_metrics(pattern: str, name: str, other: str) -> None:
    figures = Figures([*DECLARED.declared, ('mine', Figure(pattern, 'of my own', 'none'))])
    assert (name, other, 'mine') in set(figures.declared_twice(GROUPS))


@pytest.mark.parametrize('pattern', ['norm/somebody/_total_norm', 'mine/{group}/mean', 'norm/encoder/spread', 'a/mean'])
def test_user_names_belong_to_no_metric(pattern: str) -> None:
    figures = Figures([*DECLARED.declared, ('mine', Figure(pattern, 'of my own', 'none'))])
    assert list(figures.declared_twice(GROUPS)) == []


def test_only_groups_of_the_model_take_a_name() -> None:
    assert DECLARED.taken('grad/encoder/_total_norm', GROUPS) == 'gradient_norms'
    assert DECLARED.taken('grad/decoder/_total_norm', GROUPS) is None
    assert DECLARED.taken('norm/encoder/net/weight', GROUPS) is None
    assert DECLARED.taken('advantage/mean', GROUPS) is None
    assert DECLARED.taken('monitor/missing_ranks', GROUPS) == 'the monitor'


def test_charts_follow_the_declaration() -> None:
    mine = Figure('mine/{group}[_task{i}]/size', 'of my own', 'none', chart=Chart('My charts', '{group}: size'))
    figures = Figures([*DECLARED.declared, ('mine', mine)])
    chart, place = figures.place('mine/encoder_task3/size')
    assert chart == Chart('My charts', 'encoder: size')
    assert figures.place('plasticity/encoder/dormant_tau0')[1] < place < figures.place('monitor/cost/ms')[1]
    assert figures.place('never/declared')[0].category == 'Other figures'


def test_a_standard_deviation_is_not_signed_even_if_the_mean_is() -> None:
    figure = DECLARED.describe('logits/value/mean')
    assert figure is not None
    assert figure.is_signed('logits/value/mean')
    assert not figure.is_signed('logits/value/std')
    assert figure.kind == 'level'
    conflict = DECLARED.describe('conflict/encoder/mean_cosine')
    assert conflict is not None
    assert (conflict.kind, conflict.scale) == ('cosine', 'linear')
    norm = DECLARED.describe('grad/head_value_task3/_total_norm')
    assert norm is not None
    assert (norm.kind, norm.scale, norm.prominence) == ('level', 'log', 'headline')
