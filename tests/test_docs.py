"""README and documentation: every block runs, every link leads somewhere, and both languages say the same."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ding_normmon
from ding_normmon.metrics.presets import DECLARED
from tests.docs_pages import ROOT, code_blocks, heading_anchors, links, sections

PAGES = [ROOT / 'README.md', ROOT / 'README.zh.md', ROOT / 'CONTRIBUTING.md', *sorted((ROOT / 'docs').rglob('*.md'))]
CHINESE = [page for page in PAGES if page.name == 'README.zh.md' or 'zh' in page.parts[:-1]]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def english(page: Path) -> Path:
    """Return the page that a Chinese one is a translation of."""
    return ROOT / 'README.md' if page.name == 'README.zh.md' else ROOT / 'docs' / page.relative_to(ROOT / 'docs' / 'zh')


def pipeline_names(folder: Path) -> dict[str, Any]:
    """Return what a pipeline on a page takes for granted: a configuration, a policy, its other middleware."""
    from ding.framework import task
    from ding.framework.context import OnlineRLContext
    from ding.framework.middleware import online_logger
    from easydict import EasyDict

    from tests.unizero.builders import random_batch, tiny_policy

    policy = tiny_policy(2)

    def trainer(ctx: OnlineRLContext) -> None:
        ctx.train_output = policy._forward_learn([random_batch(policy, task_id, 0) for task_id in policy.task_ids])
        ctx.train_iter += 1
        task.finish = ctx.train_iter == 3

    def collector(ctx: OnlineRLContext) -> None:
        ctx.env_step += 1

    cfg = EasyDict(exp_name=str(folder), policy=dict(monitor=dict(monitor_norm_freq=1)))
    return {
        'cfg': cfg,
        'policy': policy,
        'task': task,
        'OnlineRLContext': OnlineRLContext,
        'online_logger': online_logger,
        'collector': collector,
        'trainer': trainer,
    }


def loop_names() -> dict[str, Any]:
    """Return what a loop on a page takes for granted: a model, an optimizer, and `train`."""
    import torch

    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for _ in range(30):
            optimizer.zero_grad()
            model(torch.ones(2, 3)).sum().backward()
            optimizer.step()

    return {'model': model, 'optimizer': optimizer, 'train': train}


def run_block(block: str, page: Path, folder: Path) -> dict[str, Any]:
    """Run a block with what it takes for granted, and return its names."""
    if 'task.use(' not in block:
        names = loop_names()
        exec(compile(block, str(page), 'exec'), names)
        return names
    names = pipeline_names(folder / 'run')
    if 'task.start(' in block:
        exec(compile(block, str(page), 'exec'), names)
        return names
    # An excerpt: the trainer follows it.
    with names['task'].start(ctx=names['OnlineRLContext']()):
        exec(compile(block, str(page), 'exec'), names)
        names['task'].use(names['trainer'])
        names['task'].run()
    return names


@pytest.mark.parametrize('page', PAGES, ids=name_of)
def test_every_block_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for block in code_blocks(page, 'python'):
        run_block(block, page, tmp_path)


def test_the_ways_in_leave_a_history_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for block in code_blocks(ROOT / 'README.md', 'python'):
        run_block(block, ROOT / 'README.md', tmp_path)
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob('history.arrows'))
    assert len(files) == 2
    assert 'runs/mine/history.arrows' in files


@pytest.mark.parametrize('page', PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in links(page):
        if re.match(r'https?://', target):
            continue
        path, _, anchor = target.partition('#')
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f'{name_of(page)} links to {target}, which does not exist'
        assert file.is_relative_to(ROOT), f'{name_of(page)} links to {target}, which is outside of the repository'
        if anchor and file.suffix == '.md':
            assert anchor in heading_anchors(file), f'{name_of(page)} links to {target}; {path} has no such heading'


@pytest.mark.parametrize('page', CHINESE, ids=name_of)
def test_both_languages_have_the_same_sections_code_and_tables(page: Path) -> None:
    original = english(page)
    assert original.exists(), f'{name_of(page)} translates nothing'
    mine, theirs = sections(page), sections(original)
    assert [section.level for section in mine] == [section.level for section in theirs]
    for here, there in zip(mine, theirs, strict=True):
        where = f'{name_of(page)}, {here.title}'
        assert here.code == there.code, f'{where}: other code than {there.title!r}'
        assert here.tables == there.tables, f'{where}: tables of another shape than those of {there.title!r}'
        assert here.pictures == there.pictures, f'{where}: other pictures than {there.title!r}'
        assert here.names == there.names, f'{where}: other `names` than {there.title!r}'
        assert here.list_items == there.list_items, f'{where}: another number of list items than {there.title!r}'


def test_a_section_that_is_missing_from_a_translation_is_seen(tmp_path: Path) -> None:
    page = tmp_path / 'page.md'
    text = '# One\n\n`a`\n\n| x | y |\n|---|---|\n| 1 | 2 |\n\n## Two\n\n```\nls  # all\n```\n'
    page.write_text(text, encoding='utf-8')
    [one, two] = sections(page)
    assert (one.level, one.names, one.tables) == (1, {'a'}, [(1, 2)])
    assert (two.level, two.code) == (2, ['ls'])


def test_what_a_visitor_sees_first_is_short() -> None:
    assert len((ROOT / 'README.md').read_text(encoding='utf-8').splitlines()) < 120
    assert len((ROOT / 'README.zh.md').read_text(encoding='utf-8').splitlines()) < 120


@pytest.mark.parametrize('page', [page for page in PAGES if page not in CHINESE], ids=name_of)
def test_documentation_needs_no_tests(page: Path) -> None:
    for block in code_blocks(page, 'python'):
        assert not re.search(r'^\s*(from|import) tests\b', block, re.MULTILINE)


def test_scripts_of_the_documentation_need_no_tests() -> None:
    for script in (ROOT / 'docs').rglob('*.py'):
        assert not re.search(r'^\s*(from|import) tests\b', script.read_text(encoding='utf-8'), re.MULTILINE), script


def test_every_page_of_the_documentation_is_in_a_table_of_contents() -> None:
    listed: set[Path] = set()
    for page in (ROOT / 'docs').rglob('*.md'):
        for block in code_blocks(page, '{toctree}'):
            entries = [line for line in block.splitlines() if line and line[0] != ':']
            listed |= {(page.parent / f'{entry}.md').resolve() for entry in entries}
    assert set((ROOT / 'docs').rglob('*.md')) - {ROOT / 'docs' / 'index.md'} == listed


def patterns_of(name: str) -> Iterator[str]:
    """Return the declared patterns that a metric name matches, those with names in braces included."""
    from docs.metric_search import as_expression

    concrete = re.sub(r'\{i\}|\{n\}', '0', name).replace('{path}', 'weight')
    concrete = re.sub(r'\{[a-z_]+\}', 'encoder', concrete)
    for figure in DECLARED:
        if figure.is_listed and re.fullmatch(as_expression(figure.pattern), concrete):
            yield figure.pattern


@pytest.mark.parametrize('page', sorted((ROOT / 'docs' / 'cookbook').glob('*.md')), ids=name_of)
def test_metrics_that_the_cookbook_names_exist(page: Path) -> None:
    matrices = {'conflict/{group}/cosine', 'conflict/{group}/standard_error'}
    families = {figure.pattern.split('/')[0] for figure in DECLARED if '{' not in figure.pattern.split('/')[0]}
    for name in re.findall(r'`([^`\n]+)`', page.read_text(encoding='utf-8')):
        if '/' in name and name.split('/')[0] in families and '*' not in name and ' ' not in name:
            assert list(patterns_of(name)) or name in matrices, f'{name_of(page)} names {name}, which nothing measures'


def test_rules_that_the_cookbook_names_exist() -> None:
    from ding_normmon.diagnose.rules import RULES

    known = {rule.name for rule in RULES}
    for page in (ROOT / 'docs' / 'cookbook').glob('*.md'):
        text = page.read_text(encoding='utf-8')
        for name in re.findall(r"\(`([a-z]+_[a-z_]+)`\)|'([a-z]+_[a-z_]+)': '(?:stop|checkpoint)'", text):
            assert (name[0] or name[1]) in known, f'{name_of(page)} names the rule {name}'


def test_every_public_name_is_documented() -> None:
    page = (ROOT / 'docs' / 'api.md').read_text(encoding='utf-8')
    listed = set(re.findall(r'^\.\. auto\w+:: ding_normmon\.(\w+)$', page, re.MULTILINE))
    assert listed == set(ding_normmon.__all__)


@pytest.mark.parametrize('name', sorted(ding_normmon.__all__))
def test_a_public_name_has_a_sentence_and_an_example(name: str) -> None:
    text = getattr(ding_normmon, name).__doc__ or ''
    assert re.match(r'[A-Z`].+\.', text), f'{name} has no sentence'
    assert '>>> ' in text, f'{name} has no example that runs'


@pytest.mark.slow
@pytest.mark.full
def test_the_pages_are_built_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, '-m', 'sphinx', '-W', '--keep-going', '-q', '-b', 'html', 'docs', str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {'index.html', 'first_run.html', 'metrics.html', 'api.html'} <= {path.name for path in tmp_path.iterdir()}
    assert (tmp_path / 'zh' / 'first_run.html').exists()


def test_the_citation_names_this_version() -> None:
    text = (ROOT / 'CITATION.cff').read_text(encoding='utf-8')
    assert re.search(r'^version: (.+)$', text, re.MULTILINE)[1] == ding_normmon.__version__  # type: ignore[index]
    assert re.search(r'^license: Apache-2.0$', text, re.MULTILINE)


def test_issue_templates_name_commands_that_exist() -> None:
    from ding_normmon.cli.main import COMMANDS

    for template in (ROOT / '.github' / 'ISSUE_TEMPLATE').glob('*.yml'):
        for name in re.findall(r'normmon (\w+) RUN', template.read_text(encoding='utf-8')):
            assert name in COMMANDS


@pytest.mark.parametrize('page', PAGES, ids=name_of)
def test_commands_that_pages_name_exist(page: Path) -> None:
    from ding_normmon.cli.main import COMMANDS

    text = page.read_text(encoding='utf-8')
    for name in re.findall(r'(?:^|`)normmon ([a-z]+)', text, re.MULTILINE):
        assert name in COMMANDS, f'{name_of(page)} names normmon {name}'
    targets = set(re.findall(r'^([a-z-]+):', (ROOT / 'Makefile').read_text(encoding='utf-8'), re.MULTILINE))
    for name in re.findall(r'(?:^|`)make ([a-z-]+)', text, re.MULTILINE):
        assert name in targets, f'{name_of(page)} names make {name}'
    for line in re.findall(r'pip install ([^`\n]*ding_normmon[^`\n]*)', text):
        assert 'finds nothing' in text or '什么也找不到' in text, f'{name_of(page)}: pip install {line} finds nothing'


@pytest.mark.parametrize('page', PAGES, ids=name_of)
def test_options_and_scripts_that_pages_name_exist(page: Path) -> None:
    from importlib import import_module

    text = page.read_text(encoding='utf-8')
    for name, arguments in re.findall(r'(?:^|`)normmon ([a-z]+)([^`\n]*)', text, re.MULTILINE):
        known = {option for one in import_module(f'ding_normmon.cli.{name}').command.params for option in one.opts}
        # What stands behind `run SCRIPT` is the script's.
        own = arguments.partition('.py')[0] if name == 'run' else arguments
        for option in re.findall(r'(?<!\S)--[a-z-]+', own):
            assert option in known | {'--help'}, f'{name_of(page)} names normmon {name} {option}'
    for module in re.findall(r'python3? -m ((?:benchmarks|tests)[\w.]*)', text):
        assert (ROOT / f'{module.replace(".", "/")}.py').exists(), f'{name_of(page)} names python -m {module}'
    for script in re.findall(r'python3? ((?:benchmarks|docs|entry|tests)/[\w/]+\.py)', text):
        assert (ROOT / script).exists(), f'{name_of(page)} names {script}'
