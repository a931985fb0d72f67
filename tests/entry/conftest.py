"""One short real run on two ranks, shared by several tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.entry.launch import train


@pytest.fixture(scope='session')
def short_run_output(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Train 20 iterations on two ranks, four tasks; return the run's folder and what it printed."""
    folder = tmp_path_factory.mktemp('runs') / 'short'
    return folder, train(2, folder, '--max-train-iter', '20')


@pytest.fixture(scope='session')
def short_run(short_run_output: tuple[Path, str]) -> Path:
    """The folder of the short run: event file, checkpoint. Tests must not write into it."""
    return short_run_output[0]
