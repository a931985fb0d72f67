"""Sphinx: `make docs` builds the pages of this folder, in Markdown, into build/docs."""

import sys
from pathlib import Path

import ding_normmon

sys.path.insert(0, str(Path(__file__).resolve().parent))

project = 'ding_normmon'
author = 'the ding_normmon developers'
copyright = '2026, the ding_normmon developers'
version = release = ding_normmon.__version__

extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon', 'sphinx.ext.viewcode', 'metric_search']
exclude_patterns = ['_build']
source_suffix = {'.md': 'markdown'}
language = 'en'

# Headings can be linked to as on GitHub, so that the same pages read well there.
myst_heading_anchors = 3
myst_enable_extensions = ['colon_fence']

autodoc_member_order = 'bysource'
autodoc_typehints = 'description'
autodoc_typehints_description_target = 'documented'
napoleon_google_docstring = True
napoleon_custom_sections = [('Returns', 'params_style')]

html_static_path = ['_static']
html_css_files = ['tables.css']
html_theme = 'furo'
html_title = 'ding_normmon'
