"""The page of a run that trains, in a real browser: as TensorBoard's tab, and served alone."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.runs.live.training import Training, record_at, write
from tests.runs.report.browser import AXE, in_browser, open_browser

HOSTILE = '<img src=x onerror=alert(1)>'

pytestmark = [
    pytest.mark.xdist_group('browser'),
    pytest.mark.slow,
    in_browser,
]


@pytest.fixture(scope='module')
def browser() -> Iterator[Any]:
    with open_browser() as launched:
        yield launched


@contextmanager
def served(program: list[str], port: int) -> Iterator[str]:
    """Run a server until the context is left, and yield its address."""
    environment = {**os.environ, 'PYTHONPATH': os.getcwd(), 'PYTHONUNBUFFERED': '1'}
    process = subprocess.Popen([sys.executable, '-m', *program], env=environment, stderr=subprocess.PIPE, text=True)
    address = f'http://127.0.0.1:{port}/'
    try:
        for _ in range(600):
            assert process.poll() is None, process.stderr and process.stderr.read()
            try:
                urllib.request.urlopen(address, timeout=5).close()
                break
            except OSError:
                time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(('127.0.0.1', 0))
        return int(found.getsockname()[1])


def wait_for(frame: Any, what: str, seconds: float = 60) -> None:
    """Wait until an expression is true; Playwright's own waiting uses eval, which the page's policy forbids."""
    end = time.monotonic() + seconds
    while not frame.evaluate(f'Boolean({what})'):
        assert time.monotonic() < end, what
        time.sleep(0.1)


class Opened:
    """A page with the run's charts in it, and everything that went wrong in it or was asked of other machines."""

    def __init__(self, browser: Any, address: str, width: int = 1440, is_tab: bool = False, **options: Any) -> None:
        self.page = browser.new_page(viewport={'width': width, 'height': 900}, **options)
        self.wrong: list[str] = []
        self.page.on('console', lambda told: self.wrong.append(told.text) if told.type == 'error' else None)
        self.page.on('pageerror', lambda error: self.wrong.append(str(error)))
        self.page.on('request', lambda asked: None if self._is_ours(asked.url) else self.wrong.append(asked.url))
        self.page.goto(address)
        self.frame = self._frame() if is_tab else self.page.main_frame
        self.wait_for('window.page?.charts > 0', 240)

    @staticmethod
    def _is_ours(url: str) -> bool:
        return url.startswith(('http://127.0.0.1', 'data:', 'blob:'))

    def _frame(self) -> Any:
        for _ in range(600):
            for frame in self.page.frames:
                if 'plugin_entry' in frame.url:
                    return frame
            self.page.wait_for_timeout(200)
        raise AssertionError([frame.url for frame in self.page.frames])

    def axe(self) -> list[str]:
        """Return what axe finds that is serious or worse; it reads itself from the server, as the policy wants."""
        self.page.route(
            '**/axe.js', lambda route: route.fulfill(body=AXE.read_text('utf-8'), content_type='text/javascript')
        )
        self.frame.add_script_tag(url='./axe.js')
        found = self.frame.evaluate('axe.run(document, { resultTypes: ["violations"] })')
        return [
            f'{wrong["id"]}: {wrong["nodes"][0]["html"][:200]}'
            for wrong in found['violations']
            if wrong['impact'] in ('serious', 'critical')
        ]

    def iterations(self) -> int:
        return int(self.frame.evaluate('window.page.page.data.runs[0].about.iterations'))

    def wait_for(self, what: str, seconds: float = 60) -> None:
        wait_for(self.frame, what, seconds)


def check_that_it_follows(opened: Opened) -> None:
    frame = opened.frame
    frame.evaluate('window.mark = "not loaded again"; window.scrollTo(0, 300)')
    before, drawn, place = opened.iterations(), frame.evaluate(LAST_POINT), frame.evaluate('window.scrollY')
    assert place > 0
    opened.wait_for(f'window.page.page.data.runs[0].about.iterations > {before + 5}')
    # What is drawn has gone on too, and the page is where it was.
    opened.wait_for(f'({LAST_POINT}) > {drawn}')
    assert frame.evaluate('window.mark') == 'not loaded again'
    assert frame.evaluate('window.scrollY') == place
    assert re.search('running|训练中', frame.inner_text('main'))


