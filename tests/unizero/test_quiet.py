"""What importing LightZero and DI-engine prints, and leaves behind, does not reach whoever trains."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import logging
before = logging.root.level, logging.root.manager.disable
import ding_normmon.unizero.run
assert (logging.root.level, logging.root.manager.disable) == before, logging.root.level
"""


@pytest.mark.slow
@pytest.mark.full
def test_importing_everything_prints_nothing() -> None:
    done = subprocess.run([sys.executable, '-c', PROGRAM], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, '', '')
