"""Record real runs with faults drawn at random, and say how many of them the rules find.

make faults                                    # record what is missing (resumable), then print the tables
python -m benchmarks.planted_faults --minutes 60 --seeds 2
python -m benchmarks.planted_faults --table    # only judge what is recorded
python -m benchmarks.planted_faults --thin 5   # rewrite tests/data/faults from the recordings
"""

from __future__ import annotations

import os
import random
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from benchmarks.faults.scenarios import Scenario

ROOT = Path(__file__).resolve().parent.parent
RECORDED = ROOT / 'runs' / 'faults'
"""Every iteration of every run; too large to be kept with the sources."""
DATA = ROOT / 'tests' / 'data' / 'faults'
"""The same at every fifth iteration, for the tests."""
sys.path.insert(0, str(ROOT))


def planned(seeds: int, only: str) -> Iterator[tuple[Path, Scenario]]:
    """Yield runs and where they are recorded, those needed first first."""
    from benchmarks.faults.kinds import KINDS
    from benchmarks.faults.scenarios import HEALTHY, LONG_HEALTHY, LONG_KINDS, draw, healthy, lengthened
    from benchmarks.faults.table import LONG

    for seed in range(seeds):
        faults = [draw(kind, seed) for kind in KINDS]
        # Whatever time there is, every family has its share of it.
        random.Random(seed).shuffle(faults)
        runs = [healthy(variation, seed) for variation in HEALTHY]
        stride = max(1, len(faults) // len(runs))
        mixed = [
            scenario
            for place, run in enumerate(runs)
            for scenario in (*faults[place * stride : (place + 1) * stride], run)
        ]
        for scenario in (*mixed, *faults[len(runs) * stride :]):
            if only in scenario.name:
                yield RECORDED / f'{scenario.name}.npz', scenario
    long = [*(healthy(variation, 0) for variation in LONG_HEALTHY), *(draw(kind, 0) for kind in LONG_KINDS)]
    for scenario in map(lengthened, long):
        if only in scenario.name:
            yield RECORDED / LONG / f'{scenario.name}.npz', scenario


@click.command(context_settings={'show_default': True})
@click.option('--seeds', default=1, help='Runs of each kind.')
@click.option('--minutes', default=0.0, help='Begin no run after so many minutes; 0: no limit.')
@click.option('--only', default='', help='Only kinds whose name contains this.')
@click.option('--table', is_flag=True, help='Only judge what is recorded.')
@click.option('--thin', default=0, help='Write every so many-th iteration of all recordings to tests/data/faults.')
def main(seeds: int, minutes: float, only: str, table: bool, thin: int) -> None:
    """Record what is missing, then print the tables."""
    if thin:
        from benchmarks.faults.storage import thin_runs
        from benchmarks.faults.table import LONG

        for folder in ('', LONG):
            click.echo(f'{thin_runs(RECORDED / folder, DATA / folder, thin)} runs in {DATA / folder}')
    elif not table:
        record_missing(seeds, minutes, only)
    if not thin:
        from benchmarks.faults.table import tables

        click.echo(tables(RECORDED if RECORDED.exists() else DATA))


def record_missing(seeds: int, minutes: float, only: str) -> None:
    """Record every run that is not there yet, one after another, each in a process of its own."""
    from benchmarks.faults.record_run import record_run
    from benchmarks.faults.storage import save_run

    began, failed = time.monotonic(), []
    for path, scenario in planned(seeds, only):
        if minutes and time.monotonic() - began > 60 * minutes:
            break
        if path.exists():
            continue
        started = time.monotonic()
        # A fork has everything imported already.
        child = os.fork()
        if child == 0:
            code = 1
            try:
                save_run(path, scenario, record_run(scenario))
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(code)
        if os.waitpid(child, 0)[1]:
            failed.append(path.stem)
        click.echo(f'{path.relative_to(RECORDED)}: {time.monotonic() - started:.0f} s')
    if failed:
        click.echo(f'not recorded, see above: {", ".join(failed)}', err=True)


if __name__ == '__main__':
    main()
