"""How old sampled data is, and how fast a replay buffer of LightZero's is filled: asked of the buffer itself."""

from __future__ import annotations

import bisect
import gc
import sys
import weakref
from collections.abc import Collection
from typing import Any

import numpy as np
import torch

from ding_normmon.core.step import InertLearnerStep
from ding_normmon.integrations.lightzero.batch import Declared, batches_of, mask_entry, publish_batch

__all__ = ['BufferAges', 'ObservedBatches']

_MODULE = 'lzero.mcts.buffer.game_buffer'


class BufferAges:
    """Publishes ``data/age_transitions`` and ``data/refill_rate``.

    A sampled sequence knows where in its buffer it begins, so its age is the number of transitions stored after it. The
    buffer is looked for once: the only one of the process, or the one whose configuration names the task.
    """

    def __init__(self) -> None:
        self._buffers: dict[int | None, weakref.ref[Any]] | None = None
        # By task, iteration and number of segments of the last step and of the one before it.
        self._stored: dict[int | None, list[tuple[int, int]]] = {}

    def publish(self, step: InertLearnerStep, current_batch: Any, task_id: int | None) -> None:
        """Publish both for one task, where its buffer is known.

        Arguments:
            step: the learner step, which is due.
            current_batch: as LightZero's buffer has sampled it.
            task_id: global task id; None for a single task.
        """
        if self._buffers is None:
            self._buffers = _find_buffers()
        reference = self._buffers.get(task_id)
        buffer = None if reference is None else reference()
        places = _places(current_batch)
        if buffer is None or places is None:
            return
        stored: list[tuple[int, int]] = buffer.game_segment_game_pos_look_up
        if not places.size or places.min() < 0 or places.max() >= len(stored):
            return
        ages = torch.from_numpy((len(stored) - 1 - places).astype(np.float32))
        step.publish('data/age_transitions', ages, task_id=task_id)
        segments = buffer.base_idx + len(buffer.game_segment_buffer)
        # A step that was opened ahead of its time is opened once more.
        earlier = [entry for entry in self._stored.get(task_id, []) if entry[0] < step.iteration][-1:]
        self._stored[task_id] = [*earlier, (step.iteration, segments)]
        # Segments have numbers that go on for ever; where all of those of then are gone, some since may be too.
        for iteration, number in earlier:
            if buffer.base_idx <= number:
                new = len(stored) - bisect.bisect_left(stored, (number, 0))
                step.publish_figure('data/refill_rate', new / (step.iteration - iteration), task_id)


class ObservedBatches:
    """The batches of one of LightZero's policies.

    Arguments:
        policy: it.
        multi_task: whether it trains several tasks.
    """

    def __init__(self, policy: Any, multi_task: bool) -> None:
        self._policy, self._multi_task = policy, multi_task
        self._ages = BufferAges()

    def publish(self, step: InertLearnerStep, data: Any, task_ids: Collection[int]) -> None:
        """Publish what ``_forward_learn`` was called with: of each task that this rank trains, its first batch."""
        declared, seen = Declared.by(self._policy), set()
        for task_id, current_batch, target_batch in batches_of(data, self._multi_task):
            if task_id in seen or (task_id is not None and task_id not in task_ids):
                continue
            seen.add(task_id)
            publish_batch(step, current_batch, target_batch, declared, task_id)
            self._ages.publish(step, current_batch, task_id)


def _places(current_batch: Any) -> Any:
    """Return where in the buffer the sequences of a batch begin: the first whole numbers after the mask, one each."""
    found = mask_entry(current_batch)
    if found is None:
        return None
    size = len(found[1])
    for entry in current_batch[found[0] + 1 :]:
        places = np.asarray(entry)
        if places.shape == (size,) and np.issubdtype(places.dtype, np.integer):
            return places
    return None


def _find_buffers() -> dict[int | None, weakref.ref[Any]]:
    module = sys.modules.get(_MODULE)
    if module is None:
        return {}
    # Not isinstance: some objects run code of their own when they are asked for their class.
    found = [thing for thing in gc.get_objects() if issubclass(type(thing), module.GameBuffer)]
    found = [buffer for buffer in found if hasattr(buffer, 'game_segment_game_pos_look_up')]
    by_task: dict[int | None, weakref.ref[Any]] = {}
    for buffer in found:
        task_id = buffer._cfg.get('task_id')
        if isinstance(task_id, int):
            by_task[task_id] = weakref.ref(buffer)
    if len(found) == 1:
        by_task[None] = weakref.ref(found[0])
    return by_task
