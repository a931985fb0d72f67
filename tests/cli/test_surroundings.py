"""Commands as processes of their own, in surroundings that a user may have: pipes, disks, locales, folders, Ctrl-C."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ding_normmon.core.destination import RunDescription
from ding_normmon.core.finding import Finding
from ding_normmon.core.record import Record
from ding_normmon.runs.history_file import FILE_NAME, HistoryFile
from tests.sampling import sampled

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
CHINESE = '迷宫 – ünï'
COMMANDS = {
    'diagnose': ['diagnose', 'run'],
    'json': ['diagnose', 'run', '--format', 'json'],
    'check': ['check', 'run'],
    'watch': ['watch', 'run'],
    'report': ['report', 'run'],
    'export': ['export', 'run', '--to', 'csv'],
    'help': ['--help'],
    'help of one': ['check', '--help'],
    'version': ['--version'],
    'wrong': ['nonsense'],
    'no run': ['check', 'nowhere'],
}
CODES = {'diagnose': 1, 'json': 1, 'wrong': 3, 'no run': 3}
"""Of commands that do not end with 0."""


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a run of a few warnings, enough of them for a pipe to close meanwhile."""
    folder = tmp_path_factory.mktemp('surroundings')
    file = HistoryFile(folder / 'run' / FILE_NAME)
    file.begin(RunDescription({0: CHINESE}))
    texts = {'sentence': f'Task 0 ({CHINESE}): odd.', 'advice': 'Wait.'}
    findings = [Finding(f'odd{number}', 'warning', 5, 5, **texts) for number in range(40)]
    for iteration in range(0, 50, 5):
        scalars = {'monitor/cost/ms': 1.0, 'grad/model/_total_norm': 1.0}
        file.publish(Record(iteration, scalars, findings=tuple(findings) if iteration == 5 else ()))
    file.close()
    return folder


def normmon(*arguments: str, cwd: Path, code: int = 0, **options: Any) -> str:
    """Run a command; return what it prints."""
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), **options.pop('env', {})}
    pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, **options}
    done = subprocess.run(
        [sys.executable, '-m', 'ding_normmon', *arguments], cwd=cwd, env=environment, check=False, timeout=120, **pipes
    )
    said = (done.stdout or b'') + (done.stderr or b'')
    assert done.returncode == code, said
    assert not any(wrong in said for wrong in (b'Traceback', b'Exception ignored', b'mistake of normmon')), said
    return said.decode()


