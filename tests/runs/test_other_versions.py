"""Histories of newer versions, and rows that are none: a sentence, and everything else is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ding_normmon.core.record import Record
from ding_normmon.runs import read_run
from ding_normmon.runs.check import check_run
from ding_normmon.runs.format import FINDING, INCIDENT, MATRIX, NOTE, Encoder
from ding_normmon.runs.history_file import FILE_NAME
from tests.runs.histories import points

ODD = ['{}', '[1]', 'null', '5', '{', '[' * 100_000]
FINDING_TEXT = {'rule': 'odd', 'severity': 'error', 'since': 1, 'found': 2, 'sentence': 'Odd.', 'advice': 'Wait.'}


def write_with(path: Path, kind: int, text: str | None, header: dict[str, Any] | None = None) -> None:
    """Write two records, and between them one row of a kind with a text."""
    encoder = Encoder(header or {})
    row = encoder.encode_rows(5, 0.0, [kind], ['n'], [np.nan], [text])
    first, last = (encoder.encode(Record(at, {'a': float(at)})) for at in (4, 6))
    path.write_bytes(row + first + last + encoder.end())


@pytest.mark.parametrize(
    ('kind', 'text'),
    [
        *((kind, text) for kind in (MATRIX, FINDING, INCIDENT) for text in ODD),
        (MATRIX, '{"values": [[1]], "rows": [0, 1], "columns": [0]}'),
        (NOTE, '[' * 100_000),
        (NOTE, ''),
        (99, '"text"'),
        (-1, '"text"'),
        (MATRIX, None),
        (NOTE, None),
    ],
)
def test_a_row_that_is_none_costs_itself_and_is_told(tmp_path: Path, kind: int, text: str | None) -> None:
    path = tmp_path / FILE_NAME
    write_with(path, kind, text)
    run = read_run(path)
    assert points(run) == {4: 4.0, 6: 6.0}
    assert len(run.warnings) == 1
    assert (run.matrices, run.findings, run.notes) == ({}, [], [])
    [checked] = check_run(path)
    assert (checked.errors, checked.warnings) == ([], run.warnings)


def test_what_a_newer_version_has_added_is_left_out_and_told(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    header = {'version': 7, 'tasks': {'0': 'Pong'}, 'new': {'x': [1]}}
    write_with(path, FINDING, json.dumps({**FINDING_TEXT, 'severity': 'fatal', 'new': 1}), header)
    run = read_run(path)
    assert points(run) == {4: 4.0, 6: 6.0}
    assert run.tasks == {0: 'Pong'}
    [finding] = run.findings
    assert (finding.severity, finding.sentence) == ('warning', 'Odd.')
    assert any('written by a newer version' in warning for warning in run.warnings)
    assert any('of a severity that this version does not know' in warning for warning in run.warnings)


@pytest.mark.parametrize('header', [[1], 'text', None, {'tasks': [1]}, {'tasks': {'x': 'y'}}, {'version': 'x'}])
def test_a_header_that_is_none_costs_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, header: Any
) -> None:
    path = tmp_path / FILE_NAME
    with monkeypatch.context() as patch:
        patch.setattr('ding_normmon.runs.format.dumps', lambda _: json.dumps(header))
        encoder = Encoder({'tasks': {'0': 'Pong'}})
    path.write_bytes(b''.join(encoder.encode(Record(at, {'a': 1.0})) for at in range(3)) + encoder.end())
    run = read_run(path)
    assert (points(run), run.tasks) == (dict.fromkeys(range(3), 1.0), {})
