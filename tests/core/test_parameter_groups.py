"""Parameter groups: found by module identity, every parameter in exactly one."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn

from ding_normmon.core.parameter_groups import Group, GroupError, find_groups, unwrap
from tests.models import SmallModel, reference_groups


def by_key(groups: tuple[Group, ...]) -> dict[str, Group]:
    keys = [group.key for group in groups]
    assert len(set(keys)) == len(keys)
    return {group.key: group for group in groups}


def identities(parameters: Any) -> set[int]:
    return {id(parameter) for parameter in parameters}


def assert_partition(groups: tuple[Group, ...], model: nn.Module) -> None:
    """Every parameter of the model is in exactly one group, once."""
    claimed = [id(parameter) for group in groups for parameter in group.parameters]
    assert len(claimed) == len(set(claimed))
    assert set(claimed) == identities(model.parameters())
    for group in groups:
        assert len(group.paths) == len(group.parameters) == len(set(group.paths))


class Heads(nn.Module):
    """Something with a value head, nothing else."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head_value = head


# -- the small model -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('num_experts', [2, 3])
def test_the_groups_of_a_multi_task_model(num_experts: int) -> None:
    model = SmallModel(num_experts=num_experts)  # 3 experts: as many as there are tasks
    groups = by_key(find_groups(model, num_tasks=3))
    expected = reference_groups(model)
    assert sorted(groups) == sorted(expected)
    for key, parameters in expected.items():
        assert identities(groups[key].parameters) == identities(parameters), key
    assert_partition(tuple(groups.values()), model)


def test_task_ids_are_positions_in_the_list() -> None:
    model = SmallModel()
    groups = by_key(find_groups(model, num_tasks=3))
    for task_id in range(3):
        assert groups[f'head_policy_task{task_id}'].task_id == task_id
        assert groups[f'head_policy_task{task_id}'].parameters[0] is model.head_policy_multi_task[task_id].weight
    assert groups['encoder'].task_id is None


def test_paths_are_those_inside_the_group() -> None:
    groups = by_key(find_groups(SmallModel(), num_tasks=3))
    assert groups['head_value_task1'].paths == ('weight', 'bias')
    assert groups['transformer'].paths[0] == 'experts.0.weight'
    assert 'temperature' in groups['other'].paths


# -- shared or per task ----------------------------------------------------------------------------------------------


def test_a_shared_encoder_in_a_list_of_length_one_is_not_a_task() -> None:
    for num_tasks in (None, 1, 3):
        assert 'encoder' in by_key(find_groups(SmallModel(), num_tasks))


def test_one_encoder_per_task_is_per_task() -> None:
    model = nn.Module()
    model.encoder = nn.ModuleList([nn.Linear(size, 2) for size in (3, 4)])
    assert sorted(by_key(find_groups(model, num_tasks=2))) == ['encoder_task0', 'encoder_task1']


def test_a_shared_head_in_a_list_of_length_one() -> None:
    assert list(by_key(find_groups(Heads(nn.ModuleList([nn.Linear(2, 1)])), num_tasks=4))) == ['head_value']


def test_with_one_task_the_heads_keep_their_suffix() -> None:
    model = SmallModel(actions=(2,))
    groups = by_key(find_groups(model, num_tasks=1))
    assert {'encoder', 'transformer', 'head_value_task0', 'head_observation_task0'} <= set(groups)


def test_a_single_task_policy_has_no_suffix() -> None:
    groups = by_key(find_groups(SmallModel(actions=(2,)), num_tasks=None))
    assert all(group.task_id is None for group in groups.values())
    assert {'head_value', 'head_reward', 'head_policy', 'head_observation'} <= set(groups)


def test_the_same_head_under_every_task_id_is_shared() -> None:
    groups = by_key(find_groups(Heads(nn.ModuleList([nn.Linear(2, 1)] * 3)), num_tasks=3))
    assert list(groups) == ['head_value']


# -- what counts once ------------------------------------------------------------------------------------------------


def test_tied_parameters_are_counted_once() -> None:
    model = SmallModel()
    model.head_value_multi_task[1].weight = model.head_value_multi_task[0].weight
    groups = by_key(find_groups(model, num_tasks=3))
    assert groups['head_value_task0'].paths == ('weight', 'bias')
    assert groups['head_value_task1'].paths == ('bias',)
    assert_partition(tuple(groups.values()), model)


