"""``normmon inspect``: what is printed, and that a mistake is one sentence."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from ding_normmon.cli import main as command_line

ROOT = Path(__file__).resolve().parents[2]


def normmon(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str]:
    monkeypatch.setattr(sys, 'argv', ['normmon', *arguments])
    monkeypatch.setattr(sys, 'path', list(sys.path))
    with pytest.raises(SystemExit) as left:
        command_line.main()
    captured = capsys.readouterr()
    assert not isinstance(left.value.code, str)
    return left.value.code or 0, captured.out + captured.err


@pytest.mark.slow
def test_a_policy_is_described(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, text = normmon(capsys, monkeypatch, 'inspect', 'tests.integrations.small_policies:ActorCritic')
    assert code == 0
    for part in ('ActorCritic', 'encoder', 'critic_head', '_optimizer_actor', 'outputs/actor_head', 'before clipping'):
        assert part in text


@pytest.mark.parametrize(
    ('target', 'message'),
    [
        ('nonsense', 'expected MODULE:CALLABLE'),
        ('no_such_module:make', "No module named 'no_such_module'"),
        ('math:no_such_name', 'no_such_name'),
        ('math:pi', 'math:pi is no callable but a float'),
        ('builtins:dict', 'dict is no policy that can be measured'),
    ],
)
def test_a_mistake_is_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, target: str, message: str
) -> None:
    code, text = normmon(capsys, monkeypatch, 'inspect', target)
    assert code == 3
    assert message in text
    assert 'Traceback' not in text


def test_a_missing_package_is_one_sentence(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'click', None)
    code, text = normmon(capsys, monkeypatch, 'inspect', 'builtins:dict')
    assert (code, text) == (3, 'normmon needs the package click: pip install click tabulate\n')


def test_a_missing_table_package_is_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # DI-engine needs it too, and may not have been imported in this process yet.
    importlib.import_module('ding_normmon.integrations.attach')
    importlib.import_module('tests.integrations.small_policies')
    monkeypatch.setitem(sys.modules, 'tabulate', None)
    code, text = normmon(capsys, monkeypatch, 'inspect', 'tests.integrations.small_policies:Policy')
    assert code == 3
    assert 'needs the package tabulate' in text


@pytest.mark.slow
def test_help_needs_no_framework() -> None:
    program = (
        'import sys; sys.argv = ["normmon", "--help"]\n'
        'from ding_normmon.cli.main import main\n'
        'try:\n    main()\nfinally:\n    assert not {"ding", "lzero"} & set(sys.modules)\n'
    )
    done = subprocess.run([sys.executable, '-c', program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert 'inspect' in done.stdout
