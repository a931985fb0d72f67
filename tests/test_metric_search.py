"""The search of the built pages finds metrics by their whole names, in a real browser."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ding_normmon.metrics.presets import DECLARED
from docs.metric_search import as_expression

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = Path('/usr/bin/chromium')


@pytest.mark.parametrize(
    ('pattern', 'name'),
    [
        ('norm/{group}/_total_norm', 'norm/encoder/_total_norm'),
        ('norm/{group}/{path}', 'norm/transformer/blocks/0/weight'),
        ('norm/x_token[_task{i}]/{mean,std,max,min}', 'norm/x_token/std'),
        ('norm/x_token[_task{i}]/{mean,std,max,min}', 'norm/x_token_task12/min'),
        ('plasticity/{group}[_task{i}]/dormant_tau{t}', 'plasticity/encoder_task3/dormant_tau0.1'),
    ],
)
def test_a_pattern_stands_for_its_names(pattern: str, name: str) -> None:
    assert re.fullmatch(as_expression(pattern), name)


@pytest.mark.parametrize('name', ['norm/x_token/median', 'norm/x_token_task/min', 'grad/x_token/min'])
def test_a_pattern_stands_for_no_other_name(name: str) -> None:
    assert not re.fullmatch(as_expression('norm/x_token[_task{i}]/{mean,std,max,min}'), name)


def test_every_declared_pattern_is_an_expression() -> None:
    for figure in DECLARED:
        re.compile(as_expression(figure.pattern))


@pytest.fixture(scope='module')
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if not CHROMIUM.exists():
        pytest.skip('no Chromium')
    from playwright.sync_api import sync_playwright

    built = tmp_path_factory.mktemp('pages')
    command = [sys.executable, '-m', 'sphinx', '-q', '-b', 'html', 'docs', str(built)]
    subprocess.run(command, cwd=ROOT, check=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox', '--disable-gpu'])
        shown = browser.new_page(viewport={'width': 390, 'height': 800})
        shown.goto(built.as_uri() + '/metrics.html')
        yield shown
        browser.close()


@pytest.mark.slow
@pytest.mark.full
def test_a_whole_name_finds_its_row(page: Any) -> None:
    address = page.url.rpartition('/')[0]
    page.goto(f'{address}/search.html?q=grad/head_value_task3/_total_norm')
    first = page.locator('#metric-results li').first
    assert first.locator('code').text_content() == 'grad/{group}/_total_norm'
    assert 'A bad value means: explosion' in first.text_content()
    first.locator('a').click()
    row = page.locator('tr.metric-target')
    assert row.locator('code').first.text_content() == 'grad/{group}/_total_norm'
    assert row.is_visible()


@pytest.mark.slow
@pytest.mark.full
def test_the_field_above_the_reference_finds_parts_of_names(page: Any) -> None:
    page.goto(page.url.rpartition('/')[0] + '/metrics.html')
    page.fill('#metric-field', 'clip coefficient')
    assert 'clip/{model}/coefficient' in page.locator('#metric-found li code').all_text_contents()
    page.fill('#metric-field', 'no such metric')
    assert page.locator('#metric-found li').count() == 0


@pytest.mark.slow
@pytest.mark.full
def test_a_phone_shows_tables_without_scrolling_sideways(page: Any) -> None:
    page.goto(page.url.rpartition('/')[0] + '/metrics.html')
    width = page.evaluate('Math.max(...[...document.querySelectorAll("table.docutils")].map(t => t.scrollWidth))')
    assert width <= 390
    cell = page.locator('table.docutils tbody tr').first.locator('td').nth(1)
    assert cell.get_attribute('data-title') == 'a bad value means'
