"""docs/policies.md says what is found on the policies of these tests, today."""

from __future__ import annotations

import pytest

from tests.integrations import policies_page


@pytest.mark.slow
@pytest.mark.full
def test_the_page_is_up_to_date() -> None:
    written = policies_page.PAGE.read_text(encoding='utf-8')
    assert written == policies_page.page(), 'run python -m tests.integrations.policies_page'
