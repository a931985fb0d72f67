"""Every fault in tests/mutations.py is found by a test."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutations import MUTATIONS, Mutation, apply

SCRIPT = Path(__file__).with_name('mutations.py')


def run(*words: str) -> str:
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    for name in ('PYTEST_ADDOPTS', 'PYTEST_XDIST_WORKER', 'PYTEST_CURRENT_TEST'):
        environment.pop(name, None)
    command = [sys.executable, str(SCRIPT), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_fault_is_found() -> None:
    assert '1 faults tried, 0 failures' in run('coefficients above 1')


@pytest.mark.full
@pytest.mark.timeout(900)
def test_every_fault_is_found() -> None:
    printed = run()
    tried = [m for m in MUTATIONS if shutil.which('cc') or not m.file.startswith('metrics/kernels/native/')]
    assert f'{len(tried)} faults tried, 0 failures' in printed


def test_a_fault_whose_text_is_not_there_is_an_error(tmp_path: Path) -> None:
    (tmp_path / 'a.py').write_text('x = 1\nx = 1\n')
    for old in ('y', 'x'):
        with pytest.raises(ValueError, match='not once'):
            apply(Mutation('', 'a.py', old, 'z', ()), tmp_path)


@pytest.mark.parametrize('mutation', MUTATIONS, ids=lambda mutation: mutation.what)
def test_every_fault_can_be_planted(mutation: Mutation) -> None:
    text = (SCRIPT.parents[1] / 'ding_normmon' / mutation.file).read_text(encoding='utf-8')
    assert text.count(mutation.old) == 1
    for test in mutation.tests:
        assert not test.startswith('tests/') or (SCRIPT.parents[1] / test).exists()


def test_every_fault_has_its_own_description() -> None:
    assert len({mutation.what for mutation in MUTATIONS}) == len(MUTATIONS)
