"""``--fail-if``: a metric that is NaN, infinite or absent at the end of a run passes no gate."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from ding_normmon.runs import Run, Series
from ding_normmon.runs.report.tolerance import Tolerance

NAME = 'grad/encoder/_total_norm'


def run_with(name: str, **curves: list[float]) -> Run:
    """Return a run with an encoder's gradient norm of 1, or what is given for it, and other curves."""
    given = {NAME: curves.pop('encoder', [1.0] * 30), 'other': [1.0] * 30, **curves}
    run = Run(Path(name))
    for key, values in given.items():
        places = np.arange(len(values))
        run.series[key] = Series(places, np.array(values), 1.0 * places)
    return run


GOOD = run_with('good')


@pytest.mark.parametrize('expression', [f'{NAME} > 1.5x', f'{NAME} < 0.5x', f'{NAME} > 100', 'grad/* >= 2x'])
@pytest.mark.parametrize(
    ('values', 'said'),
    [
        ([1.0] * 22 + [math.nan] * 8, 'NaN or infinite at its end'),
        ([1.0] * 29 + [math.inf], 'NaN or infinite at its end'),
        ([1.0] * 29 + [-math.inf], 'NaN or infinite at its end'),
        ([1.0] * 20 + [math.nan, math.inf] * 4 + [1.0, 1.0], 'NaN or infinite at its end'),
        ([1.0] * 5, 'not there at the end'),
        ([math.nan], 'NaN or infinite'),
    ],
)
def test_what_has_no_level_at_its_end_fails(expression: str, values: list[float], said: str) -> None:
    tolerance = Tolerance.read(expression)
    [failure] = tolerance.failures([GOOD, run_with('bad', encoder=values)])
    assert said in failure
    assert tolerance.failures([GOOD, run_with('fine')]) == []


def test_a_level_of_the_first_run_that_is_none_fails_what_is_compared_with_it() -> None:
    bad = run_with('bad', encoder=[math.nan] * 30)
    assert 'NaN' in Tolerance.read(f'{NAME} > 1.5x').failures([bad, GOOD])[0]
    assert Tolerance.read(f'{NAME} > 1.5').failures([bad, GOOD]) == []
    zero = run_with('zero', encoder=[0.0] * 30)
    assert Tolerance.read(f'{NAME} > 1.5x').failures([zero, GOOD])


@pytest.mark.parametrize('expression', ['grad/* > 2x', 'grad/* > 100'])
def test_a_metric_that_a_candidate_no_longer_has_fails(expression: str) -> None:
    more = run_with('more', **{'grad/head/_total_norm': [1.0] * 30})
    [failure] = Tolerance.read(expression).failures([more, GOOD])
    assert failure == 'good: grad/head/_total_norm is not there'
    assert Tolerance.read('nothing > 1').failures([more, GOOD]) == ['nothing: no run has such a metric']
