"""Faults of three iterations between two records: which are found, with which task, and after how many watched records.

    python -m benchmarks.spikes                    # 4 faults x 3 seeds and 6 healthy runs, one after another
    python -m benchmarks.spikes --only nan --jobs 2
    python -m benchmarks.spikes --table            # only print what was run

Real runs of the multi-task policy on the tasks of `make train`, with ``monitor_norm_freq=5000`` and everything else of
the monitor as it is by default. A fault is planted at a random iteration, lasts for three, and is in one task's batch
(or the learning rate).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from tabulate import tabulate

ROOT = Path(__file__).resolve().parent.parent
FAULTS = ('rewards', 'observations', 'nan', 'learning_rate')
SEEDS = (0, 1, 2)
HEALTHY = 6
LASTS = 3
AFTER = 60
"""Iterations that a run goes on behind its fault."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What became of one run.

    Arguments:
        fault: one of :data:`FAULTS`, or ``healthy``.
        seed: of the run.
        planted: iteration at which the fault begins.
        task: whose batch it is in; None for the learning rate.
        every: iterations from one watched step to the next when the fault began, or at the end of a healthy run.
        touched: whether a watched step was one of the three.
        kind: of the first incident from there on; empty where there was none.
        found: iteration at which it was opened; None where there was none.
        named: the task that the incident begins with.
        delay: watched records from the first one at or behind the fault to the incident, both included.
        reason: what the incident says.
        errors: errors before the fault, or in a healthy run.
        warnings: warnings likewise.
    """

    fault: str
    seed: int
    planted: int
    task: int | None
    every: int
    touched: bool
    kind: str
    found: int | None
    named: int | None
    delay: int
    reason: str
    errors: int
    warnings: int

    @property
    def left_a_trace(self) -> bool:
        """Whether anything of the fault was in a watched step; an exception in another step ends a run without."""
        return self.found is not None and (self.touched or self.kind != 'exception')


def spoil(fault: str, batch: tuple[Any, Any, int], random: np.random.Generator) -> tuple[Any, Any, int]:
    """Return one task's batch with the fault in it."""
    current, target, task = batch
    if fault == 'rewards':
        rewards, values, *rest = target
        return current, [np.asarray(rewards) * 1e4, np.asarray(values) * 1e4, *rest], task
    observations = np.array(current[0], copy=True)
    if fault == 'nan':
        observations.reshape(-1)[random.integers(observations.size)] = np.nan
    else:
        observations[...] = 10.0 * random.standard_normal(observations.shape)
    return [observations, *current[1:]], target, task


def plant(run: Any, fault: str, planted: int, task: int) -> None:
    """Put a fault into the batches, or on the learning rate, of three iterations."""
    random, iteration = np.random.default_rng(planted), -1
    sample, groups = run.learner._sampler.sample, run.policy._optimizer_world_model.param_groups

    def sample_with_fault() -> Any:
        nonlocal iteration
        iteration += 1
        data = sample()
        if fault == 'learning_rate':
            for group in groups:
                group['lr'] *= 100.0 if iteration == planted else 0.01 if iteration == planted + LASTS else 1.0
        elif planted <= iteration < planted + LASTS:
            data = [spoil(fault, batch, random) if batch[2] == task else batch for batch in data]
        return data

    run.learner._sampler.sample = sample_with_fault


