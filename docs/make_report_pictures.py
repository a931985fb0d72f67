"""Take the pictures of docs/report.md from the page of a run, in a headless Chromium.

python docs/make_report_pictures.py runs/minigrid
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from ding_normmon.runs import read_run
from ding_normmon.runs.report.page import write_page

PICTURES = Path(__file__).resolve().parent / 'pictures'
CHROMIUM = '/usr/bin/chromium'
OPTIONS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking']


def main(folder: str) -> None:
    """Take three pictures: the beginning, heads across tasks, and the conflict matrix in the dark."""
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        path = Path(temporary) / 'report.html'
        write_page(path, [read_run(folder)])
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        page = browser.new_page(viewport={'width': 1280, 'height': 760})
        page.goto(path.as_uri())
        page.wait_for_function('window.report')
        page.evaluate('window.report.drawAll()')
        page.wait_for_timeout(3000)
        for name, section, dark in (
            ('overview', 'findings', False),
            ('tasks', 'heads', False),
            ('conflict', 'balance', True),
        ):
            if dark:
                page.click('#theme')
                page.wait_for_timeout(2000)
            if section == 'findings':
                page.evaluate('window.scrollTo(0, 0)')
            else:
                known = page.query_selector('#conflict') if name == 'conflict' else None
                page.evaluate(f"document.getElementById('{'conflict' if known else section}').scrollIntoView()")
            page.wait_for_timeout(1500)
            page.screenshot(path=PICTURES / f'report-{name}.png')
        browser.close()


if __name__ == '__main__':
    main(sys.argv[1])
