"""How far the target network is from the model that it follows, and whether it follows at all."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ding_normmon.core.figure import Chart, Figure
from ding_normmon.core.model_snapshot import ModelSnapshot
from ding_normmon.core.sharding import is_sharded
from ding_normmon.core.step import LearnerStep
from ding_normmon.metrics.base import Metric
from ding_normmon.metrics.kernels import native
from ding_normmon.metrics.kernels.bit_sums import bit_sums, combined, folded
from ding_normmon.metrics.kernels.device_signals import write_number
from ding_normmon.metrics.kernels.squares import SquareSums
from ding_normmon.metrics.sections import INVARIANTS_SECTION
from ding_normmon.rows import RowBuffer, RowKey, RowTable
from ding_normmon.rows.moments import COUNT, MEAN

__all__ = ['RelativeDistance', 'TargetDistance']

_AT_ONCE = 1 << 18
"""Elements whose differences are in memory at a time, about: 1 MiB in float32, which stays in the cache."""

_TENSORS, _WORDS = 2, 2048
"""How many tensors, the largest, and about how many numbers of each tell how far the target goes."""

_RUN = 16
"""Of those, so many stand beside each other: memory is read in lines."""

_FINGERPRINT_WORDS = 64
"""Words of each tensor that the fingerprint is made of."""

_SURE = 0.9
"""Share of the way up to which it can be divided among several iterations."""

_FIGURES = {'distance': 'target/distance', 'fingerprint': 'monitor/fingerprint/target'}
_PRODUCTS = ('gone way', 'way way', 'gone gone', 'resolution', 'steps')


class RelativeDistance:
    """L2 norm of the difference of two models over that of the first, added in float64.

    Arguments:
        online: tensors with the shapes, dtypes and the device to come.

    Example:
        >>> online, target = [torch.tensor([3.0, 4.0])], [torch.tensor([3.0, 3.0])]
        >>> round(float(RelativeDistance(online)(online, target)), 6)
        0.2
    """

    def __init__(self, online: Sequence[Tensor]) -> None:
        ends = itertools.accumulate(tensor.numel() for tensor in online)
        self._spans: list[tuple[int, int, SquareSums]] = []
        for _, chunk in itertools.groupby(enumerate(ends), lambda entry: entry[1] // _AT_ONCE):
            places = [place for place, _ in chunk]
            first, stop = places[0], places[-1] + 1
            alike = [tensor.detach() for tensor in online[first:stop]]
            self._spans.append((first, stop, SquareSums([*alike, *alike])))

    @torch.no_grad()
    def __call__(self, online: list[Tensor], target: list[Tensor]) -> Tensor | float:
        """Return the distance, one number; NaN if a number is not finite."""
        found = None if native.kernels is None else native.kernels.distance(online, target)
        if found is not None:
            away, own = found
            return math.sqrt(away / own) if own > 0 and math.isfinite(away + own) else math.nan
        totals = torch.zeros(2, dtype=torch.float64, device=online[0].device)
        for first, stop, squares in self._spans:
            mine = [tensor.detach() for tensor in online[first:stop]]
            # One call for both: on an accelerator it is as many launches for any number of tensors.
            away = torch._foreach_sub(mine, [tensor.detach() for tensor in target[first:stop]])
            sums, nonfinite = torch.empty(2, 2 * len(mine), dtype=torch.float64, device=totals.device).unbind()
            squares([*away, *mine], sums, nonfinite)
            totals += torch.where(nonfinite > 0, torch.nan, sums).view(2, -1).sum(dim=1)
        return (totals[0] / totals[1]).sqrt()


class _Followed:
    """What tells how far the target goes towards the model in an iteration, by some numbers of the largest tensors.

    Products of ``t' - t``, ``o' - t`` and ``t``, with the target ``t`` of the step measured before, ``t'`` of now and
    the model ``o'`` of now: :func:`_share_followed`.
    """

    def __init__(self, online: Sequence[Tensor]) -> None:
        largest = sorted(range(len(online)), key=lambda place: -online[place].numel())[:_TENSORS]
        self._picked = [(place, -(-online[place].numel() // _WORDS)) for place in largest]
        self._rounding = 2 * max(torch.finfo(online[place].dtype).eps for place in largest)
        self._last: tuple[int, Any] | None = None

    def _sample(self, tensors: list[Tensor]) -> Any:
        parts = []
        for place, stride in self._picked:
            flat = _flat(tensors[place])
            runs = len(flat) // (_RUN * stride)
            parts.append(flat[: runs * _RUN * stride].reshape(runs, -1)[:, :_RUN].reshape(-1) if runs else flat)
        return torch.cat(parts).double() if isinstance(parts[0], Tensor) else np.concatenate(parts, dtype=np.float64)

    def __call__(self, online: list[Tensor], target: list[Tensor], iteration: int) -> dict[str, Tensor | float]:
        """Return the products and how many iterations they are about; nothing in the first step."""
        now = self._sample(target)
        last, self._last = self._last, (iteration, now)
        if last is None or iteration <= last[0]:
            return {}
        then, steps = last[1], iteration - last[0]
        gone, way = now - then, self._sample(online) - then
        return {
            'gone way': gone @ way,
            'way way': way @ way,
            'gone gone': gone @ gone,
            'resolution': self._rounding**2 * (then @ then),
            'steps': steps,
        }


def _flat(tensor: Tensor) -> Any:
    tensor = tensor.detach()
    if tensor.device.type != 'cpu':
        return tensor.reshape(-1)
    # Ten small operations cost a tenth in NumPy.
    return (tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor).numpy().reshape(-1)


def _share_followed(products: dict[str, float]) -> float:
    """Return ``s = <t' - t, o' - t> / |o' - t|^2``, and of ``n`` iterations ``1 - (1 - s)^(1/n)``.

    It is NaN where rounding hides it.

    >>> _share_followed({'gone way': 0.75, 'way way': 1.0, 'gone gone': 0.57, 'resolution': 0.0, 'steps': 2})
    0.5
    """
    if not products['gone gone'] > products['resolution'] or not products['way way'] > 0:
        return math.nan
    share, steps = products['gone way'] / products['way way'], products['steps']
    if steps == 1:
        return share
    return 1 - (1 - share) ** (1 / steps) if share < _SURE else math.nan


class _Pair:
    """A model and its target network, as long as both keep their parameters."""

    def __init__(self, models: tuple[nn.Module, nn.Module]) -> None:
        self._models = models
        self._snapshots = [ModelSnapshot(model) for model in models]
        self.online: list[Tensor] = [*models[0].parameters()]
        self.target: list[Tensor] = [*models[1].parameters()]
        shapes = [[(p.shape, p.dtype, p.device) for p in tensors] for tensors in (self.online, self.target)]
        self.is_alike = shapes[0] == shapes[1] != [] and not any(map(is_sharded, self.online))
        self._distance = RelativeDistance(self.online) if self.is_alike else None
        self._followed = _Followed(self.online) if self.is_alike else None

    def is_of(self, models: tuple[nn.Module, nn.Module]) -> bool:
        same = all(map(operator.is_, models, self._models))
        return same and not any(snapshot.has_changed() for snapshot in self._snapshots)

    def figures(self, iteration: int) -> dict[str, Tensor | float]:
        assert self._distance is not None
        assert self._followed is not None
        distance = self._distance(self.online, self.target)
        fingerprint = folded(combined(bit_sums(self.target, _FINGERPRINT_WORDS)))
        followed = self._followed(self.online, self.target, iteration)
        return {'distance': distance, 'fingerprint': fingerprint, **followed}


class TargetDistance(Metric):
    """``target/distance``, ``target/followed``, and ``monitor/fingerprint/target``, the same while the target rests.

    Whoever knows the two models says so with :meth:`follow`; without, there are no figures.
    """

    name: ClassVar[str] = 'target_distance'
    figures: ClassVar[tuple[Figure, ...]] = (
        Figure(
            pattern='target/distance',
            definition='L2 norm of the difference of the model and its target network, over that of the model',
            unit='ratio',
            hook_point='`forward_end`',
            bad_value='growing without end: the target no longer follows; 0: it is the model itself',
            section='Learner steps',
            scale='log',
            chart=Chart('Updates', 'Distance of the target network'),
        ),
        Figure(
            pattern='target/followed',
            definition=(
                'share of the way to the model that the target network has gone in an iteration, since the step '
                'measured before: the factor of its soft update; 0 while it rests'
            ),
            unit='share',
            hook_point='`forward_end`',
            bad_value='much more or less than before: 1 - factor in place of the factor',
            section='Learner steps',
            chart=Chart('Updates', 'How fast the target network follows'),
        ),
        Figure(
            pattern='monitor/fingerprint/target',
            definition=(
                'a number that stays the same only as long as the target network does, to the last bit; of large '
                'tensors 64 words, evenly spread'
            ),
            unit='none',
            hook_point='`forward_end`',
            bad_value='the same again and again',
            section=INVARIANTS_SECTION,
            chart=Chart('Health of the record', 'Fingerprint of the target network'),
        ),
    )
    hook_points: ClassVar[tuple[str, ...]] = ('forward_end',)
    stretchable: ClassVar[bool] = True

    def __init__(self) -> None:
        self._pair: _Pair | None = None
        self._models: Callable[[], tuple[nn.Module, nn.Module] | None] = lambda: None

    def follow(self, models: Callable[[], tuple[nn.Module, nn.Module] | None]) -> None:
        """Ask this function, in every measured step, for the model and its target network; None if there is none."""
        self._models = models

    @torch.no_grad()
    def measure(self, hook_point: str, step: LearnerStep, rows: RowBuffer) -> None:
        """Compare the two models, where their parameters are alike."""
        models = self._models()
        if models is None or models[0] is models[1]:
            self._pair = None
            return
        if self._pair is None or not self._pair.is_of(models):
            self._pair = _Pair(models)
        for name, value in self._pair.figures(step.iteration).items() if self._pair.is_alike else ():
            write_number(RowKey(self.name, name), value, rows)

    def derive(self, table: RowTable) -> Iterator[tuple[str, float]]:
        """Yield the figures; what is no number is absent."""
        found = {
            name: float(row[MEAN])
            for name in (*_FIGURES, *_PRODUCTS)
            if (row := table.get(RowKey(self.name, name))) is not None and row[COUNT] > 0 and math.isfinite(row[MEAN])
        }
        for name, figure in _FIGURES.items():
            if name in found:
                yield figure, found[name]
        if found.keys() >= set(_PRODUCTS) and math.isfinite(followed := _share_followed(found)):
            yield 'target/followed', followed
