"""What is known of a writer's run: its configuration, and the names that others write beside the monitor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

__all__ = ['Announced', 'announce', 'announced']


@dataclass
class Announced:
    """Announcements for one writer.

    Arguments:
        names: names that others write, which get charts too.
        configuration: configuration of the run; None if unknown.
    """

    names: set[str] = field(default_factory=set)
    configuration: Mapping[str, Any] | None = None


_announced: WeakKeyDictionary[Any, Announced] = WeakKeyDictionary()


def announce(writer: Any, names: Iterable[str] = (), configuration: Mapping[str, Any] | None = None) -> None:
    """Say what will be written through a writer beside the monitor's figures, so that it is in the dashboard.

    Example:
        >>> class Writer:
        ...     pass
        >>> writer = Writer()
        >>> announce(writer, ['eval/Pong/return'])
        >>> announced(writer).names
        {'eval/Pong/return'}
    """
    known = _announced.setdefault(writer, Announced())
    known.names.update(names)
    if configuration is not None:
        known.configuration = configuration


def announced(writer: Any) -> Announced:
    """Return the announcements for a writer; empty if the writer does not exist yet."""
    return Announced() if writer is None else _announced.get(writer, Announced())
