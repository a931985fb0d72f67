"""A run's numbers as the page carries them: few enough, small, and harmless."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import itertools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ding_normmon.core.finding import Finding
from ding_normmon.core.plain_text import plain
from ding_normmon.metrics import DECLARED
from ding_normmon.runs import Run, Series
from ding_normmon.runs.report.charts import Section

__all__ = ['CHARTS', 'POINTS', 'bounded', 'pack', 'payload_of', 'thinned']

POINTS = 1000
"""Points of one curve that are drawn."""

CHARTS = 2000
"""Charts of a page, and curves of a chart; a run of more was made to fill the memory of whoever looks at it."""

_MATRICES = 200
"""Positions of the slider of a matrix."""


def thinned(series: Series, points: int = POINTS) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return at most about ``points`` points of a curve: of each stretch the smallest and the largest.

    Example:
        >>> series = Series(np.arange(10_000), np.arange(10_000.0) % 7, np.zeros(10_000))
        >>> iterations, values = thinned(series, 100)
        >>> len(iterations) <= 100, values.min(), values.max()
        (True, 0.0, 6.0)
    """
    iterations, values = series.iterations, series.values
    if len(values) <= points:
        return iterations, values
    edges = np.linspace(0, len(values), points // 2 + 1).astype(np.intp)
    kept = []
    for start, stop in itertools.pairwise(edges.tolist()):
        part = values[start:stop]
        finite = np.isfinite(part)
        if not finite.any():
            kept.append(start)
            continue
        low = start + int(np.argmin(np.where(finite, part, np.inf)))
        high = start + int(np.argmax(np.where(finite, part, -np.inf)))
        kept.extend(sorted({low, high}))
    chosen = np.array(kept, np.intp)
    return iterations[chosen], values[chosen]


def bounded(sections: Sequence[Section]) -> list[Section]:
    """Return the sections with no more charts, and charts with no more curves, than a browser can show."""
    room, kept = CHARTS, []
    for section in sections:
        charts = [dataclasses.replace(chart, lines=chart.lines[:CHARTS]) for chart in section.charts[:room]]
        room -= len(charts)
        if charts:
            kept.append(Section(section.key, charts))
    return kept


def payload_of(
    runs: Sequence[Run], sections: Sequence[Section], findings: Sequence[Sequence[Finding]]
) -> dict[str, Any]:
    """Return everything the page draws, as plain values.

    Arguments:
        runs: the runs.
        sections: the charts.
        findings: of each run.
    """
    wanted = dict.fromkeys(
        name
        for section in sections
        for chart in section.charts
        for line in chart.lines
        for name in (line.metric, line.low, line.high, line.spread)
        if name is not None
    )
    return {
        'runs': [
            {
                'name': plain(run.name),
                'tasks': {str(task_id): plain(name, 200) for task_id, name in run.tasks.items()},
                'series': {name: _series(run.series[name]) for name in wanted if name in run.series},
                'matrices': {
                    name: _matrices(stack.iterations, stack.values, stack.rows)
                    for name, stack in run.matrices.items()
                    if name.endswith('cosine')
                },
                'findings': [_finding(finding) for finding in of_run],
            }
            for run, of_run in zip(runs, findings, strict=True)
        ],
        'sections': [
            {
                'key': section.key,
                'charts': [
                    {
                        'key': chart.key,
                        'title': chart.title,
                        'scale': chart.scale,
                        'small': chart.is_small,
                        'about': _about(chart.lines[0].metric),
                        'lines': [
                            [line.metric, line.task, line.label, line.low, line.high, line.spread]
                            for line in chart.lines
                        ],
                    }
                    for chart in section.charts
                ],
            }
            for section in sections
        ],
    }


def pack(payload: Any) -> str:
    """Return plain values as text that can stand in a page: compressed, in letters and digits only.

    Example:
        >>> json.loads(gzip.decompress(base64.b64decode(pack({'a': '</script>'}))))
        {'a': '</script>'}
    """
    raw = payload if isinstance(payload, bytes) else json.dumps(payload, separators=(',', ':')).encode()
    return base64.b64encode(gzip.compress(raw, 6, mtime=0)).decode()


def _about(metric: str) -> str:
    row = DECLARED.describe(metric)
    return '' if row is None else f'{row.pattern}: {row.definition} ({row.unit})'


def _series(series: Series) -> list[list[float | int | str | None]]:
    iterations, values = thinned(series)
    # JSON knows neither NaN nor infinity: the page draws marks where they are.
    return [iterations.tolist(), [_short(value) for value in values.tolist()]]


def _short(value: float) -> float | str:
    if np.isfinite(value):
        return float(f'{value:.5g}')
    return 'nan' if np.isnan(value) else 'inf' if value > 0 else '-inf'


def _matrices(
    iterations: npt.NDArray[np.int64], values: npt.NDArray[np.float64], rows: Sequence[Any]
) -> dict[str, Any]:
    chosen = np.unique(np.linspace(0, len(iterations) - 1, min(len(iterations), _MATRICES)).astype(np.intp))
    cells = [[[round(x, 3) if np.isfinite(x) else None for x in row] for row in one] for one in values[chosen].tolist()]
    return {'iterations': iterations[chosen].tolist(), 'values': cells, 'rows': list(rows)}


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        'rule': plain(finding.rule, 100),
        'severity': finding.severity,
        'since': finding.since,
        'found': finding.found,
        'cleared': finding.cleared,
        'sentence': plain(finding.sentence),
        'advice': plain(finding.advice),
        'tasks': list(finding.tasks),
        'metrics': list(finding.evidence),
    }
