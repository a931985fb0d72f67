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

import click

ROOT = Path(__file__).resolve().parent.parent
RECORDED = ROOT / 'runs' / 'faults'
"""Every iteration of every run; too large to be kept with the sources."""
DATA = ROOT / 'tests' / 'data' / 'faults'
"""The same at every fifth iteration, for the tests."""
sys.path.insert(0, str(ROOT))


def planned(seeds: int, only: str) -> Iterator[tuple[str, int, bool]]:
    """Yield (kind or healthy variation, seed, whether it is healthy), those needed first first."""
    from benchmarks.faults.kinds import KINDS
    from benchmarks.faults.scenarios import HEALTHY

    for seed in range(seeds):
        faults = [(kind, seed, False) for kind in KINDS if only in kind]
        # Whatever time there is, every family has its share of it.
        random.Random(seed).shuffle(faults)
        runs = [(variation, seed, True) for variation in HEALTHY if only in f'healthy-{variation}']
        stride = max(1, len(faults) // max(1, len(runs)))
        while faults or runs:
            yield from faults[:stride]
            yield from runs[:1]
            del faults[:stride], runs[:1]


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

        click.echo(f'{thin_runs(RECORDED, DATA, thin)} runs in {DATA}')
    elif not table:
        record_missing(seeds, minutes, only)
    if not thin:
        from benchmarks.faults.table import tables

        click.echo(tables(RECORDED if RECORDED.exists() else DATA))


def record_missing(seeds: int, minutes: float, only: str) -> None:
    """Record every run that is not there yet, one after another, each in a process of its own."""
    from benchmarks.faults.record_run import record_run
    from benchmarks.faults.scenarios import draw, healthy
    from benchmarks.faults.storage import save_run

    began, failed = time.monotonic(), []
    for what, seed, is_healthy in planned(seeds, only):
        if minutes and time.monotonic() - began > 60 * minutes:
            break
        scenario = healthy(what, seed) if is_healthy else draw(what, seed)
        path = RECORDED / f'{scenario.name}.npz'
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
            failed.append(scenario.name)
        click.echo(f'{scenario.name}: {time.monotonic() - started:.0f} s')
    if failed:
        click.echo(f'not recorded, see above: {", ".join(failed)}', err=True)


if __name__ == '__main__':
    main()
