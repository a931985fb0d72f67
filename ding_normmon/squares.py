r"""Exact and fast sums of squares of many tensors, without moving them in memory.

For every tensor :math:`x` of a fixed-length list (the parameters of a model, or their gradients)

.. math:: s = \sum_{i:\,|x_i| < \infty} x_i^2, \qquad m = \#\{i : x_i \text{ is NaN or infinite}\}

are written as float64. The square root of a sum of such :math:`s` is the L2 norm of any group of tensors.

**Accuracy.** A few thousand squares at most are added in float32 and their sums are added in float64: the two-level
summation of Blanchard, Higham & Mary, *A class of fast and accurate summation algorithms*, SIAM J. Sci. Comput.
42(3), A1541-A1557, 2020. Its error bound holds the length of a block and not that of the tensor, so it does not grow
with size; a dot product over :math:`l` SIMD lanes divides it by :math:`l` once more. What is left is systematic
rounding: equal entries round the same way at each addition. Largest relative error of :math:`s` over 3,000 such
tensors, by the instruction set of NumPy's OpenBLAS (the error of the norm is half of it; for entries that differ it
stays under 2.5e-7 everywhere):

======== ========== ======== ========
block    AVX-512    AVX2     SSE
======== ========== ======== ========
1024     2.6e-7     5.1e-7   9.9e-7
2048     5.1e-7     9.7e-7   1.9e-6
4096     9.7e-7     1.9e-6   3.9e-6
======== ========== ======== ========

Long tensors are cut into blocks of :data:`BLOCK`. Tensors of up to 4096 elements are one block each where
:func:`dot_limit` finds the norm exact to 1e-6 on this processor.

**Range.** A float32 block overflows from :math:`|x_i| \approx 1.8 \cdot 10^{19}` on. Below
:math:`|x_i| \approx 10^{-19}` a square is subnormal or zero, an absolute error of at most :math:`2^{-126}` each
(whether or not the processor flushes subnormals); it is invisible as long as :math:`s \ge n\,2^{-126}/u`. So
:math:`n\,2^{-102} \le s < \infty` certifies the fast sum, and a tensor that fails the test (NaN and infinities fail
it too) is measured again in float64, piece by piece and masked. An exact zero is recognised without that second pass.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ['BLOCK', 'MOST_IN_FLOAT32', 'SquareSums', 'careful_sum_of_squares', 'dot_limit']

BLOCK = 1024
"""Squares of a long tensor that are added in float32 before float64 takes over."""

MOST_IN_FLOAT32 = 4096
"""Squares of a small tensor that are added in float32, at most; see :func:`dot_limit`."""

_PIECE = 64 * BLOCK
"""Elements that a pass with conversions holds at a time: 512 KiB in float64, which stays in a core's cache."""

_SHORT_SCRATCH = 1 << 15
"""Elements of one run of short tensors: 384 KiB in float32 and float64 together, less than a second-level cache."""

_THREADED = 1 << 23
"""From this many elements in long tensors on, as many threads as torch uses share them."""

_MOST_THREADS = 8
"""Memory is the limit: more threads than this only queue for the interpreter lock."""

_LOWEST = 2.0**-102
"""A float32 sum of n squares is free of underflow when it reaches n times this: 2^-126 (normal range) / 2^-24."""

_DEVICE_ROW = 512
_DEVICE_CHUNK = 1 << 22

_data_ptr = torch.Tensor.data_ptr
_detach = torch.Tensor.detach
_numel = torch.Tensor.numel
_numpy = torch.Tensor.numpy
_ravel = np.ndarray.ravel
_dot = np.ndarray.dot
_nbytes = attrgetter('nbytes')

_BLAS = (torch.float32, torch.float64)
_Array = np.ndarray[Any, np.dtype[Any]]


