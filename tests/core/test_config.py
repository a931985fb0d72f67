"""Every key of the configuration: its default, and which values are accepted or refused."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from easydict import EasyDict

from ding_normmon.core.config import ConfigurationError, MonitorConfig

WRONG: dict[str, list[Any]] = {
    'monitor_norm_freq': [-1, 1.5, 2.0, '10', None, True, False, [1], float('nan'), np.float64(3)],
    'merge_train_output': [1, 0, 'yes', None],
    'detail': ['groups', None, 1, True, ['group'], {}],
    'top_k': [0, -1, 1.5, '3', True],
    'module_groups': [None, 'transformer', [('a', 'b')], 5],
    'diagnose': [1, 0, 'yes', None],
    'history': [1, 0, 'yes', None],
    'rules': [None, 'weight_jump', ['weight_jump'], {'weight_jump': None}, {'weight_jump': 3}, {3: False}],
    'on_finding': [None, 'halt', True, ['stop'], {'error': 'halt'}, {'error': None}, {3: 'stop'}],
    'deadline': [0, -1.0, '60', None, True, float('nan'), float('inf')],
    'setup_timeout': [0, -1.0, '60', None, True, float('nan'), float('inf')],
    'close_timeout': [0, -1.0, '60', None, True, float('nan'), float('inf'), 1e10, 10**30],
}


def test_the_defaults() -> None:
    config = MonitorConfig.read(None)
    assert config == MonitorConfig.read({}) == MonitorConfig()
    assert config.monitor_norm_freq == 5000
    assert config.merge_train_output is False
    assert config.detail == 'group'


@pytest.mark.parametrize(('key', 'value'), [(key, value) for key, values in WRONG.items() for value in values])
def test_a_wrong_value_is_refused_by_the_name_of_its_key(key: str, value: Any) -> None:
    config = {'detail': 'parameter'} if key == 'top_k' else {}
    with pytest.raises(ConfigurationError, match=rf'^monitor\.{key}: expected .*, got .*{type(value).__name__}'):
        MonitorConfig.read({**config, key: value})


def test_every_key_has_a_check() -> None:
    # What is not here is tested where it belongs to.
    assert set(WRONG) <= {entry.name for entry in fields(MonitorConfig)}


@pytest.mark.parametrize(
    ('wrong', 'nearest'),
    [
        ('monitor_norm_frequency', 'monitor_norm_freq'),
        ('norm_freq', 'monitor_norm_freq'),
        ('topk', 'top_k'),
        ('details', 'detail'),
        ('module_group', 'module_groups'),
        ('Deadline', 'deadline'),
    ],
)
def test_an_unknown_key_gets_the_nearest_one(wrong: str, nearest: str) -> None:
    with pytest.raises(ConfigurationError, match=rf'^monitor\.{wrong}: no such key; the nearest is {nearest}$'):
        MonitorConfig.read({wrong: 1})


def test_a_key_that_is_not_text_is_refused() -> None:
    with pytest.raises(ConfigurationError, match='no such key'):
        MonitorConfig.read({3: 1})  # type: ignore[dict-item]


@pytest.mark.parametrize('config', [5, 'monitor_norm_freq', [('monitor_norm_freq', 1)], object()])
def test_a_configuration_that_is_not_a_mapping_is_refused(config: Any) -> None:
    with pytest.raises(ConfigurationError, match='expected a mapping'):
        MonitorConfig.read(config)


def test_an_easydict_is_read() -> None:
    config = EasyDict(monitor_norm_freq=10, module_groups={'adapter': {'path': 'a.b', 'per_task': True}})
    read = MonitorConfig.read(config)
    assert read.monitor_norm_freq == 10
    assert read.module_groups['adapter']['path'] == 'a.b'


@pytest.mark.parametrize('value', [np.int64(10), np.int32(10), np.uint8(10)])
def test_numpy_integers_become_integers(value: Any) -> None:
    read = MonitorConfig.read({'monitor_norm_freq': value})
    assert read.monitor_norm_freq == 10
    assert type(read.monitor_norm_freq) is int


@pytest.mark.parametrize('value', [5, 0.5, np.float32(2.0), np.int64(3)])
def test_seconds_may_be_any_number(value: Any) -> None:
    assert MonitorConfig.read({'deadline': value}).deadline == value


def test_off_and_every_iteration_are_frequencies() -> None:
    assert MonitorConfig.read({'monitor_norm_freq': 0}).monitor_norm_freq == 0
    assert MonitorConfig.read({'monitor_norm_freq': 1}).monitor_norm_freq == 1


def test_top_k_needs_norms_of_single_parameters() -> None:
    assert MonitorConfig.read({'detail': 'parameter', 'top_k': 3}).top_k == 3
    assert MonitorConfig.read({'top_k': None}).top_k is None
    with pytest.raises(ConfigurationError, match=r"monitor\.top_k: .*detail='parameter'"):
        MonitorConfig.read({'top_k': 3})


def test_on_finding_is_a_word_or_a_mapping() -> None:
    assert MonitorConfig.read({'on_finding': 'stop'}).on_finding == 'stop'
    wanted = {'error': 'checkpoint', 'non_finite': 'stop'}
    assert MonitorConfig.read({'on_finding': EasyDict(wanted)}).on_finding == wanted


def test_the_order_of_rules_does_not_matter_to_ranks_that_compare() -> None:
    one = MonitorConfig.read({'rules': {'a': {'x': 1, 'y': 2}, 'b': False}})
    other = MonitorConfig.read({'rules': EasyDict({'b': False, 'a': {'y': 2, 'x': 1}})})
    assert repr(one) == repr(other)


def test_a_configuration_that_was_read_is_taken_as_it_is() -> None:
    config = MonitorConfig.read({'monitor_norm_freq': 7})
    assert MonitorConfig.read(config) is config


def test_the_users_mapping_is_not_changed() -> None:
    config = {'monitor_norm_freq': np.int64(7)}
    MonitorConfig.read(config)
    assert type(config['monitor_norm_freq']) is np.int64


def test_a_larger_configuration_than_the_monitors_is_named() -> None:
    policy = {'cuda': False, 'batch_size': 8, 'learn': {}, 'monitor': {'monitor_norm_freq': 5}}
    with pytest.raises(ConfigurationError, match=r'this is cfg.policy, .*; hand over cfg.policy.monitor$'):
        MonitorConfig.read(policy)
    with pytest.raises(ConfigurationError, match=r'this is cfg.policy, .*dict\(monitor_norm_freq=100\)'):
        MonitorConfig.read({'cuda': False, 'type': 'unizero', 'monitor_norm_freq': 5})
    with pytest.raises(ConfigurationError, match=r'this is cfg, .*; hand over cfg.policy.monitor$'):
        MonitorConfig.read({'exp_name': 'run', 'env': {}, 'policy': policy})
    # One such key alone is a slip.
    with pytest.raises(ConfigurationError, match='no such key'):
        MonitorConfig.read({'monitor_norm_freq': 5, 'cuda': False})


def test_task_names_are_a_list_or_a_mapping() -> None:
    assert MonitorConfig.read({'task_names': ['Pong', 'Boxing']}).task_names == {0: 'Pong', 1: 'Boxing'}
    assert MonitorConfig.read({'task_names': {3: 'Qbert'}}).task_names == {3: 'Qbert'}
    for wrong in ('Pong', [1, 2], {'Pong': 0}, 5):
        with pytest.raises(ConfigurationError, match='task_names: expected a list of names'):
            MonitorConfig.read({'task_names': wrong})
