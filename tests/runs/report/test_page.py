"""The report page in a real browser: charts, controls, sizes, and names that want to do harm."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ding_normmon.runs import Run, Series
from ding_normmon.runs.report.charts import lay_out
from ding_normmon.runs.report.page import render_page, write_page
from ding_normmon.runs.report.payload import POINTS, thinned
from ding_normmon.runs.report.texts import TEXTS
from tests.runs.report.sample_runs import HOSTILE, sample_run

CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
OPTIONS = [
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
]

pytestmark = [pytest.mark.xdist_group('browser'), pytest.mark.slow]
in_browser = pytest.mark.skipif(CHROMIUM is None, reason='Chromium is not installed')


@pytest.fixture(scope='module')
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield launched
        launched.close()


class Opened:
    """A page that was opened from disk, with what went wrong in it."""

    def __init__(self, browser: Any, path: Path, fragment: str = '') -> None:
        self.page = browser.new_page(viewport={'width': 1300, 'height': 900})
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on('console', lambda message: self.errors.append(message.text) if message.type == 'error' else None)
        self.page.on('pageerror', lambda error: self.errors.append(str(error)))
        self.page.on('request', self._note)
        self.page.goto(path.as_uri() + fragment)
        self.page.wait_for_function('window.report')

    def _note(self, request: Any) -> None:
        if not request.url.startswith(('file:', 'data:', 'blob:')):
            self.requests.append(request.url)

    def draw_all(self) -> int:
        self.page.evaluate('window.report.drawAll()')
        return int(self.page.evaluate("document.querySelectorAll('.plot .main-svg').length"))

    def traces(self, chart: str) -> list[str]:
        return list(
            self.page.evaluate(
                f"document.querySelector('#chart-{chart} .plot').data.filter(t => t.name).map(t => t.name)"
            )
        )


def written(tmp_path: Path, *runs: Run, language: str = 'en') -> Path:
    path = tmp_path / 'report.html'
    write_page(path, runs, language)
    return path


@in_browser
def test_every_chart_renders_without_an_error_or_a_request(browser: Any, tmp_path: Path) -> None:
    opened = Opened(browser, written(tmp_path, sample_run()))
    charts = opened.page.evaluate('window.report.charts')
    opened.draw_all()
    drawn = opened.page.evaluate(
        "[...document.querySelectorAll('.plot')].filter(p => p.querySelector('.main-svg')).length"
    )
    assert drawn == charts > 40
    assert (opened.errors, opened.requests) == ([], [])
    marks = opened.page.evaluate("document.querySelector('#chart-grad-head_value .plot').layout.shapes.map(s => s.x0)")
    assert marks == [520]


@in_browser
def test_the_controls_work(browser: Any, tmp_path: Path) -> None:
    opened = Opened(browser, written(tmp_path, sample_run()))
    page = opened.page
    opened.draw_all()
    assert opened.traces('grad-head_value') == ['Game0', 'Game1', 'Game2', 'Game3']
    page.uncheck('[data-task="2"]')
    assert opened.traces('grad-head_value') == ['Game0', 'Game1', 'Game3']
    page.click('#no-task')
    assert opened.traces('grad-head_value') == []
    page.click('#all')
    page.check('#log')
    kind = "document.querySelector('#chart-grad-head_value .plot').layout.yaxis.type"
    assert page.evaluate(kind) == 'log'
    theme = page.evaluate('document.documentElement.dataset.theme')
    page.click('#theme')
    assert page.evaluate('document.documentElement.dataset.theme') != theme
    page.click('#language')
    assert page.inner_text('#findings h2') == TEXTS['zh']['findings']
    assert '梯度范数' in page.inner_text('#chart-grad-head_value figcaption')
    slider = page.locator('#conflict input[type=range]')
    before = page.inner_text('#conflict .at')
    slider.focus()
    page.keyboard.press('ArrowLeft')
    assert page.inner_text('#conflict .at') != before
    assert opened.errors == []


@in_browser
def test_it_can_be_walked_with_the_keyboard_and_read_aloud(browser: Any, tmp_path: Path) -> None:
    opened = Opened(browser, written(tmp_path, sample_run()))
    page = opened.page
    page.keyboard.press('Tab')
    assert page.evaluate('document.activeElement.className') == 'skip'
    page.keyboard.press('Tab')
    assert page.evaluate('document.activeElement.id') == 'log'
    unlabelled = page.evaluate(
        "[...document.querySelectorAll('.plot')].filter(p => !p.getAttribute('aria-label')).length"
    )
    assert unlabelled == 0
    assert page.evaluate("document.querySelectorAll('h1').length") == 1


@in_browser
def test_a_link_opens_at_its_chart(browser: Any, tmp_path: Path) -> None:
    chart = 'chart-update-head_policy-relative'
    opened = Opened(browser, written(tmp_path, sample_run()), f'#{chart}')
    opened.page.wait_for_function(f"document.querySelector('#{chart} .plot').dataset.drawn")
    top = opened.page.evaluate(f"document.getElementById('{chart}').getBoundingClientRect().top")
    assert 0 <= top < 450
    assert opened.page.evaluate("document.querySelector('#chart-grad-head_value .plot').dataset.drawn") is None


@in_browser
def test_names_that_want_to_do_harm_are_only_names(browser: Any, tmp_path: Path) -> None:
    run = sample_run(names=HOSTILE, path=str(tmp_path / '<img src=x onerror=alert(1)>'))
    opened = Opened(browser, written(tmp_path, run))
    opened.draw_all()
    assert opened.page.title() == '<img src=x onerror=alert(1)>'
    assert opened.errors == []
    assert opened.page.evaluate("document.querySelectorAll('main img, nav img').length") == 0
    assert HOSTILE[0] in opened.page.inner_text('#task-table')
    assert HOSTILE[1] in opened.page.inner_text('#finding-list')


@in_browser
def test_twenty_six_tasks_fit(browser: Any, tmp_path: Path) -> None:
    path = written(tmp_path, sample_run(tasks=26, records=200))
    assert path.stat().st_size < 8 * 2**20
    opened = Opened(browser, path)
    opened.draw_all()
    assert len(opened.traces('grad-head_value')) == 26
    styles = opened.page.evaluate(
        "document.querySelector('#chart-grad-head_value .plot').data.map(t => t.line.color + t.line.dash)"
    )
    assert len(set(styles)) == 26
    assert opened.errors == []


@in_browser
def test_it_prints(browser: Any, tmp_path: Path) -> None:
    opened = Opened(browser, written(tmp_path, sample_run()))
    opened.draw_all()
    pdf = opened.page.pdf(format='A4')
    assert pdf.startswith(b'%PDF')
    assert len(pdf) > 100_000


@in_browser
def test_runs_are_laid_over_each_other(browser: Any, tmp_path: Path) -> None:
    first, second = sample_run(path='first'), sample_run(path='second')
    opened = Opened(browser, written(tmp_path, first, second))
    opened.draw_all()
    assert len(opened.traces('grad-head_value')) == 8
    assert opened.traces('grad-head_value')[0] == 'Game0 · first'
    assert opened.errors == []


def test_both_languages_have_the_same_texts() -> None:
    assert set(TEXTS['en']) == set(TEXTS['zh'])


def test_nothing_of_a_run_stands_in_the_page_as_it_is() -> None:
    page = render_page([sample_run(names=HOSTILE)])
    for name in HOSTILE:
        assert name not in page
    assert 'http://' not in page.replace('http://www.w3.org', '')[:2000]


def test_long_curves_keep_their_extremes() -> None:
    values = np.sin(np.arange(200_000) / 5000)
    values[123_456], values[7] = 99.0, np.nan
    iterations = np.arange(200_000)
    _, drawn = thinned(Series(iterations, values, np.zeros(200_000)))
    assert len(drawn) <= POINTS
    assert drawn.max() == 99.0


def test_a_run_without_tasks_matrices_or_findings_has_a_page() -> None:
    series = Series(np.arange(3), np.array([1.0, np.nan, np.inf]), np.zeros(3))
    assert 'report' in render_page([Run(Path('x'), {'loss': series})])
    constant = dataclasses.replace(sample_run(), findings=[], matrices={})
    assert [section.key for section in lay_out([constant])][:2] == ['returns', 'shared']
