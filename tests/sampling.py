"""A sample of many cases for `make test`; `make test-all` has them all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def sampled(cases: Iterable[Any], every: int = 3) -> list[Any]:
    """Return the cases for ``parametrize``: the first and every ``every``-th after it are in `make test`.

    A tuple is a value for each name; a tuple that is one value stands in a tuple of its own.

    >>> [[case.values, [mark.name for mark in case.marks]] for case in sampled([1, (2,), ((3, 4),)], every=2)]
    [[(1,), []], [(2,), ['full']], [((3, 4),), []]]
    """
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=[pytest.mark.full] if index % every else [])
        for index, case in enumerate(cases)
    ]
