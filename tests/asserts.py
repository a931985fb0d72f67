"""Assertions shared by several tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

__all__ = ['assert_bitwise_equal']


def assert_bitwise_equal(first: Any, second: Any, path: str = '') -> None:
    """Assert that two nested containers of tensors, arrays and plain values are equal to the last bit.

    NaN is equal to the same NaN, and 0.0 is not -0.0. The message names the first place that is not equal.
    """
    assert type(first) is type(second), f'{path}: {type(first).__name__} and {type(second).__name__}'
    if isinstance(first, torch.Tensor):
        assert (first.dtype, first.shape) == (second.dtype, second.shape), path
        assert _bits(first.detach().cpu()) == _bits(second.detach().cpu()), path
    elif isinstance(first, np.ndarray):
        assert (first.dtype, first.shape) == (second.dtype, second.shape), path
        assert first.tobytes() == second.tobytes(), path
    elif isinstance(first, dict):
        assert list(first) == list(second), path
        for key in first:
            assert_bitwise_equal(first[key], second[key], f'{path}.{key}')
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), path
        for index, pair in enumerate(zip(first, second, strict=True)):
            assert_bitwise_equal(*pair, f'{path}[{index}]')
    elif isinstance(first, float):
        assert np.float64(first).tobytes() == np.float64(second).tobytes(), f'{path}: {first} and {second}'
    else:
        assert first == second, path


def _bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
