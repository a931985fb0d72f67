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
@click.option('--table', is_flag=True, help='Only judge what is recorded.')
@click.option('--one', default='', hidden=True, help='Record one scenario in this process.')
def main(jobs: int, only: str, full: bool, table: bool, one: str) -> None:
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
        if not table and only in name and not file_of(name, scenario.is_held_out, data).exists()
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
    print_table(data)


def print_table(data: Path) -> None:
    """Judge every run that is recorded, those for tuning and those held out apart."""
    from benchmarks.faults.judge import judge
    from benchmarks.faults.scenarios import HELD_OUT_FAULTS
    from benchmarks.faults.storage import load_run
    from benchmarks.faults.table import render

    for part, title in (('tuning', 'Tuning: seeds 0 and 1'), ('held_out', 'Held out: seed 2')):
        verdicts = [judge(*load_run(path)) for path in sorted((data / part).glob('*.npz'))]
        unseen = [verdict for verdict in verdicts if verdict.scenario.fault in HELD_OUT_FAULTS]
        rest = [verdict for verdict in verdicts if verdict.scenario.fault not in HELD_OUT_FAULTS]
        if rest:
            print(f'{render(rest, title)}\n')
        if unseen:
            print(f'{render(unseen, "Held out: faults that were never looked at")}\n')


if __name__ == '__main__':
    main()