@pytest.mark.parametrize('name', sampled(list(COMMANDS), every=6))
def test_who_reads_no_further_changes_no_exit_code(folder: Path, name: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        said = normmon(*COMMANDS[name], cwd=folder, code=CODES.get(name, 0), stdout=writing)
    finally:
        os.close(writing)
    assert bool(said) == (name in ('wrong', 'no run'))


@pytest.mark.parametrize('name', sampled(list(COMMANDS), every=6))
def test_a_full_disk_behind_the_output_is_3(folder: Path, name: str) -> None:
    with open('/dev/full', 'wb') as full:
        said = normmon(*COMMANDS[name], cwd=folder, code=3, stdout=full)
    assert said.startswith('Error: ')
    assert said.count('\n') == 1


@pytest.mark.parametrize('name', sampled(list(COMMANDS), every=6))
@pytest.mark.parametrize('harm', sampled(['no output', 'no error stream', 'full error stream']))
def test_a_stream_that_is_not_there_changes_no_exit_code(folder: Path, name: str, harm: str) -> None:
    code = CODES.get(name, 0)
    if harm == 'full error stream':
        with open('/dev/full', 'wb') as full:
            normmon(*COMMANDS[name], cwd=folder, code=code, stderr=full)
        return
    number = 2 if harm == 'no error stream' else 1
    normmon(*COMMANDS[name], cwd=folder, code=code, preexec_fn=lambda: os.close(number))


LOCALES = {
    'C': {'LC_ALL': 'C'},
    'POSIX, without UTF-8': {'LC_ALL': 'POSIX', 'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0'},
    'ascii': {'PYTHONIOENCODING': 'ascii:strict'},
}


@pytest.mark.parametrize('name', sampled(['diagnose', 'json', 'watch', 'report', 'export', 'check'], every=6))
@pytest.mark.parametrize('locale', sampled(list(LOCALES)))
def test_any_locale(folder: Path, name: str, locale: str) -> None:
    said = normmon(*COMMANDS[name], cwd=folder, code=CODES.get(name, 0), env=LOCALES[locale])
    if name == 'diagnose':
        assert CHINESE in said or json.dumps(CHINESE[:2])[1:-1] in said


@pytest.mark.parametrize('harm', sampled(['no HOME', 'HOME that is not there', 'folder that is gone', 'narrow']))
@pytest.mark.parametrize('name', sampled(['diagnose', 'watch', 'report']))
def test_no_home_no_folder_no_room(folder: Path, tmp_path: Path, name: str, harm: str) -> None:
    command, _, *options = COMMANDS[name]
    arguments = [command, str(folder / 'run'), *options]
    cwd = tmp_path / 'gone'
    cwd.mkdir()
    if harm == 'no HOME':
        environment = {key: value for key, value in os.environ.items() if key in ('PATH', 'OMP_NUM_THREADS')}
        started = ['env', '-i', *(f'{key}={value}' for key, value in environment.items()), f'PYTHONPATH={ROOT}']
        done = subprocess.run(
            [*started, sys.executable, '-m', 'ding_normmon', *arguments], cwd=cwd, capture_output=True, check=False
        )
        assert done.returncode == CODES.get(name, 0), done.stderr
        assert b'Traceback' not in done.stderr
    elif harm == 'HOME that is not there':
        normmon(*arguments, cwd=cwd, code=CODES.get(name, 0), env={'HOME': '/nowhere', 'XDG_CACHE_HOME': '/nowhere'})
    elif harm == 'folder that is gone':
        # Libraries below torch end the process there, with a code that would mean errors.
        said = normmon(*arguments, cwd=cwd, code=3, preexec_fn=lambda: os.rmdir(cwd))
        assert said.startswith('Error: this folder is gone')
    else:
        normmon(*arguments, cwd=cwd, code=CODES.get(name, 0), env={'COLUMNS': '20'})


@pytest.mark.parametrize('arguments', [['export', '--to', 'csv'], ['compare', '--fail-if', 'grad/* > 1']])
def test_a_folder_that_cannot_be_written_to_is_a_sentence(folder: Path, arguments: list[str]) -> None:
    runs = [str(folder / 'run')] * (2 if arguments[0] == 'compare' else 1)
    said = normmon(*arguments, *runs, cwd=Path('/proc'), code=3)
    assert 'cannot be written' in said


UNLIKELY = [b'-run', b'no utf-8 \xff\xfe', b'two\nlines', b'\x1b]52;c;x\x07', b"'\"<b>$(x)"]
NAMES = [b'with spaces', '迷宫 ü'.encode(), *UNLIKELY]


@pytest.mark.parametrize('name', sampled(NAMES, every=4))
@pytest.mark.parametrize('command', sampled(['diagnose', 'check', 'watch', 'report', 'export'], every=5))
def test_a_run_may_be_called_anything(folder: Path, tmp_path: Path, name: bytes, command: str) -> None:
    run = os.fsdecode(name)
    shutil.copytree(folder / 'run', tmp_path / run)
    first, _, *options = COMMANDS[command]
    said = normmon(first, *options, '--', run, cwd=tmp_path, code=CODES.get(command, 0))
    assert '\x1b' not in said
    if command == 'export':
        assert (tmp_path / f'{run}.csv').stat().st_size > 100


@pytest.mark.parametrize('command', sampled(['diagnose', 'report', 'check', 'watch', 'serve'], every=5))
def test_ctrl_c_ends_a_long_read_with_one_word(folder: Path, tmp_path: Path, command: str) -> None:
    """What follows a run ends in order: Ctrl-C is how it is ended."""
    program = (
        'import time\n'
        'from ding_normmon.runs import streams\n'
        'def slow(*_):\n'
        '    print("reading", flush=True)\n'
        '    time.sleep(60)\n'
        'streams._history = slow\n'
        'from ding_normmon.cli.main import main\n'
        'main()\n'
    )
    (tmp_path / 'run').mkdir()
    shutil.copy(folder / 'run' / FILE_NAME, tmp_path / 'run')
    options = ['--port', '0'] if command == 'serve' else []
    process = subprocess.Popen(
        [sys.executable, '-c', program, command, 'run', *options],
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith('1 run' if command == 'serve' else 'reading')
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    follows = command in ('watch', 'serve')
    assert (process.returncode, errors) == ((0, '') if follows else (130, 'interrupted\n'))
    assert [path.name for path in (tmp_path / 'run').iterdir()] == [FILE_NAME]