LAST_POINT = "Math.max(...[...document.querySelectorAll('figure')].map((one) => one.chart?.plot?.data[0].at(-1) ?? -1))"


def test_a_run_that_trains_is_a_tab_of_tensorboard(browser: Any, tmp_path: Path) -> None:
    port = free_port()
    write(tmp_path / HOSTILE, close=True)
    with (
        Training(tmp_path / 'atari' / 'seed0'),
        served(
            ['tensorboard.main', '--logdir', str(tmp_path), '--port', str(port), '--host', '127.0.0.1'], port
        ) as address,
    ):
        opened = Opened(browser, f'{address}#ding_normmon', is_tab=True)
        assert 'NORMMON' in opened.page.inner_text('body').upper()
        frame = opened.frame
        assert frame.evaluate('window.page.page.data.runs[0].name') == 'atari/seed0'
        # A link to a place in the page stays in the page, although TensorBoard gives it another base.
        frame.evaluate('document.querySelector(\'figure[id] a[href^="#"]\').click()')
        opened.wait_for("document.querySelector('figure.target') !== null")
        assert 'plugin_entry' in frame.url
        # TensorBoard's own switch to dark counts.
        theme = frame.evaluate("document.querySelector('main').dataset.theme")
        opened.page.evaluate("document.body.classList.toggle('dark-mode')")
        opened.wait_for(f"document.querySelector('main').dataset.theme !== '{theme}'")
        frame.evaluate('window.scrollTo(0, 0)')
        check_that_it_follows(opened)
        assert opened.wrong == []


@pytest.mark.full
@pytest.mark.parametrize(('width', 'scheme', 'locale'), [(390, 'dark', 'zh-CN'), (1440, 'light', 'en-US')])
def test_a_run_that_trains_is_served_alone(browser: Any, tmp_path: Path, width: int, scheme: str, locale: str) -> None:
    port = free_port()
    program = ['ding_normmon', 'serve', str(tmp_path), '--port', str(port)]
    with Training(tmp_path / 'seed0'), served(program, port) as address:
        opened = Opened(browser, address, width, color_scheme=scheme, locale=locale)
        words = opened.frame.inner_text('.live')
        assert ('运行' in words) == (locale == 'zh-CN')
        assert opened.frame.evaluate('document.documentElement.scrollWidth') <= width
        # A run that comes later is there without loading the page again, and two are one page.
        write(tmp_path / HOSTILE, close=True)
        opened.wait_for("document.querySelectorAll('.live li').length === 2")
        opened.frame.evaluate("document.querySelector('.live details').open = true")
        opened.frame.check(f'.live li:has-text("{HOSTILE}") input')
        opened.wait_for('window.page.page.data.runs.length === 2')
        assert opened.frame.url.count('run=') == 2
        opened.frame.click('.live li:has-text("seed0") button')
        opened.wait_for('window.page.page.data.runs.length === 1 && window.page.page.data.runs[0].name === "seed0"')
        check_that_it_follows(opened)
        opened.frame.evaluate("document.querySelector('.live details').open = true")
        assert opened.axe() == []
        assert opened.wrong == []


@pytest.mark.full
def test_a_run_that_is_killed_is_told_without_a_new_point(browser: Any, tmp_path: Path) -> None:
    port = free_port()
    program = ['ding_normmon', 'serve', str(tmp_path), '--port', str(port)]
    with Training(tmp_path / 'seed0') as run, served(program, port) as address:
        opened = Opened(browser, address)
        run.stop()
        opened.wait_for('window.page.page.data.runs[0].about.state !== "running"', 120)
        opened.wait_for('/died|silent/.test(document.querySelector("main").innerText)')


