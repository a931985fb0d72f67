"""Take the pictures of the report, of recorded runs with a planted fault, in a headless Chromium.

python docs/make_report_pictures.py
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent))

from benchmarks.faults.storage import load_run  # noqa: E402
from benchmarks.planted_faults import DATA  # noqa: E402
from ding_normmon.runs import Run  # noqa: E402
from ding_normmon.runs.report.page import write_page  # noqa: E402
from tests.runs.report.sample_runs import broken_run  # noqa: E402

FAULT = 'tuning/loss_weight_up-0.npz'
"""The loss of one task counts 100 times as much from iteration 325 on."""

OPTIONS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking']


def recorded() -> Run:
    """Return the run with the planted fault, under a name that people would give it."""
    return dataclasses.replace(load_run(DATA / FAULT)[1], path=Path('minigrid'))


def main() -> None:
    """Take four pictures: the first screen, an opened finding, 26 tasks, and the conflict matrix in the dark."""
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which('chromium'), args=OPTIONS)

        def take(name: str, run: Run, theme: Any = 'light', show: str = '', click: str = '') -> None:
            path = Path(temporary) / 'report.html'
            write_page(path, [run])
            page = browser.new_page(viewport={'width': 1440, 'height': 860}, color_scheme=theme)
            page.goto(path.as_uri())
            page.wait_for_selector('[data-ready]')
            page.wait_for_selector('.card .plot[data-drawn]')
            if click:
                page.click(click)
            if show:
                page.evaluate(f"document.querySelector('{show}').scrollIntoView()")
            page.wait_for_timeout(2000)
            page.screenshot(path=DOCS / 'pictures' / f'report-{name}.png')
            page.close()

        take('overview', recorded())
        take('finding', recorded(), click='.card .see')
        take('tasks', broken_run(tasks=26, path='26 tasks'))
        take('conflict', recorded(), theme='dark', show='.matrix')
        browser.close()


if __name__ == '__main__':
    main()
