"""One page that opens from disk: everything it needs is in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ding_normmon.core.plain_text import plain
from ding_normmon.runs import Run
from ding_normmon.runs.judge import judge
from ding_normmon.runs.report.changes import Change
from ding_normmon.runs.report.charts import lay_out
from ding_normmon.runs.report.payload import bounded, pack, payload_of
from ding_normmon.runs.report.texts import TERMS, TEXTS

__all__ = ['render_page', 'write_page']

_TEMPLATE = Path(__file__).parent / 'template'


def render_page(runs: Sequence[Run], language: str = 'en', changes: Sequence[Change] = (), again: bool = False) -> str:
    """Return the page of a run, or of several laid over each other.

    Arguments:
        runs: the runs; where nobody has judged one, or by other rules, today's rules are applied.
        language: ``'en'`` or ``'zh'``; the page can be switched.
        changes: a table of what differs between runs.
        again: apply today's rules in any case.

    Raises:
        ImportError: jinja2 or plotly is not installed.
    """
    import jinja2
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(autoescape=True, loader=jinja2.FileSystemLoader(_TEMPLATE))
    sections = bounded(lay_out(runs))
    findings = [judge(run, again=again).findings for run in runs]

    def trusted(name: str) -> Any:
        return Markup((_TEMPLATE / name).read_text(encoding='utf-8'))

    return environment.get_template('page.html').render(
        language=language,
        names=[plain(run.name) for run in runs],
        warnings=[plain(warning) for run in runs for warning in run.warnings],
        changes=changes,
        style=trusted('style.css'),
        script=trusted('script.js'),
        # What comes from the run is compressed and in base64, so that no name in it can end the element.
        library=pack(get_plotlyjs().encode()),
        payload=pack(payload_of(runs, sections, findings)),
        texts=pack({**TEXTS, 'terms': TERMS}),
    )


def write_page(
    path: Path, runs: Sequence[Run], language: str = 'en', changes: Sequence[Change] = (), again: bool = False
) -> None:
    """Write the page to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_page(runs, language, changes, again), encoding='utf-8')
