"""The tables of all recorded runs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

from tabulate import tabulate

from benchmarks.faults.judge import Verdict, breaks_nothing, in_tree, judge, thinned
from benchmarks.faults.kinds import KINDS
from benchmarks.faults.scenarios import Scenario, held_out_kinds
from benchmarks.faults.storage import load_run
from benchmarks.faults.wilson import wilson_interval
from ding_normmon.runs import Run

__all__ = ['LONG', 'tables']

FREQUENCIES = (1, 5, 10, 20)
LONG_FREQUENCIES = (*FREQUENCIES, 50)
LONG = 'long'
"""Where in a folder the long runs are."""
FREQUENCY = 5
"""Of the tables that are not about frequencies."""


def tables(folder: Path, frequency: int = FREQUENCY) -> str:
    """Judge every run that is recorded in a folder; return the tables as Markdown."""
    recorded, long = (_recorded(each) for each in (folder, folder / LONG))
    # What multiplies rewards where there were none has broken nothing.
    runs = [run for run in recorded if not breaks_nothing(*run)]
    held_out = held_out_kinds(list(KINDS))
    verdicts = [judge(*each, frequency) for each in runs]
    faulty = [verdict for verdict in verdicts if not verdict.scenario.is_healthy]
    known = [verdict for verdict in faulty if verdict.scenario.kind not in held_out]
    unseen = [verdict for verdict in faulty if verdict.scenario.kind in held_out]
    parts = [
        f'{len(runs)} runs are recorded: {len(known)} of known kinds, {len(unseen)} of kinds that are held out, '
        f'{len(runs) - len(faulty)} healthy. {len(recorded) - len(runs)} more are left out, because their fault '
        f'multiplies rewards or values that were 0 all the time. Judged at every {frequency} iterations.',
        _section('Known kinds', known, lambda verdict: verdict.scenario.kind),
        _section('Held out, by family', unseen, lambda verdict: verdict.scenario.family),
        _healthy(verdicts),
        _frequencies('By frequency', FREQUENCIES, runs, held_out),
        _frequencies('Long runs, by frequency', LONG_FREQUENCIES, long, held_out),
        _section('By number of tasks', faulty, lambda verdict: f'{len(verdict.scenario.names)}'),
        _in_tree(runs),
    ]
    return '\n\n'.join(parts)


def _section(title: str, verdicts: Sequence[Verdict], key: Callable[[Verdict], str]) -> str:
    names = sorted(set(map(key, verdicts)))
    rows = [_row(name, [verdict for verdict in verdicts if key(verdict) == name]) for name in names]
    headers = ['', 'found', 'wrong one named first', 'iterations to it', 'first found by']
    no_invariant = [verdict for verdict in verdicts if not verdict.scenario.breaks_invariant]
    return '\n'.join(
        [
            f'### {title}',
            '',
            tabulate(rows, headers, tablefmt='github', disable_numparse=True),
            '',
            f'- found: {_share(verdicts)}; of those that break no invariant: {_share(no_invariant)}',
            f'- wrong one named first: {sum(verdict.is_wrong for verdict in verdicts)} of {len(verdicts)}',
        ]
    )


def _row(name: str, verdicts: Sequence[Verdict]) -> list[str]:
    delays = sorted(verdict.delay for verdict in verdicts if verdict.delay is not None)
    rules = dict.fromkeys(verdict.right.rule for verdict in verdicts if verdict.right)
    return [
        name,
        f'{len(delays)} of {len(verdicts)}',
        f'{sum(verdict.is_wrong for verdict in verdicts)}',
        f'{statistics.median(delays):.0f}' if delays else '',
        ', '.join(rules),
    ]


def _healthy(verdicts: Sequence[Verdict]) -> str:
    rows = []
    for verdict in verdicts:
        if verdict.scenario.is_healthy:
            said = ', '.join(finding.rule for finding in verdict.early)
            tasks, iterations = len(verdict.scenario.names), verdict.healthy_iterations
            rows.append([verdict.scenario.variation.rpartition('_')[0], f'{tasks}', f'{iterations}', said])
    lines = ['### Healthy', '', tabulate(rows, ['run', 'tasks', 'iterations', 'warnings'], tablefmt='github'), '']
    for title, chosen in (
        ('healthy runs', [verdict for verdict in verdicts if verdict.scenario.is_healthy]),
        ('with what is before a fault', list(verdicts)),
    ):
        iterations = sum(verdict.healthy_iterations for verdict in chosen)
        early = [finding for verdict in chosen for finding in verdict.early]
        errors = sum(finding.severity == 'error' for finding in early)
        lines.append(
            f'- {title}: {errors} errors and {len(early) - errors} warnings in {iterations} iterations, '
            f'{1000 * len(early) / max(iterations, 1):.2f} per 1,000'
        )
    return '\n'.join(lines)


def _recorded(folder: Path) -> list[tuple[Scenario, Run]]:
    return [load_run(path) for path in sorted(folder.glob('*.npz'))]


def _frequencies(
    title: str, frequencies: Iterable[int], runs: Sequence[tuple[Scenario, Run]], held_out: Collection[str]
) -> str:
    rows = []
    for every in frequencies:
        verdicts = [judge(*each, every) for each in runs]
        faulty = [verdict for verdict in verdicts if not verdict.scenario.is_healthy]
        groups = [
            [verdict for verdict in faulty if (verdict.scenario.kind in held_out) == is_held_out]
            for is_held_out in (False, True)
        ]
        iterations = sum(verdict.healthy_iterations for verdict in verdicts)
        rows.append(
            [
                f'every {every}',
                *(_count(group) if group else '' for group in groups),
                f'{sum(verdict.is_wrong for verdict in faulty)}',
                f'{1000 * sum(len(verdict.early) for verdict in verdicts) / max(iterations, 1):.2f}',
            ]
        )
    headers = ['measured', 'known kinds found', 'held out found', 'wrong first', 'false per 1,000 iterations']
    return '\n'.join([f'### {title}', '', tabulate(rows, headers, tablefmt='github', disable_numparse=True)])


def _in_tree(runs: Sequence[tuple[Scenario, Run]]) -> str:
    verdicts = [judge(scenario, thinned(run, 1, in_tree), FREQUENCY) for scenario, run in runs]
    title = "By the figures that LightZero's in-tree monitor has"
    faulty = [verdict for verdict in verdicts if not verdict.scenario.is_healthy]
    errors = sum(finding.severity == 'error' for verdict in verdicts for finding in verdict.early)
    found = _section(title, faulty, lambda verdict: verdict.scenario.family)
    return f'{found}\n- false errors: {errors}'


def _count(verdicts: Sequence[Verdict]) -> str:
    return f'{sum(verdict.right is not None for verdict in verdicts)} of {len(verdicts)}'


def _share(verdicts: Sequence[Verdict]) -> str:
    low, high = wilson_interval(sum(verdict.right is not None for verdict in verdicts), len(verdicts))
    return f'{_count(verdicts)} (95% interval {low:.0%} to {high:.0%})'
