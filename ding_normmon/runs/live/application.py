"""The WSGI application behind TensorBoard's tab and ``normmon serve``."""

from __future__ import annotations

import gzip
import mimetypes
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from ding_normmon.core.plain_text import plain
from ding_normmon.runs.live.library import RunLibrary, UnknownRunError
from ding_normmon.runs.report.parts import ASSETS, SCRIPTS, STYLES
from ding_normmon.runs.run import RunError
from ding_normmon.runs.strict_json import dumps

__all__ = ['ENTRY', 'POLICY', 'Application']

_OWN = Path(__file__).parent / 'assets'

ENTRY = 'live.js'
"""The module that draws the page: it has a function ``render()``, as TensorBoard asks of a plugin."""

POLICY = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; img-src data:"
"""The content policy of the page outside of TensorBoard, which has its own."""

Start = Callable[[str, list[tuple[str, str]]], Any]


class Application:
    """Answers four kinds of requests, distinguished by the last part of the path.

    ``runs`` lists the runs. ``run?name=...&known=...`` returns the data of the page of one or several of them, or
    only whether they are running if the known version is the newest. ``settings`` names the page's scripts and styles.
    Other paths are these files. Only these files and runs below the folder are read.

    Arguments:
        library: the runs.
    """

    def __init__(self, library: RunLibrary) -> None:
        self._library = library
        files = [*(ASSETS / name for name in (*SCRIPTS, *STYLES)), *_OWN.iterdir()]
        self._files = {path.name: path for path in files}

    def __call__(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        route = environ.get('PATH_INFO', '').rpartition('/')[2]
        if environ.get('REQUEST_METHOD') not in ('GET', 'HEAD'):
            return _answer(environ, start, '405 Method Not Allowed', b'', 'text/plain')
        if route == 'runs':
            return _json(environ, start, {'runs': self._library.runs()})
        if route == 'settings':
            parts = {'scripts': SCRIPTS, 'styles': STYLES}
            names = {key: [Path(name).name for name in value] for key, value in parts.items()}
            return _json(environ, start, names)
        if route == 'run':
            return self._run(environ, start)
        path = self._files.get(route)
        if path is not None:
            kind = {'.js': 'text/javascript'}.get(path.suffix) or mimetypes.guess_type(path.name)[0] or 'text/plain'
            return _answer(environ, start, '200 OK', path.read_bytes(), f'{kind}; charset=utf-8')
        return _answer(environ, start, '404 Not Found', b'not found', 'text/plain')

    def _run(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        query = parse_qs(environ.get('QUERY_STRING', ''))
        try:
            found = self._library.answer(query.get('name', []), query.get('known', [''])[0])
        except UnknownRunError as error:
            return _json(environ, start, {'error': f'there is no run {error}'}, '404 Not Found')
        except (RunError, OSError, ImportError) as error:
            # No failure: a run that has just begun has no point yet, and the next question may be answered.
            return _json(environ, start, {'error': plain(error)})
        if found.data is None:
            return _json(environ, start, {'told': found.told})
        return _answer(environ, start, '200 OK', found.data, 'application/json', is_packed=True, version=found.version)


def _json(environ: dict[str, Any], start: Start, content: Any, status: str = '200 OK') -> Iterable[bytes]:
    return _answer(environ, start, status, dumps(content).encode(), 'application/json')


def _answer(
    environ: dict[str, Any],
    start: Start,
    status: str,
    body: bytes,
    kind: str,
    is_packed: bool = False,
    version: str = '',
) -> Iterable[bytes]:
    headers = [('Content-Type', kind), ('X-Content-Type-Options', 'nosniff'), ('Cache-Control', 'no-cache')]
    if kind.startswith('text/html'):
        headers.append(('Content-Security-Policy', POLICY))
    if version:
        headers.append(('X-Normmon-Version', version))
    if is_packed and 'gzip' in environ.get('HTTP_ACCEPT_ENCODING', ''):
        headers.append(('Content-Encoding', 'gzip'))
    elif is_packed:
        body = gzip.decompress(body)
    headers.append(('Content-Length', str(len(body))))
    start(status, headers)
    return [] if environ.get('REQUEST_METHOD') == 'HEAD' else [body]
