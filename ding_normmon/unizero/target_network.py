"""How far the target network is from the model that it follows, and whether it follows at all."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ding_normmon.core.step import InertLearnerStep
from ding_normmon.metrics.kernels.bit_sums import bit_sums, combined, folded

__all__ = ['publish_target', 'relative_distance']


_AT_ONCE = 1 << 22
"""Elements whose differences are in memory at a time, about: 16 MiB in float32."""


@torch.no_grad()
def relative_distance(online: Iterable[nn.Parameter], target: Iterable[nn.Parameter]) -> Tensor:
    """Return the L2 norm of the difference of two models over that of the first, in float64.

    Example:
        >>> first, second = nn.Parameter(torch.tensor([3.0, 4.0])), nn.Parameter(torch.tensor([3.0, 3.0]))
        >>> round(float(relative_distance([first], [second])), 6)
        0.2
    """
    mine: list[Tensor] = [parameter.detach() for parameter in online]
    its: list[Tensor] = [parameter.detach() for parameter in target]
    squares: list[Tensor] = []
    first = elements = 0
    for stop, parameter in enumerate(mine, 1):
        elements += parameter.numel()
        if elements >= _AT_ONCE or stop == len(mine):
            # On an accelerator each call is a launch or two, however many tensors there are.
            both = (list(torch._foreach_sub(mine[first:stop], its[first:stop])), mine[first:stop])
            squares += [torch.stack(torch._foreach_norm(part, 2, torch.float64)).square().sum() for part in both]
            first, elements = stop, 0
    return (torch.stack(squares[::2]).sum() / torch.stack(squares[1::2]).sum()).sqrt()


def publish_target(step: InertLearnerStep, online: nn.Module, target: nn.Module) -> None:
    """Publish ``target/distance``, and ``monitor/fingerprint/target``: the same as long as the target does not move.

    Arguments:
        step: the learner step, which is due.
        online: the model that is trained.
        target: the one that follows it, with the same parameters in the same order.
    """
    step.publish_figure('target/distance', relative_distance(online.parameters(), target.parameters()))
    step.publish_figure('monitor/fingerprint/target', folded(combined(bit_sums(list(target.parameters())))))
