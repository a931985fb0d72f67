"""A sample of many cases for `make test`; `make test-all` has them all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def sampled(cases: Iterable[Any], every: int = 3) -> list[Any]:
    """Return the cases for ``parametrize``: the first and every ``every``-th after it are in `make test`.

    >>> [case if isinstance(case, int) else case.marks[0].name for case in sampled([1, 2, 3], every=2)]
    [1, 'full', 3]
    """
    return [case if index % every == 0 else _only_in_all(case) for index, case in enumerate(cases)]


def _only_in_all(case: Any) -> Any:
    return pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.full)
