"""The figures of a record as a TensorBoard summary."""

from __future__ import annotations

from collections.abc import Mapping

from tensorboardX.proto.summary_pb2 import Summary

__all__ = ['FigureSummaries']

_KEPT = 8


class FigureSummaries:
    """Makes summaries, and uses one again for the next record with the same figures: only numbers are new in it.

    Example:
        >>> summaries = FigureSummaries()
        >>> summary = summaries.of({'norm/model/_total_norm': 2.0})
        >>> [(value.tag, value.simple_value) for value in summaries.of({'norm/model/_total_norm': 3.0}).value]
        [('norm/model/_total_norm', 3.0)]
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], tuple[Summary, list[Summary.Value]]] = {}

    def of(self, figures: Mapping[str, float]) -> Summary:
        """Return the summary of these figures, which holds them until the next call."""
        names = tuple(figures)
        found = self._known.get(names)
        if found is None:
            summary = Summary(value=[Summary.Value(tag=name) for name in names])
            found = summary, list(summary.value)
            # Which figures a record has depends on what was measured in it; there are a few such sets in a run.
            if len(self._known) >= _KEPT:
                del self._known[next(iter(self._known))]
            self._known[names] = found
        summary, values = found
        for value, number in zip(values, figures.values(), strict=True):
            value.simple_value = number
        return summary