@pytest.mark.full
def test_thirty_runs_in_two_tabs_while_one_is_replaced(browser: Any, tmp_path: Path) -> None:
    for number in range(30):
        write(tmp_path / f'seed{number:02}', range(number, number + 3))
    port = free_port()
    with served(['ding_normmon', 'serve', str(tmp_path), '--port', str(port)], port) as address:
        tabs = [Opened(browser, f'{address}?run=seed{number:02}') for number in (3, 7)]
        for tab, number in zip(tabs, (3, 7), strict=True):
            assert tab.frame.evaluate("document.querySelectorAll('.live li').length") == 30
            assert tab.iterations() == number + 2
        tabs[0].frame.evaluate("document.querySelector('.live details').open = true")
        tabs[0].frame.fill('.live input[type=search]', 'seed2')
        assert tabs[0].frame.evaluate("document.querySelectorAll('.live li').length") == 10
        for number in range(20, 30):
            tabs[0].frame.check(f'.live li:has-text("seed{number}") input')
        tabs[0].wait_for('window.page.page.data.runs.length === 11')
        # Another run takes the place of one that is shown; it is shorter, and then gone.
        write(tmp_path / 'new', range(400, 402))
        (tmp_path / 'new' / 'history.arrows').replace(tmp_path / 'seed07' / 'history.arrows')
        tabs[1].wait_for('window.page.page.data.runs[0].about.iterations === 401')
        os.truncate(tmp_path / 'seed07' / 'history.arrows', 10)
        tabs[1].wait_for("document.querySelector('.live .note').textContent.includes('no points')")
        (tmp_path / 'seed07' / 'history.arrows').unlink()
        tabs[1].wait_for("document.querySelector('.live .note').textContent.includes('no run')")
        for tab in tabs:
            assert [told for told in tab.wrong if '404' not in told] == []


@pytest.mark.full
def test_tensorboard_shows_the_runs_of_several_folders(browser: Any, tmp_path: Path) -> None:
    for folder in ('a/seed0', 'b/seed0'):
        write(tmp_path / folder)
    port = free_port()
    spec = f'one:{tmp_path}/a,two:{tmp_path}/b'
    program = ['tensorboard.main', '--logdir_spec', spec, '--port', str(port), '--host', '127.0.0.1']
    with served(program, port) as address:
        opened = Opened(browser, f'{address}#ding_normmon', is_tab=True)
        named = opened.frame.evaluate("[...document.querySelectorAll('.live li button')].map((one) => one.textContent)")
        assert sorted(named) == ['one/seed0', 'two/seed0']
        opened.frame.evaluate("document.querySelectorAll('.live li button')[1].click()")
        opened.wait_for(f'window.page.page.data.runs[0].name === {named[1]!r}')
        assert opened.wrong == []


@pytest.mark.full
def test_a_server_that_goes_away_and_comes_back(browser: Any, tmp_path: Path) -> None:
    port = free_port()
    program = ['ding_normmon', 'serve', str(tmp_path), '--port', str(port)]
    file = write(tmp_path / 'run', close=False)
    with served(program, port) as address:
        opened = Opened(browser, address)
    opened.wait_for("document.querySelector('.live .note').textContent.includes('does not answer')")
    assert opened.frame.evaluate('window.page.charts') > 0
    file.publish(record_at(9))
    with served(program, port):
        opened.wait_for('window.page.page.data.runs[0].about.iterations === 9')
        opened.wait_for("document.querySelector('.live .note').textContent === ''")
    file.close()
    assert not [told for told in opened.wrong if not re.search('ERR_CONNECTION|ERR_EMPTY|ERR_INCOMPLETE', told)]


@pytest.mark.full
def test_a_folder_without_runs_says_so(browser: Any, tmp_path: Path) -> None:
    port = free_port()
    with served(['ding_normmon', 'serve', str(tmp_path), '--port', str(port)], port) as address:
        page = browser.new_page()
        page.goto(address)
        wait_for(page, "document.querySelector('.live .note')?.textContent.includes('no run here yet')")
        write(tmp_path / 'run', close=True)
        wait_for(page, 'window.page?.charts > 0')
