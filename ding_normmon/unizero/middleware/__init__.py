"""Middleware of a multi-task run for DI-engine's task pipeline; each can be used alone with ``task.use(...)``.

In the order of one loop: :class:`MultiTaskCollector`, :class:`MultiTaskPusher`, (a monitor,)
:class:`MultiTaskLearner` = :class:`MultiTaskSampler` + :class:`MultiTaskTrainer`, :class:`StopAgreement`,
:class:`MultiTaskEvaluator`, :class:`ReturnTracker`, :class:`ReturnWriter`, (a logger,)
:class:`MultiTaskCheckpointer`, :class:`Progress`, :class:`FinishWhenAgreed`.

A rank without tasks runs all of them too; there they only join the collectives.
"""

from ding_normmon.unizero.middleware.checkpointer import MultiTaskCheckpointer
from ding_normmon.unizero.middleware.collector import CollectSummary, MultiTaskCollector
from ding_normmon.unizero.middleware.evaluator import MultiTaskEvaluator
from ding_normmon.unizero.middleware.learner import (
    MultiTaskLearner,
    MultiTaskPusher,
    MultiTaskSampler,
    MultiTaskTrainer,
)
from ding_normmon.unizero.middleware.progress import Progress
from ding_normmon.unizero.middleware.returns import ReturnTracker, ReturnWriter, TaskReturns
from ding_normmon.unizero.middleware.stop import FinishWhenAgreed, StopAgreement

__all__ = [
    'CollectSummary',
    'FinishWhenAgreed',
    'MultiTaskCheckpointer',
    'MultiTaskCollector',
    'MultiTaskEvaluator',
    'MultiTaskLearner',
    'MultiTaskPusher',
    'MultiTaskSampler',
    'MultiTaskTrainer',
    'Progress',
    'ReturnTracker',
    'ReturnWriter',
    'StopAgreement',
    'TaskReturns',
]
