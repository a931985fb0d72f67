"""Print the metric reference: ``python -m ding_normmon.metrics.reference > docs/metrics.md``."""

from ding_normmon.metrics.reference import SECTIONS, render_page

print(render_page(SECTIONS), end='')
