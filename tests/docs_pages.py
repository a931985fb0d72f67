"""Reading pages in Markdown: sections, code, tables, links."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

_FENCE = re.compile(r'^```(\{?[\w-]*\}?)[^\n]*\n(.*?)^```', re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r'^(#+) (.*)$', re.MULTILINE)


@dataclass(frozen=True)
class Section:
    """What a translation has in common with what it translates.

    Arguments:
        level: of the heading.
        title: of the heading.
        code: lines of the blocks, without comments.
        tables: rows, without the heading, and columns of each.
        pictures: file names.
        names: what stands in `...`: metrics, commands, files.
        list_items: number of them.
    """

    level: int
    title: str
    code: list[str]
    tables: list[tuple[int, int]]
    pictures: list[str]
    names: set[str]
    list_items: int


def code_blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    found = _FENCE.findall(page.read_text(encoding='utf-8'))
    return [block for info, block in found if info == language]


def without_code(text: str) -> str:
    """Return a page without its fenced blocks."""
    return _FENCE.sub('', text)


def links(page: Path) -> list[str]:
    """Return the targets of links and pictures."""
    text = re.sub(r'`[^`\n]+`', '', without_code(page.read_text(encoding='utf-8')))
    return re.findall(r'\]\(([^)\s]+)\)', text)


def heading_anchors(page: Path) -> set[str]:
    """Return the anchors of the headings, as GitHub makes them."""
    titles = [title for _, title in _HEADING.findall(without_code(page.read_text(encoding='utf-8')))]
    return {re.sub(r'[^\w\- ]', '', title.lower()).strip().replace(' ', '-') for title in titles}


def sections(page: Path) -> list[Section]:
    """Return the sections of a page in their order."""
    text = page.read_text(encoding='utf-8')
    # A comment in a block may look like a heading.
    shown = _FENCE.sub(lambda block: re.sub(r'^#', '\0#', block[0], flags=re.MULTILINE), text)
    parts = re.split(r'^(?=#+ )', shown, flags=re.MULTILINE)
    return [_section(part.replace('\0', '')) for part in parts if part.startswith('#')]


def _section(part: str) -> Section:
    heading, _, body = part.partition('\n')
    blocks = [block for info, block in _FENCE.findall(body) if info != '{toctree}']
    prose = without_code(body)
    pictures = re.findall(r'!\[[^\]]*\]\(([^)]+)\)', prose)
    return Section(
        level=len(heading) - len(heading.lstrip('#')),
        title=heading.lstrip('# '),
        code=[line for block in blocks for line in _code_lines(block)],
        tables=_tables(prose),
        pictures=[Path(picture).name for picture in pictures],
        names=set(re.findall(r'`([^`\n]+)`', prose)),
        list_items=len(re.findall(r'^\s*(?:[-*]|\d+\.) ', prose, re.MULTILINE)),
    )


def _code_lines(block: str) -> list[str]:
    stripped = [re.sub(r'\s*#.*$', '', line).rstrip() for line in block.splitlines()]
    return [line for line in stripped if line]


def _tables(prose: str) -> list[tuple[int, int]]:
    tables, rows = [], []
    for line in [*prose.splitlines(), '']:
        if line.startswith('|'):
            rows.append(re.sub(r'`[^`]*`', '', line).replace(r'\|', '').count('|') - 1)
        elif rows:
            tables.append((len(rows) - 2, rows[0]))
            rows = []
    return tables
