"""Record real runs with planted faults, and say how many of them the rules find.

    make faults                       # record what is missing (54 runs), then print the table
    python -m benchmarks.planted_faults --jobs 4 --full
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / 'tests' / 'data' / 'faults'
sys.path.insert(0, str(ROOT))


def file_of(name: str, held_out: bool, data: Path = DATA) -> Path:
    """Return where a scenario is recorded; nobody opens `held_out` by mistake while tuning."""
    return data / ('held_out' if held_out else 'tuning') / f'{name}.npz'


@click.command(context_settings={'show_default': True})
@click.option('--jobs', default=2, help='Runs at a time, one core each.')
@click.option('--only', default='', help='Only scenarios whose name contains this.')
@click.option('--full', is_flag=True, help='Unshortened runs, into runs/faults instead of tests/data/faults.')
@click.option('--one', default='', hidden=True, help='Record one scenario in this process.')
def main(jobs: int, only: str, full: bool, one: str) -> None:
    """Record what is missing, then print the table."""
    from benchmarks.faults.scenarios import all_scenarios

    data = ROOT / 'runs' / 'faults' if full else DATA
    scenarios = {scenario.name: scenario for scenario in all_scenarios(full)}
    if one:
        from benchmarks.faults.record_run import record_run
        from benchmarks.faults.storage import save_run

        scenario = scenarios[one]
        started = time.monotonic()
        records = record_run(scenario)
        save_run(file_of(one, scenario.is_held_out, data), scenario, records)
        click.echo(f'{one}: {len(records)} records in {time.monotonic() - started:.0f} s')
        return
    missing = [
        name
        for name, scenario in scenarios.items()
        if only in name and not file_of(name, scenario.is_held_out, data).exists()
    ]
    running: dict[str, subprocess.Popen[bytes]] = {}
    failed = []
    while missing or running:
        for name, process in list(running.items()):
            if process.poll() is not None:
                del running[name]
                if process.returncode:
                    failed.append(name)
        while missing and len(running) < jobs:
            name = missing.pop(0)
            command = [sys.executable, '-m', 'benchmarks.planted_faults', '--one', name, *(['--full'] if full else [])]
            running[name] = subprocess.Popen(command, cwd=ROOT, env={**os.environ, 'OMP_NUM_THREADS': '1'})
        time.sleep(0.5)
    if failed:
        raise click.ClickException(f'not recorded: {", ".join(failed)}; see above')


if __name__ == '__main__':
    main()
