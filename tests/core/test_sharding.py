"""Which elements of a DTensor each rank of a mesh counts, tested without other processes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from ding_normmon import ConfigurationError
from ding_normmon.core.parameter_groups import find_groups
from ding_normmon.core.sharding import (
    counted_elements,
    counted_part,
    local_share,
    refuse_unreadable,
    replicated_value,
)
from ding_normmon.ranks.ownership import Ownership
from ding_normmon.ranks.sharded_groups import ShardedGroups
from ding_normmon.rows.moments import merge_rows, square_sum_row
from ding_normmon.rows.table import Batch, RowKey

RANKS = 4


@contextmanager
def as_rank(rank: int) -> Iterator[None]:
    """Be one rank of four; collectives of this backend do nothing."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group('fake', store=FakeStore(), rank=rank, world_size=RANKS)
    try:
        yield
    finally:
        dist.destroy_process_group()


def layouts() -> list[tuple[tuple[int, ...], tuple[str, ...]]]:
    found: list[tuple[tuple[int, ...], tuple[str, ...]]] = [((RANKS,), (kind,)) for kind in ('row', 'column', 'whole')]
    return found + [((2, 2), kinds) for kinds in itertools.product(('row', 'column', 'whole'), repeat=2)]


def distributed(full: torch.Tensor, sizes: tuple[int, ...], kinds: tuple[str, ...]) -> torch.Tensor:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    placements = [{'row': Shard(0), 'column': Shard(1), 'whole': Replicate()}[kind] for kind in kinds]
    return distribute_tensor(full, init_device_mesh('cpu', sizes), placements, src_data_rank=None)


@pytest.mark.parametrize(('sizes', 'kinds'), layouts())
@pytest.mark.parametrize('shape', [(5, 3), (1, 2), (8, 4)])
def test_every_element_is_counted_once_however_a_tensor_is_laid_out(
    sizes: tuple[int, ...], kinds: tuple[str, ...], shape: tuple[int, int]
) -> None:
    full = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rows = []
    for rank in range(RANKS):
        with as_rank(rank):
            tensor = distributed(full, sizes, kinds)
            part = counted_part(tensor)
            assert (replicated_value(tensor) is not None) == (set(kinds) == {'whole'})
            if part is not None:
                rows.append(square_sum_row(part.numel(), float(part.square().sum()), 0))
    merged = merge_rows(rows)
    assert merged[0] == full.numel()
    assert merged[2] == pytest.approx(float(full.numpy().ravel() @ full.numpy().ravel()), rel=1e-12)


def test_a_group_with_plain_and_sharded_parameters_is_shared_between_its_owner_and_the_others() -> None:
    for rank in range(RANKS):
        with as_rank(rank):
            model = nn.ModuleDict({'encoder': nn.Linear(3, 8), 'head_value': nn.Linear(3, 2)})
            weight = nn.Parameter(distributed(torch.ones(8, 3), (RANKS,), ('row',)))
            model['encoder'].weight = weight
            encoder, head = find_groups(model)
            owned, share = local_share(encoder, owns=True), local_share(encoder, owns=False)
            assert owned is encoder
            assert share is not None
            assert (share.paths, counted_elements(share)) == (('weight',), 6)
            assert share.parameters[0] is weight
            assert local_share(head, owns=False) is None
            sharded = ShardedGroups([encoder, head], {'gradient_norms'}, RANKS)
            assert sharded.keys == {('encoder', None)}


def test_rows_of_a_sharded_group_count_only_if_every_rank_sent_some() -> None:
    sharded = ShardedGroups([], {'gradient_norms'}, world_size=2)
    sharded.keys = frozenset({('encoder', None)})
    main = RowKey('gradient_norms', 'encoder')
    silent = main._replace(part='no_gradient')
    other = RowKey('gradient_norms', 'head_value', 1)
    of_another_metric = RowKey('tensor_statistics', 'encoder')

    def batch(*keys: RowKey) -> Batch:
        return Batch(0, keys, np.arange(6.0 * len(keys)).reshape(-1, 6))

    both = [batch(main, other), batch(main, silent)]
    assert sharded.whole(both) is both
    (kept,) = sharded.whole([batch(main, other, silent, of_another_metric)])
    assert kept.keys == (other, of_another_metric)
    assert kept.rows[:, 0].tolist() == [6.0, 18.0]
    assert [one.keys for one in sharded.whole([batch(main), batch(other)])] == [(), (other,)]


def test_every_rank_may_report_a_sharded_group_and_only_the_owner_another() -> None:
    ownership = Ownership(2, [[0], [1]], {'gradient_norms'}, {('head_value', 0)})
    keys = [RowKey('gradient_norms', 'head_value', task) for task in range(2)]
    assert ownership.own_keys(1, 0, keys) == keys
    assert ownership.own_keys(0, 0, keys) == keys[:1]


class FullyShardedDataParallel(nn.Module):
    """Stands in for FSDP's first version, which needs a GPU for anything but construction."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)


def test_flat_sharded_parameters_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r'FullyShardedDataParallel.*fully_shard.*monitor_norm_freq=0'):
        refuse_unreadable(FullyShardedDataParallel())
    model = nn.Linear(2, 2)
    model.bias.ds_id = 3  # type: ignore[union-attr]
    with pytest.raises(ConfigurationError, match='bias belongs to DeepSpeed ZeRO-3'):
        refuse_unreadable(model)


def test_parameters_of_which_nothing_can_be_measured_are_refused_by_name() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.LazyLinear(3))
    with pytest.raises(ConfigurationError, match=r'1\.weight has no shape yet'):
        refuse_unreadable(model)
    model[1](torch.ones(1, 2))
    refuse_unreadable(model)
    model[0].weight = nn.Parameter(torch.ones(2, 2, dtype=torch.complex64))
    with pytest.raises(ConfigurationError, match=r'0\.weight is complex \(torch\.complex64\)'):
        refuse_unreadable(model)


class OnAnotherDevice(nn.Parameter):
    device = property(lambda self: torch.device('cuda', 1))  # type: ignore[assignment]


def test_a_model_on_several_devices_is_refused_in_a_sentence() -> None:
    model = nn.ModuleDict({'encoder': nn.Linear(2, 2), 'head': nn.Linear(2, 1)})
    model['head'].weight = OnAnotherDevice(torch.ones(1, 2))
    with pytest.raises(
        ConfigurationError, match=r'spread over several devices \(encoder\.weight on cpu, head\.weight on cuda:1\)'
    ):
        refuse_unreadable(model)


def test_a_model_without_values_is_refused_in_a_sentence() -> None:
    for device in ('meta', 'cpu'):
        model = nn.ModuleDict({'encoder': nn.Linear(2, 2, device=device), 'head': nn.Linear(2, 1, device='meta')})
        first = 'encoder' if device == 'meta' else 'head'
        with pytest.raises(ConfigurationError, match=rf'{first}\.weight is on the meta device and has no values'):
            refuse_unreadable(model)
