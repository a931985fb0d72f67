"""One page that opens from disk: everything it needs is in it."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from ding_normmon.core.plain_text import plain
from ding_normmon.runs import Run
from ding_normmon.runs.report.changes import Change
from ding_normmon.runs.report.data import page_data
from ding_normmon.runs.report.parts import script, style

__all__ = ['render_page', 'write_page']

_PAGE = """\
<!doctype html>
<html lang="{language}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main id="page"></main>
<script type="application/octet-stream" id="data">{data}</script>
<script>{script}</script>
<script>{start}</script>
</body>
</html>
"""

_START = "normmonPage.unpack(document.getElementById('data').textContent)\
.then((data) => { window.page = normmonPage(document.getElementById('page'), data); });"


def render_page(runs: Sequence[Run], language: str = 'en', changes: Sequence[Change] = (), again: bool = False) -> str:
    """Return the page of a run, or of several laid over each other.

    Arguments:
        runs: the runs; today's rules are applied to those that nobody has judged, or by other rules.
        language: ``'en'`` or ``'zh'``; the page can be switched.
        changes: a table of what differs between runs.
        again: apply today's rules in any case.
    """
    scripts = (script(), _START)
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    return _PAGE.format(
        language=language,
        title=escape(' · '.join(plain(run.name) for run in runs)),
        hashes=' '.join(f"'sha256-{digest}'" for digest in digests),
        style=style(),
        # Compressed and in base64, no name in a run can end the element.
        data=_pack(page_data(runs, changes, again)),
        script=scripts[0],
        start=scripts[1],
    )


def write_page(
    path: Path, runs: Sequence[Run], language: str = 'en', changes: Sequence[Change] = (), again: bool = False
) -> None:
    """Write the page to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_page(runs, language, changes, again), encoding='utf-8')


def _pack(data: Any) -> str:
    raw = json.dumps(data, separators=(',', ':'), allow_nan=False).encode()
    return base64.b64encode(gzip.compress(raw, 6, mtime=0)).decode()
