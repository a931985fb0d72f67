"""The shared assertions see what they are for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.asserts import assert_bitwise_equal

NAN = float('nan')


@pytest.mark.parametrize(
    'value',
    [NAN, torch.tensor([NAN, -0.0]), np.array([NAN]), {'a': [1, (torch.tensor(True), None)]}, torch.zeros(0)],
    ids=['float', 'tensor', 'array', 'nested', 'empty'],
)
def test_equal_bits_are_equal(value: Any) -> None:
    assert_bitwise_equal(value, value)


@pytest.mark.parametrize(
    ('first', 'second'),
    [
        (0.0, -0.0),
        (torch.tensor([0.0]), torch.tensor([-0.0])),
        (torch.tensor(1.0), torch.tensor(1.0, dtype=torch.float64)),
        (torch.zeros(1, 2), torch.zeros(2)),
        (np.array([0.0]), np.array([-0.0])),
        (1, 1.0),
        ({'a': 1, 'b': 2}, {'b': 2, 'a': 1}),
        ({'a': [torch.tensor([1.0, 2.0])]}, {'a': [torch.tensor([1.0, 2.0000002])]}),
    ],
)
def test_other_bits_are_told_with_their_place(first: Any, second: Any) -> None:
    with pytest.raises(AssertionError):
        assert_bitwise_equal(first, second)
