"""A pytest plugin that makes ``lzero`` the checkout; given with ``-p``, it comes before every test module."""

from __future__ import annotations

from typing import Any

from tests.integrations.lightzero.checkout import use_checkout

REPAIRED: list[str] = []


def pytest_configure(config: Any) -> None:
    """Put the checkout in place, and its policies in the place of those that the tests use otherwise."""
    use_checkout()
    from tests.integrations.lightzero import checkout_policies, multitask, policies

    REPAIRED.extend(checkout_policies.repair())
    policies.POLICIES['unizero'] = checkout_policies.unizero_image
    policies.SHAPES['unizero'] = checkout_policies.IMAGE
    multitask.POLICIES.update(checkout_policies.MULTI_TASK_POLICIES)
    multitask.SHAPES['unizero_multitask'] = checkout_policies.IMAGE


def pytest_report_header() -> str:
    return 'LightZero from LIGHTZERO_SRC; added for the tests: ' + ', '.join(REPAIRED)
