"""How a tensor lies in memory: as one row where possible, in pieces where not, without what ``expand`` repeats."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

__all__ = ['PIECE', 'check_numel', 'dense_flat', 'pieces', 'plain', 'without_repeats']

PIECE = 1 << 16
"""Elements that a pass with conversions holds at a time: 512 KiB in float64, which stays in a core's cache."""


def dense_flat(tensor: Tensor) -> Tensor | None:
    """View a tensor as one contiguous row in the order of its memory, or None where it has gaps or overlaps.

    A sum does not care for the order, so a transposed or channels_last tensor needs no copy.

    Example:
        >>> import torch
        >>> dense_flat(torch.arange(6.0).view(2, 3).t()).tolist()
        [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
        >>> dense_flat(torch.zeros(4, 4)[:, :2]) is None
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


def pieces(tensor: Tensor, size: int = PIECE) -> Iterator[Tensor]:
    """Cut a tensor into contiguous rows of at most ``size`` elements; only pieces of tensors with gaps are copied."""
    flat = dense_flat(tensor)
    if flat is not None:
        yield from (flat[start : start + size] for start in range(0, flat.numel(), size))
    elif tensor.numel() <= size:
        yield tensor.reshape(-1)
    else:
        # The longest dimension is halved until a piece fits, so that no copy is larger than a piece.
        dim = max(range(tensor.dim()), key=tensor.shape.__getitem__)
        half = tensor.shape[dim] // 2
        yield from pieces(tensor.narrow(dim, 0, half), size)
        yield from pieces(tensor.narrow(dim, half, tensor.shape[dim] - half), size)


def without_repeats(tensor: Tensor) -> tuple[Tensor, int]:
    """Collapse the dimensions of stride 0 that ``expand`` makes: the elements in memory, and how often each counts.

    Example:
        >>> import torch
        >>> once, times = without_repeats(torch.ones(3, 1).expand(3, 5))
        >>> tuple(once.shape), times
        ((3, 1), 5)
    """
    times = 1
    for dim, (stride, size) in enumerate(zip(tensor.stride(), tensor.shape, strict=True)):
        if stride == 0 and size > 1:
            tensor = tensor.narrow(dim, 0, 1)
            times *= size
    return tensor, times


def plain(tensor: Tensor) -> Tensor:
    """A strided tensor without graph; of a sparse one its summed values, since what it does not store is zero."""
    tensor = tensor.detach()
    if tensor.is_sparse:
        tensor = tensor.coalesce().values()
    # Lazy zeros are written out by the copy, and lazy negations are resolved.
    return (tensor.clone() if tensor._is_zerotensor() else tensor).resolve_neg()


def check_numel(index: int, tensor: Tensor, numel: int) -> None:
    """Refuse a tensor of another size than its template's."""
    if tensor.numel() != numel:
        raise ValueError(f'tensor {index} must have {numel} elements like its template, got {tensor.numel()}')
