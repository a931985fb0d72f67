"""The confusion table of all recorded runs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from tabulate import tabulate

from benchmarks.faults.judge import Verdict
from benchmarks.faults.record_run import FREQUENCY
from benchmarks.faults.wilson import wilson_interval

__all__ = ['render']


def render(verdicts: Sequence[Verdict], title: str) -> str:
    """Return one part of the table as Markdown."""
    faulty = [verdict for verdict in verdicts if verdict.scenario.fault != 'healthy']
    healthy = [verdict for verdict in verdicts if verdict.scenario.fault == 'healthy']
    rows = []
    for fault in dict.fromkeys(verdict.scenario.fault for verdict in faulty):
        of_fault = [verdict for verdict in faulty if verdict.scenario.fault == fault]
        rules = dict.fromkeys(verdict.found.rule for verdict in of_fault if verdict.found)
        delays = [verdict.delay for verdict in of_fault if verdict.delay is not None]
        rows.append(
            [
                fault,
                f'{sum(verdict.found is not None for verdict in of_fault)} of {len(of_fault)}',
                f'{sum(verdict.by_rule for verdict in of_fault)} of {len(of_fault)}',
                f'{sum(verdict.named for verdict in of_fault)} of {len(of_fault)}',
                ', '.join(map(str, delays)),
                ', '.join(rules),
            ]
        )
    headers = ['fault', 'found', 'right rule', 'right task first', 'iterations to it', 'first found by']
    lines = [f'### {title}', '', tabulate(rows, headers, tablefmt='github', disable_numparse=True), '']
    delays = [verdict.delay / FREQUENCY for verdict in faulty if verdict.delay is not None]
    single = [verdict for verdict in faulty if verdict.scenario.task is not None]
    lines += [
        f'- found: {_share(sum(verdict.found is not None for verdict in faulty), len(faulty))}',
        f'- by the right rule: {_share(sum(verdict.by_rule for verdict in faulty), len(faulty))}',
        f'- single-task faults, the right task named first: '
        f'{_share(sum(verdict.named for verdict in single), len(single))}',
    ]
    if delays:
        lines.append(f'- median delay: {statistics.median(delays):.1f} monitored steps of {FREQUENCY} iterations')
    iterations = sum(verdict.healthy_iterations for verdict in verdicts)
    alarms = sum(verdict.false_warnings + verdict.false_errors for verdict in verdicts)
    lines.append(
        f'- false alarms before a fault or in healthy runs: {alarms} in {iterations} iterations, '
        f'{1000 * alarms / max(iterations, 1):.2f} per 1,000'
    )
    if healthy:
        lines.append(
            f'- healthy runs: {len(healthy)}, with errors: {sum(verdict.false_errors > 0 for verdict in healthy)}, '
            f'with more than one warning: {sum(verdict.false_warnings > 1 for verdict in healthy)}, with one: '
            f'{sum(verdict.false_warnings == 1 for verdict in healthy)}'
        )
    return '\n'.join(lines)


def _share(successes: int, trials: int) -> str:
    low, high = wilson_interval(successes, trials)
    return f'{successes} of {trials} (95% interval {low:.0%} to {high:.0%})'
