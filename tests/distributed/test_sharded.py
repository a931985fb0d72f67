"""DistributedDataParallel is measured as the model inside it; sharded parameters are refused at set-up."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ding_normmon import ConfigurationError, Monitor, Record
from tests.distributed.ranks import run_ranks

pytestmark = pytest.mark.distributed


def model_and_batch() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(3)
    model = nn.ModuleDict({'encoder': nn.Linear(6, 8), 'transformer': nn.Linear(8, 8), 'head_value': nn.Linear(8, 1)})
    return model, torch.randn(8, 4, 6) + 1


class Chain(nn.Module):
    def __init__(self, parts: nn.Module) -> None:
        super().__init__()
        self.encoder, self.transformer, self.head_value = parts.children()

    def forward(self, observations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        token = self.transformer(self.encoder(observations).tanh())
        return token, self.head_value(token)


def measured(model: nn.Module, batch: torch.Tensor) -> Record | None:
    monitor = Monitor(model, {'monitor_norm_freq': 1, 'setup_timeout': 20})
    with monitor.step(0) as step:
        token, value = model(batch)
        step.publish('x_token', token)
        step.forward_end()
        value.square().mean().backward()
        step.backward_end()
    monitor.close()
    assert not monitor.losses.total, monitor.losses.total
    records = monitor.take_records()
    return records[0] if records else None


def on_two_ranks(rank: int) -> tuple[Record | None, str, list[str]]:
    model, batch = model_and_batch()
    chain = Chain(model)
    sharded = copy.deepcopy(chain)
    record = measured(DistributedDataParallel(chain), batch[4 * rank : 4 * rank + 4])

    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    fully_shard(sharded, mesh=init_device_mesh('cpu', (2,)))
    try:
        Monitor(sharded, {'monitor_norm_freq': 1, 'setup_timeout': 20})
    except ConfigurationError as error:
        return record, str(error), [type(parameter).__name__ for parameter in sharded.parameters()]
    return record, 'accepted', []


def test_ddp_equals_the_whole_model_and_fsdp2_is_refused() -> None:
    results = run_ranks(on_two_ranks, 2)
    model, batch = model_and_batch()
    reference = measured(Chain(model), batch)
    record = results[0][0]
    assert record is not None
    assert reference is not None
    assert not dist.is_initialized()
    for name, value in reference.scalars.items():
        if not name.startswith('monitor/'):
            assert record.scalars[name] == pytest.approx(value, rel=1e-6), name
    for _, refusal, kinds in results:
        assert 'encoder.weight is a DTensor' in refusal
        assert set(kinds) == {'DTensor'}