def _dense_flat(tensor: Tensor) -> Tensor | None:
    """View a tensor as one contiguous row in the order of its memory, or None where it has gaps or overlaps.

    A sum does not care for the order, so a transposed or channels_last tensor needs no copy.

    Example:
        >>> _dense_flat(torch.arange(6.0).view(2, 3).t()).tolist()
        [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
        >>> _dense_flat(torch.zeros(4, 4)[:, :2]) is None
        True
    """
    if tensor.is_contiguous():
        return tensor.view(-1)
    expected = 1
    for stride, size in sorted((st, sz) for st, sz in zip(tensor.stride(), tensor.shape, strict=True) if sz > 1):
        if stride != expected:
            return None
        expected *= size
    return tensor.as_strided((expected,), (1,), tensor.storage_offset())


def _pieces(tensor: Tensor, size: int = _PIECE) -> Iterator[Tensor]:
    """Cut a tensor into contiguous rows of at most ``size`` elements; only pieces of tensors with gaps are copied."""
    flat = _dense_flat(tensor)
    if flat is not None:
        yield from (flat[start : start + size] for start in range(0, flat.numel(), size))
    elif tensor.numel() <= size:
        yield tensor.reshape(-1)
    else:
        # The longest dimension is halved until a piece fits, so that no copy is larger than a piece.
        dim = max(range(tensor.dim()), key=tensor.shape.__getitem__)
        half = tensor.shape[dim] // 2
        yield from _pieces(tensor.narrow(dim, 0, half), size)
        yield from _pieces(tensor.narrow(dim, half, tensor.shape[dim] - half), size)


def _without_repeats(tensor: Tensor) -> tuple[Tensor, int]:
    """Collapse the dimensions of stride 0 that ``expand`` makes: the elements in memory, and how often each counts.

    Example:
        >>> once, times = _without_repeats(torch.ones(3, 1).expand(3, 5))
        >>> tuple(once.shape), times
        ((3, 1), 5)
    """
    times = 1
    for dim, (stride, size) in enumerate(zip(tensor.stride(), tensor.shape, strict=True)):
        if stride == 0 and size > 1:
            tensor = tensor.narrow(dim, 0, 1)
            times *= size
    return tensor, times


def _plain(tensor: Tensor) -> Tensor:
    """A strided tensor without graph; of a sparse one its summed values, since what it does not store is zero."""
    tensor = tensor.detach()
    return tensor.coalesce().values() if tensor.is_sparse else tensor


def careful_sum_of_squares(tensor: Tensor) -> tuple[float, int]:
    """Sum the squares of the finite entries in float64, and count the others; right for any input, 5 times slower.

    Temporary memory is bounded by a piece of 65,536 elements, whatever the tensor's size.

    Example:
        >>> total, nonfinite = careful_sum_of_squares(torch.tensor([1e25, float('nan'), 0.0]))
        >>> f'{total:.6g}', nonfinite
        ('1e+50', 1)
    """
    total, nonfinite = 0.0, 0
    tensor, times = _without_repeats(_plain(tensor))
    if tensor.numel():
        for piece in _pieces(tensor):
            wide = piece.to(torch.float64)
            finite = torch.isfinite(wide)
            bad = wide.numel() - int(torch.count_nonzero(finite))
            if bad:
                nonfinite += bad
                wide = torch.where(finite, wide, 0.0)
            total += float(torch.dot(wide, wide))
    return total * times, nonfinite * times


@functools.cache
def dot_limit(tolerance: float = 1e-6) -> int:
    """The longest float32 dot product of this process's BLAS that keeps a norm within a relative tolerance.

    It is measured, once, on the worst kind of data, equal entries: the kernels of other processors have fewer lanes.

    Example:
        >>> BLOCK <= dot_limit() <= MOST_IN_FLOAT32
        True
    """
    length = MOST_IN_FLOAT32
    # Roots, as round numbers have short squares, which are added without any rounding.
    values = np.sqrt(np.linspace(1.01, 3.99, 100)).astype(np.float32)
    while length > BLOCK:
        rows = [np.full(length, value) for value in values]
        errors = [abs(float(row.dot(row)) / (length * float(row[0]) ** 2) - 1.0) for row in rows]
        if max(errors) < 2.0 * tolerance:  # of the square: twice that of its root
            break
        length //= 2
    return length


