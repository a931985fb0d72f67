"""A pytest plugin that makes ``lzero`` the checkout; given with ``-p``, it comes before every test module."""

from tests.integrations.lightzero.checkout import use_checkout

use_checkout()

from tests.integrations.lightzero import checkout_policies, multitask, policies  # noqa: E402

REPAIRED = checkout_policies.repair()
policies.POLICIES['unizero'] = checkout_policies.unizero_image
policies.SHAPES['unizero'] = checkout_policies.IMAGE
multitask.POLICIES.update(checkout_policies.MULTI_TASK_POLICIES)
multitask.SHAPES['unizero_multitask'] = checkout_policies.IMAGE


def pytest_report_header() -> str:
    return 'LightZero from LIGHTZERO_SRC; added for the tests: ' + ', '.join(REPAIRED)
