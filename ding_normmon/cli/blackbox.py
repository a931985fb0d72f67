"""``normmon blackbox``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import click

from ding_normmon.cli.command import Command, Exit, Refused, say

if TYPE_CHECKING:
    from ding_normmon.runs.read_black_box import Box

__all__ = ['command']

_ENDINGS = {
    'closed': 'it ended in order',
    'running': 'the run goes on',
    'died': 'it ended without closing: it was killed, or crashed',
}
_SHOWN = ('grad/model/_total_norm', 'norm/model/_total_norm', 'clip/model/coefficient', 'learning_rate/model')
_MOST_COLUMNS = 8


@click.command('blackbox', cls=Command)
@click.argument('run', metavar='RUN')
@click.option('--last', type=click.IntRange(1), default=12, show_default=True, help='Steps to print.')
@click.option('--rank', type=click.IntRange(0), default=None, help='Only what this rank has measured.')
@click.option('--metrics', default='', metavar='TEXT,TEXT', help='Columns: figures whose names contain one of these.')
def command(run: str, last: int, rank: int | None, metrics: str) -> None:
    """Print the last steps of RUN, a folder or a .ring file, and what came first where it died.

    The exit code is 0 if every rank ended in order or goes on, 2 if one died, 3 if there is no black box.
    """
    from ding_normmon.core.incident import tell_incident
    from ding_normmon.runs import RunError
    from ding_normmon.runs.read_black_box import boxes_of, incident_of_death

    try:
        boxes = [box for box in boxes_of(run) if rank is None or box.rank == rank]
    except RunError as error:
        raise Refused(str(error)) from error
    if not boxes:
        raise Refused(f'{run} holds no black box of rank {rank}')
    for box in boxes:
        newest = 'empty' if box.last is None else f'newest step: iteration {box.last}'
        say(f'{box.path.name}: rank {box.rank}, {newest}; {_ENDINGS[box.ending]}')
        for warning in box.warnings:
            say(f'  {warning}')
    main = boxes[0]
    for iteration, event in main.events[-4:]:
        if 'exception' in event:
            say(f'\nexception: {event["exception"]}\n{event.get("traceback", "")}')
        elif 'watch' in event:
            say(f'iteration {iteration}: from about here every {event["watch"]} iterations were watched')
    _print_steps(main, last, [word for word in metrics.split(',') if word])
    for iteration, note in main.notes[-last:]:
        say(f'iteration {iteration}: {note}')
    death = incident_of_death(boxes)
    if death is not None:
        say('')
        for line in tell_incident(death, most=16):
            say(line)
    if any(box.ending == 'died' for box in boxes):
        raise SystemExit(Exit.ERRORS)


def _columns(names: tuple[str, ...], words: list[str]) -> list[str]:
    if words:
        return [name for name in names if any(word in name for word in words)][: 2 * _MOST_COLUMNS]
    shown = [name for name in _SHOWN if name in names]
    losses = [name for name in names if name.startswith(('noreduce_value_loss', 'loss', 'noreduce_'))]
    return (shown + losses)[:_MOST_COLUMNS] or list(names[:_MOST_COLUMNS])


def _print_steps(box: Box, last: int, words: list[str]) -> None:
    from tabulate import tabulate

    window = box.window
    columns = _columns(window.names, words)
    if not columns or not len(window.iterations):
        return
    places = [window.names.index(name) for name in columns]
    rows = [
        [int(iteration), *('' if math.isnan(value) else f'{value:.4g}' for value in values[places].tolist())]
        for iteration, values in zip(window.iterations[-last:], window.values[-last:], strict=True)
    ]
    say('')
    say(tabulate(rows, ['iteration', *columns], disable_numparse=True))
    say('')
