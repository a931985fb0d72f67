"""The worked examples of the documentation run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RUNNABLE = re.compile(r'^```python\n(.*?)^```', re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize('page', ['docs/add_a_quantity.md'])
def test_worked_example_runs(page: str) -> None:
    blocks = RUNNABLE.findall((ROOT / page).read_text(encoding='utf-8'))
    runnable = [block for block in blocks if 'import' in block]
    assert runnable
    for block in runnable:
        exec(compile(block, page, 'exec'), {})