def test_heads_listed_a_second_time_do_not_change_their_names() -> None:
    model = nn.Module()
    heads = nn.ModuleList([nn.Linear(2, 1), nn.Linear(2, 1)])
    model.head_dict = nn.ModuleDict({'head_value_multi_task': heads})  # first, so named_parameters() calls them so
    model.head_value_multi_task = heads
    assert list(by_key(find_groups(model, num_tasks=2))) == ['head_value_task0', 'head_value_task1']


def test_frozen_and_unused_parameters_belong_to_groups() -> None:
    model = SmallModel()
    model.tokenizer.requires_grad_(False)
    groups = find_groups(model, num_tasks=3)
    assert_partition(groups, model)
    assert identities(by_key(groups)['encoder'].parameters) == identities(model.tokenizer.parameters())


def test_a_model_that_nothing_is_known_of_is_other() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    groups = by_key(find_groups(model))
    assert list(groups) == ['other']
    assert groups['other'].paths == ('0.weight', '0.bias', '1.weight', '1.bias')


def test_a_parameter_may_be_a_group() -> None:
    model = nn.Module()
    model.pos_emb = nn.Parameter(torch.zeros(3))
    assert by_key(find_groups(model))['position_embedding'].paths == ('weight',)


# -- wrappers --------------------------------------------------------------------------------------------------------


class DistributedDataParallel(nn.Module):
    """A wrapper with the attribute of torch's."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


class ModelWrapper:
    """A wrapper with the attribute of DI-engine's, which is no module."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


@pytest.mark.parametrize(
    'wrap',
    [
        lambda model: torch.compile(model, backend='eager'),
        DistributedDataParallel,
        ModelWrapper,
        lambda model: DistributedDataParallel(torch.compile(model, backend='eager')),
        lambda model: ModelWrapper(DistributedDataParallel(model)),
    ],
    ids=['compiled', 'ddp', 'ding', 'ddp of compiled', 'ding of ddp'],
)
def test_wrappers_are_looked_through(wrap: Any) -> None:
    model = SmallModel()
    wrapped = wrap(model)
    assert unwrap(wrapped) is model
    groups = by_key(find_groups(wrapped, num_tasks=3))
    assert {key: group.paths for key, group in groups.items()} == {
        key: group.paths for key, group in by_key(find_groups(model, num_tasks=3)).items()
    }


def test_a_compiled_part_keeps_its_group_and_its_paths() -> None:
    model = SmallModel()
    plain = {key: group.paths for key, group in by_key(find_groups(model, num_tasks=3)).items()}
    model.transformer = torch.compile(model.transformer, backend='eager')
    model.unused = torch.compile(model.unused, backend='eager')
    assert {key: group.paths for key, group in by_key(find_groups(model, num_tasks=3)).items()} == plain


def test_the_world_model_of_a_policy_model_is_looked_into() -> None:
    model = nn.Module()
    model.world_model = SmallModel()
    model.extra = nn.Linear(2, 2)
    groups = by_key(find_groups(model, num_tasks=3))
    assert {'encoder', 'head_value_task2'} <= set(groups)
    assert_partition(tuple(groups.values()), model)


@pytest.mark.parametrize('attribute', ['_model', 'module', '_orig_mod'])
def test_a_module_with_a_wrapper_name_is_not_a_wrapper(attribute: str) -> None:
    model = Heads(nn.Linear(2, 1))
    setattr(model, attribute, nn.Linear(2, 2))
    assert_partition(find_groups(model), model)


# -- groups of the user's --------------------------------------------------------------------------------------------


def test_a_group_by_configuration_takes_its_parameters_first() -> None:
    model = SmallModel()
    groups = by_key(find_groups(model, 3, {'experts': 'transformer.experts'}))
    assert identities(groups['transformer'].parameters) == identities(model.transformer.norm.parameters())
    assert_partition(tuple(groups.values()), model)


def test_a_list_of_one_entry_per_task_is_per_task() -> None:
    model = SmallModel()
    model.adapter = nn.ModuleList([nn.Linear(2, 1) for _ in range(3)])
    groups = by_key(find_groups(model, 3, {'adapter': 'adapter'}))
    assert {'adapter_task0', 'adapter_task1', 'adapter_task2'} <= set(groups)


def test_the_automatic_choice_can_be_overridden() -> None:
    model = SmallModel(num_experts=3)
    path = 'transformer.experts'
    assert 'experts_task0' in by_key(find_groups(model, 3, {'experts': path}))
    assert 'experts' in by_key(find_groups(model, 3, {'experts': {'path': path, 'per_task': False}}))
    one = SmallModel(actions=(2,), num_experts=1)
    assert 'experts' in by_key(find_groups(one, 1, {'experts': path}))
    assert 'experts_task0' in by_key(find_groups(one, 1, {'experts': {'path': path, 'per_task': True}}))


