from collections.abc import Callable

from torch import Tensor, dtype

def connect(
    tensor: type,
    parameter: type,
    dtypes: tuple[dtype, dtype, dtype, dtype, dtype],
    is_functional: Callable[[Tensor], bool],
    dlpack: bool,
) -> bool: ...
def squares(
    tensors: list[Tensor | None], numels: list[int], sums: Tensor, nonfinite: Tensor, start: int, stop: int
) -> list[int]: ...
def row(
    tensor: Tensor, mask: Tensor | None, is_norm: bool
) -> tuple[float, float, float, float, float, float] | None: ...
def number(tensor: Tensor) -> float | None: ...
def bit_sums(tensors: list[Tensor], most: int, folded: Tensor | None) -> list[int | None]: ...
def distance(online: list[Tensor], target: list[Tensor]) -> tuple[float, float] | None: ...
