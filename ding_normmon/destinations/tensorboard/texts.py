"""Tasks and findings as Markdown for TensorBoard's *Text* tab; names are escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from tensorboardX.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboardX.proto.tensor_pb2 import TensorProto

from ding_normmon.core.finding import SEVERITIES, Finding

__all__ = ['escape', 'findings_text', 'tasks_text', 'text_value']

_SPECIAL = re.compile(r'([\\`*_{}\[\]()#+\-.!|~:])')
_ENTITIES = str.maketrans({'&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;'})


def escape(text: str) -> str:
    """Return a text escaped for Markdown, on one line.

    >>> escape('<b>Pong</b> *1*')
    '&lt;b&gt;Pong&lt;/b&gt; \\\\*1\\\\*'
    """
    return _SPECIAL.sub(r'\\\1', ' '.join(text.split())).translate(_ENTITIES)


def tasks_text(tasks: Mapping[int, str]) -> str:
    """Return the table of tasks.

    >>> print(tasks_text({0: 'Pong'}))
    | task | name |
    |---|---|
    | 0 | Pong |
    """
    rows = (f'| {task} | {escape(tasks[task])} |' for task in sorted(tasks))
    return '\n'.join(['| task | name |', '|---|---|', *rows])


def findings_text(iteration: int, changed: Iterable[Finding], active: Iterable[Finding]) -> str:
    """Return the findings raised and cleared in one record, and the others that are still active.

    Arguments:
        iteration: iteration of the record.
        changed: findings raised or cleared in it.
        active: all active findings, including those raised in this record.
    """
    changed = list(changed)
    keys = {finding.key for finding in changed}
    parts = [f'### Iteration {iteration}']
    for finding in sorted((f for f in changed if f.is_active), key=_severity):
        parts.append(f'#### Found: {escape(finding.sentence)}')
        parts.append(f'{_facts(finding)}\n\nTo try: {escape(finding.advice)}')
        if finding.evidence:
            rows = (f'| {escape(name)} | {value:.6g} |' for name, value in finding.evidence.items())
            parts.append('\n'.join(['| figure | value |', '|---|---|', *rows]))
    for finding in changed:
        if not finding.is_active:
            parts.append(f'#### Cleared: {escape(finding.sentence)}')
            parts.append(_facts(finding))
    lasting = [finding for finding in sorted(active, key=_severity) if finding.key not in keys]
    if lasting:
        parts.append('#### Still active')
        parts.append('\n'.join(f'- {escape(finding.sentence)} {_facts(finding)}' for finding in lasting))
    return '\n\n'.join(parts)


def _severity(finding: Finding) -> int:
    return -SEVERITIES.index(finding.severity)


def _facts(finding: Finding) -> str:
    return f'({finding.severity}, rule {escape(finding.rule)}, since iteration {finding.since})'


def text_value(tag: str, text: str) -> Summary.Value:
    """Return the summary of a text."""
    plugin = SummaryMetadata.PluginData(plugin_name='text')
    tensor = TensorProto(dtype='DT_STRING', string_val=[text.encode('utf-8')])
    return Summary.Value(tag=tag, tensor=tensor, metadata=SummaryMetadata(plugin_data=plugin))
