"""The same tests, and a comparison with LightZero's own figures, on a checkout of its git main.

Set ``LIGHTZERO_SRC`` to the folder of the checkout. Importing another ``lzero`` takes a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[2]


@pytest.mark.slow
@pytest.mark.skipif('LIGHTZERO_SRC' not in os.environ, reason='LIGHTZERO_SRC names no checkout of LightZero')
@pytest.mark.parametrize(
    'cases', ['test_package.py', 'test_multitask.py', 'test_multitask_steps.py', 'checkout_cases.py']
)
def test_on_the_checkout(cases: str) -> None:
    environment = {**os.environ, 'LIGHTZERO_SRC': str(Path(os.environ['LIGHTZERO_SRC']).resolve())}
    plugin = 'tests.integrations.lightzero.checkout_plugin'
    command = [sys.executable, '-m', 'pytest', '-q', '-p', plugin, '-p', 'no:cacheprovider', str(HERE / cases)]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    assert ' passed' in run.stdout
    assert 'skipped' not in run.stdout
