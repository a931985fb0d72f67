"""Assertions that several tests share."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ['assert_bitwise_equal']


def assert_bitwise_equal(first: Any, second: Any, path: str = '') -> None:
    """Assert that two nested containers of tensors and plain values are equal, and name the first place that is not."""
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), path
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), path
        for key in first:
            assert_bitwise_equal(first[key], second[key], f'{path}.{key}')
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), path
        for index, pair in enumerate(zip(first, second, strict=True)):
            assert_bitwise_equal(*pair, f'{path}[{index}]')
    else:
        assert first == second, path
