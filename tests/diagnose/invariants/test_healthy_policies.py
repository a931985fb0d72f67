"""No invariant says a word about policies that are trained as they should be: DI-engine's, and LightZero's entries."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ding_normmon import attach
from ding_normmon.diagnose.invariants import EXACT, EXPECTED
from tests.integrations.ding_engine.policies import CASES
from tests.integrations.lightzero.zoo_files import ENTRIES, run, zoo_file

NAMES = frozenset(rule.name for rule in (*EXACT, *EXPECTED))
QUICK = 'DQN'


def collected(transitions: Any, iteration: int) -> Any:
    """Say of transitions when they were collected, as DI-engine's collectors do."""
    if isinstance(transitions, list) and all(isinstance(entry, dict) for entry in transitions):
        return [{**entry, 'collect_iter': iteration // 10 * 10} for entry in transitions]
    return transitions


@pytest.mark.parametrize('name', [QUICK, *(pytest.param(n, marks=pytest.mark.full) for n in CASES if n != QUICK)])
def test_ding_engine(name: str) -> None:
    case = CASES[name]
    torch.manual_seed(0)
    np.random.seed(0)
    policy = case.make()
    attachment = attach(policy, {'monitor_norm_freq': 1, 'budget': None})
    generator = torch.Generator().manual_seed(0)
    calls = 40 if case.several else 100 if name == QUICK else 300
    for iteration in range(calls):
        batch, *rest = case.batch(generator)
        policy._forward_learn(collected(batch, iteration), *rest)
    attachment.detach()
    records = attachment.monitor.take_records()
    assert len(records) >= calls
    assert [entry for record in records for entry in record.findings if entry.rule in NAMES] == []
    ages = {record.iteration: record.scalars.get('data/age_iterations/mean') for record in records}
    if name == QUICK:
        assert ages == {iteration: iteration % 10 for iteration in range(calls)}


@pytest.mark.full
@pytest.mark.slow
@pytest.mark.parametrize('entry', ENTRIES)
def test_lightzero(tmp_path: Path, entry: str) -> None:
    text = zoo_file(entry, hook='monitor_norm_freq=1, budget=None')
    text = text.replace('max_train_iter=30', 'max_train_iter=200').replace('eval_freq=1000', 'eval_freq=100')
    done = run(tmp_path, text)
    assert done.returncode == 0, done.stderr[-3000:]
    command = [sys.executable, '-m', 'ding_normmon', 'diagnose', str(tmp_path / 'data' / 'run'), '--format', 'json']
    judged = json.loads(subprocess.run(command, capture_output=True, text=True, timeout=120, check=False).stdout)
    assert judged['records'] >= 200
    assert [entry for entry in judged['findings'] if entry['rule'] in NAMES] == []
