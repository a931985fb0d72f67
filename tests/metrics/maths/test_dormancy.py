"""Dormant units against a direct count."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ding_normmon.metrics.maths.dormancy import activities, activity, dormant, jaccard, sample_mask, unit_sums
from tests.metrics.maths.references import dormant_units


@pytest.mark.parametrize('tau', [0.0, 0.025, 0.1, 0.6])
def test_dormant_units_are_those_of_a_direct_count(tau: float) -> None:
    generator = torch.Generator().manual_seed(0)
    scales = torch.logspace(-3, 1, 40)
    scales[::7] = 0
    output = torch.randn(6, 10, 40, generator=generator) * scales  # (B, 2T, H)
    mask = torch.rand(6, 5, generator=generator) > 0.4
    valid = sample_mask(tuple(output.shape), mask)
    samples = np.stack([output[b, t].numpy() for b in range(6) for t in range(10) if mask[b, t // 2]])
    on_accelerators = activities(unit_sums(output[None], mask.reshape(1, -1) == 0))[0]
    for vector in (activity(output, valid), on_accelerators):
        assert dormant(vector.numpy(), tau).tolist() == dormant_units(samples, tau)


def test_units_of_a_convolution_are_channels() -> None:
    output = torch.randn(6, 4, 3, 2)  # (B*T, C, height, width)
    output[:, 1] = 0
    mask = torch.tensor([[True, True, False], [True, False, False]])
    vector = activity(output, sample_mask(tuple(output.shape), mask)).numpy()
    assert activities(unit_sums(output[None], mask.reshape(1, -1) == 0))[0].tolist() == pytest.approx(vector.tolist())
    kept = output[[0, 1, 3]].double().abs().sum(dim=(0, 2, 3)).numpy()
    assert vector[1:] == pytest.approx(kept, rel=1e-6)
    assert vector[0] == pytest.approx(kept.mean(), rel=1e-6)
    assert dormant(vector, 0.0).tolist() == [False, True, False, False]


def test_a_dead_layer_is_dormant_altogether() -> None:
    assert dormant(activity(torch.zeros(5, 8), None).numpy(), 0.0).all()


def test_parts_of_unequal_size_add_up_and_are_no_average_of_ratios() -> None:
    big, small = torch.tensor([[4.0, 0.0]] * 9), torch.tensor([[0.0, 1.0]])
    parts = [activity(part, None).numpy() for part in (big, small)]
    assert [dormant(part, 0.1).mean() for part in parts] == [0.5, 0.5]
    whole = dormant_units(torch.cat([big, small]).numpy(), 0.1)
    assert dormant(parts[0] + parts[1], 0.1).tolist() == whole == [False, True]
    assert dormant(parts[0] + parts[1], 0.05).tolist() == [False, False]


def test_a_stride_keeps_the_mean_of_all_units() -> None:
    output = torch.rand(5, 9)
    full, part = activity(output, None), activity(output, None, stride=4)
    assert part.tolist() == [full[0], full[1], full[5], full[9]]


@pytest.mark.parametrize('shape', [(4, 5, 8), (7, 8), (3,)])
def test_an_output_that_does_not_fit_the_mask_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match='does not fit'):
        sample_mask(shape, torch.ones(3, 2))


def test_with_a_single_step_channels_are_not_taken_for_tokens() -> None:
    mask = torch.tensor([[True], [False]])
    assert sample_mask((2, 6, 3, 3), mask).tolist() == [True, False]
    assert sample_mask((2, 6), mask).tolist() == [True, False]


def test_overlap() -> None:
    first, second = np.array([True, True, False, False]), np.array([False, True, True, False])
    assert jaccard(first, second) == pytest.approx(1 / 3)
    assert jaccard(first, first) == 1.0
    assert jaccard(np.zeros(3, bool), np.zeros(3, bool)) is None
