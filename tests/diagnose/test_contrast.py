"""Contrasts of tasks with each other and their past, compared with plain NumPy one metric at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ding_normmon.core.record import Record
from ding_normmon.diagnose.contrast import contrasts, median_of_others
from ding_normmon.diagnose.points import RECENT, median, median_of_known
from ding_normmon.diagnose.window import Window

NUMBERS = st.floats(-1e6, 1e6) | st.integers(0, 3).map(float)


@given(st.lists(NUMBERS, min_size=2, max_size=30))
def test_the_median_of_all_others(values: list[float]) -> None:
    expected = [np.median(values[:index] + values[index + 1 :]) for index in range(len(values))]
    assert median_of_others(np.array(values)).tolist() == pytest.approx(expected, rel=1e-12)


@given(st.lists(NUMBERS, min_size=1, max_size=30))
def test_medians(values: list[float]) -> None:
    assert median(np.array(values)) == pytest.approx(np.median(values), rel=1e-12)
    rows = np.array([[math.nan] * absent + values[absent:] for absent in range(len(values) + 1)])
    expected = [np.median(values[absent:]) if absent < len(values) else math.nan for absent in range(len(values) + 1)]
    assert median_of_known(rows).tolist() == pytest.approx(expected, rel=1e-12, nan_ok=True)


def test_several_metrics_at_once_are_as_one_by_one() -> None:
    rng = np.random.default_rng(0)
    families = ['grad/a/_total_norm', 'grad/none/_total_norm', 'grad/b/_total_norm', 'grad/few/_total_norm']
    window = Window({})
    series: dict[str, list[float]] = {}
    for iteration in range(30):
        scalars = {f'grad/a_task{task}/_total_norm': math.exp(rng.normal()) * 10**task for task in (0, 1, 2)}
        # One whose points are fewer, and one whose are too few.
        if iteration >= 10:
            scalars |= {f'grad/b_task{task}/_total_norm': math.exp(rng.normal()) for task in (1, 4)}
        if iteration >= 25:
            scalars['grad/few_task0/_total_norm'] = 1.0
        for name, value in scalars.items():
            series.setdefault(name, []).append(value)
        window.add(Record(iteration, scalars))
    found = contrasts(window, families, baseline=12, floor=0.01)
    assert [compared.tasks for compared in found] == [[0, 1, 2], [], [1, 4], []]
    for compared in (found[0], found[2]):
        logs = [np.log(series[name]) for name in compared.names]
        past = [np.median(points[-RECENT - 12 : -RECENT]) for points in logs]
        own = np.array([np.median(points[-RECENT:]) - middle for points, middle in zip(logs, past, strict=True)])
        assert compared.own == pytest.approx(own)
        others = [np.median(np.delete(own, index)) for index in range(len(own))]
        assert compared.relative == pytest.approx(own - others)
        assert compared.level == pytest.approx([np.median(series[name][-RECENT:]) for name in compared.names])
        assert compared.first.tolist() == [series[name][0] for name in compared.names]
        spreads = [
            1.4826 * np.median(np.abs(points[-RECENT - 12 : -RECENT] - middle))
            for points, middle in zip(logs, past, strict=True)
        ]
        assert compared.spread == pytest.approx(spreads)


def test_names_that_come_later_are_matched_too() -> None:
    window = Window({})
    window.add(Record(0, {'clip/a/coefficient': 1.0, 'x': 2.0}))
    assert window.matching('clip/.+') == {'clip/a/coefficient': 1.0}
    window.add(Record(1, {'clip/b/coefficient': 3.0, 'x': 2.0}))
    assert window.matching('clip/.+') == {'clip/b/coefficient': 3.0}
    window.add(Record(2, {'clip/b/coefficient': 5.0, 'clip/a/coefficient': 4.0}))
    assert window.matching('clip/.+') == {'clip/a/coefficient': 4.0, 'clip/b/coefficient': 5.0}
    assert window.matching('x') == {}
