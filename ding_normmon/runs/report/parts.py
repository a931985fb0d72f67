"""The files that the page consists of; a server hands them out before it has imported what reads a run."""

from __future__ import annotations

from pathlib import Path

__all__ = ['ASSETS', 'SCRIPTS', 'STYLES', 'script', 'style']

ASSETS = Path(__file__).parent / 'assets'
"""Folder of the page's JavaScript and CSS."""

SCRIPTS = ('uplot/uPlot.iife.min.js', 'texts.js', 'curves.js', 'chart.js', 'overview.js', 'page.js')
"""Files of the page's JavaScript in the order in which they are loaded: plain scripts that define ``normmonPage``."""

STYLES = ('uplot/uPlot.min.css', 'page.css')
"""Files of the page's CSS."""


def script() -> str:
    """Return all of the page's JavaScript."""
    return '\n'.join((ASSETS / name).read_text('utf-8') for name in SCRIPTS)


def style() -> str:
    """Return all of the page's CSS."""
    return '\n'.join((ASSETS / name).read_text('utf-8') for name in STYLES)
