"""What stands in the place of ``policy._forward_learn`` while a policy is monitored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

__all__ = ['MonitoredForward']


class _Runner(Protocol):
    def run(
        self, forward_learn: Callable[..., Any], data: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any: ...


class MonitoredForward:
    """``_forward_learn`` of a monitored policy; after its release it only calls the original.

    Deep copies of the policy and pickled ones are not monitored; they get a copy of the original. A shallow copy
    (``copy.copy``) shares its attributes with the policy, including this one.
    """

    def __init__(self, original: Callable[..., Any], attachment: _Runner) -> None:
        self._original = original
        self._attachment: _Runner | None = attachment
        self.__wrapped__ = original
        self.__self__ = getattr(original, '__self__', None)

    def __call__(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        if self._attachment is None:
            return self._original(data, *args, **kwargs)
        return self._attachment.run(self._original, data, args, kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return _unmonitored, (self._original,)

    def release(self) -> None:
        """Become the original; mode views that were taken meanwhile keep working."""
        self._attachment = None


def _unmonitored(original: Callable[..., Any]) -> Callable[..., Any]:
    return original
