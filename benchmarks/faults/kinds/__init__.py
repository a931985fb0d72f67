"""Every kind of fault, one module per family."""

from benchmarks.faults.kinds import data, losses, network, optimizer, ranks, schedule, targets
from benchmarks.faults.kinds.fault import Fault

__all__ = ['KINDS', 'Fault']

KINDS: dict[str, type[Fault]] = {
    kind.name(): kind
    for family in (data, targets, losses, optimizer, network, ranks, schedule)
    for kind in vars(family).values()
    if isinstance(kind, type) and issubclass(kind, Fault) and kind.__module__ == family.__name__ and kind.is_kind()
}
"""Kinds by name, in the order of families."""
