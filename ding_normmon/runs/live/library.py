"""The runs below a folder, and what their page draws, read again as they grow."""

from __future__ import annotations

import gzip
import hashlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ding_normmon.core.plain_text import plain
from ding_normmon.runs.file_names import is_history_name
from ding_normmon.runs.run import Run
from ding_normmon.runs.strict_json import dumps

if TYPE_CHECKING:
    from ding_normmon.runs.follow import FollowedRun

__all__ = ['Answer', 'RunLibrary', 'UnknownRunError']

_WALK = 5.0
"""Seconds for which a list of runs is used."""
_KEPT = 8
"""Pages whose data are kept."""
_FORGOTTEN = 120.0
"""Seconds after which the data of a page that is no longer requested are dropped."""
_DRAWN = 12
"""Runs that one page shows over each other."""
_REST = 2.0
"""The pause after reading, in multiples of the reading time: reading takes at most a third of the time."""


class UnknownRunError(LookupError):
    """A run that is not below the folder."""


@dataclass(frozen=True)
class Answer:
    """The data of a page of some runs.

    Arguments:
        version: another text as soon as the data are others.
        data: JSON of :func:`~ding_normmon.runs.report.data.page_data`, compressed with gzip; None if it is known.
        told: for each run, whether it is running now; this can change without a change of its files.
    """

    version: str
    data: bytes | None
    told: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class _Page:
    """The data of one choice of runs; its lock is held while they are read."""

    lock: threading.Lock
    version: str = ''
    data: bytes = b''
    runs: list[Run] = field(default_factory=list)
    followed: list[FollowedRun] = field(default_factory=list)
    not_before: float = 0.0
    asked: float = 0.0


class RunLibrary:
    """Finds runs and reads them, for several threads at a time.

    A run is a folder with a history file, or with event files unless a run above it has a history.

    Arguments:
        roots: folders, or a history file, by what their runs' names begin with; ``''`` for nothing.

    Example:
        >>> import tempfile
        >>> from ding_normmon.core.record import Record
        >>> from ding_normmon.runs.history_file import HistoryFile
        >>> folder = Path(tempfile.mkdtemp())
        >>> file = HistoryFile(folder / 'atari' / 'seed0' / 'history.arrows')
        >>> file.publish(Record(0, {'grad/model/_total_norm': 2.5}))
        >>> library = RunLibrary({'': folder})
        >>> [run['name'] for run in library.runs()]
        ['atari/seed0']
        >>> answer = library.answer(['atari/seed0'])
        >>> library.answer(['atari/seed0'], answer.version).data is None
        True
        >>> file.close()
    """

    def __init__(self, roots: dict[str, Path]) -> None:
        self._roots = roots
        self._lock = threading.Lock()
        self._found: dict[str, Path] = {}
        self._walked = -_WALK
        self._pages: OrderedDict[tuple[str, ...], _Page] = OrderedDict()

    def runs(self) -> list[dict[str, Any]]:
        """Return name and time of the last change of each run, the newest first."""
        changed = {name: max((file[2] for file in _files(path)), default=0) for name, path in self._walk().items()}
        newest = sorted(changed, key=lambda name: (-changed[name], name))
        return [{'name': name, 'shown': plain(name, 300), 'changed': changed[name] / 1e9} for name in newest]

    def answer(self, names: Sequence[str], known: str = '') -> Answer:
        """Return what a page of these runs draws.

        Arguments:
            names: of the runs; one page shows 12 of them.
            known: version of the data that need not be sent again.

        Raises:
            UnknownRunError: a run that is not below the folder.
            RunError: a run that cannot be read.
        """
        from ding_normmon.runs.state import state_of

        chosen = tuple(dict.fromkeys(names))[:_DRAWN]
        found = self._walk()
        missing = [name for name in chosen if name not in found]
        if missing or not chosen:
            raise UnknownRunError(plain(missing[0], 300) if missing else 'no run was named')
        paths = [found[name] for name in chosen]
        with self._lock:
            page = self._pages.setdefault(chosen, _Page(threading.Lock()))
            self._pages.move_to_end(chosen)
            while len(self._pages) > _KEPT:
                self._pages.popitem(last=False)
            page.asked = time.monotonic()
            for other in self._pages.values():
                if page.asked - other.asked > _FORGOTTEN:
                    other.followed = []
        with page.lock:
            version = _version(paths)
            if version != page.version and (time.monotonic() >= page.not_before or not page.data):
                self._read(page, chosen, paths)
                page.version = version
            told = [{'state': state.name, 'silent': state.silent} for state in map(state_of, page.runs)]
            return Answer(page.version, None if page.version == known else page.data, told)

    def _read(self, page: _Page, names: Sequence[str], paths: Sequence[Path]) -> None:
        # Not before somebody looks: these import torch.
        from ding_normmon.runs.follow import FollowedRun
        from ding_normmon.runs.report.data import page_data

        begin = time.monotonic()
        page.followed = page.followed or [FollowedRun(path) for path in paths]
        runs = [followed.read() for followed in list(page.followed)]
        data = page_data(runs)
        for run, name in zip(data['runs'], names, strict=True):
            run['name'] = plain(name, 300)
        page.data = gzip.compress(dumps(data).encode(), 3, mtime=0)
        page.runs = [_light(run) for run in runs]
        now = time.monotonic()
        page.not_before = now + _REST * (now - begin)

    def _walk(self) -> dict[str, Path]:
        with self._lock:
            if time.monotonic() - self._walked >= _WALK:
                self._found = {
                    name: path for prefix, root in self._roots.items() for name, path in _runs_below(root, prefix)
                }
                self._walked = time.monotonic()
            return self._found


