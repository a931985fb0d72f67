"""Every rule finds its pattern, names the task, reports nothing on healthy noise, and clears."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ding_normmon.core.finding import Finding
from ding_normmon.core.record import Matrix, Record
from ding_normmon.diagnose import Diagnosis
from ding_normmon.diagnose.invariants import EXACT, EXPECTED
from ding_normmon.diagnose.rules import RULES
from ding_normmon.diagnose.rules.loss_weights import LossWeights
from ding_normmon.metrics import DECLARED
from tests.diagnose.synthetic import (
    EVERY,
    PLANTED,
    TASKS,
    Change,
    growing,
    healthy,
    setting,
    times,
    with_fault,
    without,
)
from tests.sampling import sampled

pytestmark = pytest.mark.slow


def findings(records: list[Record], **options: bool) -> list[Finding]:
    diagnosis = Diagnosis(TASKS, figures=DECLARED)
    for record in records:
        diagnosis.observe(record)
    assert not diagnosis.switched_off
    return diagnosis.findings


def twins(_: int, scalars: dict[str, float], __: dict[str, Matrix]) -> None:
    for figure in ('norm_mean', 'norm_max', 'norm_min'):
        # Batches of task 3 are given to task 2.
        scalars[f'embeddings/obs_task2/{figure}'] = scalars[f'embeddings/obs_task3/{figure}']


def frozen(_: int, scalars: dict[str, float], __: dict[str, Matrix]) -> None:
    del scalars['grad/head_policy_task1/_total_norm']
    scalars['monitor/no_gradient/head_policy_task1'] = 1.0


def opposed(_: int, scalars: dict[str, float], matrices: dict[str, Matrix]) -> None:
    for matrix in matrices.values():
        matrix.values[1, 3] = matrix.values[3, 1] = -0.8


def noise(since: int, scalars: dict[str, float], _: dict[str, Matrix]) -> None:
    for group in ('encoder', 'transformer'):
        scalars[f'grad/{group}/_total_norm'] *= 20.0 ** ((-1) ** since)


def dominating(_: int, scalars: dict[str, float], __: dict[str, Matrix]) -> None:
    if 'conflict/encoder_task0/share' in scalars:
        scalars.update({f'conflict/encoder_task{task}/share': 0.98 if task == 3 else 0.02 / 3 for task in range(4)})


PATTERNS: list[tuple[str, Change, tuple[int, ...] | None]] = [
    ('non_finite', setting(monitor__nonfinite__grad__head_value_task2=4.0), (2,)),
    ('non_finite', setting(monitor__nonfinite__grad__encoder=4.0), ()),
    ('spike', times('_task2', 1000.0), (2,)),
    ('spike', times('data/observation_change_task1', 150.0), (1,)),
    ('spike', times('data/reward_task1', 1000.0), None),
    ('spike', times('grad/transformer/', 1000.0), None),
    ('no_gradient', frozen, (1,)),
    ('no_gradient', times('grad/head_value_task2', 0.0), (2,)),
    ('twin_tasks', twins, (2,)),
    ('missing_data', without('_task3'), (3,)),
    ('data_jump', times('data/reward_task1', 1000.0), (1,)),
    ('data_jump', times('data/reward_task', -1.0), ()),
    ('data_jump', times('data/observation_change_task1', 0.1), (1,)),
    ('target_jump', times('noreduce_target_policy_entropy_task', 0.02), ()),
    ('loss_jump', times('noreduce_value_loss_task2', 4.0), (2,)),
    ('loss_jump', times('noreduce_', 8.0), ()),
    ('output_jump', times('logits/policy_task3', 10.0), (3,)),
    ('output_jump', times('logits/', 10.0), ()),
    ('representation_jump', times('dormant_tau', 15.0), ()),
    ('representation_jump', times('x_token/effective_rank', 0.2), ()),
    ('representation_jump', times('x_token_task2/effective_rank', 0.2), (2,)),
    ('gradient_jump', times('_task1/_total_norm', 1.0), None),
    ('gradient_jump', times('grad/head_policy_task2', 100.0), (2,)),
    ('gradient_jump', times('_task3/_total_norm', 0.01), (3,)),
    ('gradient_jump', times('grad/', 20.0), ()),
    ('gradient_jump', times('grad/encoder', 1e-3), ()),
    ('update_jump', times('update/head_value_task0', 30.0), (0,)),
    ('update_jump', times('update/', 0.0), ()),
    ('weight_jump', times('norm/head_value_task1', 0.5), (1,)),
    ('weight_jump', times('norm/', 100.0), ()),
    ('learning_rate', times('learning_rate/', 10.0), ()),
    ('learning_rate', times('learning_rate/', 0.0), ()),
    ('task_dominates', dominating, (3,)),
    ('task_starves', dominating, (0,)),
    ('conflicting_pair', opposed, (1, 3)),
    ('gradient_noise', noise, ()),
    ('update_range', times('update/head_policy_task1', 200.0), (1,)),
    ('head_gradient_gap', times('grad/head_observation_task0', 300.0), (0,)),
    ('head_norm_gap', growing('norm/head_value_task1', 0.1), (1,)),
    ('always_clipped', setting(clip__model__coefficient=0.05), ()),
    ('clipped_to_zero', setting(clip__model__coefficient=0.0), ()),
    ('losing_points', setting(monitor__missing_ranks=1.0), ()),
    ('losing_points', setting(monitor__lost__queue=3.0), ()),
]


def test_every_rule_has_a_pattern() -> None:
    invariants = {*EXACT, *EXPECTED, LossWeights}  # those have tests of their own
    assert {name for name, *_ in PATTERNS} == {rule.name for rule in RULES if rule not in invariants}


@pytest.mark.parametrize(
    ('name', 'change', 'tasks'), sampled(PATTERNS), ids=[f'{name}-{tasks}' for name, _, tasks in PATTERNS]
)
def test_a_rule_finds_its_pattern_and_names_the_task(name: str, change: Change, tasks: tuple[int, ...] | None) -> None:
    found = [
        finding for finding in findings(with_fault(change)) if finding.rule == name and finding.found >= EVERY * PLANTED
    ]
    if tasks is None:
        assert found == []
        return
    assert tasks in [finding.tasks for finding in found]
    finding = next(finding for finding in found if finding.tasks == tasks)
    assert finding.since >= EVERY * PLANTED
    assert finding.advice
    assert all(np.isfinite(list(finding.evidence.values())))
    for task in tasks:
        assert TASKS[task] in finding.sentence
    assert finding.task_names == tuple(TASKS[task] for task in tasks)


@pytest.mark.parametrize('seed', sampled(range(6)))
def test_a_healthy_run_has_neither_warnings_nor_errors(seed: int) -> None:
    assert [finding for finding in findings(healthy(seed)) if finding.severity != 'info'] == []


@pytest.mark.parametrize('name', sampled(['gradient_jump', 'loss_jump', 'no_gradient', 'data_jump']))
def test_a_finding_clears_when_the_pattern_has_gone(name: str) -> None:
    change = next(change for rule, change, tasks in PATTERNS if rule == name and tasks)

    def for_a_while(since: int, scalars: dict[str, float], matrices: dict[str, Matrix]) -> None:
        if since < 20:
            change(since, scalars, matrices)

    finding = next(finding for finding in findings(with_fault(for_a_while)) if finding.rule == name)
    assert finding.cleared is not None
    assert finding.cleared > EVERY * (PLANTED + 20)


@pytest.mark.parametrize('share', sampled([0.2, 0.5, 0.8]))
@pytest.mark.parametrize('absent', [False, True])
def test_a_gradient_that_comes_and_goes_may_go_but_not_for_ever(share: float, absent: bool) -> None:
    random = np.random.default_rng(7)
    # A policy head whose targets are mostly what it predicts, or an actor that is delayed.
    has_gradient = random.random(400) < share
    has_gradient[:12] = share > 0.5
    records = []
    for iteration, present in enumerate([*has_gradient, *[False] * 100]):
        scalars = {'grad/encoder/_total_norm': 1.0, 'grad/model/_total_norm': 1.0}
        if present or not absent:
            scalars['grad/head_policy/_total_norm'] = float(present)
        else:
            scalars['monitor/no_gradient/head_policy'] = 1.0
        records.append(Record(iteration, scalars))
    found = [(f.rule, f.group, f.found >= 400) for f in findings(records) if f.rule == 'no_gradient']
    trained = share > 0.5 or (absent and share > 0.2)
    assert found == ([('no_gradient', 'head_policy', True)] if trained else [])


@pytest.mark.parametrize(('factor', 'severity'), [(0.5, 'warning'), (5.0, 'warning')])
def test_weights_that_jump_are_a_warning(factor: float, severity: str) -> None:
    found = [f for f in findings(with_fault(times('norm/head_value_task1', factor))) if f.rule == 'weight_jump']
    assert [(finding.severity, finding.tasks) for finding in found] == [(severity, (1,))]


@pytest.mark.parametrize(('scheduler', 'told'), [(True, False), (False, True)])
def test_a_rate_that_a_scheduler_has_brought_to_0_is_planned(scheduler: bool, told: bool) -> None:
    def falls(since: int, scalars: dict[str, float], _: dict[str, Matrix]) -> None:
        scalars['learning_rate/encoder'] *= max(0.0, 1 - since / 40)

    records = with_fault(falls)
    for record in records if scheduler else ():
        record.scalars['step/scheduler_steps'] = 1.0
    assert ('learning_rate' in {finding.rule for finding in findings(records)}) == told


@pytest.mark.parametrize('every', [4, 8])
@pytest.mark.parametrize(('change', 'severity'), [(growing, 'info'), (times, 'warning')])
def test_growth_is_no_jump_where_only_some_records_are_judged(
    change: Callable[..., Change], severity: str, every: int
) -> None:
    records = with_fault(change('norm/head_value_task1', 0.08 if change is growing else 5.0))
    diagnosis = Diagnosis(TASKS, figures=DECLARED)
    for number, record in enumerate(records):
        (diagnosis.observe if number < 24 or number % every == 0 else diagnosis.check)(record)
    assert {finding.severity for finding in diagnosis.findings if finding.rule == 'weight_jump'} == {severity}


def test_weights_that_grow_as_those_of_a_network_that_learns_are_no_warning() -> None:
    found = findings(with_fault(growing('norm/head_value_task1', 0.05)))
    assert all(finding.severity == 'info' for finding in found if finding.rule == 'weight_jump')


def test_a_level_that_stays_changed_stays_a_finding() -> None:
    finding = next(f for f in findings(with_fault(times('grad/head_policy_task2', 100.0))) if f.rule == 'gradient_jump')
    assert finding.cleared is None


@pytest.mark.parametrize(('name', 'change', 'tasks'), sampled([pattern for pattern in PATTERNS if pattern[2]][::3]))
def test_renumbering_the_tasks_renumbers_the_findings(name: str, change: Change, tasks: tuple[int, ...]) -> None:
    order = [2, 0, 3, 1]  # task i becomes order[i]
    before = findings(with_fault(change))
    renamed = []
    for record in with_fault(change):
        scalars = {}
        for metric, value in record.scalars.items():
            for task in range(4):
                if f'_task{task}' in metric:
                    metric = metric.replace(f'_task{task}', f'_task{order[task]}')
                    break
            scalars[metric] = value
        matrices = {}
        for key, matrix in record.matrices.items():
            values = np.empty_like(matrix.values)
            values[np.ix_(order, order)] = matrix.values
            matrices[key] = Matrix(values, matrix.rows, matrix.columns)
        renamed.append(Record(record.iteration, scalars, matrices))
    diagnosis = Diagnosis({order[task]: label for task, label in TASKS.items()}, figures=DECLARED)
    for record in renamed:
        diagnosis.observe(record)
    of_rule = {tuple(sorted(f.tasks)) for f in diagnosis.findings if f.rule == name}
    assert tuple(sorted(order[task] for task in tasks)) in of_rule
    assert len(of_rule) == len({f.tasks for f in before if f.rule == name})


def test_the_size_of_a_model_does_not_matter() -> None:
    change = times('grad/head_policy_task2', 100.0)
    small = findings(with_fault(change))
    records = with_fault(change)
    for record in records:
        for name in record.scalars:
            if name.startswith(('norm/', 'grad/')):
                record.scalars[name] *= 1000.0
    assert [(f.rule, f.tasks, f.found) for f in findings(records)] == [(f.rule, f.tasks, f.found) for f in small]


@pytest.mark.parametrize(('factor', 'found'), [(1.0, False), (1.3, False), (20.0, True)])
def test_the_loss_of_a_single_task_jumps(factor: float, found: bool) -> None:
    chance = np.random.default_rng(0)
    diagnosis = Diagnosis({}, figures=DECLARED)
    for index in range(100):
        loss = float(np.exp(0.1 * chance.normal())) * (factor if index >= 60 else 1.0)
        diagnosis.observe(Record(5 * index, {'noreduce_value_loss': loss, 'noreduce_policy_loss': 1.0}))
    [*jumps] = [finding for finding in diagnosis.findings if finding.rule == 'loss_jump']
    assert bool(jumps) == found
    if found:
        assert jumps[0].tasks == ()
        assert jumps[0].since >= 300
        assert 'value_loss has risen' in jumps[0].sentence


@pytest.mark.parametrize(('of_the_model', 'severity'), [(1.0, 'info'), (40.0, 'warning')])
def test_a_first_reward_is_information_unless_the_whole_model_is_moved(of_the_model: float, severity: str) -> None:
    def rewarded(since: int, scalars: dict[str, float], _: dict[str, Matrix]) -> None:
        if since == 0:
            scalars['data/reward_task1/max'] = scalars['data/reward_task1/abs_max'] = 0.9
            for head in ('head_value', 'head_reward'):
                scalars[f'grad/{head}_task1/_total_norm'] *= 300.0
            for loss in ('value', 'reward'):
                scalars[f'noreduce_{loss}_loss_task1'] *= 300.0
            scalars['grad/model/_total_norm'] *= of_the_model

    records = with_fault(rewarded)
    for number, record in enumerate(records):
        for task in TASKS:
            if (number, task) != (PLANTED, 1):
                record.scalars[f'data/reward_task{task}/max'] = record.scalars[f'data/reward_task{task}/abs_max'] = 0.0
    (spike,) = [finding for finding in findings(records) if finding.rule == 'spike']
    assert (spike.severity, spike.tasks, spike.found) == (severity, (1,), EVERY * PLANTED)
    assert ('first rewards' in spike.sentence) == (severity == 'info')


def test_a_spike_soon_after_a_first_reward_is_a_finding_of_its_own() -> None:
    def rewarded(since: int, scalars: dict[str, float], _: dict[str, Matrix]) -> None:
        if since in (0, 3):
            scalars['data/reward_task1/max'] = 0.9
            scalars['noreduce_reward_loss_task1'] *= 300.0 * (1 + since) ** 3

    records = with_fault(rewarded)
    for number, record in enumerate(records):
        for name in [name for name in record.scalars if name.startswith('data/reward')]:
            if number not in (PLANTED, PLANTED + 3) or 'task1' not in name:
                record.scalars[name] = 0.0
    spikes = [finding for finding in findings(records) if finding.rule == 'spike']
    assert [(spike.severity, spike.found) for spike in spikes] == [
        ('info', EVERY * PLANTED),
        ('warning', EVERY * (PLANTED + 3)),
    ]
