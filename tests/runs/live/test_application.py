"""What the application answers: files of the page, runs, errors; and the server that stands alone."""

from __future__ import annotations

import http.client
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from wsgiref.validate import validator

import pytest

from ding_normmon.runs.live.application import Application
from ding_normmon.runs.live.library import RunLibrary
from ding_normmon.runs.live.server import HOST, make_page_server
from tests.runs.live.training import write

HOSTILE = '<img src=x onerror=alert(1)> "&amp;\u202eevil'


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    write(tmp_path / 'run')
    write(tmp_path / HOSTILE)
    server = make_page_server(RunLibrary({'': tmp_path}), 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield int(server.server_port)
    server.shutdown()
    server.server_close()


def ask(port: int, path: str, method: str = 'GET', **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection(HOST, port, timeout=60)
    connection.request(method, path, headers=headers)
    response = connection.getresponse()
    return response, response.read()


def test_the_page_and_its_files_are_served(port: int) -> None:
    response, page = ask(port, '/')
    assert response.status == 200
    policy = response.getheader('Content-Security-Policy') or ''
    assert "script-src 'self'" in policy
    assert 'unsafe-inline' not in policy.partition('script-src')[2].partition(';')[0]
    assert b'start.js' in page
    assert b'<script>' not in page
    settings = json.loads(ask(port, '/settings')[1])
    for name in ('start.js', 'live.js', 'live.css', *settings['scripts'], *settings['styles']):
        response, content = ask(port, f'/static/{name}')
        assert response.status == 200, name
        assert content, name
        kind = response.getheader('Content-Type') or ''
        assert kind.startswith('text/javascript' if name.endswith('.js') else 'text/css'), name
        assert response.getheader('X-Content-Type-Options') == 'nosniff'


def test_names_of_runs_are_data(port: int) -> None:
    response, content = ask(port, '/runs')
    assert response.getheader('Content-Type') == 'application/json'
    runs = json.loads(content)['runs']
    assert {run['name'] for run in runs} == {'run', HOSTILE}
    assert all('\u202e' not in run['shown'] for run in runs)


def test_what_is_not_there_is_said(port: int) -> None:
    for path, status in (
        ('/run?name=other', 404), ('/run', 404), ('/static/../../setup.py', 404), ('/nothing', 404), ('/static/', 404),
    ):  # fmt: skip
        response, content = ask(port, path)
        assert response.status == status, path
        assert b'Traceback' not in content
    assert ask(port, '/runs', 'POST')[0].status == 405
    response, content = ask(port, '/runs', 'HEAD')
    assert (response.status, content) == (200, b'')


def test_a_run_that_cannot_be_read_is_a_sentence(port: int, tmp_path: Path) -> None:
    (tmp_path / 'run' / 'history.arrows').write_bytes(b'')
    response, content = ask(port, '/run?name=run')
    assert response.status == 200
    assert 'holds no points' in json.loads(content)['error']


def test_other_machines_and_other_names_are_refused(port: int) -> None:
    for host, status in ((f'evil.example:{port}', 403), ('evil.example', 403), (f'localhost:{port}', 200)):
        assert ask(port, '/runs', Host=host)[0].status == status, host
    server = make_page_server(RunLibrary({}), 0)
    assert server.server_address[0] == '127.0.0.1'
    server.server_close()


def test_compression_is_for_those_who_can_read_it(port: int) -> None:
    plain, packed = ask(port, '/run?name=run'), ask(port, '/run?name=run', **{'Accept-Encoding': 'gzip'})
    assert plain[0].getheader('Content-Encoding') is None
    assert packed[0].getheader('Content-Encoding') == 'gzip'
    assert len(packed[1]) < len(plain[1])
    version = plain[0].getheader('X-Normmon-Version')
    known = json.loads(ask(port, f'/run?name=run&known={version}')[1])
    assert [one['state'] for one in known['told']] == ['ended']


def test_it_is_a_correct_wsgi_application(tmp_path: Path) -> None:
    write(tmp_path / 'run')
    application: Any = validator(Application(RunLibrary({'': tmp_path})))
    for path in ('/runs', '/run', '/settings', '/static/page.js', '/nothing'):
        environ = {
            'REQUEST_METHOD': 'GET', 'SCRIPT_NAME': '', 'PATH_INFO': path, 'QUERY_STRING': 'name=run',
            'SERVER_NAME': 'localhost', 'SERVER_PORT': '80', 'SERVER_PROTOCOL': 'HTTP/1.1', 'wsgi.version': (1, 0),
            'wsgi.url_scheme': 'http', 'wsgi.input': io.BytesIO(), 'wsgi.errors': io.StringIO(),
            'wsgi.multithread': True, 'wsgi.multiprocess': False, 'wsgi.run_once': False,
        }  # fmt: skip
        answered: list[str] = []

        def start(status: str, headers: list[tuple[str, str]], *_: Any, seen: list[str] = answered) -> Any:
            seen.append(status)
            return lambda data: None

        body = application(environ, start)
        assert b''.join(body)
        body.close()
        assert answered
