"""How many published silent errors are found, in which record, and what is said.

    python -m benchmarks.silent_errors            # train with all of them, print the table
    python -m benchmarks.silent_errors --only clip
    python -m benchmarks.silent_errors --write    # also put the table into docs/diagnosis.md

TrainCheck (Jiang et al., OSDI 2025) has collected silent training errors that happened to somebody. Those that can
occur in a training loop here are planted in code of our own: in plain loops, on two ranks, and in the batches of the
multi-task policy; with them some more of the same kinds.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Sequence
from pathlib import Path

import click
from tabulate import tabulate

from benchmarks.silent.error import SilentError, Verdict, judge
from benchmarks.silent.own_policy import OWN_POLICY
from benchmarks.silent.plain_loops import PLAIN_LOOPS
from benchmarks.silent.two_ranks import TWO_RANKS
from ding_normmon.diagnose.invariants import EXACT, EXPECTED

__all__ = ['BEGIN', 'END', 'ERRORS', 'PAGE', 'render']

PAGE = Path(__file__).resolve().parent.parent / 'docs' / 'diagnosis.md'
BEGIN, END = '<!-- silent errors -->', '<!-- end of silent errors -->'
"""Between them the table stands on the page."""

ERRORS: dict[str, tuple[SilentError, ...]] = {
    'plain loop': PLAIN_LOOPS,
    'two ranks': TWO_RANKS,
    'own policy': OWN_POLICY,
}


def verdicts(only: str = '') -> list[tuple[str, Verdict]]:
    """Train with every error whose name or source contains a word."""
    invariants = frozenset(rule.name for rule in (*EXACT, *EXPECTED))
    chosen = [(where, error) for where, errors in ERRORS.items() for error in errors]
    found = []
    for where, error in chosen:
        if only in f'{error.name} {error.source}':
            with contextlib.redirect_stdout(io.StringIO()):
                found.append((where, judge(error, invariants)))
    return found


def render(results: Sequence[tuple[str, Verdict]]) -> str:
    """Return the table as Markdown, and how many were found in time."""
    rows = []
    for where, verdict in results:
        error, found = verdict.error, verdict.found
        said = 'nothing' if found is None else f'`{found.rule}`: {found.sentence}'
        kind = 'exact' if error.exact else 'expected'
        rows.append([error.name, error.source, where, kind, verdict.delay or 'not found', said.replace('|', '/')])
    headers = ['error', 'case of TrainCheck', 'in', 'invariant', 'record', 'what is said']
    lines = [tabulate(rows, headers, tablefmt='github', disable_numparse=True), '']
    for kind, exact in (('exact', True), ('expected', False)):
        of_kind = [verdict for _, verdict in results if verdict.error.exact == exact]
        in_time = sum(verdict.in_time for verdict in of_kind)
        limit = 'in the first record' if exact else 'within 5 records'
        lines.append(f'- {kind}: {in_time} of {len(of_kind)} {limit}')
    alarms = sum(len(verdict.early) for _, verdict in results)
    lines.append(f'- findings of invariants before the error began: {alarms}')
    return '\n'.join(lines)


@click.command(context_settings={'show_default': True})
@click.option('--only', default='', help='Only errors whose name or source contains this.')
@click.option('--write', is_flag=True, help='Put the table into docs/diagnosis.md.')
def main(only: str, write: bool) -> None:
    """Train with every error and print what was said."""
    logging.getLogger('ding_normmon').setLevel(logging.ERROR + 1)
    results = verdicts(only)
    click.echo(render(results))
    for _, verdict in results:
        for finding in verdict.early:
            click.echo(f'{verdict.error.name}: too early at iteration {finding.found}: {finding.sentence}')
    if write:
        page = PAGE.read_text(encoding='utf-8')
        before, _, rest = page.partition(BEGIN)
        PAGE.write_text(f'{before}{BEGIN}\n\n{render(results)}\n\n{END}{rest.partition(END)[2]}', encoding='utf-8')


if __name__ == '__main__':
    main()
