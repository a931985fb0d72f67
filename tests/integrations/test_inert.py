"""Training with the monitor is training without it, to the last bit: every kind of program and dtype, every way."""

from __future__ import annotations

import itertools

import pytest

from tests.asserts import assert_bitwise_equal
from tests.integrations.inert_programs import DTYPES, KINDS, MODES, PRESETS, STEPS, plain, train

EVERY = list(itertools.product(KINDS, DTYPES, PRESETS, MODES))
SAMPLE = {
    # Each kind once, and with it all dtypes, presets and modes.
    (kind, DTYPES[index % 4], PRESETS[1 + index % 2], MODES[index % 3]) for index, kind in enumerate(KINDS)
}


@pytest.mark.parametrize(
    ('kind', 'dtype', 'preset', 'mode'),
    [pytest.param(*case, marks=() if case in SAMPLE else pytest.mark.full) for case in EVERY],
)
def test_training_is_the_same_to_the_last_bit(kind: str, dtype: str, preset: str, mode: str) -> None:
    left, records = train(kind, dtype, mode, preset)
    assert_bitwise_equal(plain(kind, dtype), left)
    assert records == STEPS
