"""What all commands have in common: exit codes, harmless output, files that are written whole or not at all."""

from __future__ import annotations

import json
import math
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from ding_normmon import Record
from ding_normmon.cli.main import COMMANDS
from ding_normmon.core.destination import RunDescription
from ding_normmon.core.finding import Finding
from ding_normmon.runs import read_run
from ding_normmon.runs.history_file import FILE_NAME, HistoryFile
from tests.runs.histories import points, write, write_starts
from tests.sampling import sampled

pytestmark = pytest.mark.slow

ESCAPES = ['\x1b]52;c;cm0gLXJmIH4K\x07', '\x1b[31m', '\x9b2J', '\x9d52;c;cm0=\x9c', '\u202e', '\r', '\x08', '\x00']


def normmon(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    program = 'import sys; from ding_normmon.cli.main import main; sys.argv[0] = "normmon"; main()'
    environment = {**os.environ, 'PYTHONPATH': str(Path(__file__).parents[2])}
    return subprocess.run(
        [sys.executable, '-c', program, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        check=False,
    )


def call(name: str, *arguments: str) -> tuple[int, str]:
    from importlib import import_module

    result = CliRunner().invoke(import_module(f'ding_normmon.cli.{name}').command, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


WRONG = {
    'inspect': ['nonsense'],
    'diagnose': ['nowhere'],
    'report': ['nowhere'],
    'compare': ['nowhere', 'elsewhere'],
    'watch': ['--once', 'nowhere'],
    'export': ['nowhere', '--to', 'csv'],
    'check': ['nowhere'],
    'serve': ['nowhere'],
    'blackbox': ['nowhere'],
}


@pytest.mark.parametrize('name', WRONG)
@pytest.mark.parametrize('arguments', [[], ['--no-such-option'], None, ['/dev/null'], ['/proc/self/mem']])
def test_what_cannot_be_read_or_typed_is_3(name: str, arguments: list[str] | None) -> None:
    once = ['--once'] if name == 'watch' and arguments else []
    code, output = call(name, *(WRONG[name] if arguments is None else [*once, *arguments]))
    assert code == 3, output
    assert 'Traceback' not in output


def test_every_command_is_tried_here() -> None:
    assert set(COMMANDS) - set(WRONG) <= {'run'}


@pytest.mark.slow
def test_the_command_line_itself() -> None:
    for arguments in ([], ['nonsense'], ['--nonsense'], ['diagnose'], ['watch', '--every', 'x', '.']):
        assert normmon(*arguments).returncode == 3, arguments
    assert normmon('--version').stdout.startswith('normmon, version ')
    spent = []
    for _ in range(5):
        begin = os.times()
        done = normmon('--help')
        end = os.times()
        # Processor time, which other programs on the machine do not add to.
        spent.append(end.children_user + end.children_system - begin.children_user - begin.children_system)
        assert (done.returncode, 'diagnose' in done.stdout) == (0, True)
    assert min(spent) < 0.3


def test_help_imports_no_framework() -> None:
    program = (
        'import sys; sys.argv = ["normmon", "--help"]\n'
        'from ding_normmon.cli.main import main\n'
        'try:\n    main()\nfinally:\n'
        '    assert not {"torch", "numpy", "ding", "lzero", "pyarrow"} & set(sys.modules), sorted(sys.modules)\n'
    )
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(('severity', 'code'), [(None, 0), ('info', 0), ('warning', 1), ('error', 2)])
def test_the_most_severe_finding_is_the_exit_code(tmp_path: Path, severity: str | None, code: int) -> None:
    findings = () if severity is None else (Finding('odd', severity, 0, 0, 'Odd.', 'Wait.'),)  # type: ignore[arg-type]
    scalars = {'monitor/cost/ms': 1.0, 'monitor/cost/ms_diagnosis': 1.0}
    write(tmp_path / FILE_NAME, [Record(0, scalars, findings=findings)])
    assert call('diagnose', str(tmp_path))[0] == code
    assert call('report', str(tmp_path))[0] == 0


def hostile_run(folder: Path) -> Path:
    evil = ''.join(ESCAPES) + '[bold]x[/bold]<img src=x onerror=alert(1)>'
    file = HistoryFile(folder / FILE_NAME)
    file.begin(RunDescription({0: f'Pong{evil}', 1: '[red]'}, {'x': evil}))
    for iteration in range(6):
        texts = {'rule': f'odd{evil}', 'sentence': f'Bad {evil}', 'advice': f'Do {evil}', 'group': evil}
        finding = Finding(
            severity='warning', since=0, found=iteration, tasks=(0,), task_names=(evil,), evidence={evil: 1.0}, **texts
        )
        scalars = {'grad/model/_total_norm': 1.0, f'name{evil}': math.nan, 'noreduce_value_loss_task0': 2.0}
        file.publish(Record(iteration, scalars, notes={evil: evil}, findings=(finding,)))
    file.close()
    with (folder / FILE_NAME).open('r+b') as written:
        written.seek(900)
        written.write(b'\xff')
    return folder


@pytest.mark.parametrize('name', sampled(['diagnose', 'report', 'check', 'watch', 'export', 'compare'], 6))
def test_nothing_in_a_file_reaches_the_terminal(tmp_path: Path, name: str) -> None:
    folder = hostile_run(tmp_path / 'run\x1b]0;evil\x07')
    arguments = {
        'watch': ['--once', str(folder)],
        'export': [str(folder), '--to', 'json', '--output', str(tmp_path / 'out\x1b[31m.json')],
        'compare': [str(folder), str(folder), '--output', str(tmp_path / 'c.html'), '--fail-if', 'name* > 1'],
    }.get(name, [str(folder)])
    reading, writing = pty.openpty()
    terminal = {'TERM': 'xterm-256color', 'COLUMNS': '200'}
    environment = {**os.environ, 'PYTHONPATH': str(Path(__file__).parents[2]), **terminal}
    program = 'import sys; from ding_normmon.cli.main import main; sys.argv[0] = "normmon"; main()'
    child = subprocess.Popen(
        [sys.executable, '-c', program, name, *arguments], stdout=writing, stderr=writing, env=environment
    )
    os.close(writing)
    shown = b''
    try:
        while block := os.read(reading, 1 << 16):
            shown += block
    except OSError:
        pass  # how a terminal says that its last writer has gone
    assert child.wait() in (0, 1, 2), shown
    for escape in ESCAPES:
        if escape not in ('\r', '\x1b[31m'):
            assert escape.encode() not in shown, escape
    assert b'\x1b]' not in shown
    assert b'Traceback' not in shown
    if name == 'report':
        page = (folder / 'report.html').read_text()
        assert not any(escape in page for escape in ESCAPES if escape != '\r')
        assert 'onerror=alert' not in page


@pytest.mark.parametrize('form', ['csv', 'json', 'parquet'])
@pytest.mark.parametrize('kind', ['link', 'dangling link', 'folder', 'unwritable'])
def test_an_export_overwrites_nothing_that_a_link_points_at(tmp_path: Path, form: str, kind: str) -> None:
    write_starts(tmp_path, starts=1, records=3)
    victim, output = tmp_path / 'thesis.tex', tmp_path / f'out.{form}'
    victim.write_text('important')
    if kind == 'link':
        output.symlink_to(victim)
    elif kind == 'dangling link':
        output.symlink_to(tmp_path / 'new')
    elif kind == 'folder':
        output.mkdir()
    else:
        output = tmp_path / 'no' / 'such' / 'folder.csv'
    code, text = call('export', str(tmp_path), '--to', form, '--output', str(output))
    assert code == 3, text
    assert victim.read_text() == 'important'
    assert not (tmp_path / 'new').exists()
    assert not list(tmp_path.glob('.unfinished*'))


def test_a_report_does_not_follow_a_link_in_the_run(tmp_path: Path) -> None:
    write_starts(tmp_path, starts=1, records=3)
    victim = tmp_path / 'thesis.tex'
    victim.write_text('important')
    (tmp_path / 'report.html').symlink_to(victim)
    assert call('report', str(tmp_path))[0] == 3
    assert victim.read_text() == 'important'


def test_json_is_json(tmp_path: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f'{constant} is no JSON')

    values = {'norm/a': math.nan, 'norm/b': math.inf, 'norm/c': -math.inf, 'norm/d': 1.0}
    finding = Finding('odd', 'warning', 0, 0, 'Odd.', 'Wait.', evidence={'x': math.nan})
    write(tmp_path / FILE_NAME, [Record(0, values, findings=(finding,)), Record(1, values)])
    output = tmp_path / 'out.json'
    assert call('export', str(tmp_path), '--to', 'json', '--output', str(output))[0] == 0
    json.loads(output.read_text(), parse_constant=refuse)
    back = read_run(output)
    assert {name: repr(points(back, name)[0]) for name in values} == {
        'norm/a': 'nan',
        'norm/b': 'inf',
        'norm/c': '-inf',
        'norm/d': '1.0',
    }
    assert math.isnan(back.findings[0].evidence['x'])
    code, text = call('diagnose', str(tmp_path), '--format', 'json')
    json.loads(text, parse_constant=refuse)
    assert code == 2
    for text in read_texts(tmp_path / FILE_NAME):
        json.loads(text, parse_constant=refuse)


def read_texts(path: Path) -> list[str]:
    from ding_normmon.runs.streams import read_streams

    return [text for stream in read_streams(path).streams for text in stream.rows.texts.values()]