def test_the_path_of_a_parameter() -> None:
    model = SmallModel()
    group = by_key(find_groups(model, 3, {'temperature': 'temperature'}))['temperature']
    assert group.parameters == (model.temperature,)


def test_a_default_group_can_be_pointed_elsewhere() -> None:
    model = SmallModel()
    groups = by_key(find_groups(model, 3, {'encoder': 'unused'}))
    assert identities(groups['encoder'].parameters) == identities(model.unused.parameters())
    assert identities(model.tokenizer.parameters()) <= identities(groups['other'].parameters)


@pytest.mark.parametrize('name', ['model', 'x_token', 'other', 'head_all_tasks', 'adapter_task3', 'a/b', '', '1a', 7])
def test_names_that_cannot_be(name: Any) -> None:
    with pytest.raises(GroupError, match='cannot be the name of a group'):
        find_groups(SmallModel(), 3, {name: 'transformer'})


def test_a_path_that_names_nothing_gets_the_nearest_that_does() -> None:
    with pytest.raises(GroupError, match=r"mine: 'transfomer' names no module of SmallModel; .*transformer"):
        find_groups(SmallModel(), 3, {'mine': 'transfomer'})


@pytest.mark.parametrize('spec', [5, None, ['transformer'], {'per_task': True}, {'path': 'transformer', 'task': 1}])
def test_invalid_paths_are_refused(spec: Any) -> None:
    with pytest.raises(GroupError, match=r'module_groups\.mine: expected a path or dict'):
        find_groups(SmallModel(), 3, {'mine': spec})


@pytest.mark.parametrize(
    ('num_tasks', 'path', 'complaint'),
    [
        (3, 'transformer', 'needs a ModuleList or ModuleDict, got Transformer'),
        (3, 'transformer.experts', 'got 2 for 3 tasks'),
        (None, 'transformer.experts', 'got 2 for a single-task policy'),
    ],
)
def test_per_task_where_it_cannot_be(num_tasks: int | None, path: str, complaint: str) -> None:
    with pytest.raises(GroupError, match=complaint):
        find_groups(SmallModel(), num_tasks, {'mine': {'path': path, 'per_task': True}})


# -- several paths, and paths with the task id -----------------------------------------------------------------------


class Branches(nn.Module):
    """One module per task that holds two heads each."""

    def __init__(self, tasks: int = 3) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [nn.ModuleDict({'conv': nn.Linear(2, 2), 'fc': nn.Linear(2, 1)}) for _ in range(tasks)]
        )


def test_a_star_stands_for_the_task_id() -> None:
    model = Branches()
    groups = by_key(find_groups(model, 3, {'fc': 'branches.*.fc'}))
    for task_id in range(3):
        group = groups[f'fc_task{task_id}']
        assert identities(group.parameters) == identities(model.branches[task_id]['fc'].parameters())
        assert group.paths == ('weight', 'bias')
    assert_partition(tuple(groups.values()), model)


def test_several_paths_make_one_group() -> None:
    model = Branches()
    groups = by_key(find_groups(model, 3, {'head': {'path': ['branches.*.conv', 'branches.*.fc']}}))
    assert groups['head_task1'].paths == ('conv.weight', 'conv.bias', 'fc.weight', 'fc.bias')
    assert 'other' not in groups
    shared = by_key(find_groups(model, 3, {'two': {'path': ['branches.0.fc', 'branches.1.fc']}}))
    assert len(set(shared['two'].paths)) == 4


@pytest.mark.parametrize(
    ('num_tasks', 'spec', 'complaint'),
    [
        (None, 'branches.*.fc', 'has a single task'),
        (4, 'branches.*.fc', "'branches.3.fc' names no module"),
        (3, {'path': ['branches.*.fc', 'branches.0']}, 'all or none'),
        (3, {'path': 'branches.*.fc', 'per_task': False}, 'it alone says'),
        (3, {'path': []}, 'expected a path'),
        (3, {'path': ['branches', 3]}, 'expected a path'),
    ],
)
def test_paths_with_a_task_id_that_cannot_be(num_tasks: int | None, spec: Any, complaint: str) -> None:
    with pytest.raises(GroupError, match=re.escape(complaint)):
        find_groups(Branches(), num_tasks, {'mine': spec})


def test_a_configured_group_without_parameters_is_refused() -> None:
    model = nn.ModuleDict({'encoder': nn.Linear(2, 3), 'activation': nn.ReLU()})
    with pytest.raises(GroupError, match=r'module_groups\.act: activation has no parameters'):
        find_groups(model, module_groups={'act': 'activation'})
    with pytest.raises(GroupError, match=r'module_groups\.second: encoder has no parameters'):
        find_groups(model, module_groups={'first': 'encoder', 'second': 'encoder'})


