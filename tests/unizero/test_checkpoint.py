"""Checkpoints hold tensors and plain values: nothing in one is executed."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ding_normmon.core.config import ConfigurationError
from ding_normmon.unizero.checkpoint import (
    checkpoint_path,
    load_checkpoint,
    random_states,
    restore_random_states,
    save_file,
)

STATE: dict[str, Any] = {'context': {}, 'returns': {}, 'task_names': ['a'], 'policy': {}, 'random_states': []}


class Evil:
    """Runs a command where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f'touch {self.path}',)


@pytest.mark.parametrize('where', ['policy', 'context'])
def test_code_in_a_checkpoint_does_not_run(tmp_path: Path, where: str) -> None:
    path = checkpoint_path(tmp_path)
    path.parent.mkdir(parents=True)
    torch.save({**STATE, where: Evil(tmp_path / 'ran')}, path)
    with pytest.raises(ConfigurationError, match='an earlier version wrote it, or somebody else'):
        load_checkpoint(path)
    assert not (tmp_path / 'ran').exists()


def test_a_checkpoint_of_an_earlier_version_gets_a_sentence(tmp_path: Path) -> None:
    path = checkpoint_path(tmp_path)
    path.parent.mkdir(parents=True)
    torch.save({**STATE, 'random_states': [{'numpy': np.random.get_state()}]}, path)
    with pytest.raises(ConfigurationError, match='finish that run with the version that began it'):
        load_checkpoint(path)


@pytest.mark.parametrize('content', [b'', b'PK\x03\x04 no archive', b'\x80\x02.'])
def test_what_is_no_checkpoint_gets_a_sentence(tmp_path: Path, content: bytes) -> None:
    path = checkpoint_path(tmp_path)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match='--resume'):
        load_checkpoint(path)


def test_numbers_of_numpy_come_back_as_pythons(tmp_path: Path) -> None:
    path = checkpoint_path(tmp_path)
    model = torch.nn.BatchNorm1d(2)
    policy = {'model': model.state_dict()}
    save_file({**STATE, 'policy': policy, 'context': {'step': np.int64(3), 'value': [np.float32(0.5)]}}, path)
    state = load_checkpoint(path)
    assert state['context'] == {'step': 3, 'value': [0.5]}
    assert getattr(policy['model'], '_metadata', None)
    model.load_state_dict(state['policy']['model'])


def test_generators_go_on_where_they_were(tmp_path: Path) -> None:
    path = checkpoint_path(tmp_path)
    random.gauss(0, 1)  # leaves its second number waiting
    np.random.normal()
    save_file({**STATE, 'random_states': [random_states()]}, path)

    def draw() -> list[float]:
        return [random.gauss(0, 1), random.random(), np.random.normal(), np.random.rand(), float(torch.rand(()))]

    expected = draw()
    restore_random_states(load_checkpoint(path)['random_states'][0])
    assert draw() == expected
