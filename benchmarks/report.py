"""How long it takes to read a run and to open its page, and how large the page is.

python -m benchmarks.report
python -m benchmarks.report --against ../checkout-of-another-version
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import torch
from tabulate import tabulate

from benchmarks.sample_runs import sample_run
from ding_normmon.core.record import Record
from ding_normmon.runs import read_run
from ding_normmon.runs.follow import FollowedRun
from ding_normmon.runs.history_file import HistoryFile
from ding_normmon.runs.report.page import write_page

ROUNDS = 5
ROOT = Path(__file__).resolve().parent.parent


def spread(seconds: Sequence[float]) -> str:
    """Return median and quartiles of several measurements in seconds."""
    low, middle, high = statistics.quantiles(seconds, n=4)
    return f'{middle:.2f} s ({low:.2f} to {high:.2f})'


def timed(function: Callable[[], object], rounds: int = ROUNDS) -> list[float]:
    """Return the seconds that each of several calls takes."""
    found = []
    for _ in range(rounds):
        begin = time.perf_counter()
        function()
        found.append(time.perf_counter() - begin)
    return found


def write_points(path: Path, metrics: int, records: int) -> float:
    """Write a history file; return the milliseconds that one record takes."""
    names = [f'family{number}/metric_task{number % 26}/mean' for number in range(metrics)]
    file = HistoryFile(path)
    begin = time.perf_counter()
    for iteration in range(records):
        file.publish(Record(iteration, dict.fromkeys(names, iteration / 7)))
    file.close()
    return (time.perf_counter() - begin) / records * 1e3


def read_on(path: Path, metrics: int, records: int) -> list[float]:
    """Return the seconds that it takes to read one more record of a run that is followed."""
    names = [f'family{number}/metric_task{number % 26}/mean' for number in range(metrics)]
    file = HistoryFile(path)
    followed = FollowedRun(path)
    found = []
    for iteration in range(records + ROUNDS):
        file.publish(Record(iteration, dict.fromkeys(names, iteration / 7)))
        if iteration + 1 >= records:
            found += timed(followed.read, 1)
    file.close()
    return found[1:]


def write_judged(path: Path, metrics: int, records: int) -> None:
    """Write the history of a long run that was judged while it trained, with nothing found."""
    names = [f'norm/group{number}/_total_norm' for number in range(metrics - 2)]
    cost = {'monitor/cost/ms': 1.0, 'monitor/cost/ms_diagnosis': 0.1}
    file = HistoryFile(path)
    for iteration in range(records):
        file.publish(Record(iteration, {**dict.fromkeys(names, iteration / 7), **cost}))
    file.close()


def show_help() -> None:
    """Start the command line as a shell does."""
    program = 'import sys; sys.argv = ["normmon", "--help"]; from ding_normmon.cli.main import main; main()'
    subprocess.run([sys.executable, '-c', program], capture_output=True, check=True)


DRAWN = '#chart-grad-head_value :is(.plot[data-drawn], .main-svg)'
"""A chart of all tasks as it is drawn, in a page of today and of earlier versions."""

SCROLL = """
async () => {
  const end = performance.now() + 20_000;
  for (let top = 0; top < document.documentElement.scrollHeight && performance.now() < end; top += 120) {
    scrollTo({ top, behavior: 'instant' });
    await new Promise(requestAnimationFrame);
  }
}
"""
"""Scrolls through the page, 120 pixels a frame, for at most 20 seconds."""


def longest_task(trace: bytes) -> float:
    """Return the milliseconds of processor time of the longest task of a page's main thread."""
    events = json.loads(trace)['traceEvents']
    main = {(e['pid'], e['tid']) for e in events if e['name'] == 'thread_name' and 'RendererMain' in e['args']['name']}
    tasks = [e for e in events if e.get('ph') == 'X' and e['name'].endswith('RunTask') and (e['pid'], e['tid']) in main]
    return max((task.get('tdur', 0) for task in tasks), default=0) / 1000


class Opened:
    """A page that is opened from disk in a browser, with what that takes.

    Attributes:
        seconds: until its controls work and a chart of all tasks is drawn.
        busy: seconds of processor time of its process in those: other programs of the machine hardly count.
        longest: milliseconds of processor time of its main thread's longest task while it is scrolled through.
    """

    def __init__(self, path: Path, browser: Any) -> None:
        page = browser.new_page(viewport={'width': 1440, 'height': 900})
        session = page.context.new_cdp_session(page)
        session.send('Performance.enable')
        begin = time.perf_counter()
        page.goto(path.as_uri())
        page.locator('#chart-grad-head_value').evaluate("chart => chart.scrollIntoView({ behavior: 'instant' })")
        page.wait_for_selector(DRAWN)
        self.seconds = time.perf_counter() - begin
        metrics = {entry['name']: entry['value'] for entry in session.send('Performance.getMetrics')['metrics']}
        self.busy = metrics['ProcessTime']
        page.wait_for_timeout(500)
        browser.start_tracing(page=page, categories=['devtools.timeline', 'toplevel'])
        page.evaluate(SCROLL)
        self.longest = longest_task(browser.stop_tracing())
        page.close()


