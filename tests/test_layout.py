"""What the tests promise about themselves."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parent
IMPORT = re.compile(r'^\s*(?:from tests[\w.]*\.(test_\w+) import|from tests[\w.]* import .*\b(test_\w+))', re.MULTILINE)


def test_test_modules_are_not_imported() -> None:
    texts = {
        path.name: path.read_text(encoding='utf-8') for path in TESTS.rglob('*.py') if path.name != 'test_layout.py'
    }
    assert [(name, match.group()) for name, text in texts.items() for match in IMPORT.finditer(text)] == []
    assert IMPORT.search('from tests.metrics.test_updates import Model')
