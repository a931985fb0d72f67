"""Set-up of all tests: one thread, fixed seeds, and only one multi-rank test at a time."""

from __future__ import annotations

import random
import signal

import hypothesis
import numpy as np
import pytest
import torch

from tests.accelerator import take_accelerators_path

torch.set_num_threads(1)

# Two test processes share the cores, so a slow example says nothing; the same examples are drawn every time.
hypothesis.settings.register_profile('ding_normmon', deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile('ding_normmon')


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what it puts in the background without Ctrl-C, and every program that a test starts inherits that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def seed() -> int:
    """Seed every generator before each test, so that no test depends on those before it; the seed is the value."""
    value = 0
    random.seed(value)
    np.random.seed(value)
    torch.manual_seed(value)
    return value


@pytest.fixture
def as_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the path of accelerators on the CPU."""
    take_accelerators_path(monkeypatch)


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in its own turn of this hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests that start ranks on one test process, one after another; skip `gpu` tests without a GPU."""
    for item in items:
        if item.get_closest_marker('distributed'):
            item.add_marker(pytest.mark.xdist_group('distributed'))
        if item.get_closest_marker('gpu') and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason='needs a CUDA device'))
