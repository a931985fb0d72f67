"""Texts of a monitor: the first line of its log, the header of its black box, and exceptions."""

from __future__ import annotations

import traceback
from typing import Any

from ding_normmon.core.config import MonitorConfig
from ding_normmon.core.metric_names import with_task
from ding_normmon.monitor.foundation import Foundation

__all__ = ['about_run', 'call_exception', 'first_line']

_LONGEST = 200


def first_line(config: MonitorConfig, watches: bool, has_box: bool) -> str:
    """Return a sentence on what is published and watched, what that may cost, and how to switch it off.

    Example:
        >>> print(first_line(MonitorConfig(watch=8), watches=True, has_box=False))
        a record every 5000 iterations (monitor_norm_freq); every 8 iterations in between are watched (watch='off' for \
none)
    """
    told = [f'a record every {config.monitor_norm_freq} iterations (monitor_norm_freq)']
    if watches and config.watch == 'auto':
        share = 100 * (config.budget or 0.01)
        told.append(
            f'learner steps in between are watched, which with all else takes at most {share:.3g}% of training time '
            f"(watch='off' for none)"
        )
    elif watches:
        told.append(f"every {config.watch} iterations in between are watched (watch='off' for none)")
    if has_box:
        told.append(f'the last steps are kept in a black box of {config.black_box} per rank (black_box=None for none)')
    return '; '.join(told)


def about_run(base: Foundation) -> dict[str, Any]:
    """Return the header of the black box of a rank."""
    paths = {with_task(name, task): found for (name, task), found in base.paths.items()}
    return {
        'rank': base.transport.rank,
        'ranks': base.transport.world_size,
        'tasks': base.tasks,
        'frequency': base.config.monitor_norm_freq,
        'paths': paths,
        'folder': base.folder,
        'session': base.session.hex(),
    }


def call_exception(error: BaseException, iteration: int) -> tuple[str, str]:
    """Return a sentence about an exception that left the learner step of an iteration, and the end of its traceback.

    >>> call_exception(ValueError('odd.'), 7)[0]
    'ValueError: odd, in the learner step of iteration 7.'

    Notes of the exception (PEP 678) belong to the sentence.
    """
    what = f'{type(error).__name__}: {_shortened(error)}'
    notes = getattr(error, '__notes__', None)
    what = ', '.join([what, *map(_shortened, notes if isinstance(notes, list) else ())])
    text = ''.join(traceback.format_exception(type(error), error, error.__traceback__))[-4000:]
    return f'{what}, in the learner step of iteration {iteration}.', text


def _shortened(said: object) -> str:
    # The text of an exception may be a tensor of a thousand lines.
    try:
        first, *more = str(said).strip().splitlines() or ['']
    except Exception as error:
        return f'its text cannot be made ({type(error).__name__})'
    return first[:_LONGEST].rstrip('.') + ('...' if more or len(first) > _LONGEST else '')
