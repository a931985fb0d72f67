"""Reading a run, whatever it was written by."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from ding_normmon.core.install import install_command
from ding_normmon.runs.run import Run, RunError

__all__ = ['histories_of', 'read_run']

HistoryReader = Callable[[Path], Run]
"""Reads one history file."""

EventsReader = Callable[[Path, list[Path], bool], Run]
"""Reads event files, in the order in which they were begun, of the run in a folder; and whether it has a history."""


def read_run(path: Path | str, history: HistoryReader | None = None, events: EventsReader | None = None) -> Run:
    """Read a run: a folder with a history file, event files or both, one such file, or an export.

    What the history file has counts; event files add what it lacks, such as returns.

    Arguments:
        path: the folder of a run, or a file.
        history: reads one history file; from its beginning by default.
        events: reads the event files of a run; from their beginnings by default.

    Raises:
        RunError: there is nothing to read, or nothing that can be read.
        ImportError: the package that reads such files is not installed.
    """
    path = Path(path)
    try:
        return _read(path, history or _history, events or _events)
    except RunError:
        raise
    except ImportError:
        raise
    except Exception as error:
        # A file may say anything, and what the packages that read it make of that cannot be listed.
        raise RunError(f'{path} cannot be read ({type(error).__name__}: {error})') from error


def _read(path: Path, read_history: HistoryReader, read_events: EventsReader) -> Run:
    from ding_normmon.runs import exports

    if not path.exists():
        raise RunError(f'{path}: there is no such file or folder')
    if path.is_file():
        if path.suffix == '.arrows':
            return _checked(read_history(path), path)
        if path.suffix in exports.READERS:
            return _checked(exports.READERS[path.suffix](path), path)
        if 'tfevents' in path.name:
            return _checked(read_events(path.parent, [path], False), path)
        raise RunError(f'{path} is no history file (.arrows), event file or export (.parquet, .csv, .json)')
    from ding_normmon.runs.read_black_box import box_files
    from ding_normmon.runs.read_events import event_files

    histories = histories_of(path)
    files = event_files(path)
    if not histories and not files and not box_files(path):
        raise RunError(f'{path} holds neither a history file (history.arrows) nor event files: it is no run')
    if len(histories) > 1:
        names = ', '.join(str(folder) for folder in list(histories)[:4])
        raise RunError(f'{path} holds {len(histories)} runs: name one of them, such as {names}')
    run = Run(path)
    if files:
        run = read_events(path, files, bool(histories))
    if histories:
        history = _first_readable(next(iter(histories.values())), read_history)
        tasks = history.tasks or run.tasks
        run = replace(
            history,
            path=path,
            series={**run.series, **history.series},
            tasks=tasks,
            warnings=[*history.warnings, *run.warnings],
        )
    return _checked(_with_death(run, path), path)


def _with_death(run: Run, path: Path) -> Run:
    """Add what the black box of a run that died tells."""
    from ding_normmon.runs.read_black_box import box_files, boxes_of, incident_of_death

    if not box_files(path):
        return run
    try:
        boxes = boxes_of(path)
    except RunError as error:
        run.warnings.append(str(error))
        return run
    run.warnings.extend(warning for box in boxes for warning in box.warnings)
    death = incident_of_death(boxes, len(run.incidents) + 1)
    return run if death is None else replace(run, incidents=[*run.incidents, death])


def histories_of(path: Path) -> dict[Path, list[Path]]:
    """Return the history files of a run by the folder they are in; of those below only where it has none itself."""
    from ding_normmon.runs.history_file import is_history_name

    def named(files: Iterable[Path]) -> dict[Path, list[Path]]:
        found: dict[Path, list[Path]] = {}
        for file in files:
            if is_history_name(file.name) and file.is_file():
                found.setdefault(file.parent, []).append(file)
        return {
            folder: sorted(of_folder, key=lambda file: (len(file.name), file.name))
            for folder, of_folder in sorted(found.items())
        }

    return named(path.iterdir()) or named(path.rglob('history*.arrows'))


def _first_readable(files: list[Path], read_history: HistoryReader) -> Run:
    """Read the first history file of a folder that has records; say which others are there."""
    runs = []
    for file in files:
        run = read_history(file)
        runs.append(run)
        if run.series or run.matrices:
            break
    for other in files:
        if other != runs[-1].path:
            runs[-1].warnings.append(
                f'{other.name} beside {runs[-1].path.name} is not read: another run wrote into this folder at the same '
                f'time, or it is no history file. Name it to read it.'
            )
    return runs[-1]


def _history(path: Path) -> Run:
    try:
        from ding_normmon.runs.read_history import read_history
    except ImportError as error:
        raise ImportError(f'reading history files needs pyarrow: {install_command("history")}') from error
    return replace(read_history(path), path=path)


def _events(path: Path, files: list[Path], is_beside_history: bool) -> Run:
    from ding_normmon.runs.read_events import read_events

    return read_events(path, files, is_beside_history)


def _checked(run: Run, path: Path) -> Run:
    # A run that died early may have left nothing but its black box.
    if not run.series and not run.matrices and not run.incidents:
        why = f' ({run.warnings[0]})' if run.warnings else ''
        raise RunError(f'{path} holds no points{why}')
    return run
