"""Print the metric reference: ``python -m ding_normmon.reference > docs/metrics.md``."""

from ding_normmon.reference import SECTIONS, render_page

print(render_page(SECTIONS), end='')
