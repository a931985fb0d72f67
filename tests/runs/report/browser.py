"""A headless Chromium for the tests of the report page: one browser for many checks."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ding_normmon.runs import Run
from ding_normmon.runs.report.page import write_page

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
AXE = Path(__file__).parent / 'axe' / 'axe.min.js'

in_browser = pytest.mark.skipif(CHROMIUM is None, reason='Chromium is not installed')


@contextmanager
def open_browser() -> Iterator[Any]:
    """Start Chromium, and end it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield launched
        launched.close()


class Opened:
    """A page that was opened from disk, with what went wrong in it.

    Arguments:
        browser: of :func:`open_browser`.
        path: where the page is written.
        runs: what it shows; none if the page is there already.
        options: ``language``, ``fragment``, ``size`` and ``theme``.
    """

    def __init__(self, browser: Any, path: Path, *runs: Run, **options: Any) -> None:
        if runs:
            write_page(path, runs, options.get('language', 'en'), options.get('changes', ()))
        width, height = options.get('size', (1440, 900))
        self.page = browser.new_page(
            viewport={'width': width, 'height': height}, color_scheme=options.get('theme', 'light')
        )
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on('console', lambda message: self.errors.append(message.text) if message.type == 'error' else None)
        self.page.on('pageerror', lambda error: self.errors.append(str(error)))
        self.page.on('request', self._note)
        self.page.goto(path.as_uri() + options.get('fragment', ''))
        self.page.wait_for_selector('[data-ready]', timeout=60_000)

    def _note(self, request: Any) -> None:
        if not request.url.startswith(('file:', 'data:', 'blob:')):
            self.requests.append(request.url)

    def draw_all(self) -> None:
        """Unfold everything and draw every chart."""
        self.page.evaluate("document.querySelectorAll('details.fold').forEach((one) => { one.open = true; })")
        self.page.evaluate('window.page.drawAll()')

    def chart(self, key: str, expression: str) -> Any:
        """Return what an expression says of a chart, which is called ``chart`` in it."""
        found = f"document.querySelector('#chart-{key} .plot').chart"
        return self.page.evaluate(
            f'(() => {{ const chart = {found}; if (!chart.plot) chart.draw(); return {expression}; }})()'
        )

    def axe(self) -> list[str]:
        """Return what axe finds that is serious or worse."""
        self.page.evaluate(AXE.read_text('utf-8'))
        result = self.page.evaluate('axe.run(document, { resultTypes: ["violations"] })')
        return [
            f'{violation["id"]}: {violation["nodes"][0]["html"][:200]}'
            for violation in result['violations']
            if violation['impact'] in ('serious', 'critical')
        ]

    def overflow(self) -> int:
        """Return by how many pixels the page is wider than the screen."""
        return int(self.page.evaluate('document.documentElement.scrollWidth - document.documentElement.clientWidth'))

    def close(self) -> None:
        """Close it, and see that nothing went wrong in it."""
        self.page.close()
        assert (self.errors, self.requests) == ([], [])
