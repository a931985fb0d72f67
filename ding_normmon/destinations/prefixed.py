"""The records of one of several policies, under names of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ding_normmon.core.destination import Destination, RunDescription
from ding_normmon.core.record import Record

__all__ = ['Prefixed', 'with_prefix']


def with_prefix(record: Record, name: str) -> Record:
    """Return a record whose metrics, matrices and notes begin with a name, and whose findings say it.

    Example:
        >>> list(with_prefix(Record(0, {'grad/model/_total_norm': 1.0}), 'opponent').scalars)
        ['opponent/grad/model/_total_norm']
        >>> list(with_prefix(Record(0, {'grad/model/_total_norm': 1.0}), '').scalars)
        ['grad/model/_total_norm']
    """
    if not name:
        return record
    return replace(
        record,
        scalars={f'{name}/{key}': value for key, value in record.scalars.items()},
        matrices={f'{name}/{key}': value for key, value in record.matrices.items()},
        notes={f'{name}/{key}': value for key, value in record.notes.items()},
        findings=tuple(replace(entry, sentence=f'{name}: {entry.sentence}') for entry in record.findings),
    )


class Prefixed:
    """A destination that hands records on to another one under names that begin with a name.

    Arguments:
        destination: where they go.
        name: tells the name when a record comes; empty for none.
    """

    def __init__(self, destination: Destination, name: Callable[[], str]) -> None:
        self._destination = destination
        self._name = name

    def begin(self, description: RunDescription) -> None:
        """Hand on what is known of the run."""
        begin = getattr(self._destination, 'begin', None)
        if begin is not None:
            begin(description)

    def publish(self, record: Record) -> None:
        """Hand the record on under its new names."""
        self._destination.publish(with_prefix(record, self._name()))

    def close(self) -> None:
        """Close the destination."""
        self._destination.close()
