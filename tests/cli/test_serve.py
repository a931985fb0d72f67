"""``normmon serve``: what it says, that Ctrl-C ends it, and what it refuses."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.runs.live.training import write


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, '-m', 'ding_normmon', 'serve', *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_it_says_where_and_ctrl_c_ends_it(tmp_path: Path) -> None:
    write(tmp_path / 'run')
    process = start(str(tmp_path), '--port', '0')
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.fullmatch(r'1 run below (.+): (http://127\.0\.0\.1:\d+/)\n', line)
    assert found, line
    with urllib.request.urlopen(found.group(2), timeout=60) as page:
        assert b'start.js' in page.read()
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (0, '')


@pytest.mark.slow
def test_a_port_in_use_and_what_is_no_run_are_refused(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        port = taken.getsockname()[1]
        (tmp_path / 'notes.txt').write_text('no run')
        for arguments, said in (
            ((str(tmp_path), '--port', str(port)), f'port {port}: Address already in use; --port 0'),
            ((str(tmp_path / 'nowhere'),), 'no such file or folder'),
            ((str(tmp_path / 'notes.txt'),), 'neither a folder nor a history file'),
            ((str(tmp_path), '--port', '99999999'), '--port'),
        ):
            process = start(*arguments)
            _, error = process.communicate(timeout=60)
            assert process.returncode == 3, (arguments, error)
            assert said in error
