"""Tells the monitor what DI-engine's and LightZero's collectors and evaluators say: returns and environment steps."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from numbers import Real
from typing import Any

from ding_normmon.metrics.collection import Collection
from ding_normmon.monitor.monitor import StepMonitor

__all__ = ['collection_of', 'note_context', 'observe_writer']

_RETURN = re.compile(r'(?P<where>\w*?(?P<eval>eval)\w*|\w*collect\w*)_iter/reward_mean(?:_task(?P<task>\d+))?')


def collection_of(monitor: StepMonitor) -> Collection | None:
    """Return the metric that takes returns, None if it is not measured."""
    return next((metric for metric in monitor.metrics if isinstance(metric, Collection)), None)


def note_context(collection: Collection, ctx: Any) -> None:
    """Note the returns in a pipeline's context after a loop: by task, or those of a single task."""
    if collection.setup.num_tasks is not None:
        for task_id, summary in (getattr(ctx, 'collect_summaries', None) or {}).items():
            collection.note_returns('collect', summary.returns, task_id)
        for task_id, value in (getattr(ctx, 'eval_returns', None) or {}).items():
            collection.note_returns('eval', [value], task_id)
        # In this package's pipeline, every rank has the returns of all ranks.
        if collection.setup.rank > 0:
            return
    else:
        value = getattr(ctx, 'eval_value', None)
        # It is minus infinity in a loop that evaluates nothing.
        if isinstance(value, Real) and math.isfinite(value):
            collection.note_returns('eval', [float(value)])
    if isinstance(getattr(ctx, 'env_step', None), int):
        collection.note_env_steps(ctx.env_step)


def observe_writer(collection: Collection, writer: Any) -> Callable[[], None]:
    """Note the mean returns that collectors and evaluators write; return a function that ends this.

    The serial ones of LightZero and DI-engine report them nowhere else. What they write stays the same.

    Example:
        >>> class Writer:
        ...     def add_scalar(self, tag, value, step): print(tag, value, step)
        >>> writer, collection = Writer(), Collection()
        >>> undo = observe_writer(collection, writer)
        >>> writer.add_scalar('evaluator_iter/reward_mean', 9.5, 100)
        evaluator_iter/reward_mean 9.5 100
        >>> undo()
        >>> collection._returns, vars(writer)
        ({('eval', None): [9.5]}, {})
    """
    add_scalar = getattr(writer, 'add_scalar', None)
    if not callable(add_scalar) or not hasattr(writer, '__dict__'):
        return lambda: None

    @functools.wraps(add_scalar)
    def observed(*args: Any, **kwargs: Any) -> Any:
        tag = args[0] if args else kwargs.get('tag')
        value = args[1] if len(args) > 1 else kwargs.get('scalar_value')
        found = _RETURN.fullmatch(tag) if isinstance(tag, str) else None
        if found is not None and isinstance(value, Real) and math.isfinite(value):
            task = found['task']
            where, task_id = 'eval' if found['eval'] else 'collect', None if task is None else int(task)
            collection.note_returns(where, [float(value)], task_id)
        return add_scalar(*args, **kwargs)

    own = vars(writer).get('add_scalar')
    writer.add_scalar = observed

    def undo() -> None:
        if vars(writer).get('add_scalar') is observed:
            if own is None:
                del writer.add_scalar
            else:
                writer.add_scalar = own

    return undo
