"""The application alone, without TensorBoard, for this machine only."""

from __future__ import annotations

from collections.abc import Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from ding_normmon.runs.live.application import Application, Start
from ding_normmon.runs.live.library import RunLibrary

__all__ = ['HOST', 'make_page_server']

HOST = '127.0.0.1'

_NAMES = ('127.0.0.1', 'localhost', '[::1]')


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    def log_message(self, *args: Any) -> None:
        """Print nothing: the page asks every few seconds."""


class _Alone(Application):
    def __call__(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        # A page from elsewhere can let its own name point to this machine; the browser still says the name.
        host = environ.get('HTTP_HOST', '')
        name, _, port = host.rpartition(':')
        if (name if port.isdigit() else host) not in _NAMES:
            start('403 Forbidden', [('Content-Type', 'text/plain')])
            return [b'this server answers its own machine only']
        if environ.get('PATH_INFO') == '/':
            environ = {**environ, 'PATH_INFO': '/index.html'}
        return super().__call__(environ, start)


def make_page_server(library: RunLibrary, port: int) -> WSGIServer:
    """Return a server on the loopback interface; ``serve_forever`` runs it, each request in a thread.

    Arguments:
        library: the runs.
        port: port to listen on; 0 for any free one.

    Raises:
        OSError: the port is in use.
    """
    return make_server(HOST, port, _Alone(library), _Server, _Handler)