def test_a_module_that_two_paths_lead_to_counts_once() -> None:
    model = nn.ModuleDict({'fc': nn.Linear(2, 1)})
    model['alias'] = model['fc']
    groups = by_key(find_groups(model, None, {'head': {'path': ['fc', 'alias']}}))
    assert groups['head'].paths == ('fc.weight', 'fc.bias')
    assert_partition(tuple(groups.values()), model)


class Outsider(nn.Module):
    """Has a module at hand that it does not register, and one that cannot be read."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(2, 2)
        object.__setattr__(self, 'encoder', nn.Linear(2, 2))

    @property
    def transformer(self) -> nn.Module:
        raise RuntimeError('not built yet')


def test_unregistered_modules_are_ignored(caplog: pytest.LogCaptureFixture) -> None:
    model = Outsider()
    groups = find_groups(model)
    assert_partition(groups, model)
    assert [group.key for group in groups] == ['other']
    assert 'transformer of Outsider cannot be read (RuntimeError: not built yet)' in caplog.text
    with pytest.raises(GroupError, match='transformer of Outsider cannot be read'):
        find_groups(model, module_groups={'mine': 'transformer'})


def test_a_registered_part_of_a_default_group_is_taken() -> None:
    model = Outsider()
    object.__setattr__(model, 'encoder', nn.Sequential(model.body, nn.Linear(2, 2)))
    groups = by_key(find_groups(model))
    assert identities(groups['encoder'].parameters) == identities(model.body.parameters())
    assert_partition(tuple(groups.values()), model)


def heads(*names: str) -> dict[str, nn.Module]:
    return {name: nn.Linear(2, 1) for name in names}


NAMED = {
    'by their names': (nn.ModuleDict({'head_value': nn.ModuleDict(heads('depth', 'normals'))}), ('normals', 'depth')),
    'by their order': (nn.ModuleDict({'head_value': nn.ModuleDict(heads('normals', 'depth'))}), ()),
    'in a dict of heads': (
        nn.ModuleDict({'heads': nn.ModuleDict({'head_value': nn.ModuleDict(heads('depth', 'normals'))})}),
        ('normals', 'depth'),
    ),
    'in a list of one': (
        nn.ModuleDict({'head_value': nn.ModuleList([nn.ModuleDict(heads('normals', 'depth'))])}),
        ('normals', 'depth'),
    ),
    'tasks first': (
        nn.ModuleDict({'tasks': nn.ModuleDict({name: nn.ModuleDict(heads('head_value')) for name in ('b', 'a')})}),
        ('a', 'b'),
    ),
    'by numbers': (nn.ModuleDict({'head_value': nn.ModuleDict(heads('1', '0'))}), ()),
}


@pytest.mark.parametrize('kind', NAMED)
def test_heads_in_a_dict_are_those_of_the_tasks(kind: str) -> None:
    model, names = NAMED[kind]
    model['encoder'] = nn.Linear(3, 2)
    groups = {group.key: group.parameters[0] for group in find_groups(model, 2, task_names=names)}
    assert set(groups) == {'encoder', 'head_value_task0', 'head_value_task1'}
    paths = {id(parameter): path for path, parameter in model.named_parameters()}
    order = [paths[id(groups[f'head_value_task{task}'])] for task in range(2)]
    expected = {'by numbers': ('0', '1'), 'tasks first': ('a', 'b')}.get(kind, ('normals', 'depth'))
    assert [next(name for name in expected if f'.{name}.' in path) for path in order] == list(expected)


@pytest.mark.parametrize('spec', [{'path': 'decoders', 'per_task': True}, {'path': ['decoders.*']}, 'decoders'])
def test_a_configured_dict_of_heads_is_per_task(spec: Any) -> None:
    model = nn.ModuleDict({'encoder': nn.Linear(3, 2), 'decoders': nn.ModuleDict(heads('depth', 'normals'))})
    found = find_groups(model, 2, {'decoder': spec}, task_names=('normals', 'depth'))
    assert [group.key for group in found] == ['decoder_task0', 'decoder_task1', 'encoder']
    assert found[0].parameters[0] is model['decoders']['normals'].weight


def test_a_dict_of_another_length_is_shared() -> None:
    model = nn.ModuleDict({'head_value': nn.ModuleDict(heads('a', 'b', 'c'))})
    assert [group.key for group in find_groups(model, 2)] == ['head_value']
