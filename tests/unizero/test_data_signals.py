"""Published statistics of the data, compared with float64 on the batch itself."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ding_normmon.core.step import LearnerStep
from ding_normmon.unizero.data_signals import _spread_rows, publish_data


class Recorder:
    """Keeps what is published."""

    def __init__(self) -> None:
        self.published: dict[str, tuple[Tensor, Tensor]] = {}

    def on_publish(self, name: str, tensor: Tensor, task_id: int | None, mask: Tensor | None) -> None:
        assert task_id == 3
        assert mask is not None
        self.published[name] = tensor, mask

    def on_publish_loss(self, *_: Any) -> None: ...

    def on_clip(self, *_: Any) -> None: ...

    def on_hook_point(self, *_: Any) -> None: ...


@pytest.mark.parametrize('dtype', [np.float32, np.float64, np.uint8])
@pytest.mark.parametrize('batch_size', [1, 5, 8, 19])
def test_rewards_targets_and_changes_of_observations(batch_size: int, dtype: Any) -> None:
    rng = np.random.default_rng(batch_size)
    steps, channels = 4, 3
    observations = (rng.random((batch_size, (steps + 1) * channels, 5, 5)) * 200).astype(dtype)
    rewards, values = rng.normal(size=(2, batch_size, steps + 1))
    padding = rng.random((batch_size, steps + 1)) < 0.8
    mask = torch.from_numpy(padding[:, :steps])
    recorder = Recorder()
    actions = rng.integers(0, 4, (batch_size, steps))
    current = [observations, actions, actions, padding.astype(float)]
    publish_data(LearnerStep(0, recorder), current, [rewards, values], 3)
    for name, expected in (('data/reward', rewards), ('data/value_target', values)):
        tensor, its_mask = recorder.published[name]
        assert tensor.numpy() == pytest.approx(expected[:, :steps], rel=1e-6)
        assert torch.equal(its_mask, mask)
    tensor, its_mask = recorder.published['data/observation_change']
    rows = list(range(batch_size))[_spread_rows(batch_size)]
    frames = observations.astype(np.float64).reshape(batch_size, steps + 1, -1)[rows]
    assert tensor.numpy() == pytest.approx(np.abs(np.diff(frames, axis=1)).mean(-1), rel=1e-5)
    assert torch.equal(its_mask, mask[torch.tensor(rows)])


def test_the_sequences_that_are_compared_lie_all_over_the_batch() -> None:
    for batch_size in range(1, 200):
        rows = list(range(batch_size))[_spread_rows(batch_size)]
        assert min(5, batch_size) <= len(rows) <= 8
        gaps = {later - earlier for earlier, later in itertools.pairwise(rows)} or {1}
        (gap,) = gaps
        # What lies before the first and after the last is at most half of what lies between two.
        assert rows[0] <= gap / 2
        assert batch_size - 1 - rows[-1] <= gap / 2
