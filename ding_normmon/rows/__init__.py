"""Rows of numbers that merge: made in a learner step, merged over the ranks, and read by metrics."""

from ding_normmon.rows.buffer import RowBuffer
from ding_normmon.rows.table import Batch, Label, RowKey, RowTable, Vector

__all__ = ['Batch', 'Label', 'RowBuffer', 'RowKey', 'RowTable', 'Vector']