def _split(numel: int) -> tuple[int, int]:
    """Block length and number of blocks for a long tensor; what they leave over is a tail of less than a block.

    A length that divides the tensor saves the tail, but short blocks cost more block sums.

    Example:
        >>> _split(768 * 101), _split(4099)
        ((808, 96), (1024, 4))
    """
    for length in range(BLOCK, BLOCK // 2 - 1, -1):
        if numel % length == 0:
            return length, numel // length
    return BLOCK, numel // BLOCK


def _fill(indices: Sequence[int], numels: Sequence[int], limit: int) -> list[list[int]]:
    """Cut a list of tensors into runs of at most ``limit`` elements.

    Example:
        >>> _fill([0, 1, 2], [3, 3, 3], 6)
        [[0, 1], [2]]
    """
    groups: list[list[int]] = []
    used = limit
    for index in indices:
        if used + numels[index] > limit:
            groups.append([])
            used = 0
        groups[-1].append(index)
        used += numels[index]
    return groups


class _Blocks(NamedTuple):
    """Where the block sums of one long tensor go, and how it is cut."""

    start: int
    stop: int
    length: int
    number: int


def _multiply(queue: Iterator[tuple[_Array, _Blocks]], partial: _Array) -> None:
    """Write the block sums of the rows in a queue, which other threads may be emptying too."""
    with np.errstate(all='ignore'):
        for row, (start, stop, length, number) in queue:
            main = length * number
            # A stack of (1, length) by (length, 1) products is one BLAS dot product a block, in one call.
            rows = row[:main].reshape(number, 1, length)
            products = partial[start : start + number].reshape(number, 1, 1)
            np.matmul(rows, rows.reshape(number, length, 1), out=products)
            if main < len(row):
                partial[stop - 1] = row[main:].dot(row[main:])


class SquareSums:
    r"""Sum of squares of each tensor in a fixed-length list, written into a float64 tensor.

    On a CPU the list falls into four kinds, by the templates:

    ============ ========================================== ====================================================
    kind         templates                                  method
    ============ ========================================== ====================================================
    ``short``    1-d, at most 4096 elements (biases)        one ``torch.cat`` per dtype into scratch, float64
    ``medium``   other float32/64, at most `dot_limit()`    one BLAS dot product on a zero-copy NumPy view
    ``long``     float32 of more elements                   one batched BLAS product over blocks of at most 1024
    ``other``    the rest                                   pieces converted to float32 or float64
    ============ ========================================== ====================================================

    Long tensors with more than 8 M elements together are shared with as many helper threads as torch would use, and
    at most 7; each block sum, hence the result, is the same to the last bit for any number of threads. The tensors
    of one call are all measured when it returns.

    On any other device the tensors of a chunk are laid out in rows of 512 in one scratch buffer, masked there, and
    added in float64, with no host read and no wait for the device.

    Tensors are never changed, and no tensor is held between calls, except by ``keep_views``. A NumPy view marks a
    tensor's storage as not resizable (``Tensor.resize_`` to more elements raises afterwards); no value changes.
    A finite float64 tensor whose sum of squares is out of float64's own range is reported as infinite, or as zero.

    Arguments:
        templates: tensors with the shapes, dtypes and the device to come; only these are read, and nothing is kept.
        keep_views: keep NumPy views between calls and renew them where a tensor's address changed. For parameters,
            which stay where they are; not for gradients, whose memory the views would keep from being freed.
        device_path: True takes the path for accelerators on a CPU too (for tests); None takes the device's own.

    Example:
        >>> weights = [torch.full((3, 4), 2.0), torch.tensor([3.0, float('inf')]), torch.tensor(5.0)]
        >>> sums = SquareSums(weights)
        >>> out, nonfinite = torch.empty(3, dtype=torch.float64), torch.empty(3, dtype=torch.float64)
        >>> sums([weights[0], weights[1], None], out, nonfinite)
        >>> out.tolist(), nonfinite.tolist()
        ([48.0, 9.0, 0.0], [0.0, 1.0, 0.0])
        >>> sums.scratch_bytes
        80
    """

    def __init__(
        self, templates: Sequence[Tensor], *, keep_views: bool = False, device_path: bool | None = None
    ) -> None:
        devices = {template.device for template in templates}
        if len(devices) > 1:
            raise ValueError(f'templates must be on one device, got {sorted(map(str, devices))}')
        for index, template in enumerate(templates):
            if template.is_complex():
                raise TypeError(f'template {index} must be real, got {template.dtype}')
        self.device = devices.pop() if devices else torch.device('cpu')
        self.scratch_bytes = 0
        self._numels = [template.numel() for template in templates]
        self._on_device = self.device.type != 'cpu' if device_path is None else device_path
        self._keep_views = keep_views
        if self._on_device:
            self._plan_device(templates)
        else:
            self._plan_cpu(templates)

    @torch.no_grad()
    def __call__(self, tensors: Sequence[Tensor | None], sums: Tensor, nonfinite: Tensor) -> None:
        """Write the sum of squares and the number of non-finite entries of each tensor; None counts as empty.

        Arguments:
            tensors: as many as there were templates, in their order, with their numbers of elements.
            sums: contiguous float64 tensor of that length on the templates' device, overwritten.
            nonfinite: the same, overwritten.
        """
        if len(tensors) != len(self._numels):
            raise ValueError(f'expected {len(self._numels)} tensors, got {len(tensors)}')
        if self._on_device:
            self._call_device(tensors, sums, nonfinite)
        else:
            self._call_cpu(tensors, sums, nonfinite)

    def _checked(self, index: int, tensor: Tensor) -> Tensor:
        """The tensor, when it has as many elements as its template."""
        if tensor.numel() != self._numels[index]:
            raise ValueError(
                f'tensor {index} must have {self._numels[index]} elements like its template, got {tensor.numel()}'
            )
        return tensor

    # -- CPU ----------------------------------------------------------------------------------------------------

    def _plan_cpu(self, templates: Sequence[Tensor]) -> None:
        short: dict[torch.dtype, list[int]] = {}
        self._medium: list[int] = []
        self._long: list[int] = []
        self._other: list[int] = []
        limit = dot_limit()
        for index, template in enumerate(templates):
            numel = self._numels[index]
            dtype = template.dtype
            if numel == 0:
                continue
            if template.dim() == 1 and dtype.is_floating_point and numel <= MOST_IN_FLOAT32:
                short.setdefault(dtype, []).append(index)
            elif numel <= limit and dtype in _BLAS:
                self._medium.append(index)
            elif dtype == torch.float32:
                self._long.append(index)
            else:
                self._other.append(index)
        self._short: list[_ShortTensors] = []
        for dtype, indices in short.items():
            groups = _fill(indices, self._numels, _SHORT_SCRATCH)
            size = max(sum(self._numels[index] for index in group) for group in groups)
            row, wide = torch.zeros(size, dtype=dtype), torch.zeros(size, dtype=torch.float64)
            zeros = torch.zeros(max(self._numels[index] for index in indices), dtype=dtype)
            self._short += [_ShortTensors(group, self._numels, row, wide, zeros) for group in groups]
            self.scratch_bytes += sum(tensor.nbytes for tensor in (row, wide, zeros))
        order = [index for group in self._short for index in group.indices]
        self._order = np.array(order + self._medium + self._long + self._other, dtype=np.intp)
        self._values = np.zeros(len(self._order))
        # Short tensors are squared in float64 and cannot underflow where float32 can.
        self._lowest = np.zeros(len(self._numels))
        for index in self._medium + self._long + self._other:
            self._lowest[index] = self._numels[index] * _LOWEST

        self._blocks: list[_Blocks] = []
        stop = 0
        for index in self._long:
            length, count = _split(self._numels[index])
            tail = length * count < self._numels[index]
            self._blocks.append(_Blocks(start := stop, stop := start + count + tail, length, count))
        self._starts = np.array([blocks.start for blocks in self._blocks], dtype=np.intp)
        self._partial: _Array = np.zeros(stop, dtype=np.float32)
        self._long_elements = sum(self._numels[index] for index in self._long)
        self._helpers: ThreadPoolExecutor | None = None
        self._piece = torch.zeros(_PIECE if self._other else 0)
        self._pointers: list[int] = []
        self._rows: list[_Array] = []
        self._medium_bytes = [templates[index].element_size() * self._numels[index] for index in self._medium]
        arrays = (self._values, self._lowest, self._partial, self._piece)
        self.scratch_bytes += sum(array.nbytes for array in arrays)

    def _call_cpu(self, tensors: Sequence[Tensor | None], sums: Tensor, nonfinite: Tensor) -> None:
        out, values = sums.numpy(), self._values
        start = 0
        for group in self._short:
            stop = start + len(group.indices)
            group.measure([tensors[index] for index in group.indices], values[start:stop])
            start = stop
        # A product that overflows sets the processor's flag; it is found below, and is no reason for a warning.
        with np.errstate(all='ignore'):
            stop = start + len(self._medium)
            if self._medium:
                self._measure_medium(tensors, values[start:stop])
            start, stop = stop, stop + len(self._long)
            if self._long:
                self._measure_long(tensors, values[start:stop])
            for position, index in enumerate(self._other, stop):
                tensor = tensors[index]
                values[position] = 0.0 if tensor is None else self._measure_other(self._checked(index, tensor))
        out.fill(0.0)
        out[self._order] = values
        nonfinite.zero_()
        for index in np.flatnonzero(~((out >= self._lowest) & (out < math.inf))):
            tensor = tensors[index]
            if tensor is None:
                continue
            # Comparing with zero is many times cheaper than the second pass, and zero gradients are common.
            if out[index] == 0.0 and not _any(tensor):
                continue
            out[index], nonfinite[index] = careful_sum_of_squares(tensor)

    def _measure_medium(self, tensors: Sequence[Tensor | None], values: _Array) -> None:
        # Mapped builtins: at a microsecond per tensor, one more bytecode loop over the list is 5% of the time.
        given: list[Any] = [tensors[index] for index in self._medium]
        try:
            rows = self._kept_rows(given) if self._keep_views else self._new_rows(given)
        except (RuntimeError, TypeError):  # None, sparse, half precision; the usual case pays no test
            present = [position for position, tensor in enumerate(given) if tensor is not None]
            rows = [_row(self._checked(self._medium[position], given[position])) for position in present]
            values.fill(0.0)
            values[present] = list(map(_dot, rows, rows))
        else:
            values[:] = list(map(_dot, rows, rows))

    def _new_rows(self, given: list[Any]) -> list[_Array]:
        try:
            rows = list(map(_ravel, map(_numpy, given)))
        except RuntimeError:  # a parameter among them: NumPy takes no tensor that requires grad
            rows = list(map(_ravel, map(_numpy, map(_detach, given))))
        # One look at the bytes finds another number of elements, and half precision, which NumPy adds as such.
        if list(map(_nbytes, rows)) != self._medium_bytes:
            raise TypeError
        return rows

    def _kept_rows(self, given: list[Any]) -> list[_Array]:
        pointers = list(map(_data_ptr, given))
        if pointers != self._pointers:
            self._rows = [_row(self._checked(i, tensor)) for i, tensor in zip(self._medium, given, strict=True)]
            # A row that had to be copied would show these values for ever: such a list is viewed anew each time.
            shared = all(tensor.is_contiguous() and tensor.dtype in _BLAS for tensor in given)
            self._pointers = pointers if shared else []
        return self._rows

    def _measure_long(self, tensors: Sequence[Tensor | None], values: _Array) -> None:
        partial = self._partial
        work: list[tuple[_Array, _Blocks]] = []
        for index, blocks in zip(self._long, self._blocks, strict=True):
            tensor = tensors[index]
            row = None if tensor is None else self._long_row(index, tensor)
            if row is not None:
                work.append((row, blocks))
                continue
            partial[blocks.start : blocks.stop] = 0.0
            if tensor is not None:
                # One block sum stands for the whole tensor: rare, and exact to float32's last digit.
                partial[blocks.start] = self._measure_other(tensor)
        # Taking the next item of a list's iterator is atomic: whoever is free takes it. A helper that the machine
        # has no core for costs nothing, where a barrier per tensor would wait for it hundreds of times.
        queue = iter(work)
        helpers = self._start_helpers(queue)
        _multiply(queue, partial)
        for helper in helpers:
            if not helper.cancel():
                helper.result()
        np.add.reduceat(partial, self._starts, dtype=np.float64, out=values)

    def _start_helpers(self, queue: Iterator[tuple[_Array, _Blocks]]) -> list[Future[None]]:
        count = min(torch.get_num_threads(), _MOST_THREADS) - 1
        if count < 1 or self._long_elements < _THREADED:
            return []
        if self._helpers is None:
            self._helpers = ThreadPoolExecutor(_MOST_THREADS - 1, thread_name_prefix='ding_normmon-squares')
        return [self._helpers.submit(_multiply, queue, self._partial) for _ in range(count)]

    def _long_row(self, index: int, tensor: Tensor) -> _Array | None:
        """A NumPy row on a long tensor's memory, or None where it needs a conversion or has gaps."""
        if tensor.requires_grad:
            tensor = tensor.detach()
        try:
            view = tensor.numpy()
        except (RuntimeError, TypeError):
            pass
        else:
            if view.nbytes == 4 * self._numels[index] and view.dtype == np.float32 and view.flags.c_contiguous:
                return view.reshape(-1)
        self._checked(index, tensor)
        if tensor.dtype != torch.float32 or tensor.layout != torch.strided:
            return None
        flat = _dense_flat(tensor)
        return None if flat is None else flat.numpy()

    def _measure_other(self, tensor: Tensor) -> float:
        """The sum of squares of one tensor of any dtype and layout, converted piece by piece."""
        tensor, times = _without_repeats(_plain(tensor))
        total = 0.0
        if tensor.numel() <= BLOCK and tensor.dtype.is_floating_point:
            row = _row(tensor)
            total = float(row.dot(row))
        elif tensor.dtype.is_floating_point and tensor.dtype != torch.float64:
            scratch = self._piece if self._piece.numel() else torch.empty(min(_PIECE, tensor.numel()))
            for piece in _pieces(tensor):
                used = piece.numel()
                main = used // BLOCK * BLOCK
                scratch[:used].copy_(piece)
                row = scratch[:used].numpy()
                if main:
                    rows = row[:main].reshape(-1, 1, BLOCK)
                    total += float(np.matmul(rows, rows.reshape(-1, BLOCK, 1)).sum(dtype=np.float64))
                total += float(row[main:].dot(row[main:]))
        else:
            for piece in _pieces(tensor):
                wide = piece.to(torch.float64)
                total += float(torch.dot(wide, wide))
        return total * times

    # -- accelerators -------------------------------------------------------------------------------------------

    def _plan_device(self, templates: Sequence[Tensor]) -> None:
        """Cut the list into chunks of rows; every tensor begins on a row of its own, and zeros fill its last one."""
        exact = all(template.dtype.is_floating_point and template.dtype != torch.float64 for template in templates)
        self._dtype = torch.float32 if exact else torch.float64
        rows = sum(-(-numel // _DEVICE_ROW) for numel in self._numels)
        chunk_rows = max(1, min(_DEVICE_CHUNK // _DEVICE_ROW, rows))
        self._chunks: list[list[tuple[int, int, int]]] = [[]]  # (tensor, first element, one past the last)
        owners: list[list[int]] = [[]]
        for index, numel in enumerate(self._numels):
            first = 0
            while first < numel:
                free = chunk_rows - len(owners[-1])
                if not free:
                    self._chunks.append([])
                    owners.append([])
                    continue
                last = min(numel, first + free * _DEVICE_ROW)
                self._chunks[-1].append((index, first, last))
                owners[-1] += [index] * -(-(last - first) // _DEVICE_ROW)
                first = last
        self._owners = [torch.tensor(chunk, dtype=torch.int64).to(self.device) for chunk in owners]
        self._grid = torch.zeros(chunk_rows * _DEVICE_ROW if rows else 0, dtype=self._dtype, device=self.device)
        self._zeros = torch.zeros(_DEVICE_ROW, dtype=self._dtype, device=self.device)
        self.scratch_bytes = sum(tensor.nbytes for tensor in (self._grid, self._zeros, *self._owners))

    def _call_device(self, tensors: Sequence[Tensor | None], sums: Tensor, nonfinite: Tensor) -> None:
        sums.zero_()
        nonfinite.zero_()
        flats: dict[int, Tensor] = {}
        for chunk, owner in zip(self._chunks, self._owners, strict=True):
            parts: list[Tensor] = []
            for index, first, last in chunk:
                tensor = tensors[index]
                pad = -(last - first) % _DEVICE_ROW
                if tensor is None:
                    parts.append(self._zeros[:1].expand(last - first + pad))
                    continue
                if first == 0:
                    self._checked(index, tensor)
                    plain = tensor.detach().to_dense() if tensor.is_sparse else tensor.detach()
                    flat = _dense_flat(plain)
                    flats = {index: (plain.reshape(-1) if flat is None else flat).to(self._dtype)}
                parts.append(flats[index][first:last])
                if pad:
                    parts.append(self._zeros[:pad])
            if not parts:
                continue
            rows = self._grid[: len(owner) * _DEVICE_ROW]
            torch.cat(parts, out=rows)
            finite = torch.isfinite(rows).view(-1, _DEVICE_ROW)
            wide = rows.view(-1, _DEVICE_ROW).to(torch.float64)
            # The mask multiplies nothing: 0 * inf is NaN. Zeros replace what is not finite.
            wide.masked_fill_(~finite, 0.0)
            sums.index_add_(0, owner, wide.square_().sum(dim=1))
            nonfinite.index_add_(0, owner, (_DEVICE_ROW - finite.sum(dim=1)).to(torch.float64))


class _ShortTensors:
    """The 1-d tensors of one dtype: laid end to end in scratch, squared in float64, added segment by segment."""

    def __init__(self, indices: list[int], numels: Sequence[int], row: Tensor, wide: Tensor, zeros: Tensor) -> None:
        self.indices = indices
        self._lengths = [numels[index] for index in indices]
        self._starts = np.cumsum([0, *self._lengths[:-1]])
        used = sum(self._lengths)
        self._row, self._wide, self._wide_np = row[:used], wide[:used], wide[:used].numpy()
        # Stand-ins for None. Contiguous, since one tensor with another stride takes torch.cat off its fast path.
        self._zeros = zeros

    def measure(self, tensors: list[Tensor | None], values: _Array) -> None:
        """Write the sum of squares of each tensor into ``values``."""
        try:
            self._lay(tensors)  # type: ignore[arg-type]
        except (RuntimeError, TypeError, ValueError):  # None, or one of the mistakes that are told apart here
            parts = [
                self._zeros[:length] if tensor is None else tensor
                for length, tensor in zip(self._lengths, tensors, strict=True)
            ]
            for index, length, part in zip(self.indices, self._lengths, parts, strict=True):
                if part.numel() != length:
                    raise ValueError(
                        f'tensor {index} must have {length} elements like its template, got {part.numel()}'
                    ) from None
            self._lay([part.to_dense() if part.is_sparse else part for part in parts])
        self._wide.mul_(self._wide)
        np.add.reduceat(self._wide_np, self._starts, out=values)

    def _lay(self, parts: list[Tensor]) -> None:
        # torch.cat would resize its output, and a swapped pair it would not see at all.
        if list(map(_numel, parts)) != self._lengths:
            raise ValueError
        torch.cat(parts, out=self._row)
        self._wide.copy_(self._row)


def _any(tensor: Tensor) -> bool:
    tensor = _plain(tensor)
    # NumPy's search stops early and costs a third of torch's, but it does not know half precision.
    return bool(tensor.numpy().any()) if tensor.dtype == torch.float32 else bool(tensor.any())


def _row(tensor: Tensor) -> _Array:
    """A NumPy row of a small tensor's values: without a copy where its memory and dtype allow."""
    tensor = _plain(tensor)
    if tensor.dtype not in _BLAS:
        tensor = tensor.to(torch.float32)
    return tensor.numpy().reshape(-1)
