"""Judging a run that is on disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ding_normmon.core.finding import Finding
from ding_normmon.core.record import Record
from ding_normmon.diagnose import Diagnosis, Rule
from ding_normmon.runs.run import Run

__all__ = ['diagnose', 'measured_records']


def diagnose(
    run: Run,
    rules: Sequence[Rule] = (),
    options: Mapping[str, Mapping[str, Any] | bool] | None = None,
) -> list[Finding]:
    """Apply the rules to a finished run; return every finding in its latest state."""
    diagnosis = Diagnosis(run.tasks, rules, options)
    for record in measured_records(run):
        diagnosis.observe(record)
    return diagnosis.findings


_MEASURED = ('norm/', 'grad/', 'grad_local/', 'logits/', 'monitor/')


def measured_records(run: Run) -> Iterator[Record]:
    """Yield the records of a run as the monitor made them, without the iterations at which only others wrote."""
    has_ours = any(name.startswith(_MEASURED) for name in run.series)
    for record in run.records():
        if not has_ours or any(name.startswith(_MEASURED) for name in record.scalars):
            yield record
