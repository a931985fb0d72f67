"""The terms of the losses are measured where they are asked for and given."""

from __future__ import annotations

import pytest

from ding_normmon import Monitor
from ding_normmon.metrics import LossContributions
from tests.metrics.shared_model import Shared


def test_it_is_off_unless_asked_for_and_says_once_what_is_missing(caplog: pytest.LogCaptureFixture) -> None:
    model = Shared()
    for by_loss in (False, True):
        config = {'monitor_norm_freq': 1, 'conflict_by_loss': by_loss}
        monitor = Monitor(model, config, num_tasks=2, metrics=[LossContributions()])
        for iteration in range(2):
            with monitor.step(iteration) as step:
                step.forward_end({0: model.encoder.weight.sum()})
        monitor.close()
        assert not [name for r in monitor.take_records() for name in r.scalars if 'conflict' in name]
    assert len([entry for entry in caplog.records if 'gives no terms' in entry.getMessage()]) == 1
