"""The selection of figures for a dashboard when there are many tasks."""

from __future__ import annotations

import math

from ding_normmon.destinations.selection import for_dashboard, worst_tasks


def record(num_tasks: int) -> dict[str, float]:
    scalars = {'norm/encoder/_total_norm': 3.0, 'grad/head_value_all_tasks/mean': 1.0, 'monitor/missing_ranks': 0.0}
    for task in range(num_tasks):
        scalars[f'grad/head_value_task{task}/_total_norm'] = 1.0 + 0.001 * task
        scalars[f'logits/value_task{task}/abs_max'] = 5.0
        scalars[f'noreduce_value_loss_task{task}'] = 2.0 - 0.001 * task
    return scalars


def test_few_tasks_are_all_shown() -> None:
    assert for_dashboard(record(64)) == record(64)
    assert for_dashboard({'norm/model/_total_norm': 1.0}) == {'norm/model/_total_norm': 1.0}


def test_of_many_tasks_the_aggregates_and_the_worst_are_shown() -> None:
    scalars = record(100)
    scalars['grad/head_value_task70/_total_norm'] = 50.0
    scalars['logits/value_task7/abs_max'] = 5.1
    shown = for_dashboard(scalars)
    assert len(shown) == 3 + 3 * 16
    assert {name: shown[name] for name in scalars if '_task' not in name.replace('_all_tasks', '')}.keys() == {
        'norm/encoder/_total_norm',
        'grad/head_value_all_tasks/mean',
        'monitor/missing_ranks',
    }
    assert worst_tasks(scalars)[0] == 70
    assert 'noreduce_value_loss_task70' in shown


def test_non_finite_entries_come_first() -> None:
    scalars = record(100)
    scalars['grad/head_value_task70/_total_norm'] = 1e9
    scalars['monitor/nonfinite/logits/value_task3'] = 2.0
    scalars['noreduce_value_loss_task9'] = math.nan
    assert worst_tasks(scalars, 3) == [3, 9, 70]


def test_a_task_that_alone_differs_stands_out_although_the_median_distance_is_zero() -> None:
    scalars = {f'logits/value_task{task}/abs_max': 5.0 for task in range(100)}
    scalars['logits/value_task42/abs_max'] = 6.0
    assert worst_tasks(scalars, 1) == [42]


def test_ids_with_a_common_prefix_are_distinguished() -> None:
    scalars = {f'grad/head_task{task}/_total_norm': float(task == 1) for task in range(70)}
    assert worst_tasks(scalars, count=1) == [1]
    scalars |= {f'grad/head_task{task}/_total_norm': 2.0 + task for task in range(50, 65)}
    shown = for_dashboard(scalars)
    assert set(shown) == {f'grad/head_task{task}/_total_norm' for task in (1, *range(50, 65))}
