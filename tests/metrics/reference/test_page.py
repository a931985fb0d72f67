"""The metric reference: the page is what the code says, and every name of a real policy is on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ding_normmon import attach
from ding_normmon.core.common_figures import COMMON_FIGURES
from ding_normmon.core.figure import Figure
from ding_normmon.metrics import DECLARED, Metric, preset_metrics
from ding_normmon.metrics.reference import render_page
from tests.unizero.builders import random_batch, tiny_policy

ROOT = Path(__file__).resolve().parents[3]

ELSEWHERE = {
    'grad_local/{group}/{mean,min,max}',  # policies that clip before they synchronise, several ranks
    'grad_synced/{group}/_total_norm',
    'clip/{model}/coefficient_{min,max}',
    'clip/{model}_task{i}/weight',
    'agreement/{group}/mean_dot',  # several ranks
    'agreement/{group}/cosine',
    'agreement/{group}/ranks',
    'monitor/missing_ranks',
    'step/skipped',  # loops that skip steps or scale their loss
    'step/loss_scale',
    '{signal}[_task{i}]/{mean,std,max,min,abs_max}',  # signals of a user's
    'outputs/{head}[/{key}]/{mean,std,max,min,abs_max}',  # DI-engine's policies
    'data/age_iterations/{mean,std,max,min,abs_max}',
    'data/age_transitions[_task{i}]/{mean,std,max,min,abs_max}',  # LightZero's replay buffers
    'data/refill_rate[_task{i}]',
    'return/{collect,eval}[_task{i}]/{mean,std,max,min}',  # pipelines and learners
    'data/env_steps_per_iteration',
    'plasticity/{x_token,embeddings/obs}[_task{i}]/rank_error',  # wider representations
    'plasticity/{group}[_task{i}]/dormant_overlap_time',  # dormant units, of which the small policy has none
    'plasticity/{group}/dormant_overlap_tasks',
    'parameters/{group}/trainable',  # something is frozen, broken, missing or lost
    'monitor/no_gradient/{group}',
    'monitor/without_gradient/{group}',
    'monitor/nonfinite/{norm,grad}/{group}',
    'monitor/nonfinite/{grad_local,grad_synced}/{group}',
    'monitor/nonfinite/conflict/{group}_task{i}',
    'monitor/nonfinite/update/{group}',
    'monitor/nonfinite/{signal}[_task{i}]',
    'monitor/{empty,absent,late}/{signal}',
    'monitor/lost/{reason}',
    'broken/replicas/{group}/{parameters,optimizer_state,gradient}',  # something is broken
    'broken/unheld/{group}',
    'broken/orphaned/{group}',
    'broken/still/{group}',
    'broken/frozen/{group}',
    'broken/leftover_gradient',
    'broken/schedule/rate',
    'broken/schedule/optimizer',
    'step/scheduler_steps',  # loops with a scheduler
    'broken/same_batch',
    'data/outside/{part}[_task{i}]',
    'monitor/replicas/compared',  # several ranks
    'monitor/rank_norm/{group}/rank{n}',
    'monitor/rank_norm/{group}/spread',
    'inputs/{signal}/{mean,std,max,min}',  # models that are called by `__call__`, in loops of one's own
    'inputs/{signal}/features',
    'inputs/batch_size',
    'inputs/distinct',
    'monitor/fingerprint/inputs',
    'mode/{input_bits,output_bits}',
    'monitor/nonfinite/{inputs,loss}/{signal}',
}
"""Rows of situations that other tests make; this one runs one rank of a healthy policy."""


@pytest.fixture(scope='module')
def names() -> set[str]:
    policy = tiny_policy(3)
    settings = {'monitor_norm_freq': 1, 'preset': 'full', 'detail': 'parameter', 'conflict_by_loss': True}
    attachment = attach(policy, {**settings, 'conflict_blocks': True})
    for seed in range(2):
        batches = [random_batch(policy, task_id, seed) for task_id in policy.task_ids]
        policy._forward_learn(batches)
    attachment.detach()
    found: set[str] = set()
    for record in attachment.monitor.take_records():
        found |= set(record.scalars)
    return found


def test_the_page_is_what_the_code_says() -> None:
    page = (ROOT / 'docs' / 'metrics.md').read_text(encoding='utf-8')
    assert page == render_page(DECLARED), 'run: python -m ding_normmon.metrics.reference > docs/metrics.md'


def test_every_name_on_the_page_comes_from_a_declaration() -> None:
    page = (ROOT / 'docs' / 'metrics.md').read_text(encoding='utf-8')
    rows = [line.split('`')[1] for line in page.splitlines() if line.startswith('| `')]
    classes = {cls for cls in _subclasses(Metric) if cls.__module__.startswith('ding_normmon.')}
    declared = {figure.pattern for cls in classes for figure in cls.figures}
    declared |= {figure.pattern for _, figure in COMMON_FIGURES}
    assert len(rows) > 60
    assert [pattern for pattern in rows if pattern not in declared] == []


def _subclasses(cls: type[Metric]) -> set[type[Metric]]:
    return {cls}.union(*(_subclasses(derived) for derived in cls.__subclasses__()))


def test_every_metric_declares_the_names_that_it_yields(names: set[str]) -> None:
    yielded: dict[str, set[str]] = {}
    for name in names:
        owner = DECLARED.owner(name)
        if owner is not None:
            yielded.setdefault(owner, set()).add(name)
    of_every_preset = {metric.name for metric in preset_metrics('full')}
    # Several ranks, steps that are skipped, a scheduler, or something broken.
    elsewhere = {'rank_agreement', 'rank_norms', 'replicas', 'learner_steps', 'parameter_moves'}
    elsewhere |= {'schedules', 'collection'}
    assert of_every_preset - set(yielded) <= elsewhere
    assert {name for name in names if DECLARED.owner(name) is None} == set()


@pytest.mark.parametrize('figure', list(DECLARED), ids=lambda figure: figure.pattern)
def test_a_declaration_says_what_kind_of_number_it_is(figure: Figure) -> None:
    assert figure.definition
    assert figure.unit
    if figure.kind in ('share', 'rate', 'count', 'flag', 'cost', 'ratio'):
        assert not figure.signed
    if figure.kind == 'cosine':
        assert figure.signed
    if figure.scale == 'log':
        assert not figure.signed
    for name in figure.samples():
        assert figure.matches(name)
        assert figure.place(name).title


def test_every_name_of_a_real_policy_is_on_the_page(names: set[str]) -> None:
    assert len(names) > 300
    assert [name for name in sorted(names) if DECLARED.describe(name) is None] == []


def test_every_row_of_the_page_is_a_name_of_a_real_policy(names: set[str]) -> None:
    described = {DECLARED.describe(name) for name in names}
    rows = [figure for figure in dict.fromkeys(DECLARED) if figure.is_listed]
    assert len({metric.pattern for metric in rows}) == len(rows)
    never = {metric.pattern for metric in rows if metric not in described}
    assert never <= ELSEWHERE


@pytest.mark.parametrize(
    ('name', 'pattern'),
    [
        ('grad/head_value_task11/_total_norm', 'grad/{group}/_total_norm'),
        ('grad/model/_total_norm', 'grad/model/_total_norm'),
        ('grad/head_value_all_tasks/std', 'grad/{head}_all_tasks/{mean,std}'),
        ('norm/encoder/net.0.weight', 'norm/{group}/{path}'),
        ('norm/x_token/mean', 'norm/x_token[_task{i}]/{mean,std,max,min}'),
        ('logits/policy_task25/abs_max', 'logits/{value,policy,reward}[_task{i}]/abs_max'),
        ('monitor/nonfinite/embeddings/obs_task2', 'monitor/nonfinite/{signal}[_task{i}]'),
        ('monitor/nonfinite/grad/encoder', 'monitor/nonfinite/{norm,grad}/{group}'),
        ('plasticity/encoder_task1/dormant_tau0.025', 'plasticity/{group}[_task{i}]/dormant_tau{t}'),
        ('agreement/encoder/ranks', 'agreement/{group}/ranks'),
    ],
)
def test_a_name_belongs_to_the_row_that_is_most_about_it(name: str, pattern: str) -> None:
    metric = DECLARED.describe(name)
    assert metric is not None
    assert metric.pattern == pattern


def test_a_name_of_a_users_own_is_nobodys() -> None:
    assert DECLARED.describe('episodes') is None
    assert not Figure('grad/{group}/_total_norm', '', '').matches('grad/a/b/_total_norm')
