"""Faults planted in a copy of the package; each must make at least one test fail.

``python tests/mutations.py`` tries all of them, ``python tests/mutations.py std mask`` those whose description holds
one of the words. The exit status is 0 when the unchanged copy passes and every fault is found.

Every fault is tried in a process of its own, forked from one that has imported torch and pytest but not the package.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROCESSES = 2

MOMENTS = ('tests/rows/test_moments.py',)
GROUPS = ('tests/core/test_parameter_groups.py', '-k', 'not compiled')
MONITOR = ('tests/monitor', '--ignore=tests/monitor/budget', '--ignore=tests/monitor/findings')
SIGNALS = ('tests/metrics/test_tensor_statistics.py',)
ROWS = ('tests/rows/test_table.py',)
NATIVE = ('tests/metrics/kernels/test_native.py',)
WORK_QUEUE = ('tests/ranks/test_work_queue.py',)
EVENT_FILE = ('tests/destinations/tensorboard/test_event_file.py',)
SKETCH = ('tests/metrics/maths/test_sketch.py',)
CONFLICT = ('tests/metrics/test_gradient_conflict.py',)
EXTRA = ('tests/metrics/test_extra_backward.py',)
CLIPS = ('tests/integrations/observe/test_clip_calls.py',)
THREADS = ('tests/integrations/observe/test_threads.py',)
UPDATES = ('tests/metrics/test_updates.py',)
MESSAGE = ('tests/ranks/test_message.py',)
NAMES = ('tests/monitor/test_names.py',)
EVERYTHING = (*MOMENTS, *MONITOR, *SIGNALS, *ROWS, *SKETCH, *CONFLICT, *UPDATES, *MESSAGE, *NATIVE, *GROUPS)
EVERY_METRIC = (*MONITOR, '-k', 'every_metric or absent')


@dataclass(frozen=True)
class Mutation:
    """One fault.

    Arguments:
        what: what is wrong then.
        file: where, inside the package.
        old: text that stands there exactly once.
        new: what stands there instead.
        tests: arguments of pytest that choose a fast part of the tests.
    """

    what: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


SPECTRAL = ('tests/metrics/maths/test_effective_rank.py',)
DORMANCY = ('tests/metrics/maths/test_dormancy.py',)
SHARDING = ('tests/core/test_sharding.py',)
CLIPPING = ('tests/metrics/test_clipping.py',)

MUTATIONS = (
    # -- sharded parameters
    Mutation(
        'an element that several ranks hold is counted by each',
        'core/sharding.py',
        'if placement.is_replicate() and position > 0:',
        'if placement.is_replicate() and position > 9:',
        SHARDING,
    ),
    Mutation(
        'a sharded norm is shown without the share of a rank',
        'ranks/sharded_groups.py',
        'if count < self._world_size}',
        'if count < 1}',
        SHARDING,
    ),
    Mutation(
        'only the owner may report its share',
        'ranks/ownership.py',
        'return owner == rank or (key.name, key.task_id) in self.sharded',
        'return owner == rank',
        SHARDING,
    ),
    # -- plasticity and clipping
    Mutation(
        'effective rank: eigenvalues for singular values',
        'metrics/maths/effective_rank.py',
        'return np.sqrt(np.where(squares > floor, squares, 0.0))',
        'return np.where(squares > floor, squares, 0.0)',
        SPECTRAL,
    ),
    Mutation(
        'effective rank: second moment taken in float32',
        'metrics/maths/effective_rank.py',
        'numbers = vectors.to(torch.float64)',
        'numbers = vectors.to(torch.float32)',
        SPECTRAL,
    ),
    Mutation(
        'projection: not scaled to keep lengths',
        'metrics/maths/effective_rank.py',
        '* math.sqrt(features / dimensions))',
        '* 1.0)',
        SPECTRAL,
    ),
    Mutation(
        'dormant units: padded steps counted',
        'metrics/maths/dormancy.py',
        'magnitude = magnitude[valid]',
        'magnitude = magnitude + 0 * valid.sum()',
        DORMANCY,
    ),
    Mutation(
        'dormant units: activations that cancel out',
        'metrics/maths/dormancy.py',
        'magnitude = output.abs()',
        'magnitude = output',
        DORMANCY,
    ),
    Mutation(
        'dormant units: a dead layer is wide awake',
        'metrics/maths/dormancy.py',
        'vector[1:] <= tau * vector[0]',
        'vector[1:] < tau * vector[0]',
        DORMANCY,
    ),
    Mutation(
        'clipping: coefficients above 1',
        'metrics/clip_coefficient.py',
        '.clamp(max=1.0)',
        '.clamp(min=0.0)',
        CLIPPING,
    ),
    Mutation(
        'clipping: fraction of the last step only',
        'metrics/clipping.py',
        '(clipped + below, steps + 1)',
        '(below, 1)',
        CLIPPING,
    ),
    Mutation(
        'clipping: counted again where the policy tells of a call that was seen',
        'metrics/clipping.py',
        'self._multiply(self._seen, model, coefficient, local)',
        'self._multiply(self._told, model, coefficient, local)',
        CLIPPING,
    ),
    Mutation(
        'updates: measured from the last backward_end of several',
        'metrics/updates.py',
        '            if self._begun:\n',
        '            if False:\n',
        UPDATES,
    ),
    Mutation(
        'monitor: hooks stay on the model when a step is dropped',
        'monitor/step_measurement.py',
        '        self._measuring = False\n        self._calls.release()\n',
        '        self._measuring = False\n',
        (*MONITOR, '-k', 'dropped'),
    ),
    # -- moments
    Mutation(
        'variance: sign of the spread of the means',
        'rows/moments.py',
        'merged[:, M2] += np.add.reduce(count * distance * distance, axis=1)',
        'merged[:, M2] -= np.add.reduce(count * distance * distance, axis=1)',
        MOMENTS,
    ),
    Mutation(
        'variance: distance between the means not squared',
        'rows/moments.py',
        'count * distance * distance',
        'count * np.abs(distance)',
        MOMENTS,
    ),
    Mutation(
        'variance: spread of the means forgotten',
        'rows/moments.py',
        'merged[:, M2] += np.add.reduce(count * distance * distance, axis=1)',
        'merged[:, M2] += 0.0',
        MOMENTS,
    ),
    Mutation(
        'variance: not centred',
        'rows/moments.py',
        'shift, total, squares = float(flat[0]), 0.0, 0.0',
        'shift, total, squares = 0.0, 0.0, 0.0',
        MOMENTS,
    ),
    Mutation(
        'mean: average of averages',
        'rows/moments.py',
        'weights = count / np.maximum(merged[:, COUNT], 1.0)[:, None]',
        'weights = np.ones_like(count) / count.shape[1]',
        MOMENTS,
    ),
    Mutation(
        'maximum: average of maxima',
        'rows/moments.py',
        'np.maximum.reduce(rows[..., MAXIMUM], axis=1, out=merged[:, MAXIMUM])',
        'merged[:, MAXIMUM] /= count.shape[1]',
        MOMENTS,
    ),
    Mutation(
        'minimum: that of the last row',
        'rows/moments.py',
        'np.minimum.reduce(rows[..., MINIMUM], axis=1, out=merged[:, MINIMUM])',
        'merged[:, MINIMUM] = rows[:, -1, MINIMUM]',
        MOMENTS,
    ),
    Mutation(
        'std: biased',
        'rows/moments.py',
        'np.sqrt(rows[..., M2] / np.maximum(count - 1, 1))',
        'np.sqrt(rows[..., M2] / count)',
        MOMENTS,
    ),
    Mutation(
        'norm: mean not weighted by the root of the count',
        'rows/moments.py',
        'np.sqrt(rows[..., COUNT]) * rows[..., MEAN]',
        'rows[..., MEAN]',
        MOMENTS,
    ),
    Mutation(
        'norm: missing square root',
        'rows/moments.py',
        'np.hypot(np.sqrt(rows[..., M2]),',
        'np.hypot(rows[..., M2],',
        MOMENTS,
    ),
    Mutation(
        'abs_max: the maximum only',
        'rows/moments.py',
        'np.maximum(np.abs(rows[..., MINIMUM]), np.abs(rows[..., MAXIMUM]))',
        'np.abs(rows[..., MAXIMUM])',
        MOMENTS,
    ),
    Mutation(
        'non-finite entries hidden',
        'rows/moments.py',
        '    row[NONFINITE] = numbers.size - finite.size\n',
        '',
        MOMENTS,
    ),
    Mutation(
        'non-finite entries of a merge lost',
        'rows/moments.py',
        '    merged[:, MEAN] = average\n',
        '    merged[:, MEAN] = average\n    merged[:, NONFINITE] = 0.0\n',
        MOMENTS,
    ),
    Mutation(
        'device: mask ignored',
        'rows/device_moments.py',
        'torch.where(_joined(valid)[:, None], _joined(rows), empty)',
        '_joined(rows)',
        ('tests/rows/test_device_moments.py',),
    ),
    # -- groups
    Mutation(
        'groups: a list of length 1 is per task',
        'core/parameter_groups.py',
        'and len(target) == len({id(entry) for entry in target.children()}) == num_tasks',
        'and len(target) == len({id(entry) for entry in target.children()})',
        GROUPS,
    ),
    Mutation(
        'groups: the same head under every task id is that of task 0',
        'core/parameter_groups.py',
        'and len(target) == len({id(entry) for entry in target.children()}) == num_tasks',
        'and len(target) == num_tasks',
        GROUPS,
    ),
    Mutation(
        'groups: the encoder of a one-task run is per task',
        'core/parameter_groups.py',
        "and (num_tasks > 1 or name.startswith('head_'))",
        '',
        GROUPS,
    ),
    Mutation(
        'groups: tied parameters counted twice',
        'core/parameter_groups.py',
        '        if id(parameter) not in taken:\n',
        '        if True:\n',
        GROUPS,
    ),
    Mutation(
        'groups: the rest of the model forgotten',
        'core/parameter_groups.py',
        '    if rest:\n',
        '    if False:\n',
        GROUPS,
    ),
    Mutation(
        'groups: task ids off by one',
        'core/parameter_groups.py',
        '_group(name, index, _named(entry), taken)',
        '_group(name, index + 1, _named(entry), taken)',
        GROUPS,
    ),
    Mutation(
        'groups: a part called like a wrapper is unwrapped',
        'core/module_paths.py',
        'if parameters_of(inner) == parameters_of(model):',
        'if True:',
        GROUPS,
    ),
    # -- signals
    Mutation(
        'signals: mask ignored where nothing is compiled',
        'metrics/tensor_statistics.py',
        'moments.row_of(tensor if valid is None else tensor[valid])',
        'moments.row_of(tensor)',
        SIGNALS,
    ),
    Mutation(
        'signals: mask ignored',
        'metrics/tensor_statistics.py',
        'native.kernels.row(tensor, mask, name in NORM_SIGNALS)',
        'native.kernels.row(tensor, None, name in NORM_SIGNALS)',
        SIGNALS,
    ),
    # -- what is compiled
    Mutation(
        'compiled: squares not squared',
        'metrics/kernels/native/sums.h',
        'lanes[stream * STREAM_LANES + j] += value * value;',
        'lanes[stream * STREAM_LANES + j] += value;        ',
        NATIVE,
    ),
    Mutation(
        'compiled: the rest of a row forgotten',
        'metrics/kernels/native/sums.h',
        'return lanes[0] + tail;',
        'return lanes[0];',
        NATIVE,
    ),
    Mutation(
        'compiled: the rest of a distance forgotten',
        'metrics/kernels/native/sums.h',
        '            double value = x[i], difference = value - (double)y[i];',
        '            double value = 0.0, difference = value;               ',
        NATIVE,
    ),
    Mutation(
        'compiled: sign of the variance',
        'metrics/kernels/native/sums.h',
        'double m2 = squares - total * average;',
        'double m2 = squares + total * average;',
        NATIVE,
    ),
    Mutation(
        'compiled: average of maxima',
        'metrics/kernels/native/sums.h',
        'moments->high[0] = fmax(moments->high[0], moments->high[j]);',
        'moments->high[0] = (moments->high[0] + moments->high[j]) / 2;',
        NATIVE,
    ),
    Mutation(
        'compiled: subnormal numbers of half precision',
        'metrics/kernels/native/sums.h',
        'magnitude < 0x0400u',
        'magnitude == 0u',
        NATIVE,
    ),
    Mutation(
        'compiled: mask repeated as a whole and not step by step',
        'metrics/kernels/native/kernels.c',
        'int64_t step = second / entries->repeats;',
        'int64_t step = second % entries->mask_steps;',
        NATIVE,
    ),
    Mutation(
        'compiled: root of the squares not taken',
        'metrics/kernels/native/kernels.c',
        'sqrt(sum_of_squares(entries->kind, vector, entries->vector))',
        '(sum_of_squares(entries->kind, vector, entries->vector))',
        NATIVE,
    ),
    Mutation(
        'compiled: non-finite entries hidden',
        'metrics/kernels/native/kernels.c',
        'figures[5] + sink.nonfinite',
        'figures[5]',
        NATIVE,
    ),
    Mutation(
        'signals: mask repeated as a whole and not step by step',
        'metrics/masks.py',
        'mask.bool().repeat_interleave(repeats, dim=1)',
        'mask.bool().repeat(1, repeats)',
        SIGNALS,
    ),
    Mutation(
        'signals: last task only',
        'metrics/tensor_statistics.py',
        'moments.merge_sets(rows, plan.lengths)',
        'rows[np.cumsum(plan.lengths) - 1]',
        SIGNALS,
    ),
    Mutation(
        'signals: local instead of global task id',
        'metrics/tensor_statistics.py',
        "parts += [(labels[index][0], f'_task{labels[index][1]}') for index in self.of_tasks]",
        "parts += [(labels[index][0], f'_task{place % 2}') for place, index in enumerate(self.of_tasks)]",
        (*MONITOR, '-k', 'global_id or absent'),
    ),
    Mutation(
        'signals: std of one value is 0',
        'metrics/tensor_statistics.py',
        '[[1], [2], [1], [1], [1]]',
        '[[1], [1], [1], [1], [1]]',
        SIGNALS,
    ),
    Mutation(
        'signals: non-finite entries hidden',
        'metrics/tensor_statistics.py',
        'np.flatnonzero(rows[:, moments.NONFINITE])',
        'np.flatnonzero(rows[:, moments.NONFINITE] < 0)',
        SIGNALS,
    ),
    Mutation(
        'signals: all-tasks figures although a rank is missing',
        'metrics/tensor_statistics.py',
        '        if not table.complete:\n            # If a rank',
        '        if False:\n            # If a rank',
        SIGNALS,
    ),
    # -- norms
    Mutation(
        'norms: sum of norms instead of the norm of all',
        'metrics/square_norms.py',
        'math.hypot(*(lengths[index] for index in present))',
        'sum(lengths[index] for index in present)',
        EVERY_METRIC,
    ),
    Mutation(
        'norms: biased spread over tasks',
        'rows/moments.py',
        '/ (len(values) - 1))',
        '/ len(values))',
        EVERY_METRIC,
    ),
    Mutation(
        'norms: spread over squares',
        'metrics/square_norms.py',
        'spread([lengths[index] for',
        'spread([lengths[index] ** 2 for',
        EVERY_METRIC,
    ),
    Mutation(
        'gradients: measured after clipping',
        'metrics/gradient_norms.py',
        "hook_points: ClassVar[tuple[str, ...]] = ('backward_end', READ_GRADIENTS, COMPARE_GRADIENTS)",
        "hook_points: ClassVar[tuple[str, ...]] = ('backward_end', READ_GRADIENTS, COMPARE_GRADIENTS, 'step_end')",
        (*MONITOR, '-k', 'clipping or every_metric'),
    ),
    Mutation(
        'gradients: scale taken off once and not twice from the squares',
        'metrics/square_norms.py',
        'self.sums.mul_(1.0 / scale / scale)',
        'self.sums.mul_(1.0 / scale)',
        (*MONITOR, '-k', 'unscaled'),
    ),
    Mutation(
        'gradients: a group without gradient is 0',
        'metrics/gradient_norms.py',
        'return without | self.unreached(table)',
        'return self.unreached(table)',
        EVERY_METRIC,
    ),
    Mutation(
        'gradients: a parameter without gradient is 0',
        'metrics/gradient_norms.py',
        "part=f'absent:{path}'",
        "part='absent:'",
        (*MONITOR, '-k', 'single_parameters'),
    ),
    Mutation(
        'gradients: the second backward of a step forgets the first',
        'metrics/gradient_norms.py',
        '        self.cells.add_(earlier)\n',
        '',
        (*MONITOR, '-k', 'two_optimizers'),
    ),
    Mutation(
        'weights: new storage not seen',
        'metrics/parameter_norms.py',
        'self.square(self.parameters)',
        'self._kept = vars(self).get("_kept") or [p.detach() for p in self.parameters]; self.square(self._kept)',
        (*MONITOR, '-k', 'new_storage'),
    ),
    Mutation(
        'weights: frozen ones counted as trainable',
        'metrics/parameter_norms.py',
        'if not parameter.requires_grad)',
        'if parameter.requires_grad is None)',
        (*MONITOR, '-k', 'freezing'),
    ),
    # -- the monitor
    Mutation(
        'monitor: iteration 0 does not count',
        'monitor/monitor.py',
        '            iteration % self.frequency == 0\n',
        '            iteration > 0 and iteration % self.frequency == 0\n',
        (*MONITOR, '-k', 'points_stand'),
    ),
    Mutation(
        'monitor: weights that were replaced are told of for ever',
        'monitor/monitor.py',
        'if self.model_has_changed() and not',
        'if False and not',
        ('tests/monitor/test_changed_model.py', '-k', 'one_head'),
    ),
    Mutation(
        'hook points: gradients before the closure has made them',
        'integrations/observe/stepping.py',
        'if not callable(closure):',
        'if True:',
        ('tests/integrations/observe/test_training_loop.py', '-k', 'closure'),
    ),
    Mutation(
        'monitor: what comes after the step is in its record',
        'monitor/step_measurement.py',
        'step.listener, self._step = self._ended, None',
        'self._step = None',
        (*MONITOR, '-k', 'after_the_step'),
    ),
    Mutation(
        'monitor: rows of nobody go into the record',
        'monitor/batches.py',
        'if not self._all_known(keys):',
        'if False:',
        (*MONITOR, '-k', 'only_its_own'),
    ),
    Mutation(
        'moments: signs that are to be turned are not',
        'rows/moments.py',
        'return values.resolve_neg().numpy()',
        'return values.numpy(force=True) * (-1 if values.is_neg() else 1)',
        NATIVE,
    ),
    Mutation(
        'loss scaling: what the scaler does not step is divided all the same',
        'integrations/observe/grad_scaler.py',
        'return id(optimizer) in self._plain or bool(self._scaled and id(optimizer) not in self._scaled)',
        'return False',
        ('tests/integrations/observe/test_training_loop.py', '-k', 'divided_by'),
    ),
    Mutation(
        'monitor: weights of an earlier step at the end of a cycle',
        'monitor/step_measurement.py',
        "if self._forward or point != 'forward_end')",
        'if True)',
        (*MONITOR, '-k', 'accumulation'),
    ),
    Mutation(
        'monitor: what failed shows the figures of an earlier step',
        'monitor/metric_calls.py',
        'self.failed.add(metric.name)',
        'pass',
        (*MONITOR, '-k', 'failed'),
    ),
    Mutation(
        'monitor: copies that lag behind are never collected',
        'monitor/monitor.py',
        '        if self._arrivals.pending:\n            self._arrivals.collect(self._prepared)\n',
        '',
        (*MONITOR, '-k', 'lag_behind'),
    ),
    Mutation(
        'monitor: a later mistake raises',
        'monitor/publish_errors.py',
        '        self.is_first_step = False\n',
        '',
        (*MONITOR, '-k', 'later_mistake'),
    ),
    Mutation(
        'background: works although the learner is busy',
        'ranks/work_queue.py',
        'self._is_patient = patience > 0',
        'self._is_patient = False',
        WORK_QUEUE,
    ),
    Mutation(
        'background: turns as often as records',
        'ranks/work_queue.py',
        'now >= self._taken + self._seconds or',
        'True or',
        WORK_QUEUE,
    ),
    Mutation(
        'background: a checkpoint without the records before it',
        'monitor/monitor.py',
        'self._reducer.flush()',
        'pass',
        ('tests/monitor/test_resume.py', '-k', 'checkpoint'),
    ),
    Mutation(
        'background: records that are finished and not handed over',
        'ranks/reducer.py',
        '            self._finished()\n',
        '            pass\n',
        ('tests/monitor/test_resume.py', '-k', 'checkpoint'),
    ),
    Mutation(
        'names: the later source overwrites the earlier one',
        'monitor/derive.py',
        "                self._refuse(name, other, source)\n                del found[name]\n",
        "                self._refuse(name, other, source)\n",
        NAMES,
    ),
    Mutation(
        'names: the first metric wins over the one that declares the name',
        'monitor/derive.py',
        'if self._figures.owner(name) == source:',
        'if False:',
        NAMES,
    ),
    Mutation(
        'names: a published loss takes the name of a figure',
        'monitor/publish_errors.py',
        '        if owner is not None:\n',
        '        if False:\n',
        NAMES,
    ),
    # -- published
    Mutation(
        'event file: layout and tasks lost on a full disk',
        'destinations/tensorboard/destination.py',
        '    refuse_unwritable(file_writer)\n    shown = for_dashboard(record.scalars, figures)\n',
        '    shown = for_dashboard(record.scalars, figures)\n    beside and beside(record, shown)\n    '
        'refuse_unwritable(file_writer)\n',
        EVENT_FILE,
    ),
    Mutation(
        'event file: figures of an earlier record',
        'destinations/tensorboard/figure_summaries.py',
        'value.simple_value = number',
        'value.simple_value = value.simple_value or number',
        EVENT_FILE,
    ),
    Mutation(
        'event file: nothing is flushed',
        'destinations/tensorboard/event_file.py',
        'worker._has_pending_data = True',
        'worker._has_pending_data = False',
        EVENT_FILE,
    ),
    Mutation(
        'signals: a metric is given the graph',
        'monitor/metric_calls.py',
        'if detaches:\n                    metric.on_publish(',
        'if True:\n                    metric.on_publish(',
        (*MONITOR, '-k', 'graph'),
    ),
    # -- judged
    Mutation(
        'past: points that are away enter it',
        'diagnose/departures.py',
        'normal = ~state[',
        'normal = True | ~state[',
        ('tests/diagnose/test_departures.py',),
    ),
    Mutation(
        'departures: what the other tasks do too is this one\'s',
        'diagnose/window.py',
        'if together >= 0.5:',
        'if False:',
        ('tests/diagnose/test_departures.py',),
    ),
    # -- rows
    Mutation(
        'rows: the cells of a grown buffer are those of an earlier step',
        'rows/buffer.py',
        'if self.storage is not self._bound:',
        'if False:',
        (*MONITOR, '-k', 'accelerators'),
    ),
    Mutation(
        'rows: of several ranks the last one counts',
        'rows/table.py',
        'merge_sets(repeated, self._layout.repeated_times)',
        'repeated[np.cumsum(self._layout.repeated_times) - 1]',
        ROWS,
    ),
    # -- the interplay of tasks
    Mutation('sketch: no signs', 'metrics/maths/sketch.py', '.mul_(table.signs)', '', SKETCH),
    Mutation(
        'sketch: signs of rows forgotten',
        'metrics/maths/sketch.py',
        '            buffer.view(-1, ROW).mul_(table.row_signs(number))\n',
        '',
        SKETCH,
    ),
    Mutation(
        'sketch: chunks not rotated',
        'metrics/maths/sketch.py',
        'buckets.roll(table.rotations[number % self.size])',
        'buckets',
        SKETCH,
    ),
    Mutation(
        'sketch: what the last chunk left behind',
        'metrics/maths/sketch.py',
        '            buffer[stop:].zero_()\n',
        '',
        SKETCH,
    ),
    Mutation('sketch: another seed', 'metrics/maths/sketch.py', '_SEED = 20020708', '_SEED = 20020709', SKETCH),
    Mutation(
        'cosine: norms of the sketches not used',
        'metrics/maths/conflict_geometry.py',
        ' + first + second - 1) * middle',
        ' + 1) * middle',
        SKETCH,
    ),
    Mutation(
        'standard error: without the cosine',
        'metrics/maths/conflict_geometry.py',
        '(1 - cosine**2) / np.sqrt(1 + cosine**2) * ',
        '1.0 * ',
        SKETCH,
    ),
    Mutation(
        'conflict: every negative cosine',
        'metrics/maths/conflict_geometry.py',
        'np.mean(cosine < -2 * error)',
        'np.mean(cosine < 0)',
        SKETCH,
    ),
    Mutation(
        'conflict: positive cosines',
        'metrics/maths/conflict_geometry.py',
        'np.mean(cosine < -2 * error)',
        'np.mean(cosine > 2 * error)',
        SKETCH,
    ),
    Mutation(
        'conflict: share of the squares',
        'metrics/maths/conflict_geometry.py',
        'self.norms[task] / total',
        'self.norms[task] ** 2 / total',
        CONFLICT,
    ),
    Mutation(
        'conflict: a task counts itself',
        'metrics/maths/conflict_geometry.py',
        '(row.sum() - 1) / (len(self.tasks) - 1)',
        'row.mean()',
        CONFLICT,
    ),
    Mutation(
        'conflict: smallest of all pairs is the diagonal',
        'metrics/maths/conflict_geometry.py',
        'upper.argmin()',
        '0',
        CONFLICT,
    ),
    Mutation(
        'conflict: the last step is repeated',
        'metrics/conflict_cells.py',
        '        self._squares.fill_(_ABSENT)\n',
        '',
        CONFLICT,
    ),
    Mutation(
        'conflict: sketches of one task for all',
        'metrics/conflict_cells.py',
        'self._sketches[position, place], self._squares',
        'self._sketches[0, place], self._squares',
        CONFLICT,
    ),
    Mutation(
        'conflict: gradients are accumulated',
        'metrics/extra_backward.py',
        'retain_graph=True',
        'retain_graph=False',
        CONFLICT,
    ),
    Mutation(
        'conflict: reentrant checkpoints are not looked for',
        'metrics/extra_backward.py',
        "if any(node.name() == 'CheckpointFunctionBackward' for node in nodes):",
        'if not nodes:',
        CONFLICT,
    ),
    Mutation(
        'update: the other way round',
        'metrics/updates.py',
        'torch.sub(group.before, out, out=out)',
        'torch.sub(out, group.before, out=out)',
        UPDATES,
    ),
    Mutation(
        'update: weights after the step',
        'metrics/updates.py',
        'if row[NONFINITE] or before[NONFINITE]:',
        'if before[NONFINITE]:',
        UPDATES,
    ),
    Mutation(
        'vectors: the second rank replaces the first',
        'rows/table.py',
        'self.vectors[key] = earlier + vector',
        'self.vectors[key] = vector',
        ROWS,
    ),
    Mutation(
        'vectors: not told apart from rows',
        'ranks/message.py',
        '        if schema.vector_bytes != max(0, len(data) - vectors_at):',
        '        if False:',
        MESSAGE,
    ),
    # -- inert, and the gradient before clipping
    Mutation(
        'sketch: the gradient is squared in place',
        'metrics/maths/sketch.py',
        'return torch.dot(wide, wide)',
        'return wide.square_().sum()',
        (*SKETCH, '-k', 'only_read'),
    ),
    Mutation(
        'extra passes: hooks of parameters run once more',
        'metrics/extra_backward.py',
        '            hooks.clear()\n',
        '',
        (*EXTRA, '-k', 'hooks_of_parameters'),
    ),
    Mutation(
        'extra passes: buffers are not put back',
        'metrics/extra_backward.py',
        'buffer.data.copy_(value)',
        'pass',
        (*EXTRA, '-k', 'BatchNorm'),
    ),
    Mutation(
        'extra passes: generators are not put back',
        'metrics/extra_backward.py',
        'restore(state)',
        'pass',
        (*EXTRA, '-k', 'generator'),
    ),
    Mutation(
        'extra passes: tensors with hooks are differentiated',
        'metrics/extra_backward.py',
        'found = next((what for node, what in self._hooked if node in nodes), None)',
        'found = None',
        (*EXTRA, '-k', 'refused'),
    ),
    Mutation(
        'clipping: what clips by hand is not looked for',
        'integrations/observe/hook_points.py',
        "if self._is_read and evidence != 'clip' else None",
        'if False else None',
        (*CLIPS, '-k', 'by_hand'),
    ),
    Mutation(
        'clipping: a pass of another model is taken for ours',
        'integrations/observe/hook_points.py',
        'if before.get(key) != after.get(key)}',
        'if True}',
        (*CLIPS, '-k', 'another_model'),
    ),
    Mutation(
        'clipping: a limit that is a tensor has no coefficient',
        'integrations/observe/clip_calls.py',
        'return value.numel() == 1 and replicated_value(value) is not None',
        'return False',
        (*CLIPS, '-k', 'whichever_way'),
    ),
    Mutation(
        'clipping: it is said in every record',
        'metrics/clipping.py',
        '                self.found.add(model)\n',
        '',
        (*CLIPS, '-k', 'by_hand'),
    ),
    Mutation(
        'threads: passes of others are read as ours',
        'integrations/observe/hook_points.py',
        'return several_threads() and not reaches(roots, self._group_of.keys())',
        'return False',
        (*THREADS, '-k', 'while_another'),
    ),
    Mutation(
        'threads: steps that overlap are measured',
        'integrations/attach.py',
        'self._steps.spoil()',
        'pass',
        (*THREADS, '-k', 'mixed'),
    ),
    Mutation(
        'threads: functions stay exchanged',
        'core/observed_function.py',
        'self._function.__code__ = self._own_code',
        'pass',
        (*THREADS, '-k', 'another_order'),
    ),
)


def apply(mutation: Mutation, package: Path) -> None:
    """Put a fault into a copy of the package.

    Raises:
        ValueError: its text does not stand there exactly once.
    """
    path = package / mutation.file
    text = path.read_text(encoding='utf-8')
    if (count := text.count(mutation.old)) != 1:
        raise ValueError(f'{mutation.file} holds {mutation.old!r} {count} times, not once')
    path.write_text(text.replace(mutation.old, mutation.new), encoding='utf-8')


def copy_sources(folder: Path) -> None:
    """Copy the package and its tests, without what needs LightZero and without recorded runs."""
    unwanted = shutil.ignore_patterns('__pycache__', 'unizero', 'entry', 'data')
    for name in ('ding_normmon', 'tests'):
        shutil.copytree(ROOT / name, folder / name, ignore=unwanted)
    for name in ('pyproject.toml', 'setup.py'):
        shutil.copy(ROOT / name, folder)


def compile_sources(folder: Path) -> None:
    """Compile the copy's C sources into its package.

    Raises:
        ValueError: the compiler refused them.
    """
    for library in (folder / 'ding_normmon' / 'metrics' / 'kernels' / 'native').glob('*.so'):
        library.unlink()
    command = [sys.executable, 'setup.py', '-q', 'build_ext', '--inplace']
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if not list((folder / 'ding_normmon' / 'metrics' / 'kernels' / 'native').glob('*.so')):
        raise ValueError(f'did not compile:\n{done.stdout}{done.stderr}')


def outcome(mutation: Mutation | tuple[str, ...]) -> tuple[str, bool, str]:
    """Return what was tried, whether the outcome was right, and if not, why."""
    import pytest

    is_whole = isinstance(mutation, tuple)
    what = 'nothing changed' if isinstance(mutation, tuple) else mutation.what
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        copy_sources(folder)
        tests = mutation if isinstance(mutation, tuple) else mutation.tests
        if isinstance(mutation, Mutation):
            try:
                apply(mutation, folder / 'ding_normmon')
                if mutation.file.endswith(('.c', '.h')):
                    compile_sources(folder)
            except ValueError as error:
                return what, False, str(error)
        os.chdir(folder)
        # Only the copy may be found, wherever this script was started and whatever is installed.
        others = [path for path in sys.path if Path(path or '.').resolve() not in (ROOT, ROOT / 'tests')]
        sys.path = [str(folder), *others]
        output = folder / 'output'
        with output.open('w') as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            status = pytest.main(['-x', '-q', '-p', 'no:cacheprovider', '-m', 'not distributed', '--tb=short', *tests])
        used = Path(sys.modules['ding_normmon'].__file__ or '')
        if not used.is_relative_to(folder):
            return what, False, f'the tests used {used}'
        if is_whole:
            return what, status == 0, output.read_text()[-3000:]
        reason = 'no test found it' if status == 0 else f'the tests could not run:\n{output.read_text()[-3000:]}'
        return what, status == 1, reason


def main(words: list[str]) -> int:
    """Try the faults whose description holds one of the words, all of them without a word."""
    import hypothesis  # noqa: F401
    import pytest  # noqa: F401
    import torch  # noqa: F401

    chosen = [mutation for mutation in MUTATIONS if not words or any(word in mutation.what for word in words)]
    if shutil.which('cc') is None:
        chosen = [mutation for mutation in chosen if not mutation.file.startswith('metrics/kernels/native/')]
        print('no C compiler: what is compiled is left out')
    # The tests have to pass on the unchanged copy.
    whole = chosen[0].tests if len(chosen) == 1 else EVERYTHING
    failures = 0
    with multiprocessing.get_context('fork').Pool(PROCESSES, maxtasksperchild=1) as pool:
        for what, good, reason in pool.imap(outcome, [whole, *chosen]):
            print(f'{"ok" if good else "FAULT":6}{what}{"" if good else ": " + reason}', flush=True)
            failures += not good
    print(f'{len(chosen)} faults tried, {failures} failures')
    return int(failures > 0)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
