"""Sharded and replicated parameters: every layout gives the figures of the unsharded model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ding_normmon import ConfigurationError, Monitor, Record
from tests.distributed.ranks import run_ranks

pytestmark = pytest.mark.distributed

CONFIG = {'monitor_norm_freq': 1, 'setup_timeout': 30, 'preset': 'multitask', 'conflict_freq': 0}
STEPS = 3


class Heads(nn.Module):
    """An encoder, a transformer with a frozen norm, one value head per task; 7 and 5 divide unevenly, 1 not at all."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.encoder = nn.Linear(6, 7)
        self.transformer = nn.Sequential(nn.Linear(7, 8), nn.LayerNorm(8), nn.Linear(8, 5))
        self.head_value = nn.ModuleList([nn.Linear(5, 1) for _ in range(2)])
        self.register_parameter('unused', nn.Parameter(torch.randn(3)))
        self.transformer[1].weight.requires_grad_(False)

    def forward(self, observations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        token = self.transformer(self.encoder(observations).tanh())
        return token, torch.cat([head(token) for head in self.head_value], -1)


def batch() -> torch.Tensor:
    return torch.randn(8, 4, 6, generator=torch.Generator().manual_seed(5)) + 1


def trained(model: nn.Module, part: torch.Tensor, clips: bool = True, **config: Any) -> list[Record]:
    """Train a few steps and return what was recorded (on rank 0)."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    with Monitor(model, {**CONFIG, **config}, num_tasks=2, optimizer=optimizer) as monitor:
        for _ in range(STEPS):
            optimizer.zero_grad()
            token, values = model(part)
            for task in range(2):
                monitor.learner_step.publish('x_token', token, task_id=task)
            values.square().mean().backward()
            if clips:
                nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
    assert not monitor.lost_data.total, monitor.lost_data.total
    records = monitor.take_records()
    # FSDP exchanges parameters in every forward pass, which is no change of the model.
    assert not any('groups' in record.notes for record in records)
    return records


def assert_same(record: Record, reference: Record, *apart: str) -> None:
    names = {name for name in reference.scalars if not name.startswith(('monitor/', *apart))}
    assert {name for name in record.scalars if not name.startswith(('monitor/', *apart))} == names
    for name in sorted(names):
        # A step is a small difference of float32 weights.
        tolerance = 1e-5 if name.startswith('update/') else 1e-6
        assert record.scalars[name] == pytest.approx(reference.scalars[name], rel=tolerance, abs=1e-12), name


# -- layouts -----------------------------------------------------------------------------------------------------------


def whole(model: nn.Module) -> nn.Module:
    return model


def replicated(model: nn.Module) -> nn.Module:
    # DDP asks for gradients of everything it is given.
    del model.unused
    return DistributedDataParallel(model)


def sharded(model: Any, mesh: Any = None) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh('cpu', (2,)) if mesh is None else mesh
    for part in (model.transformer, *model.head_value):
        fully_shard(part, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model  # type: ignore[no-any-return]


def partly_sharded(model: Any) -> nn.Module:
    """The heads are nobody's shards: they stay plain parameters, equal on every rank."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    fully_shard(model.transformer[0], mesh=init_device_mesh('cpu', (2,)))
    return model  # type: ignore[no-any-return]


def hybrid(model: nn.Module) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh

    return sharded(model, init_device_mesh('cpu', (2, 2), mesh_dim_names=('replicate', 'shard')))


def tensor_parallel(model: Any) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    plan = {
        'transformer.0': ColwiseParallel(output_layouts=Replicate()),
        'transformer.2': RowwiseParallel(input_layouts=Replicate()),
    }
    return parallelize_module(model, init_device_mesh('cpu', (2,)), plan)


Layout = Callable[[nn.Module], nn.Module]

SHARES = {sharded: 2, hybrid: 4, replicated: 2}
"""Layouts that average gradients over the ranks: each takes its share of the batch. In the others all take all."""


def on_ranks(rank: int, layout: Layout, config: dict[str, Any]) -> list[Record]:
    shares = batch().chunk(SHARES.get(layout, 1))
    return trained(layout(Heads()), shares[rank % len(shares)], **config)


@pytest.mark.parametrize(
    'layout',
    [sharded, *(pytest.param(layout, marks=pytest.mark.full) for layout in (partly_sharded, hybrid, tensor_parallel))],
)
def test_sharded_parameters_give_the_figures_of_the_unsharded_model(layout: Layout) -> None:
    # torch itself cannot clip sharded and plain parameters together.
    config = {'detail': 'parameter', 'top_k': 2, 'clips': layout in SHARES}
    reference = trained(Heads(), batch(), **config)
    records = run_ranks(on_ranks, 4 if layout is hybrid else 2, layout, config)[0]
    assert [record.iteration for record in records] == [0, 1, 2]
    for record, expected in zip(records, reference, strict=True):
        assert record.scalars['parameters/transformer/trainable'] == 8 * 7 + 8 + 8 + 5 * 8 + 5
        assert 'update/head_value_task1/relative' in record.scalars
        # Where ranks repeat each other's work, every token counts twice, and an unbiased spread shows it.
        assert_same(record, expected, *(() if layout in SHARES else ('norm/x_token', 'inputs/')))


def test_ddp_gives_the_figures_of_the_model_inside_it() -> None:
    model = Heads()
    del model.unused
    reference = trained(model, batch())
    for record, expected in zip(run_ranks(on_ranks, 2, replicated, {})[0], reference, strict=True):
        assert_same(record, expected)


# -- what is missing, and what cannot be ------------------------------------------------------------------------------


def one_rank_fails(rank: int) -> list[Record]:
    """Rank 1's gradient norms fail in step 1; both ranks report to the end."""
    model = sharded(Heads())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    monitor = Monitor(model, {**CONFIG, 'merge_train_output': True}, num_tasks=2, optimizer=optimizer)
    with monitor:
        for iteration in range(STEPS):
            optimizer.zero_grad()
            model(batch())[1].square().mean().backward()
            if rank == iteration == 1:
                monitor.metrics[1].measure = failing  # type: ignore[method-assign]
            optimizer.step()
            if rank == iteration == 1:
                del monitor.metrics[1].measure
            own = monitor.take_local_scalars()
            # One rank's share is no figure.
            assert not [name for name in own if name.startswith(('norm/', 'grad/', 'update/'))], own
    return monitor.take_records()


def failing(*_: Any) -> None:
    raise RuntimeError('as a test')


def test_a_sharded_norm_without_the_share_of_one_rank_is_absent() -> None:
    before, without, after = run_ranks(one_rank_fails, 2)[0]
    assert {name for name in before.scalars if name.startswith('grad/')} <= set(after.scalars)
    assert 'grad/model/_total_norm' in before.scalars
    assert not [name for name in without.scalars if name.startswith('grad/')]
    assert 'norm/model/_total_norm' in without.scalars


def message_of(construct: Callable[[], object]) -> str:
    try:
        construct()
    except ConfigurationError as error:
        return str(error)
    return 'accepted'


def refusals(rank: int) -> dict[str, str]:
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

    from ding_normmon.core.sharding import counted_part
    from ding_normmon.metrics import GradientConflict, GradientNorms
    from ding_normmon.metrics.local_gradients import with_local_gradients
    from ding_normmon.ranks.transport import LocalTransport

    model: Any = sharded(Heads())
    mesh = model.encoder.weight.device_mesh
    plain = {'monitor_norm_freq': 1, 'setup_timeout': 30}
    messages = {
        'alone': message_of(lambda: Monitor(model, plain, transport=LocalTransport())),
        'conflict': message_of(lambda: Monitor(model, plain, num_tasks=2, metrics=[GradientConflict()])),
        'local': message_of(lambda: Monitor(model, plain, metrics=with_local_gradients([GradientNorms()]))),
    }
    model(batch())
    messages['gathered'] = message_of(lambda: Monitor(model, plain))
    model.reshard()
    monitor = Monitor(model, plain)
    with monitor.step(0) as step:
        step.publish('logits_value', DTensor.from_local(torch.ones(2), mesh, [Shard(0)]))
        try:
            step.forward_end()
        except ValueError as error:
            messages['signal'] = str(error)
    monitor.close()
    partial = DTensor.from_local(torch.ones(2), mesh, [Partial()])
    try:
        counted_part(partial)
    except ValueError as error:
        messages['partial'] = str(error)
    repeated = counted_part(DTensor.from_local(torch.ones(2), mesh, [Replicate()]))
    messages['repeated'] = 'counted' if repeated is not None else 'left to another'
    return messages


def test_unsupported_sharding_is_refused_at_set_up() -> None:
    first, second = run_ranks(refusals, 2)
    assert (first.pop('repeated'), second.pop('repeated')) == ('counted', 'left to another')
    for messages in (first, second):
        assert 'the 1 ranks of the monitor hold' in messages['alone']
        assert 'of the 49 sharded elements of encoder' in messages['alone']
        assert 'set conflict_freq=0' in messages['conflict']
        assert 'encoder has sharded parameters' in messages['local']
        assert 'call its reshard() before' in messages['gathered']
        assert 'logits_value: a DTensor; publish what this rank has of it' in messages['signal']
        assert 'unknown until they are summed' in messages['partial']