def _light(run: Run) -> Run:
    """Return a run with only its longest and its latest curve, which show whether it is running."""
    series = run.series.items()
    longest = max(series, key=lambda one: len(one[1].times), default=None)
    latest = max(series, key=lambda one: one[1].times[-1], default=None)
    return Run(run.path, dict(one for one in (longest, latest) if one is not None), is_ended=run.is_ended)


def _runs_below(root: Path, prefix: str) -> Iterator[tuple[str, Path]]:
    if root.is_file():
        yield prefix or root.parent.resolve().name, root
        return
    seen: set[tuple[int, int]] = set()
    with_history: set[Path] = set()
    with_events: list[Path] = []
    for folder, below, files in os.walk(root, followlinks=True):
        path = Path(folder)
        status = path.stat()
        key = status.st_dev, status.st_ino
        if key in seen:
            # A link to a folder that was looked at: without this, a link to one above it would have no end.
            below.clear()
            continue
        seen.add(key)
        below[:] = sorted(name for name in below if not name.startswith('.'))
        if any(is_history_name(name) for name in files):
            with_history.add(path)
        elif any('tfevents' in name for name in files):
            with_events.append(path)
    above = with_history | set(with_events)
    alone = [path for path in with_events if not any(parent in above for parent in path.parents)]
    for path in sorted([*with_history, *alone]):
        below_root = path.relative_to(root).as_posix()
        name = '/'.join(part for part in (prefix, '' if below_root == '.' else below_root) if part)
        yield name or root.resolve().name or str(root), path


def _files(path: Path) -> list[tuple[str, int, int]]:
    """Return name, size and time of the last change (ns) of the files of a run."""
    found = []
    files = [path] if path.is_file() else path.rglob('*')
    for file in files:
        if path.is_file() or is_history_name(file.name) or 'tfevents' in file.name:
            try:
                status = file.stat()
            except OSError:
                # It was deleted just now, or is a link to nothing.
                continue
            found.append((str(file), status.st_size, status.st_mtime_ns))
    return sorted(found)


def _version(paths: Sequence[Path]) -> str:
    return hashlib.blake2b(repr([_files(path) for path in paths]).encode(), digest_size=12).hexdigest()
