"""The monitor itself."""

from __future__ import annotations

from ding_normmon.metrics.reference.metric import Figure, Section

__all__ = ['SECTION']

SECTION = Section(
    title='The monitor itself',
    metrics=(
        Figure(
            pattern='monitor/no_gradient/{group}',
            definition='1 where no parameter of the group has a gradient; `grad/{group}` is absent then',
            unit='flag',
            bad_value='a head that is not trained',
        ),
        Figure(
            pattern='monitor/without_gradient/{group}',
            definition="number of the group's parameters without a gradient, where others have one",
            unit='count',
            bad_value='a part that is not in the graph',
        ),
        Figure(
            pattern='monitor/nonfinite/{norm,grad}/{group}',
            definition='NaN and infinite entries of parameters or gradients; the norm is that of the finite part',
            unit='count',
            bad_value='the run is breaking here',
        ),
        Figure(
            pattern='monitor/nonfinite/conflict/{group}_task{i}',
            definition="1 where the gradient of the task's loss is not finite; the task is in no pair then",
            unit='flag',
            bad_value='this task breaks the run',
        ),
        Figure(
            pattern='monitor/nonfinite/update/{group}',
            definition='1 where weights or step are not finite',
            unit='flag',
        ),
        Figure(
            pattern='monitor/nonfinite/{signal}[_task{i}]',
            definition='NaN and infinite entries of a signal (−inf of impossible actions counts)',
            unit='count',
        ),
        Figure(
            pattern='monitor/{empty,absent,late}/{signal}',
            definition=(
                'number of tasks whose signal had no valid step, was not published although it had been before, '
                'or was published for the first time after the first record; only where it happened'
            ),
            unit='count',
            bad_value='a task whose data no longer reaches the learner',
        ),
        Figure(
            pattern='monitor/missing_ranks',
            definition='ranks whose rows are not in this record (several ranks only)',
            unit='count',
            bad_value='a slow or dead rank',
        ),
        Figure(
            pattern='monitor/lost/{reason}',
            definition='what was lost since the last record, by reason; the log says why, once',
            unit='count',
            bad_value='points are missing',
        ),
        Figure(
            pattern='monitor/cost/ms',
            definition='learner-thread milliseconds of this record, slowest rank',
            unit='ms',
        ),
        Figure(
            pattern='monitor/cost/ms_diagnosis',
            definition='milliseconds that the rules took for this record, in the background, on rank 0',
            unit='ms',
        ),
        Figure(
            pattern='monitor/cost/bytes',
            definition='fixed row storage, largest rank',
            unit='bytes',
        ),
        Figure(
            pattern='monitor/cost/{metric}/ms',
            definition=(
                'learner-thread milliseconds of one metric in this record, slowest rank; on an accelerator the '
                'time to queue its work'
            ),
            unit='ms',
        ),
        Figure(
            pattern='monitor/cost/{metric}/bytes',
            definition='what it keeps between steps and sends for this record, largest rank',
            unit='bytes',
        ),
        Figure(
            pattern='monitor/cost/{metric}/extra_backward',
            definition='backward passes that it added to this step',
            unit='count',
        ),
        Figure(
            pattern='monitor/cost/messages',
            definition='messages of all ranks for this record',
            unit='count',
        ),
    ),
    remarks="""\
`monitor/*` and `agreement/*` are about ranks by definition and differ between layouts of tasks over ranks; everything
else does not.""",
)
