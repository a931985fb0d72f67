"""What a user's metric declares can be read from the history file of the run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ding_normmon.core.destination import RunDescription
from ding_normmon.core.figure import Chart, Figure
from ding_normmon.core.figures import Figures
from ding_normmon.core.record import Record
from ding_normmon.metrics import DECLARED
from ding_normmon.runs import read_run
from ding_normmon.runs.check import repair
from ding_normmon.runs.declarations import plain_figures, read_figures
from ding_normmon.runs.history_file import FILE_NAME, HistoryFile

SPEED = Figure(
    'speed/{group}[_task{i}]/{mean,max}',
    'how far a step moves the weights',
    'ratio',
    hook_point='`step_end`',
    bad_value='above 0.1',
    scale='log',
    chart=Chart('Mine', 'Speed of {group}'),
    prominence='headline',
)


def write(folder: Path, *figures: tuple[str, Figure]) -> Path:
    path = folder / FILE_NAME
    file = HistoryFile(path)
    file.begin(RunDescription(figures=Figures([*DECLARED.declared, *figures])))
    file.publish(Record(0, {'speed/head/mean': 0.5}))
    file.close()
    return path


def test_the_declaration_of_an_own_metric_comes_back(tmp_path: Path) -> None:
    write(tmp_path, ('speed', SPEED))
    found = read_run(tmp_path).figures
    assert found.declared == (('speed', SPEED),)
    assert found.describe('speed/head_task3/max') == SPEED
    assert found.place('speed/head/mean')[0] == Chart('Mine', 'Speed of head')


def test_what_the_package_declares_is_not_written(tmp_path: Path) -> None:
    write(tmp_path)
    assert read_run(tmp_path).figures.declared == ()


def test_a_clean_copy_keeps_the_declarations(tmp_path: Path) -> None:
    copy, _ = repair(write(tmp_path, ('speed', SPEED)))
    assert read_run(copy).figures.declared == (('speed', SPEED),)


@pytest.mark.parametrize(
    'change',
    [
        {'pattern': 5},
        {'pattern': '{' * 50},
        {'pattern': 'a/{not a name}/b'},
        {'pattern': '{path}' * 30},
        {'pattern': 'x' * 10_000},
        {'unit': None},
        {'kind': 'odd'},
        {'scale': ['log']},
        {'signed': 'yes'},
        {'chart': {'category': 'Mine', 'title': '{nobody} {knows}'}},
        {'metric': 3},
    ],
)
def test_a_declaration_that_cannot_be_one_is_left_out(change: dict[str, Any]) -> None:
    good, other = plain_figures(Figures([('speed', SPEED), ('other', replace(SPEED, pattern='other/{group}'))]))
    content = json.loads(json.dumps([{**good, **change}, other, 'x', 7]))
    assert [owner for owner, _ in read_figures(content).declared] == ['other']
