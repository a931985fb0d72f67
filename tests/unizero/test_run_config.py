"""The configuration of a run: what LightZero's flat key for the monitor's frequency does."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from ding_normmon import ConfigurationError
from ding_normmon.unizero.run_config import complete_config

TASKS = {'tasks': ['MiniGrid-Empty-8x8-v0', 'MiniGrid-Empty-5x5-v0'], 'exp_name': 'run'}


@pytest.mark.parametrize(
    ('policy', 'settings', 'frequency', 'said'),
    [
        ({'monitor_norm_freq': 7}, {}, 7, ''),
        ({}, {'policy.monitor_norm_freq': 8}, 8, ''),
        ({'monitor_norm_freq': 7}, {'policy.monitor_norm_freq': 8}, 8, ''),
        ({'monitor_norm_freq': 7, 'monitor': {'preset': 'full'}}, {}, 7, ''),
        ({'monitor_norm_freq': 7, 'monitor': {'monitor_norm_freq': 9}}, {}, 9, 'policy.monitor.monitor_norm_freq=9'),
        ({'monitor_norm_freq': 7}, {'policy.monitor.monitor_norm_freq': 9}, 9, 'policy.monitor.monitor_norm_freq=9'),
        ({'monitor_norm_freq': 0}, {}, None, "LightZero's own monitor only"),
        ({}, {}, None, ''),
    ],
)
def test_the_flat_frequency(
    policy: dict[str, Any],
    settings: dict[str, Any],
    frequency: int | None,
    said: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, 'ding_normmon'):
        config = complete_config({**TASKS, 'policy': policy}, settings, None)
    assert config.policy.monitor.get('monitor_norm_freq') == frequency
    assert 'monitor_norm_freq' not in config.policy
    assert (said in caplog.text) if said else not caplog.text


def test_a_flat_frequency_that_is_none_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match='monitor_norm_freq: expected an integer'):
        complete_config({**TASKS, 'policy': {'monitor_norm_freq': -1}}, {}, None)
