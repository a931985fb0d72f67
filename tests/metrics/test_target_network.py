"""The distance of a target network against float64, by the compiled kernel and by torch."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from ding_normmon import Monitor
from ding_normmon.metrics.kernels import native
from ding_normmon.metrics.target_network import RelativeDistance

SHAPES = [(), (1,), (7, 3), (16,), (33,), (5, 0), (600, 500)]
each_dtype = pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16])


@pytest.mark.parametrize('compiled', [True, False])
@each_dtype
def test_the_distance_is_that_of_float64(dtype: torch.dtype, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.setattr(native, 'kernels', None)
    torch.manual_seed(0)
    online = [torch.randn(shape).to(dtype) for shape in SHAPES]
    # One lies in memory in another order than the other.
    target = [tensor + torch.randn_like(tensor) / 8 for tensor in online]
    target[2] = target[2].t().contiguous().t()
    away = sum((a - b).double().square().sum() for a, b in zip(online, target, strict=True))
    own = sum(tensor.double().square().sum() for tensor in online)
    distance = RelativeDistance(online)
    assert float(distance(online, target)) == pytest.approx(math.sqrt(away / own), rel=1e-8)
    assert float(distance(online, list(online))) == 0.0
    target[1][0] = math.inf
    assert math.isnan(distance(online, target))


@pytest.mark.skipif(native.kernels is None, reason='the compiled part is missing')
@each_dtype
def test_the_kernel_leaves_to_torch_what_it_cannot_read(dtype: torch.dtype) -> None:
    assert native.kernels is not None
    tensor = torch.arange(6.0).to(dtype).view(2, 3)
    assert native.kernels.distance([nn.Parameter(tensor)], [tensor + 1]) == (6.0, 55.0)
    for other in (tensor.view(3, 2).t(), tensor[:, :2], tensor.to_sparse(), tensor.to('meta'), tensor.half(), None):
        assert native.kernels.distance([tensor], [other]) is None
    assert native.kernels.distance([], []) == (0.0, 0.0)
    with pytest.raises(TypeError, match='length'):
        native.kernels.distance([tensor], [])


def test_a_target_network_that_is_replaced_or_given_new_parameters_is_followed() -> None:
    torch.manual_seed(0)
    model, expected = nn.Linear(3, 1), []
    target = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Monitor(model, {'monitor_norm_freq': 1}, optimizer=optimizer, target=target) as monitor:
        for iteration in range(4):
            if iteration == 2:
                state = {name: torch.zeros_like(value) for name, value in target.state_dict().items()}
                target.load_state_dict(state, assign=True)
            pairs = zip(model.parameters(), target.parameters(), strict=True)
            away = sum(float((a.detach() - b.detach()).double().square().sum()) for a, b in pairs)
            own = sum(float(a.detach().double().square().sum()) for a in model.parameters())
            expected.append(math.sqrt(away / own))
            optimizer.zero_grad()
            model(torch.ones(2, 3)).square().mean().backward()
            optimizer.step()
    records = monitor.take_records()
    assert [record.scalars['target/distance'] for record in records] == pytest.approx(expected, rel=1e-6)
