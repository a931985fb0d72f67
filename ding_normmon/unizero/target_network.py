"""How far the target network is from the model that it follows, and whether it follows at all."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ding_normmon.core.step import InertLearnerStep
from ding_normmon.metrics.kernels.bit_sums import bit_sums, combined, folded

__all__ = ['publish_target', 'relative_distance']


@torch.no_grad()
def relative_distance(online: Iterable[nn.Parameter], target: Iterable[nn.Parameter]) -> Tensor:
    """Return the L2 norm of the difference of two models over that of the first, in float64.

    Example:
        >>> first, second = nn.Parameter(torch.tensor([3.0, 4.0])), nn.Parameter(torch.tensor([3.0, 3.0]))
        >>> round(float(relative_distance([first], [second])), 6)
        0.2
    """
    squares = [(_square(mine - its), _square(mine)) for mine, its in zip(online, target, strict=True)]
    distance, size = (torch.stack(part).sum() for part in zip(*squares, strict=True))
    return (distance / size).sqrt()


def _square(tensor: Tensor) -> Tensor:
    return torch.linalg.vector_norm(tensor, dtype=torch.float64).square()


def publish_target(step: InertLearnerStep, online: nn.Module, target: nn.Module) -> None:
    """Publish ``target/distance``, and ``target/fingerprint``: the same number as long as the target does not move.

    Arguments:
        step: the learner step, which is due.
        online: the model that is trained.
        target: the one that follows it, with the same parameters in the same order.
    """
    step.publish_loss('target/distance', relative_distance(online.parameters(), target.parameters()))
    step.publish_loss('target/fingerprint', folded(combined(bit_sums(list(target.parameters())))))
