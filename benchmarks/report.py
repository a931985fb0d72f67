"""How long it takes to read a run and to open its page, and how large the page is.

python -m benchmarks.report
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tabulate import tabulate

from ding_normmon.core.record import Record
from ding_normmon.runs import read_run
from ding_normmon.runs.history_file import HistoryFile
from ding_normmon.runs.report.page import write_page
from tests.runs.report.sample_runs import sample_run

ROUNDS = 5


def quartiles(measure: Callable[[], float]) -> str:
    """Return median and quartiles of several measurements in seconds."""
    low, middle, high = statistics.quantiles([measure() for _ in range(ROUNDS)], n=4)
    return f'{middle:.2f} s ({low:.2f} to {high:.2f})'


def timed(function: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def write_points(path: Path, metrics: int, records: int) -> float:
    """Write a history file; return the milliseconds that one record takes."""
    names = [f'family{number}/metric_task{number % 26}/mean' for number in range(metrics)]
    file = HistoryFile(path)
    begin = time.perf_counter()
    for iteration in range(records):
        file.publish(Record(iteration, dict.fromkeys(names, iteration / 7)))
    file.close()
    return (time.perf_counter() - begin) / records * 1e3


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


def seconds_until_interactive(path: Path, browser: object) -> float:
    """Open a page from disk; return the seconds until its controls work and a chart of all tasks is drawn."""
    page = browser.new_page(viewport={'width': 1300, 'height': 900})  # type: ignore[attr-defined]
    begin = time.perf_counter()
    page.goto(path.as_uri())
    page.wait_for_function('window.report')
    page.evaluate("document.getElementById('heads').scrollIntoView()")
    page.wait_for_function("document.querySelector('#chart-grad-head_value .main-svg')")
    spent = time.perf_counter() - begin
    page.close()
    return spent


def main() -> None:
    """Print the table."""
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        each = write_points(folder / 'history.arrows', 500, 2000)
        size = (folder / 'history.arrows').stat().st_size
        rows.append(['write a record of 500 points', f'{each:.2f} ms, {size / 1e6:.1f} bytes a point', ''])
        rows.append(['read 1,000,000 points', quartiles(lambda: timed(lambda: read_run(folder))), 'below 0.3 s'])
        long = folder / 'long'
        write_judged(long / 'history.arrows', 27, 100_000)
        took = timed(lambda: write_page(folder / 'long.html', [read_run(long)]))
        rows.append(['report of 100,000 records of 27 metrics, judged', f'{took:.2f} s', 'below 10 s'])
        rows.append(['normmon --help', quartiles(lambda: timed(show_help)), 'below 0.3 s'])
        path = folder / 'report.html'
        run = sample_run(tasks=26, records=200)
        rows.append(
            ['write the page of 26 tasks, 200 records', quartiles(lambda: timed(lambda: write_page(path, [run]))), '']
        )
        rows.append(['its size', f'{path.stat().st_size / 2**20:.1f} MiB', 'below 8 MB'])
        chromium = shutil.which('chromium')
        if chromium:
            from playwright.sync_api import sync_playwright

            with sync_playwright() as playwright:
                arguments = ['--no-sandbox', '--disable-gpu', '--disable-background-networking']
                browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
                opened = quartiles(lambda: seconds_until_interactive(path, browser))
                rows.append(['until it is interactive in headless Chromium', opened, 'below 3 s'])
                browser.close()
    print(f'{torch.get_num_threads()} threads, {ROUNDS} rounds, median and quartiles')
    print(tabulate(rows, ['what', 'took', 'goal'], tablefmt='github'))


if __name__ == '__main__':
    main()
