"""Sums over tensors on the CPU in C, compiled when the package is installed; NumPy and torch are the fallback.

With a few hundred small tensors per learner step, the Python code around them is what costs. ``_kernels`` takes a whole
list in one call and adds in float64, without copying anything.

======================== ==========================================================================================
function                 what it does
======================== ==========================================================================================
``squares``              sum of squares and number of non-finite entries of each tensor of a list
``row``                  the row (:mod:`ding_normmon.rows.moments`) of a tensor's valid entries, or of their norms
``number``               the one number of a tensor
``bit_sums``             sum of the bit patterns of each tensor of a list, modulo 2**64
``distance``             sums of squares of the differences of two lists of tensors, and of the first list
======================== ==========================================================================================

They report a tensor that they cannot read (another device, sparse, a subclass, gaps) instead of raising, and the
caller uses the fallback.
"""

from __future__ import annotations

import logging
from types import ModuleType

import torch
from torch import Tensor

__all__ = ['kernels', 'number_of', 'say_if_missing']

logger = logging.getLogger('ding_normmon')

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.bool)


def _load() -> tuple[ModuleType | None, str]:
    try:
        from ding_normmon.metrics.kernels.native import _kernels
    except ImportError as error:
        return None, str(error)
    _kernels.connect(torch.Tensor, torch.nn.Parameter, _DTYPES, torch._is_functional_tensor, True)
    return _kernels, ''


kernels, _reason = _load()
"""The compiled module; None if there is none."""


def number_of(value: Tensor | float) -> float:
    """Return the one number of a tensor on the CPU, or a number as it is.

    >>> number_of(torch.tensor(2.5)), number_of(3)
    (2.5, 3.0)
    """
    if not isinstance(value, Tensor):
        return float(value)
    number = None if kernels is None else kernels.number(value)
    return float(value.detach()) if number is None else number


_said = False


def say_if_missing() -> None:
    """Log once that the compiled part is missing and how to build it."""
    global _said
    if kernels is None and not _said:
        _said = True
        logger.warning(
            'monitor: the compiled part is missing (%s). Figures are the same, measuring takes longer. To build it, '
            'install a C compiler and run pip install . in the checkout again',
            _reason,
        )
