"""The report page in a real browser: its first screen, its charts, reading it, printing it, and harmful names."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.sample_runs import HOSTILE, broken_run, sample_run
from ding_normmon.core.finding import Finding
from ding_normmon.core.incident import DenseWindow, Departure, Incident
from ding_normmon.core.record import Record
from ding_normmon.runs import Run, Series, read_run
from ding_normmon.runs.history_file import HistoryFile
from ding_normmon.runs.report.changes import find_changes
from ding_normmon.runs.report.data import page_data
from ding_normmon.runs.report.page import render_page
from ding_normmon.runs.rules import rules_of_today
from tests.runs.report.browser import Opened, in_browser, open_browser

pytestmark = [pytest.mark.xdist_group('browser'), pytest.mark.slow, in_browser]


@pytest.fixture(scope='module')
def browser() -> Iterator[Any]:
    with open_browser() as browser:
        yield browser


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Opened]:
    found = Opened(browser, tmp_path / 'report.html', broken_run())
    yield found
    found.close()


def test_the_first_screen_says_what_is_wrong_in_which_task_since_when(opened: Opened) -> None:
    page = opened.page
    card = page.locator('.card').first
    assert 'Task 1 (Game1)' in card.inner_text()
    assert 'since 1210' in card.inner_text()
    assert 'What to try' in card.inner_text()
    card.locator('.plot[data-drawn]').wait_for()
    for part in (card, page.locator('#tasks table'), page.locator('.strip').nth(3), page.locator('.about')):
        box = part.bounding_box()
        assert box['y'] >= 0
        assert box['y'] + box['height'] <= 900
    about = page.inner_text('.about')
    for said in ('silent for', '1,990', '6,400', '33 min', 'seed 0', '200'):
        assert said in about
    row = page.locator('#tasks tbody tr').nth(1)
    assert row.locator('a').inner_text() == 'gradient_jump'
    # The only task whose strip is strongly coloured is the accused one.
    strips = page.evaluate('Object.values(window.page.page.data.runs[0].deviations.tasks)')
    far = [max(cell for cell in strip[100:] if cell is not None) for strip in strips]
    assert far[1] > 10 > 5 > max(far[0], far[2], far[3])


def test_the_small_chart_and_the_link_show_the_accused_curve_and_its_span(opened: Opened) -> None:
    page = opened.page
    card = page.locator('.card').first
    card.locator('.plot[data-drawn]').wait_for()
    small = card.locator('.plot').evaluate(
        '(plot) => [plot.chart.looks.map((look) => look.width > 1), plot.chart.own.span.from, plot.chart.own.span.to]'
    )
    assert small == [[False, True, False, False], 1210, 1990]
    card.locator('.see').click()
    key = page.evaluate("document.querySelector('figure.target').id").removeprefix('chart-')
    assert key.startswith('grad-head_')
    assert opened.chart(key, 'chart.looks.map((look) => look.width > 1)') == [False, True, False, False]
    low, high = opened.chart(key, 'chart.window()')
    assert 700 < low < 1210 < 1990 <= high
    assert opened.chart(key, 'chart.page.spanFor(chart)') == {'from': 1210, 'to': 1990, 'severity': 'warning'}
    assert page.locator('figure.target').bounding_box()['y'] < 900
    # What stands in the address opens the same.
    again = Opened(
        page.context.browser,
        Path(re.sub('#.*', '', page.url).removeprefix('file://')),
        fragment=f'#{page.url.partition("#")[2]}',
    )
    assert again.chart(key, 'chart.window()') == [low, high]
    again.close()
    page.click('.reset')
    assert opened.chart(key, 'chart.window()') == [0, 1990]


def test_scales_fit_and_the_first_spike_is_cut(opened: Opened) -> None:
    opened.draw_all()
    drawn = dict(
        opened.page.evaluate(
            "[...document.querySelectorAll('figure[id]')].map((f) => [f.id, f.querySelector('.plot').dataset.drawn])"
        )
    )
    assert None not in drawn.values()
    assert len(drawn) > 60
    for key in ('grad-head_value', 'grad-encoder', 'noreduce_value_loss', 'norm-model'):
        assert drawn[f'chart-{key}'] == 'log'
    for key in ('logits-value-mean', 'conflict-encoder-mean_cosine', 'collect-Game0-return'):
        assert drawn[f'chart-{key}'] == 'linear'
    assert opened.chart('grad-model', 'chart.range.above') == pytest.approx(5e4, rel=0.1)
    assert opened.chart('grad-model', 'chart.range.max') < 20
    texts = opened.chart('grad-model', 'chart.plot.axes.map((axis) => axis._values)')
    assert all('e' not in text and float(text) > 0 for text in texts[1])
    # Labels of ticks say where they are, also 0.025 apart.
    wrong = opened.page.evaluate("""[...document.querySelectorAll('.plot[data-drawn=linear]')].flatMap(({ chart }) => {
      const [, { _splits, _values }] = chart.plot.axes, size = Math.max(..._splits.map((at) => Math.abs(at ?? 0)));
      return _splits.filter((at, i) => _values[i] && Math.abs(Number(_values[i]) - at) > 1e-3 * size);
    })""")
    assert wrong == []


def test_a_small_constant_does_not_look_like_zero(browser: Any, tmp_path: Path) -> None:
    at = np.arange(50)
    values = {
        'mine/flat': np.full(50, 0.001),
        'mine/nearly': 0.001 + 1e-6 * (at % 2),
        'learning_rate/encoder': np.full(50, 0.001),
    }
    run = Run(tmp_path / 'x', {name: Series(at, value, at.astype(float)) for name, value in values.items()})
    opened = Opened(browser, tmp_path / 'report.html', run)
    opened.draw_all()
    for key in ('mine-flat', 'learning_rate-encoder'):
        low, high = opened.chart(key, '[chart.range.min, chart.range.max]')
        assert 0 < low < 0.001 < high < 0.002
        labels = opened.chart(key, 'chart.plot.axes[1]._values.filter(Boolean)')
        assert len(set(labels)) == len(labels) > 1
        assert all(float(label) > 0 for label in labels)
    assert 'learning_rate' in opened.page.inner_text('#charts') or 'Learning rates' in opened.page.inner_text('#charts')
    opened.close()


def test_hovering_a_task_highlights_it_everywhere(opened: Opened) -> None:
    opened.draw_all()
    opened.page.focus('.legend li:nth-child(3) button')
    opened.page.wait_for_selector('#tasks tr.hot')
    assert opened.page.get_attribute('#tasks tr.hot', 'data-task') == '2'
    for key in ('grad-head_value', 'noreduce_value_loss'):
        opened.page.locator(f'#chart-{key}').scroll_into_view_if_needed()
        opened.page.evaluate(f"document.querySelector('#chart-{key} .plot').chart.recolour()")
        assert opened.chart(key, 'chart.looks.map((look) => look.width > 2)') == [False, False, True, False]
    plot = opened.page.locator('#chart-grad-head_value .plot .u-over')
    plot.scroll_into_view_if_needed()
    plot.hover(position={'x': 100, 'y': 60})
    assert 'iterations' in opened.page.inner_text('.tip')
    following = opened.chart('grad-head_policy', 'chart.plot.cursor.left')
    assert following == pytest.approx(100, abs=3)


def test_zoom_axis_smoothing_and_scale_hold_for_all_charts(opened: Opened) -> None:
    page = opened.page
    plot = page.locator('#chart-grad-head_value .plot .u-over')
    page.locator('#chart-grad-head_value').scroll_into_view_if_needed()
    plot.wait_for()
    box = plot.bounding_box()
    page.mouse.move(box['x'] + 50, box['y'] + 50)
    page.mouse.down()
    page.mouse.move(box['x'] + 150, box['y'] + 50, steps=3)
    page.mouse.up()
    zoomed = opened.chart('grad-head_value', 'chart.window()')
    assert 0 < zoomed[0] < zoomed[1] < 1990
    assert opened.chart('norm-encoder', 'chart.window()') == zoomed
    page.dblclick('#chart-grad-head_value .plot .u-over')
    assert opened.chart('norm-encoder', 'chart.window()') == [0, 1990]
    page.select_option('select >> nth=0', 'steps')
    assert opened.chart('grad-head_value', '(chart.draw(), [chart.window(), chart.plot.axes[0].label])') == [
        [32, 6400],
        'environment steps',
    ]
    page.select_option('select >> nth=0', 'times')
    assert opened.chart('grad-head_value', '(chart.draw(), [chart.window(), chart.plot.axes[0].label])') == [
        [0, 1990],
        'time (min)',
    ]
    page.select_option('select >> nth=1', 'linear')
    assert opened.chart('grad-head_value', '(chart.draw(), chart.log)') is False
    noise = 'Math.max(...chart.lines[0].y.slice(1).map((v, i) => Math.abs(v - chart.lines[0].y[i])))'
    before = opened.chart('norm-model', f'(chart.draw(), {noise})')
    page.locator('.controls input[type=range]').fill('0.9')
    assert opened.chart('norm-model', f'(chart.draw(), {noise})') < before / 3


def test_the_search_finds_metrics_by_name(opened: Opened) -> None:
    page = opened.page
    page.fill('input[type=search]', 'dormant_tau')
    shown = page.evaluate("[...document.querySelectorAll('figure[id]')].filter((f) => f.offsetParent).map((f) => f.id)")
    assert shown == ['chart-plasticity-encoder-dormant_tau0.025']
    page.fill('input[type=search]', 'no such metric')
    assert page.is_visible('text=No metric has that name.')
    page.fill('input[type=search]', '')
    assert page.locator('figure[id]:visible').count() > 10


def test_it_is_read_with_the_keyboard(opened: Opened) -> None:
    page = opened.page
    page.keyboard.press('Tab')
    assert page.evaluate('document.activeElement.className') == 'skip'
    page.keyboard.press('Enter')
    page.keyboard.press('Tab')
    page.locator('#chart-grad-head_value .plot').focus()
    page.locator('#chart-grad-head_value .plot[data-drawn]').wait_for()
    page.keyboard.press('ArrowLeft')
    assert re.fullmatch(r'0 Game0, iterations 1990: [\d.]+', page.inner_text('[aria-live]'))
    page.keyboard.press('ArrowDown')
    page.keyboard.press('ArrowLeft')
    value = opened.chart('grad-head_value', 'chart.lines[1].y.at(-2)')
    said = page.inner_text('[aria-live]')
    assert said.startswith('1 Game1, iterations 1980: ')
    assert float(said.rpartition(' ')[2]) == pytest.approx(value, rel=1e-3)
    page.keyboard.press('t')
    table = page.locator('#chart-grad-head_value .table')
    assert table.locator('tbody tr').count() == 100
    assert table.locator('thead th').all_inner_texts() == ['iterations', '0 Game0', '1 Game1', '2 Game2', '3 Game3']
    page.keyboard.press('i')
    assert "L2 norm of the group's gradients" in page.inner_text('#chart-grad-head_value .definition')
    page.keyboard.press('i')
    assert page.locator('.definition').count() == 0
    page.keyboard.press('l')
    assert page.get_attribute('#chart-grad-head_value .plot', 'data-drawn') == 'linear'
    # A chart is one stop: nothing else in its figure is one.
    stops = 'document.querySelectorAll(\'#chart-norm-model :is(a, button, [tabindex]):not([tabindex="-1"])\').length'
    assert page.evaluate(stops) == 1


def test_the_table_of_tasks_is_sorted_by_its_headings(opened: Opened) -> None:
    page = opened.page
    page.click('#tasks thead button:has-text("from its own past")')
    assert page.get_attribute('#tasks tbody tr >> nth=0', 'data-task') == '1'
    page.click('#tasks thead button:has-text("return")')
    returns = [float(text) for text in page.locator('#tasks tbody tr td:nth-child(2)').all_inner_texts()]
    assert returns == sorted(returns, reverse=True)
    page.click('#tasks thead button:has-text("return")')
    assert page.locator('#tasks th[aria-sort=ascending]').count() == 1


def test_chinese_means_everything(browser: Any, tmp_path: Path) -> None:
    opened = Opened(browser, tmp_path / 'report.html', broken_run(), language='zh')
    opened.draw_all()
    shown = opened.page.inner_text('main')
    for said in (
        '诊断结论',
        '梯度突增',
        'x_token 范数的均值',
        '共享模块的梯度范数',
        '打开图表',
        '任务',
        '偏离自身历史',
    ):
        assert said in shown
    allowed = 'Game|logits|log|transformer|task_embedding|head_|x_token|obs|model'
    titles = opened.page.locator('.title').all_inner_texts()
    english = [title for title in titles if re.search('[A-Za-z]{3,}', re.sub(allowed, '', title))]
    assert english == []
    opened.page.click('.language')
    assert opened.page.inner_text('#findings-title') == 'Findings'
    opened.close()


def test_it_prints_light_and_whole(browser: Any, tmp_path: Path) -> None:
    opened = Opened(browser, tmp_path / 'report.html', broken_run(), theme='dark')
    opened.page.emulate_media(media='print')
    opened.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    paper = opened.page.evaluate('getComputedStyle(document.querySelector("main")).backgroundColor')
    assert paper == 'rgb(255, 255, 255)'
    shown = "[...document.querySelectorAll('figure[id]')].filter((figure) => figure.offsetParent)"
    boxes = f"{shown}.map((one) => [one.clientWidth, one.querySelector('canvas')])"
    sizes = "[canvas.clientWidth, canvas.clientHeight, canvas.width, canvas.height]"
    widths = opened.page.evaluate(f'{boxes}.map(([wide, canvas]) => [wide, ...{sizes}])')
    assert len(widths) > 50
    for figure, wide, high, drawn_wide, drawn_high in widths:
        assert 0 < wide <= figure
        # Nothing is drawn out of shape, and it is drawn as finely as paper shows.
        assert wide / high == pytest.approx(drawn_wide / drawn_high, rel=0.02)
        assert drawn_wide == 700
    assert opened.overflow() <= 0
    opened.page.evaluate("dispatchEvent(new Event('afterprint'))")
    pdf = opened.page.pdf(format='A4', print_background=True)
    assert pdf.startswith(b'%PDF')
    assert len(re.findall(rb'/Type\s*/Page\b', pdf)) > 5
    opened.close()


@pytest.mark.parametrize('theme', ['light', 'dark'])
def test_axe_finds_nothing_serious(theme: str, browser: Any, tmp_path: Path) -> None:
    opened = Opened(browser, tmp_path / 'report.html', broken_run(), theme=theme)
    opened.draw_all()
    opened.page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    opened.page.locator('#chart-grad-head_value .plot').focus()
    opened.page.keyboard.press('t')
    assert opened.axe() == []
    opened.close()


def test_a_phone_shows_findings_first_and_clips_nothing(browser: Any, tmp_path: Path) -> None:
    opened = Opened(browser, tmp_path / 'report.html', broken_run(), size=(390, 844))
    places = "['#findings', '#tasks', '.side', '.sections']"
    order = opened.page.evaluate(f'{places}.map((one) => document.querySelector(one).getBoundingClientRect().top)')
    assert order == sorted(order)
    assert opened.overflow() <= 0
    boxes = "[...document.querySelectorAll('.card, #tasks tr, figure')].filter((one) => one.offsetParent)"
    clipped = opened.page.evaluate(
        f'{boxes}.filter((one) => one.getBoundingClientRect().right > innerWidth + 1).length'
    )
    assert clipped == 0
    opened.close()


def test_many_tasks_are_grey_but_for_those_that_stand_out(browser: Any, tmp_path: Path) -> None:
    opened = Opened(browser, tmp_path / 'report.html', broken_run(tasks=26))
    colours = opened.chart('grad-head_value', 'chart.looks.map((look) => look.colour)')
    assert len(colours) == 26
    assert colours[1] not in colours[:1] + colours[2:]
    assert len(set(colours[:1] + colours[2:])) == 1
    assert opened.page.locator('#tasks tbody tr').count() == 26
    box = opened.page.locator('#tasks table').bounding_box()
    assert box['y'] + box['height'] <= 900
    opened.close()


def test_an_incident_is_drawn_step_by_step(browser: Any, tmp_path: Path) -> None:
    names = tuple(f'grad/head_value_task{task}/_total_norm' for task in range(4))
    values = np.ones((60, 4))
    values[42:, 1] = 60.0
    first = (Departure(1202, 'head gradient', names[1], 1, 60.0, 1.0, 60.0),)
    window = DenseWindow(names, np.arange(1160, 1220), values)
    incident = Incident(1, 1204, 1202, 'finding', 'It exploded.', first, 1, 'Game1', 'head_value', window=window)
    opened = Opened(browser, tmp_path / 'report.html', dataclasses.replace(broken_run(), incidents=[incident]))
    section = opened.page.locator('#incidents')
    section.locator('.plot[data-drawn]').first.wait_for()
    assert 'It exploded.' in section.inner_text()
    assert 'iteration 1202: head gradient, grad/head_value_task1/_total_norm' in section.inner_text()
    plot = section.locator('.plot')
    assert plot.evaluate('(plot) => plot.chart.window()') == [1160, 1219]
    assert plot.evaluate('(plot) => plot.chart.looks.map((look) => look.width > 1)') == [False, True, False, False]
    opened.close()


def test_newer_data_is_shown_where_the_page_is(opened: Opened) -> None:
    page = opened.page
    page.locator('#chart-grad-head_value').scroll_into_view_if_needed()
    page.locator('#chart-grad-head_value .plot[data-drawn]').wait_for()
    top = page.evaluate('scrollY')
    newer = page_data([broken_run(records=250)])
    page.evaluate('(data) => window.page.update(data)', newer)
    assert page.evaluate('scrollY') == pytest.approx(top, abs=150)
    assert opened.chart('grad-head_value', '(chart.draw(), chart.lines[0].x.at(-1))') == 2490
    assert '2,490' in page.inner_text('.about')
    assert opened.chart('grad-head_value', 'chart.window()') == [0, 2490]


def test_seeds_are_a_mean_and_a_band(browser: Any, tmp_path: Path) -> None:
    runs = [broken_run(path=f'seed{seed}', seed=seed) for seed in range(3)]
    opened = Opened(browser, tmp_path / 'compare.html', *runs, changes=find_changes(runs))
    mean, low = opened.chart('norm-model', '[chart.lines[0].y, chart.lines[0].low]')
    values = np.stack([run.series['norm/model/_total_norm'].values for run in runs])
    np.testing.assert_allclose(mean, values.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(low, values.mean(axis=0) - values.std(axis=0, ddof=1), rtol=1e-3)
    assert opened.chart('grad-head_value', 'chart.lines.length') == 4
    opened.page.uncheck('.controls input[type=checkbox]')
    assert opened.chart('grad-head_value', '(chart.draw(), chart.lines.length)') == 12
    assert 'What changed most' in opened.page.inner_text('main')
    opened.close()


@pytest.mark.parametrize('width', [1440, 1200])
def test_the_task_table_with_every_column_is_not_cut(width: int, browser: Any, tmp_path: Path) -> None:
    names = tuple(f'MiniGrid-LavaCrossingS9N{task}-v0' for task in range(4))
    run = sample_run(names=names)
    for name in names:
        for source in ('eval', 'random_policy'):
            run.series[f'{source}/{name}/return'] = run.series[f'collect/{name}/return']
    opened = Opened(browser, tmp_path / 'report.html', run, size=(width, 900))
    table = opened.page.locator('#tasks .scroll')
    assert table.locator('thead th').count() == 8
    assert table.evaluate('(one) => one.scrollWidth - one.clientWidth') <= 0
    opened.close()


def test_names_that_want_to_do_harm_are_only_names(browser: Any, tmp_path: Path) -> None:
    run = sample_run(names=HOSTILE, path=str(tmp_path / '<img src=x onerror=alert(1)>'))
    page = render_page([run])
    for name in HOSTILE:
        assert name not in page
    opened = Opened(browser, tmp_path / 'report.html', run)
    opened.draw_all()
    assert opened.page.title() == '<img src=x onerror=alert(1)>'
    assert opened.page.evaluate("document.querySelectorAll('main img, main script').length") == 0
    assert HOSTILE[0] in opened.page.inner_text('#tasks')
    assert HOSTILE[1] in opened.page.inner_text('#findings')
    opened.close()


@pytest.mark.full
@pytest.mark.parametrize('size', [(1440, 900), (390, 844)])
def test_names_and_sentences_without_end_fit(size: tuple[int, int], browser: Any, tmp_path: Path) -> None:
    names = ('x' * 500, '长' * 300, 'a b\tc\nd', '&amp; {0} %s ${x}')
    long = Finding('my rule ' * 20, 'error', 10, 20, 's' * 900, 'a' * 800, (0,), (names[0],), None, {'z' * 300: 1.0})
    run = sample_run(names=names, path=str(tmp_path / ('z' * 120)))
    run.series['z' * 300] = run.series['monitor/cost/ms']
    run = dataclasses.replace(run, findings=[*run.findings, long], configuration={'k' * 300: {'v': '<img src=x>' * 99}})
    opened = Opened(browser, tmp_path / 'report.html', run, size=size)
    opened.draw_all()
    opened.page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert opened.overflow() <= 0
    assert opened.page.locator('.legend li').first.bounding_box()['height'] < 60
    assert opened.axe() == []
    opened.close()


def test_runs_on_bad_days_have_a_page(browser: Any, tmp_path: Path) -> None:
    at = np.arange(3)
    odd = Series(at, np.array([1.0, np.nan, np.inf]), np.zeros(3))
    one = Series(at[:1], np.ones(1), np.zeros(1))
    long = np.arange(100_000)
    judged = {'monitor/cost/ms_diagnosis': Series(long, np.ones(100_000), long.astype(float))}
    runs = {
        'odd': [Run(Path('odd'), {'loss': odd, 'grad/model/_total_norm': Series(at, np.full(3, np.nan), np.zeros(3))})],
        'one': [Run(Path('one'), {'norm/encoder/_total_norm': one}, tasks={0: 'a'})],
        'zero': [Run(Path('zero'), {'grad/model/_total_norm': Series(at, np.zeros(3), np.zeros(3))})],
        'long': [
            Run(Path('long'), {'loss': Series(long, np.sin(long / 99), long * 1.0), **judged}, rules=rules_of_today())
        ],
        'others': [sample_run(tasks=2, path='two'), sample_run(tasks=5, path='five')],
        'empty': [Run(Path('empty'))],
    }
    # Names that JavaScript's own objects have, or that addresses are made of.
    odd_names = ('constructor', '__proto__', 'norm/toString/_total_norm', 'a;b=c,d', 'a/b?c#d', 'norm/a_task99999999/x')
    runs['names'] = [Run(Path('names'), dict.fromkeys(odd_names, odd), tasks={0: '__proto__', 10**9: 'far'})]
    for name, of_page in runs.items():
        opened = Opened(browser, tmp_path / f'{name}.html', *of_page)
        opened.draw_all()
        opened.close()


def test_a_run_that_is_being_written_and_shrinks(browser: Any, tmp_path: Path) -> None:
    file = HistoryFile(tmp_path / 'history.arrows')
    for iteration in range(40):
        file.publish(Record(iteration, {'grad/model/_total_norm': 1.0 + iteration, 'loss': 1.0}))
    opened = Opened(browser, tmp_path / 'report.html', read_run(tmp_path))
    assert 'running' in opened.page.inner_text('.about')
    content = (tmp_path / 'history.arrows').read_bytes()
    (tmp_path / 'history.arrows').write_bytes(content[: len(content) * 2 // 3])
    shorter = page_data([read_run(tmp_path)])
    opened.page.evaluate('(data) => window.page.update(data)', shorter)
    last = shorter['runs'][0]['about']['iterations']
    assert 10 < last < 39
    assert opened.chart('grad-model', '(chart.draw(), chart.window())') == [0, last]
    assert 'could not be read' in opened.page.inner_text('main')
    opened.close()
    file.close()


@pytest.mark.full
@pytest.mark.parametrize(
    ('size', 'theme', 'language', 'tasks'),
    # Every pair of a size, a theme, a language and a number of tasks is there.
    [
        ((1440, 900), 'light', 'en', 26), ((1440, 900), 'dark', 'zh', 1), ((1440, 900), 'light', 'zh', 1),
        ((1024, 768), 'dark', 'en', 26), ((1024, 768), 'light', 'zh', 26), ((1024, 768), 'light', 'en', 1),
        ((390, 844), 'dark', 'zh', 26), ((390, 844), 'light', 'en', 1), ((390, 844), 'dark', 'en', 1),
        # 200% zoom on a screen of 1440 pixels.
        ((720, 450), 'light', 'zh', 26),
    ],
)  # fmt: skip
def test_every_size_theme_and_language(
    size: tuple[int, int], theme: str, language: str, tasks: int, browser: Any, tmp_path: Path
) -> None:
    run = broken_run(tasks=tasks) if tasks > 1 else sample_run(tasks=2)
    opened = Opened(browser, tmp_path / 'report.html', run, size=size, theme=theme, language=language)
    opened.draw_all()
    assert opened.overflow() <= 0
    assert opened.axe() == []
    assert len(re.findall(rb'/Type\s*/Page\b', opened.page.pdf(format='A4'))) > 3
    opened.close()
