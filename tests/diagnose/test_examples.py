"""DI-engine's own examples, past the first records of every rule: nothing is wrong, and nothing is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from ding.utils import DistributedWriter

from ding_normmon.runs import read_run
from ding_normmon.runs.judge import diagnose
from tests.integrations import examples

pytestmark = pytest.mark.full


@pytest.mark.parametrize(
    ('example', 'loops'),
    [
        pytest.param(examples.dqn, 340, id='DQN'),
        pytest.param(examples.ppo, 170, id='PPO'),
        pytest.param(examples.sac, 500, id='SAC'),
    ],
)
def test_examples_of_a_thousand_iterations_are_not_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, example: Callable[[Path, int, int], None], loops: int
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(DistributedWriter, 'root', None)
    example(tmp_path / 'run', loops, 10)
    run = read_run(tmp_path / 'run')
    assert run.series['grad/model/_total_norm'].iterations[-1] >= 900
    told = [finding for finding in diagnose(run) if finding.severity != 'info']
    assert [(finding.rule, finding.sentence) for finding in told] == []
