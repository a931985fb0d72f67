"""Take the pictures of the README and of the report, of a run with a planted fault, in a headless Chromium.

    python docs/make_report_pictures.py [RUN]

Text in Chinese needs a Chinese font on the machine.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent))

from benchmarks.faults.storage import load_run  # noqa: E402
from benchmarks.sample_runs import broken_run  # noqa: E402
from ding_normmon.runs import Run, read_run  # noqa: E402
from ding_normmon.runs.report.page import write_page  # noqa: E402

OPTIONS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking']


def recorded(path: Path) -> Run:
    """Return a run, or one that `make faults` has recorded, under a name that people would give it."""
    run = load_run(path)[1] if path.suffix == '.npz' else read_run(path)
    tasks = {task: re.sub('^MiniGrid-|-v0$', '', name) for task, name in run.tasks.items()}
    return dataclasses.replace(run, path=Path('minigrid'), tasks=tasks)


def main(path: Path) -> None:
    """Take the README's picture in both languages, the first screen, a finding, 26 tasks, and the conflict matrix."""
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which('chromium'), args=OPTIONS)

        def take(
            name: str,
            run: Run,
            theme: Any = 'light',
            show: str = '',
            click: str = '',
            language: str = 'en',
            size: tuple[int, int] = (1440, 860),
            scale: int = 1,
        ) -> None:
            written = Path(temporary) / 'report.html'
            write_page(written, [run], language)
            page = browser.new_page(
                viewport={'width': size[0], 'height': size[1]}, color_scheme=theme, device_scale_factor=scale
            )
            page.goto(written.as_uri())
            page.wait_for_selector('[data-ready]')
            page.wait_for_selector('.card .plot[data-drawn]')
            # Machines that take pictures often have no Chinese font.
            page.evaluate("document.querySelector('.language').hidden = true")
            if click:
                page.click(click)
            if show:
                page.evaluate(f"document.querySelector('{show}').scrollIntoView()")
            page.wait_for_timeout(2000)
            page.screenshot(path=DOCS / 'pictures' / f'{name}.png')
            page.close()

        for language, folder in (('en', ''), ('zh', 'zh/')):
            take(f'{folder}broken_run', recorded(path), language=language, size=(1200, 560), scale=2)
        take('report-overview', recorded(path))
        take('report-finding', recorded(path), click='.card .see')
        take('report-tasks', broken_run(tasks=26, path='26 tasks'))
        take('report-conflict', recorded(path), theme='dark', show='.matrix')
        browser.close()


if __name__ == '__main__':
    main(Path(sys.argv[1]) if sys.argv[1:] else DOCS / 'cookbook_data' / 'loss_weight_up-0.npz')
