"""From merged rows to a record: what each metric yields, and what one that fails costs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from ding_normmon.core.figures import Figures
from ding_normmon.core.lost_data import LostData
from ding_normmon.core.record import Matrix
from ding_normmon.metrics import Metric
from ding_normmon.monitor.derive import RecordBuilder
from ding_normmon.monitor.metric_calls import MetricCalls
from ding_normmon.rows.table import Batch, RowKey, RowTable


class Counting(Metric):
    """Its figures are what the table holds for it."""

    name = 'counting'

    def derive(self, table: RowTable) -> Iterator[tuple[str, Any]]:
        for name, rows in table.of(self.name).items():
            yield f'counting/{name}/count', rows[None][0]

    def matrices(self, table: RowTable) -> Iterator[tuple[str, Matrix]]:
        yield 'counting/pairs', Matrix(np.eye(2), (0, 1), (0, 1))

    def notes(self, table: RowTable) -> Iterator[tuple[str, str]]:
        yield 'counting', f'{len(table.of(self.name))} rows'


class Rising(Metric):
    """Compares with the record before."""

    name = 'rising'

    def __init__(self) -> None:
        self.before = 0.0

    def derive(self, table: RowTable) -> Iterator[tuple[str, Any]]:
        if not table.final:
            return
        now = float(sum(rows[None][0] for rows in table.of('counting').values()))
        yield 'rising/by', now - self.before
        self.before = now


class Yielding(Metric):
    """Yields one pair of the test's choice."""

    name = 'yielding'

    def __init__(self, pair: Any) -> None:
        self.pair = pair

    def derive(self, table: RowTable) -> Iterator[tuple[str, Any]]:
        yield self.pair


def table(*counts: float) -> RowTable:
    keys = tuple(RowKey('counting', f'part{index}') for index in range(len(counts)))
    rows = np.zeros((len(counts), 6))
    rows[:, 0] = counts
    return RowTable([Batch(5, keys, rows)])


def builder(*metrics: Metric) -> tuple[RecordBuilder, LostData]:
    lost_data = LostData()
    calls = MetricCalls(metrics, lost_data, lambda complaint: None)
    return RecordBuilder(metrics, calls, Figures()), lost_data


def test_a_record_holds_scalars_matrices_and_notes_of_every_metric() -> None:
    records, lost_data = builder(Counting(), Rising())
    record = records.derive(table(3, 4), iteration=5)
    assert record.iteration == 5
    assert record.scalars == {'counting/part0/count': 3.0, 'counting/part1/count': 4.0, 'rising/by': 7.0}
    assert all(type(value) is float for value in record.scalars.values())
    assert list(record.matrices) == ['counting/pairs']
    assert record.notes == {'counting': '2 rows'}
    assert not lost_data.total


def test_what_depends_on_earlier_records_is_added_in_their_order() -> None:
    records, _ = builder(Counting(), Rising())
    rises = []
    for counts in ((3,), (3, 4), (1,)):
        record = records.derive(table(*counts), iteration=len(rises))
        rises.append(record.scalars['rising/by'])
    assert rises == [3.0, 4.0, -6.0]


@pytest.mark.parametrize('pair', [('yielding/a', 'text'), (7, 1.0), ('yielding/a', None), ('yielding/a',)])
def test_a_figure_that_is_none_costs_only_the_metric_that_yields_it(pair: Any) -> None:
    records, lost_data = builder(Yielding(pair), Counting())
    record = records.derive(table(3), iteration=5)
    assert record.scalars == {'counting/part0/count': 3.0}
    assert lost_data.total == {'metric_yielding': 1}


@pytest.mark.parametrize('value', [2, np.float32(0.5), np.int64(3), True, float('nan'), float('-inf')])
def test_every_number_becomes_a_plain_float(value: Any) -> None:
    records, lost_data = builder(Yielding(('yielding/a', value)))
    found = records.derive(table(), iteration=5).scalars['yielding/a']
    assert type(found) is float
    assert np.array_equal(found, float(value), equal_nan=True)
    assert not lost_data.total
