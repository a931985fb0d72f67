"""Adapters of further families: registered by a function or an entry point, asked before our own."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from typing import Any

import pytest
import torch

from ding_normmon import attach, register_adapter
from ding_normmon.core.step import LearnerStep
from ding_normmon.integrations import adapter as adapters
from ding_normmon.integrations.adapter import find_adapter, unregister_adapter
from tests.integrations.small_policies import Policy


class MyAdapter:
    """Publishes what the encoder returns."""

    name, num_tasks, task_ids, module_groups = 'mine', None, None, {}
    signals, remarks, gradient = ('hidden',), (), 'before clipping'

    def __init__(self, policy: Any) -> None:
        self.model = policy._learn_model

    @contextlib.contextmanager
    def observe(self, step: LearnerStep, data: Any = None) -> Iterator[None]:
        handle = self.model.encoder.register_forward_hook(lambda *args: step.publish('hidden', args[-1]))
        try:
            yield
        finally:
            handle.remove()


def my_adapter(policy: Any) -> MyAdapter | None:
    return MyAdapter(policy) if type(policy) is Policy else None


def other_family(policy: Any) -> None:
    return None


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = list(adapters._registered)
    adapters._installed.cache_clear()
    yield
    adapters._registered[:] = before
    adapters._installed.cache_clear()


def test_a_registered_adapter_is_found_before_our_own() -> None:
    assert find_adapter(Policy()).name != 'mine'
    assert register_adapter(my_adapter) is my_adapter
    register_adapter(other_family)
    register_adapter(my_adapter)
    assert adapters._registered.count(my_adapter) == 1
    policy = Policy()
    attachment = attach(policy, {'monitor_norm_freq': 1})
    assert attachment.description().policy == 'mine'
    policy._forward_learn(torch.ones(5, 4))
    attachment.detach()
    (record,) = attachment.monitor.take_records()
    assert 'hidden/mean' in record.scalars
    assert 'grad/encoder/_total_norm' in record.scalars
    unregister_adapter(my_adapter)
    unregister_adapter(my_adapter)
    assert find_adapter(Policy()).name != 'mine'


def test_an_installed_package_needs_no_call(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    points = [
        EntryPoint('broken', 'no_such_package.adapters:make', 'ding_normmon.adapters'),
        EntryPoint('mine', f'{__name__}:my_adapter', 'ding_normmon.adapters'),
    ]
    monkeypatch.setattr(adapters, 'entry_points', lambda group: points if group == 'ding_normmon.adapters' else [])
    with caplog.at_level(logging.WARNING, 'ding_normmon'):
        assert find_adapter(Policy()).name == 'mine'
        assert find_adapter(Policy()).name == 'mine'
    said = [entry.getMessage() for entry in caplog.records]
    assert len(said) == 1
    assert 'no_such_package.adapters:make' in said[0]


def test_the_newest_registered_is_asked_first_and_before_the_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [EntryPoint('mine', f'{__name__}:my_adapter', 'ding_normmon.adapters')]
    monkeypatch.setattr(adapters, 'entry_points', lambda group: points)

    class Newer(MyAdapter):
        name = 'newer'

    register_adapter(my_adapter)
    register_adapter(Newer)
    assert find_adapter(Policy()).name == 'newer'


def test_what_fails_is_named() -> None:
    def failing(policy: Any) -> None:
        raise KeyError('lost')

    with pytest.raises(TypeError, match='function of the policy'):
        register_adapter(5)  # type: ignore[arg-type]
    register_adapter(failing)
    with pytest.raises(RuntimeError, match=r'failing failed: KeyError'):
        find_adapter(Policy())
    unregister_adapter(failing)

    class Half:
        name = 'half'

    register_adapter(lambda policy: Half())  # type: ignore[arg-type,return-value]
    with pytest.raises(TypeError, match='Half lacks model, num_tasks'):
        find_adapter(Policy())
