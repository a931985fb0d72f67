"""Print the metric reference: ``python -m ding_normmon.metrics.reference > docs/metrics.md``."""

from ding_normmon.metrics.presets import DECLARED
from ding_normmon.metrics.reference import render_page

print(render_page(DECLARED), end='')
