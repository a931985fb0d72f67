r"""Sketches: short vectors whose inner products are those of the long vectors they stand for, up to a known error.

Gradients of tasks that live on different ranks meet on rank 0; 50 million numbers per task cannot travel, a few
thousand can. A count sketch of :math:`x \in R^d` adds every entry, with a random sign, to one of :math:`k` random
buckets,

.. math:: y_j = \sum_{i:\,h(i)=j} s_i x_i, \qquad E\langle y_x, y_z\rangle = \langle x, z\rangle, \qquad
          Var \le \frac1k\left(\|x\|^2\|z\|^2 + \langle x, z\rangle^2\right)

(Charikar, Chen & Farach-Colton, "Finding frequent items in data streams", ICALP 2002; the variance is that of a random
projection without the terms i = j, see Weinberger et al., "Feature hashing", ICML 2009). It is linear: the sketch of a
difference is the difference of the sketches.

Buckets and signs of a whole model would be larger than the gradient. They are drawn once for a **chunk** of the vector,
as a permutation that gives every bucket the same number of entries, and used again for every chunk with another
rotation of the buckets and other signs of its **rows** of 64 entries. Chunks have different rotations (as long as there
are fewer chunks than buckets), so two entries at the same place of two chunks, whose signs go together, never meet; any
other two entries meet with probability of at most 1/(k-1). Without the signs of rows, two entries that meet in one
chunk would meet with the same sign in all of them, and the error of a constant vector would be larger by a third. A
vector that is no longer than the sketch is kept as it is, and its inner products are exact.

Random numbers come from a generator of the sketch's own with a fixed seed: equal on all ranks and in all runs, and the
global random state is not touched.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ding_normmon.rows.chunks import cut

__all__ = ['ChunkTable', 'Sketch']

CHUNK = 1 << 16
"""Entries of a chunk, at most: its permutation, signs and buffer take 0.8 MiB."""

ROW = 64
"""Neighbours whose signs change together from chunk to chunk."""

_SEED = 20020708
_OFFSETS = 4093


class ChunkTable:
    """Permutation and signs of a chunk; groups of parameters share them.

    Arguments:
        size: number of buckets, a multiple of :data:`ROW`.
        chunk: number of entries, a multiple of ``size``.
        device: where the vectors are.
    """

    def __init__(self, size: int, chunk: int, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(_SEED + chunk)
        # On the CPU first: a generator of an accelerator draws other numbers.
        self.order = torch.randperm(chunk, generator=generator).to(torch.int32).to(device)
        self.signs = (torch.randint(0, 2, (chunk,), generator=generator) * 2 - 1).to(torch.float32).to(device)
        self.rotations = torch.randperm(size, generator=generator).tolist()
        rows = chunk // ROW
        self._row_signs = (torch.randint(0, 2, (8 * rows, 1), generator=generator) * 2 - 1).to(torch.float32).to(device)
        self._offsets = torch.randint(0, 7 * rows, (_OFFSETS,), generator=generator).tolist()
        self.buffer = torch.zeros(chunk, dtype=torch.float32, device=device)
        tensors = (self.order, self.signs, self._row_signs, self.buffer)
        self.bytes = sum(tensor.nbytes for tensor in tensors) + 8 * (size + _OFFSETS)

    def row_signs(self, number: int) -> Tensor:
        """Return the signs of the rows of one chunk, (rows, 1)."""
        offset = self._offsets[number % _OFFSETS]
        return self._row_signs[offset : offset + len(self.buffer) // ROW]


class Sketch:
    """The sketch of a list of tensors, read as one long vector.

    Arguments:
        numels: number of elements of each tensor.
        size: length of the sketch, a multiple of :data:`ROW`.
        device: where the tensors are.
        tables: tables that exist already, by length of chunk; new ones are added.

    Attributes:
        size: length of the sketch: ``size``, or the number of elements where that is not larger.
        collision: largest probability with which two entries meet; 0 if nothing is lost. The variance of an
            inner product is at most ``collision`` times (norms squared, plus the inner product squared).

    Example:
        >>> sketch = Sketch([3, 2], size=64, device=torch.device('cpu'))
        >>> sketch([torch.tensor([1., 2., 3.]), None], out=torch.zeros(5, dtype=torch.float64)).tolist()
        [1.0, 2.0, 3.0, 0.0, 0.0]
    """

    def __init__(
        self,
        numels: Sequence[int],
        size: int,
        device: torch.device,
        tables: dict[int, ChunkTable] | None = None,
    ) -> None:
        if size % ROW:
            raise ValueError(f'the length of a sketch is a multiple of {ROW}, got {size}')
        total = sum(numels)
        self.exact = total <= size
        self.size = total if self.exact else size
        self.numels = list(numels)
        self.collision = 0.0
        if self.exact:
            return
        chunk = min(-(-total // size) * size, max(1, CHUNK // size) * size)
        tables = {} if tables is None else tables
        if chunk not in tables:
            tables[chunk] = ChunkTable(size, chunk, device)
        self._table = tables[chunk]
        self._chunks = cut(numels, chunk)
        # In one chunk every bucket has the same number of places, and an entry has taken one of them.
        within = (chunk // size - 1) / (chunk - 1)
        self.collision = within if len(self._chunks) == 1 else 1 / (size - 1)

    def __call__(self, tensors: Sequence[Tensor | None], out: Tensor, square: Tensor | None = None) -> Tensor:
        """Write the sketch of the tensors into ``out`` (float32 or float64, one dimension) and return it.

        Entries are added in float64, so the difference of two float64 sketches keeps the digits of a small change.

        Arguments:
            tensors: one per entry of ``numels``, real, any layout; None stands for zeros. They are only read.
            out: on the same device, of length ``size``.
            square: receives the exact squared norm (float64, no dimension; NaN or infinite if an entry is).
        """
        if square is not None:
            square.zero_()
        flats = [None if tensor is None else _flat(tensor) for tensor in tensors]
        for numel, flat in zip(self.numels, flats, strict=True):
            if flat is not None and flat.numel() != numel:
                raise ValueError(f'expected a tensor of {numel} elements, got {flat.numel()}')
        if self.exact:
            start = 0
            for numel, flat in zip(self.numels, flats, strict=True):
                if flat is None:
                    out[start : start + numel].zero_()
                else:
                    out[start : start + numel].copy_(flat)
                start += numel
            if square is not None:
                for flat in flats:
                    if flat is not None:
                        square.add_(_square_sum(flat))
            return out
        table, total = self._table, torch.zeros(self.size, dtype=torch.float64, device=out.device)
        buffer = table.buffer
        for number, pieces in enumerate(self._chunks):
            stop = 0
            for index, first, last in pieces:
                start, stop = stop, stop + last - first
                flat = flats[index]
                if flat is None:
                    buffer[start:stop].zero_()
                else:
                    buffer[start:stop].copy_(flat[first:last])
            buffer[stop:].zero_()
            if square is not None:
                square.add_(_square_sum(buffer))
            buffer.view(-1, ROW).mul_(table.row_signs(number))
            entries = buffer.index_select(0, table.order).mul_(table.signs)
            buckets = entries.view(self.size, -1).sum(dim=1, dtype=torch.float64)
            total.add_(buckets.roll(table.rotations[number % self.size]))
        return out.copy_(total)


def _square_sum(flat: Tensor) -> Tensor:
    wide = flat.to(torch.float64)
    # Not in place: of a float64 tensor `wide` is the tensor itself, and that may be the gradient that is trained with.
    return torch.dot(wide, wide)


def _flat(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return (tensor.to_dense() if tensor.is_sparse else tensor).reshape(-1)
