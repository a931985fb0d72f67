"""The figures of a record as a TensorBoard summary."""

from __future__ import annotations

from collections.abc import Mapping

from tensorboardX.proto.summary_pb2 import Summary

__all__ = ['FigureSummaries']

_KEPT = 8


class FigureSummaries:
    """Makes summaries and reuses them: for the next record with the same figures only the numbers are replaced.

    Example:
        >>> summaries = FigureSummaries()
        >>> summary = summaries.of({'norm/model/_total_norm': 2.0})
        >>> [(value.tag, value.simple_value) for value in summaries.of({'norm/model/_total_norm': 3.0}).value]
        [('norm/model/_total_norm', 3.0)]
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], tuple[Summary, list[Summary.Value]]] = {}

    def of(self, figures: Mapping[str, float]) -> Summary:
        """Return the summary of these figures; it is valid until the next call."""
        names = tuple(figures)
        found = self._known.get(names)
        if found is None:
            summary = Summary(value=[Summary.Value(tag=name) for name in names])
            found = summary, list(summary.value)
            # Records of a run have only a few different sets of figures.
            if len(self._known) >= _KEPT:
                del self._known[next(iter(self._known))]
            self._known[names] = found
        summary, values = found
        for value, number in zip(values, figures.values(), strict=True):
            value.simple_value = number
        return summary
