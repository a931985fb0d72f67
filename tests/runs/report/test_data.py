"""What the page draws, before it is drawn: layout, numbers, words."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.sample_runs import HOSTILE, broken_run, sample_run
from ding_normmon.core.figure import Chart as Place
from ding_normmon.core.figure import Figure
from ding_normmon.core.figures import Figures
from ding_normmon.core.finding import Finding
from ding_normmon.core.incident import DenseWindow, Departure, Incident
from ding_normmon.core.record import Record
from ding_normmon.diagnose.rules import RULES
from ding_normmon.metrics import DECLARED
from ding_normmon.runs import Run, Series, read_run
from ding_normmon.runs.history_file import HistoryFile
from ding_normmon.runs.read_black_box import Box, incident_of_death
from ding_normmon.runs.report.curves import POINTS, STEPS, deviations, over_iterations, stretches
from ding_normmon.runs.report.data import _reason, page_data
from ding_normmon.runs.report.layout import _chinese_figures, chinese, lay_out, title_in_chinese
from ding_normmon.runs.report.page import render_page
from ding_normmon.runs.report.parts import ASSETS, SCRIPTS, STYLES
from ding_normmon.runs.state import state_of


def line(*values: float) -> Series:
    return Series(np.arange(len(values)), np.array(values, float), np.arange(len(values), dtype=float))


def test_charts_are_scaled_as_the_figures_are_declared() -> None:
    names = [name for figure in DECLARED for name in figure.samples({'group': 'encoder', 'head': 'head_value'})]
    charts = lay_out([Run(Path('x'), {name: line(1.0, 2.0) for name in names})])
    scales = {chart_line.metric: chart.scale for chart in charts for chart_line in chart.lines}
    assert scales['grad/encoder/_total_norm'] == scales['noreduce_value_loss_task0'] == 'log'
    for name, scale in scales.items():
        figure = DECLARED.describe(name)
        if figure is not None and figure.is_signed(name):
            assert scale == 'linear', name


def test_a_metric_of_the_users_own_is_drawn_as_it_is_declared() -> None:
    own = Figure('speed/{group}/mean', 'how fast', 'm', scale='log', chart=Place('Mine', 'Speed of {group}'))
    run = Run(Path('x'), {'speed/arm/mean': line(1.0, 2.0)}, figures=Figures([('speed', own)]))
    [chart] = lay_out([run])
    assert (chart.category, chart.title['en'], chart.scale) == ('Mine', 'Speed of arm', 'log')


def test_everything_that_is_declared_has_a_chinese_name() -> None:
    places = [place for figure in DECLARED for place in (figure.chart, figure.task_chart) if place is not None]
    assert [place.title for place in places if place.title not in chinese()['titles']] == []
    assert {place.category for place in places} <= set(chinese()['categories'])
    assert [rule.name for rule in RULES if rule.name not in chinese()['rules']] == []
    known = _chinese_figures()
    assert [figure.unit for figure in DECLARED if figure.unit not in known['units']] == []
    # A figure has what a bad value means in both languages, or in none.
    for figure in DECLARED:
        definition, bad = known['figures'][figure.pattern]
        assert re.search('[\u4e00-\u9fff]|σ', definition), figure.pattern
        assert bool(bad) == bool(figure.bad_value), figure.pattern
    # Both languages of the page have the same texts.
    texts = (ASSETS / 'texts.js').read_text('utf-8')
    english, chinese_texts = texts.split('  zh: {')
    keys = [re.findall(r"(?:^|[,{]\s|    )'?([\w -]+?)'?: '", part, re.MULTILINE) for part in (english, chinese_texts)]
    assert sorted(keys[0]) == sorted(keys[1])


def test_a_chart_says_what_its_figures_mean_in_both_languages() -> None:
    charts = {chart.key: chart for chart in lay_out([sample_run()])}
    about = charts['plasticity-encoder-dormant_tau0.025'].about
    assert 'Sokar et al. 2023' in about['en']
    assert 'https' not in about['en']
    assert 'A bad value: growing' in about['en']
    assert '休眠' not in about['en']
    assert '增长：有容量不再被任何任务使用' in about['zh']
    assert title_in_chinese('plasticity/encoder_task1/dormant_tau0.1', '') == '编码器 休眠单元占比 τ=0.1'


def test_curves_of_a_chart_are_told_apart_by_what_differs() -> None:
    charts = {chart.key: chart for chart in lay_out([sample_run()])}
    heads = ['head_observation', 'head_policy', 'head_reward', 'head_value']
    assert [one.label for one in charts['task-2'].lines] == heads
    assert charts['task-2'].title['zh'] == '{task 2}：各模块的梯度范数'
    runs = [Run(Path('x'), {f'norm/head_value_all_tasks/{what}': line(1.0, 2.0) for what in ('mean', 'std')})]
    [chart] = lay_out(runs)
    assert [one.label for one in chart.lines] == ['mean', 'std']


@pytest.mark.parametrize('records', [1, 2, POINTS, POINTS + 1, 20_000])
def test_the_numbers_of_a_page_are_strict_json(records: int) -> None:
    values = np.sin(np.arange(records) / 50)
    values[records // 2] = np.inf
    at = np.arange(records)
    data = page_data([Run(Path('x'), {'loss': Series(at, values, at.astype(float))}, rules='none')])
    again = json.loads(json.dumps(data, allow_nan=False))
    assert again == data
    axis, drawn, low, high, odd = data['runs'][0]['series']['loss']
    assert len(data['runs'][0]['axes'][axis]['iterations']) == len(drawn) <= POINTS
    assert len(odd) == 1
    if records > POINTS:
        assert min(x for x in low if x is not None) == pytest.approx(np.nanmin(values), abs=1e-4)
        assert max(x for x in high if x is not None) == pytest.approx(values[np.isfinite(values)].max(), abs=1e-4)


@given(st.lists(st.floats(-1e6, 1e6) | st.just(float('nan')), min_size=1, max_size=60), st.integers(1, 20))
def test_stretches_are_medians_of_what_is_finite(values: list[float], points: int) -> None:
    middles, medians, low, high = stretches(np.array(values), points)
    size = -(-len(values) // points)
    parts = [np.array(values[start : start + size]) for start in range(0, len(values), size)]
    assert len(middles) == len(parts) <= points
    for index, part in enumerate(parts):
        finite = part[np.isfinite(part)]
        expected = [np.median(finite), finite.min(), finite.max()] if finite.size else [np.nan] * 3
        np.testing.assert_allclose([medians[index], low[index], high[index]], expected, rtol=1e-12)
        assert values[middles[index]] is not None


def test_a_level_that_changes_stays_far_from_its_past() -> None:
    far = deviations(broken_run(records=240), DECLARED)['tasks']
    assert all(cell > 20 for cell in far['1'][72:])
    assert max(cell for cell in far['0'][8:] if cell is not None) < 6
    broken = sample_run()
    broken.series['noreduce_value_loss_task2'].values[150] = np.nan
    assert deviations(broken, DECLARED)['tasks']['2'][90] == 100


def test_curves_over_environment_steps_are_drawn_over_iterations() -> None:
    at = np.arange(0, 400, 10)
    times = 1e9 + at * 2.0
    own = Series(at, np.ones(40), times)
    other = Series(at[::4] * 64, np.arange(10.0), times[::4] + 0.1)
    late = Series(at[::4], np.arange(10.0), times[::4] + 3.0)
    run = Run(Path('x'), {'grad/model/_total_norm': own, 'basic/train_loss': other, 'eval/a/return': late})
    shown = over_iterations(run)
    assert shown.series['basic/train_loss'].iterations.tolist() == at[::4].tolist()
    assert shown.series['eval/a/return'] is late
    assert shown.series[STEPS].values.tolist() == (at[::4] * 64).tolist()
    [data] = page_data([run])['runs']
    axis = data['axes'][data['series']['grad/model/_total_norm'][0]]
    assert axis['steps'][8] == 80 * 64
    assert data['about']['iterations'] == 390


def test_an_incident_has_charts_of_what_left_its_level_first() -> None:
    names = ('grad/head_value_task0/_total_norm', 'grad/head_value_task1/_total_norm', 'noreduce_value_loss_task1')
    values = np.ones((20, 3))
    values[12:, 1:], values[3, 0] = 50.0, np.nan
    window = DenseWindow(names, np.arange(100, 120), values)
    first = tuple(Departure(112, 'loss', name, 1, 50.0, 1.0, np.inf) for name in (names[2], names[1]))
    incident = Incident(1, 113, 112, 'finding', HOSTILE[0], first, 1, 'Pong', window=window)
    run = dataclasses.replace(sample_run(), incidents=[incident])
    [found] = json.loads(json.dumps(page_data([run]), allow_nan=False))['runs'][0]['incidents']
    assert [chart['lines'][0][0] for chart in found['charts']] == [names[2], names[0]]
    axis, shown, *_ = found['series'][names[0]]
    assert len(shown) == len(found['axes'][axis]['iterations']) == 19
    assert [one['metric'] for one in found['order']] == [names[2], names[1]]
    assert HOSTILE[0] not in render_page([run])


def test_what_opened_an_incident_is_said_in_both_languages() -> None:
    finding = Finding(
        'non_finite', 'error', 5, 5, 'Task 1 (Pong): 3 entries of the loss are not finite.', '', (1,), ('Pong',)
    )
    said = {
        finding.sentence: (finding.sentence, 'finding'),
        'noreduce_value_loss_task1 is NaN or infinite.': ('noreduce_value_loss_task1 为 NaN 或无穷。', 'non-finite'),
        'ValueError: no such game': ('ValueError: no such game', 'exception'),
    }
    for reason, (expected, kind) in said.items():
        assert _reason(Incident(1, 5, 5, kind, reason), [finding]) == {'en': reason, 'zh': expected}
    window = DenseWindow(('loss',), np.arange(30), np.ones((30, 1)))
    for events, expected in (
        ((), '训练没有正常关闭就结束了（进程被杀死或崩溃）；黑匣子中最新的一步是迭代 29。'),
        (((29, {'exception': 'OSError: full'}),), '训练因 OSError: full 结束；黑匣子中最新的一步是迭代 29。'),
    ):
        box = Box(Path('x'), 0, 'died', (29,), window, {}, events)
        death = incident_of_death([box])
        assert death is not None
        assert _reason(death, [])['zh'] == expected


def test_a_run_says_whether_it_goes_on(tmp_path: Path) -> None:
    file = HistoryFile(tmp_path / 'history.arrows')
    for iteration in range(5):
        file.publish(Record(iteration, {'grad/model/_total_norm': 1.0}))
    run = read_run(tmp_path)
    now = float(run.series['grad/model/_total_norm'].times[-1])
    assert state_of(run, now + 5).name == 'running'
    # This process has the file; a process that died has not.
    assert state_of(run, now + 1000).name == 'silent'
    file._release()
    assert state_of(run, now + 1000).name == 'died'
    file = HistoryFile(tmp_path / 'history.arrows')
    file.publish(Record(9, {'grad/model/_total_norm': 1.0}))
    file.close()
    ended = read_run(tmp_path)
    assert state_of(ended, now + 1000).name == 'ended'
    assert ended.about['ranks'] == 1
    assert 'torch' in ended.about['versions']


def test_the_page_is_small_and_asks_for_nothing(tmp_path: Path) -> None:
    page = render_page([broken_run()])
    assert len(page) < 2**20
    assert not re.search(r'(?:src|href)=["\']?(?:https?:)?//', page)
    policy = re.search(r'script-src ([^;]+);', page)
    assert policy is not None
    assert 'unsafe' not in policy[1]


def test_what_is_from_elsewhere_is_unchanged() -> None:
    for folder in (ASSETS / 'uplot', Path(__file__).parent / 'axe'):
        for name, digest in re.findall(r'\| (\S+) \| (\w{64}) \|', (folder / 'README.md').read_text('utf-8')):
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert all((ASSETS / name).is_file() for name in (*SCRIPTS, *STYLES))
