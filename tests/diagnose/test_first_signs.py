"""What came first, of windows of steps that are made up."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from ding_normmon.core.incident import DenseWindow
from ding_normmon.diagnose.first_signs import what_came_first


@pytest.mark.parametrize('value', [np.inf, -np.inf, np.nan, np.finfo(np.float64).max])
def test_figures_that_are_infinite_or_nearly_so_are_compared_in_silence(value: float) -> None:
    steps = np.arange(40)
    loss = 1 + 0.1 * np.sin(steps)
    gradient = 5 + 0.1 * np.cos(steps)
    loss[30:], gradient[31:] = 90.0, value
    window = DenseWindow(
        ('noreduce_value_loss_task1', 'grad/encoder/_total_norm'), steps, np.stack([loss, gradient], axis=1)
    )
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        found = [(departure.iteration, departure.stage) for departure in what_came_first(window, 32)]
    # NaN has a figure of its own: monitor/nonfinite.
    expected = [(30, 'loss')] if np.isnan(value) else [(30, 'loss'), (31, 'shared gradient')]
    assert found == expected
