"""DI-engine's own examples through ``task.use`` with one line added: TensorBoard's reader finds the curves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ding.utils import DistributedWriter
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.integrations import examples


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    DistributedWriter.root = None
    yield tmp_path / 'run'
    DistributedWriter.root = None


@pytest.mark.parametrize(
    ('example', 'loops', 'frequency', 'due', 'groups', 'signals'),
    [
        pytest.param(examples.dqn, 6, 5, [0, 5, 10], ['encoder', 'head'], ['head/logit'], id='DQN'),
        pytest.param(
            examples.ppo,
            2,
            5,
            [0, 5, 10],
            ['encoder', 'actor_head', 'critic_head'],
            ['actor_head/logit', 'critic_head/pred'],
            id='PPO',
        ),
        pytest.param(
            examples.sac,
            4,
            3,
            [0, 3, 6],
            ['actor_head', 'critic_head'],
            ['actor_head/mu', 'critic_head_0/pred', 'critic_head_1/pred'],
            id='SAC',
        ),
    ],
)
def test_curves_are_there_at_the_iterations_that_are_due(
    folder: Path,
    example: Callable[[Path, int, int], None],
    loops: int,
    frequency: int,
    due: list[int],
    groups: list[str],
    signals: list[str],
) -> None:
    example(folder, loops, frequency)
    accumulator = EventAccumulator(str(folder), size_guidance={'scalars': 0})
    accumulator.Reload()
    written = {tag: [point.step for point in accumulator.Scalars(tag)] for tag in accumulator.Tags()['scalars']}
    for group in [*groups, 'model']:
        assert written[f'norm/{group}/_total_norm'] == list(due)
        assert written[f'grad/{group}/_total_norm'] == list(due)
    for signal in signals:
        assert written[f'outputs/{signal}/mean'] == list(due)
    if example is examples.ppo:
        assert written['clip/model/coefficient'] == list(due)
    # The logger's own curves are there as ever, and none of ours among them.
    assert [tag for tag in written if tag.startswith('basic/train_')]
    assert not [tag for tag in written if tag.startswith('basic/') and '_total_norm' in tag]