def train(fault: str, seed: int, folder: Path, iterations: int, whole: bool) -> Verdict:
    """Train one run and judge what its history and its black box hold."""
    from ding_normmon.unizero.quiet import import_quietly

    import_quietly('gym', 'gymnasium', 'ding.framework.middleware', 'lzero.policy')
    from ding.framework import task as pipeline
    from ding.framework.context import OnlineRLContext

    from benchmarks.faults.record_run import SETTINGS
    from benchmarks.faults.scenarios import TASKS
    from ding_normmon import NormMonitor, init_writer
    from ding_normmon.unizero.run import MultiTaskRun
    from ding_normmon.unizero.run_config import complete_config

    random = np.random.default_rng([FAULTS.index(fault) if fault in FAULTS else 9, seed])
    tasks = list(TASKS[:4])
    task = int(random.integers(len(tasks)))
    planted = int(random.integers(iterations // 3, iterations - AFTER))
    last = planted + AFTER if fault in FAULTS else iterations
    settings = {} if whole else {key: value for key, value in SETTINGS.items() if '.monitor.' not in key}
    settings = {**settings, 'policy.monitor.monitor_norm_freq': 5000, 'max_train_iter': last}
    cfg = complete_config({'tasks': tasks, 'seed': seed, 'exp_name': str(folder)}, settings, None)
    init_writer(cfg)
    with MultiTaskRun(cfg) as run, pipeline.start(ctx=OnlineRLContext()):
        monitor = NormMonitor(cfg.policy.monitor, run.policy)
        if fault in FAULTS:
            plant(run, fault, planted, task)
        for middleware in (run.collector, run.pusher, monitor, run.learner, run.stop_agreement, run.finish):
            pipeline.use(middleware)
        # Weights that are NaN may well end a run.
        with contextlib.suppress(ValueError, AssertionError, RuntimeError):
            pipeline.run()
        monitor.close()
    return judge(fault, seed, planted, None if fault == 'learning_rate' else task, folder)


def judge(fault: str, seed: int, planted: int, task: int | None, folder: Path) -> Verdict:
    """Compare what was found with what was planted."""
    from ding_normmon.runs import read_run
    from ding_normmon.runs.read_black_box import boxes_of

    run, box = read_run(folder), boxes_of(folder)[0]
    begin = planted if fault in FAULTS else 1 << 60
    early = [finding.severity for finding in run.findings if finding.found < begin]
    incident = next((entry for entry in run.incidents if entry.opened >= begin), None)
    watched = [iteration for iteration in box.own if iteration >= begin]
    return Verdict(
        fault,
        seed,
        planted,
        task,
        int(np.diff([iteration for iteration in box.own if iteration < begin][-2:]).sum()),
        any(iteration < begin + LASTS for iteration in watched),
        '' if incident is None else incident.kind,
        None if incident is None else incident.opened,
        None if incident is None else incident.task,
        0 if incident is None else sum(iteration <= incident.opened for iteration in watched),
        '' if incident is None else incident.reason,
        early.count('error'),
        early.count('warning'),
    )


def render(verdicts: list[Verdict]) -> str:
    """Return the table, and the figures that count."""
    rows = [
        [
            entry.fault,
            entry.seed,
            '' if entry.fault == 'healthy' else entry.planted,
            entry.every,
            '' if entry.fault == 'healthy' else 'yes' if entry.touched else 'no',
            '' if entry.found is None else entry.found,
            '' if entry.found is None else f'{entry.named} ({entry.task})',
            entry.delay or '',
            f'{entry.errors}/{entry.warnings}',
            entry.reason[:70],
        ]
        for entry in verdicts
    ]
    headers = ['fault', 'seed', 'planted', 'w', 'touched', 'found', 'task (right)', 'records', 'false e/w', 'reason']
    faults = [entry for entry in verdicts if entry.fault != 'healthy']
    touched = [entry for entry in faults if entry.touched]
    found = [entry for entry in faults if entry.found is not None]
    traced = [entry for entry in faults if entry.left_a_trace]
    named = sum(entry.named == entry.task for entry in traced)
    healthy = [entry for entry in verdicts if entry.fault == 'healthy']
    lines = [
        f'touched and found: {sum(entry.found is not None for entry in touched)} of {len(touched)}',
        f'found in all: {len(found)} of {len(faults)}',
        f'the right task first: {named} of {len(traced)} with a trace in a watched step',
        f'within 5 watched records: {sum(entry.delay <= 5 for entry in found)} of {len(found)}',
        f'healthy runs: {sum(entry.errors for entry in healthy)} errors and {sum(entry.warnings for entry in healthy)} '
        f'warnings in {len(healthy)}',
    ]
    return '\n'.join([tabulate(rows, headers, disable_numparse=True), *lines])


@click.command(context_settings={'show_default': True})
@click.option('--jobs', default=1, help='Runs at a time, one core each.')
@click.option('--only', default='', help='Only runs whose name contains this.')
@click.option('--iterations', default=600, help='Learner iterations of a healthy run.')
@click.option('--whole', is_flag=True, help='The default configuration to the letter, not with smaller batches.')
@click.option('--table', is_flag=True, help='Only print what was run.')
@click.option('--one', default='', hidden=True)
def main(jobs: int, only: str, iterations: int, whole: bool, table: bool, one: str) -> None:
    """Train what has not been trained yet, and print the table."""
    data = ROOT / 'runs' / 'spikes'
    names = [f'{fault}-{seed}' for fault in FAULTS for seed in SEEDS] + [f'healthy-{seed}' for seed in range(HEALTHY)]
    if one:
        fault, seed = one.rsplit('-', 1)
        verdict = train(fault, int(seed), data / one, iterations, whole)
        (data / f'{one}.json').write_text(json.dumps(dataclasses.asdict(verdict)))
        return
    data.mkdir(parents=True, exist_ok=True)
    missing = [name for name in names if only in name and not table and not (data / f'{name}.json').exists()]
    running: dict[str, subprocess.Popen[bytes]] = {}
    while missing or running:
        running = {name: process for name, process in running.items() if process.poll() is None}
        while missing and len(running) < jobs:
            name = missing.pop(0)
            options = ['--iterations', str(iterations), *(['--whole'] if whole else []), '--one', name]
            command = [sys.executable, '-m', 'benchmarks.spikes', *options]
            environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
            with (data / f'{name}.log').open('wb') as log:
                running[name] = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        time.sleep(0.5)
    found = [data / f'{name}.json' for name in names if only in name]
    click.echo(render([Verdict(**json.loads(path.read_text())) for path in found if path.exists()]))


if __name__ == '__main__':
    main()
