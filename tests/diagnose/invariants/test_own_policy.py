"""Errors in what a multi-task policy is given, and in what it leaves undone: told in time, and with the task."""

from __future__ import annotations

import pytest

from benchmarks.silent.error import SilentError, judge
from benchmarks.silent.own_policy import OWN_POLICY
from ding_normmon.diagnose.invariants import EXACT, EXPECTED
from tests.sampling import sampled

pytestmark = pytest.mark.slow

NAMES = frozenset(rule.name for rule in (*EXACT, *EXPECTED)) | {'missing_data', 'twin_tasks'}


@pytest.mark.parametrize('error', sampled(OWN_POLICY, 5), ids=lambda error: error.name)
def test_an_error_is_told_in_time_and_nothing_before_it(error: SilentError) -> None:
    verdict = judge(error, NAMES)
    assert verdict.early == ()
    assert verdict.in_time, verdict.delay
