"""Tags and titles of TensorBoard's own tabs: what opens first, and the names of the tasks."""

from __future__ import annotations

import pytest

from ding_normmon.destinations.tensorboard.charts import arrange
from ding_normmon.destinations.tensorboard.tags import OVERVIEW, figure_of, overview
from ding_normmon.metrics import DECLARED

ATARI = [
    'Alien',
    'Amidar',
    'Assault',
    'Asterix',
    'BankHeist',
    'BattleZone',
    'Boxing',
    'Breakout',
    'ChopperCommand',
    'CrazyClimber',
    'DemonAttack',
    'Freeway',
    'Frostbite',
    'Gopher',
    'Hero',
    'Jamesbond',
    'Kangaroo',
    'Krull',
    'KungFuMaster',
    'MsPacman',
    'Pong',
    'PrivateEye',
    'Qbert',
    'RoadRunner',
    'Seaquest',
    'UpNDown',
]


def figures(tasks: int) -> list[str]:
    return [
        'grad/model/_total_norm',
        'agreement/encoder/ranks',
        *(f'{what}_task{task}' for task in range(tasks) for what in ('noreduce_value_loss', 'noreduce_obs_loss')),
        *(f'grad/head_value_task{task}/_total_norm' for task in range(tasks)),
    ]


def test_tags_and_figures_are_one_to_one() -> None:
    names = [*figures(3), 'losses/mine', 'collect/Pong/return']
    assert [figure_of(name) for name in names] == names
    assert {figure_of(tag) for tag in overview(dict.fromkeys(names, 1.0), DECLARED)} == {None}


def test_the_overview_is_a_page_of_headlines_at_most() -> None:
    many = {f'grad/group{number}/_total_norm': 1.0 for number in range(40)} | dict.fromkeys(figures(26), 1.0)
    tags = overview(many, DECLARED)
    assert len(tags) == 12
    assert all(tag.startswith(f'{OVERVIEW}grad/') and '_task' not in tag for tag in tags)


@pytest.mark.parametrize('suffix', ['', 'NoFrameskip-v4'])
def test_a_category_names_all_tasks_once_where_they_are_many(suffix: str) -> None:
    tasks = {number: f'{name}{suffix}' for number, name in enumerate(ATARI)}
    categories = {category.title: category.charts for category in arrange(figures(26), tasks, DECLARED)}
    for title in ('Losses and returns', 'Heads across tasks'):
        first, *others = [chart.title for chart in categories[title]]
        assert all(f'{number} {name}' in first for number, name in enumerate(ATARI))
        assert all(other.endswith('(every task)') for other in others)
    assert f'Task 20: Pong{suffix}' in categories


def test_few_tasks_are_named_in_every_title() -> None:
    tasks = {0: 'MiniGrid-Empty-8x8-v0', 1: 'MiniGrid-FourRooms-v0'}
    titles = [chart.title for category in arrange(figures(2), tasks, DECLARED)[:3] for chart in category.charts]
    of_tasks = [title for title in titles if 'noreduce' in title or 'head' in title]
    assert of_tasks
    assert all(title.endswith('(0 Empty-8x8, 1 FourRooms)') for title in of_tasks)


def test_the_layout_has_the_losses_together_under_lightzeros_names() -> None:
    (losses,) = [category for category in arrange(figures(2), {}, DECLARED) if category.title == 'Losses and returns']
    assert {chart.expression for chart in losses.charts} == {
        r'^noreduce_value_loss_task\d+$', r'^noreduce_obs_loss_task\d+$',
    }  # fmt: skip
