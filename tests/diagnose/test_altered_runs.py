"""Faults of many kinds at any frequency and number of tasks: found, the right task named, and nothing else said."""

from __future__ import annotations

import functools

import pytest

from tests.diagnose.altered import EVERYBODYS, ONES, Prefix, healthy, leaves

REWARDED = 2
"""The task of the recording that has rewards throughout."""

GAP = pytest.mark.xfail(strict=True, reason='more than one fault is not found yet, or a healthy run is warned of')


def layouts(*gaps: tuple[int, int]) -> pytest.MarkDecorator:
    """Return all numbers of tasks and frequencies; in ``gaps`` the diagnosis is not yet as good as it should be."""
    return pytest.mark.parametrize(
        ('tasks', 'every'),
        [
            pytest.param(
                tasks,
                every,
                id=f'{tasks} tasks every {every}',
                marks=[
                    *([] if (tasks, every) == (4, 5) else [pytest.mark.full]),
                    *([GAP] if (tasks, every) in gaps else []),
                ],
            )
            for tasks in (1, 4, 26)
            for every in (1, 5, 10, 20, 50)
        ],
    )


@functools.cache
def prefix(tasks: int, every: int) -> Prefix:
    return Prefix(healthy(tasks, every, task=REWARDED))


class TestFaults:
    @layouts((26, 1), (26, 5))
    def test_those_of_everybody_are_found_and_blamed_on_nobody(self, tasks: int, every: int) -> None:
        told = {name: prefix(tasks, every).broken(change) for name, change in EVERYBODYS.items()}
        of_data = ('values +5', 'observations x255', 'targets lose their entropy', 'rewards negated')
        found = {name for name, each in told.items() if any(not f.tasks or name in of_data for f in each.after)}
        wrong = {name for name, each in told.items() if each.after and each.after[0].tasks and name not in of_data}
        assert len(EVERYBODYS) - len(found) <= 1, set(EVERYBODYS) - found
        assert not wrong

    @layouts((4, 1), (26, 1))
    def test_those_of_one_task_are_found_and_blamed_on_it(self, tasks: int, every: int) -> None:
        task = REWARDED if tasks > 1 else None
        told = {name: prefix(tasks, every).broken(change, task) for name, change in ONES.items()}
        blamed = () if task is None else (task,)
        found = {name for name, each in told.items() if any(finding.tasks == blamed for finding in each.after)}
        wrong = {name for name, each in told.items() if each.after and each.after[0].tasks != blamed}
        assert len(ONES) - len(found) <= 1, set(ONES) - found
        assert not wrong

    @layouts()
    def test_a_healthy_run_and_a_task_that_leaves_are_not_warned_of(self, tasks: int, every: int) -> None:
        told = prefix(tasks, every).broken(None)
        assert (told.before, told.after) == ([], [])
        if tasks > 1:
            assert prefix(tasks, every).broken(leaves, REWARDED).after == []