def page_rows(path: Path, browser: Any, what: str, goals: tuple[str, str]) -> list[list[str]]:
    """Return the rows of one page: its size, and how it opens and scrolls."""
    opened = [Opened(path, browser) for _ in range(ROUNDS)]
    size = f'{path.stat().st_size / 2**20:.2f} MiB'
    frames = sorted(one.longest for one in opened)[len(opened) // 2]
    return [
        [f'{what}: size', size, goals[0]],
        [f'{what}: until interactive', spread([one.seconds for one in opened]), goals[1]],
        [f'{what}: processor time of its process until then', spread([one.busy for one in opened]), ''],
        [f'{what}: processor time of the longest frame while scrolling', f'{frames:.0f} ms', 'below 50 ms'],
    ]


WRITE = """
import sys
from pathlib import Path
from ding_normmon.runs.report.page import write_page
from benchmarks.sample_runs import sample_run
write_page(Path(sys.argv[1]), [sample_run(tasks=int(sys.argv[2]), records=int(sys.argv[3]))])
"""


def write_elsewhere(checkout: Path, path: Path, tasks: int, records: int) -> None:
    """Write the page of a made-up run with the code of another checkout."""
    command = [sys.executable, '-c', WRITE, str(path), str(tasks), str(records)]
    subprocess.run(command, cwd=checkout, env={**os.environ, 'PYTHONPATH': str(checkout)}, check=True)


@click.command()
@click.option('--against', type=click.Path(path_type=Path, exists=True), help='A checkout of another version.')
def main(against: Path | None) -> None:
    """Print the table; with --against, the pages of another version in the same run."""
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        each = write_points(folder / 'history.arrows', 500, 2000)
        size = (folder / 'history.arrows').stat().st_size
        rows.append(['write a record of 500 points', f'{each:.2f} ms, {size / 1e6:.1f} bytes a point', ''])
        rows.append(['read 1,000,000 points', spread(timed(lambda: read_run(folder))), 'below 0.3 s'])
        took = read_on(folder / 'grown' / 'history.arrows', 500, 2000)
        rows.append(['read one more record behind 1,000,000 points', spread(took), ''])
        long = folder / 'long'
        write_judged(long / 'history.arrows', 27, 100_000)
        took = timed(lambda: write_page(folder / 'long.html', [read_run(long)]), 1)
        rows.append(['report of 100,000 records of 27 metrics, judged', f'{took[0]:.2f} s', 'below 10 s'])
        rows.append(['normmon --help', spread(timed(show_help)), 'below 0.3 s'])
        run = sample_run(tasks=26, records=200)
        took = timed(lambda: write_page(folder / 'report.html', [run]))
        rows.append(['write the page of 26 tasks, 200 records', spread(took), ''])
        rows += browser_rows(folder, against)
    print(f'{torch.get_num_threads()} threads, {ROUNDS} rounds, median and quartiles; load {os.getloadavg()[0]:.1f}')
    print(tabulate(rows, ['what', 'took', 'goal'], tablefmt='github'))


SIZES = (
    (4, 200, ('below 1 MiB', 'below 1 s')),
    (26, 200, ('', 'below 1 s')),
    (26, 20_000, ('', 'below 3 s')),
)


def browser_rows(folder: Path, against: Path | None) -> list[list[str]]:
    """Return the rows of pages in headless Chromium, none where it is not installed."""
    chromium = shutil.which('chromium')
    if not chromium:
        return []
    from playwright.sync_api import sync_playwright

    rows = []
    with sync_playwright() as playwright:
        arguments = ['--no-sandbox', '--disable-gpu', '--disable-background-networking']
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        for tasks, records, goals in SIZES:
            for checkout, whose in ((ROOT, ''), *([(against, ', the other version')] if against else [])):
                path = folder / 'page.html'
                write_elsewhere(checkout, path, tasks, records)
                rows += page_rows(path, browser, f'{tasks} tasks, {records:,} records{whose}', goals)
        browser.close()
    return rows


if __name__ == '__main__':
    main()
