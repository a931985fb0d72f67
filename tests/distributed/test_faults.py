"""Whatever fails around the monitor, training does exactly what it does without it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ding_normmon import ConfigurationError, Monitor, Record
from ding_normmon.destinations import TensorBoard
from ding_normmon.ranks.message import encode, encode_schema, schema_digest
from ding_normmon.rows import Batch, RowBuffer, RowKey
from ding_normmon.rows.moments import constant_row
from tests.distributed.faults import (
    ITERATIONS,
    LAYOUT,
    NUM_TASKS,
    SHORT,
    Outcome,
    Probe,
    assert_same_weights,
    monitored_run,
    serve,
    suspend_for,
    transport_to,
    unmonitored,
)
from tests.distributed.multitask import make_model
from tests.distributed.ranks import run_ranks

pytestmark = pytest.mark.distributed

MEASURED = list(ITERATIONS[::2])
LONG = range(60)


@pytest.fixture(scope='module')
def server() -> Any:
    return serve()


# -- faults that leave every rank alive: one start of three ranks for all of them -----------------------------------


class Raising:
    def publish(self, record: Record) -> None:
        raise OSError(28, 'No space left on device')

    def close(self) -> None:
        raise OSError(28, 'No space left on device')


class Stuck:
    def publish(self, record: Record) -> None:
        threading.Event().wait()

    def close(self) -> None:
        threading.Event().wait()


def nothing(rank: int, port: int, name: str) -> Outcome:
    return monitored_run(rank, transport_to(port, rank, name))


def slow_messages(rank: int, port: int, name: str, delay: float, **config: Any) -> Outcome:
    transport = transport_to(port, rank, name)
    send = transport.send

    def delayed(message: bytes) -> None:
        time.sleep(delay)
        send(message)

    if rank == 1:
        transport.send = delayed  # type: ignore[method-assign]
    return monitored_run(rank, transport, **config)


def a_little_slow(rank: int, port: int, name: str) -> Outcome:
    return slow_messages(rank, port, name, 0.1)


def too_slow(rank: int, port: int, name: str) -> Outcome:
    return slow_messages(rank, port, name, 2.5, **SHORT)


def stopped_and_continued(rank: int, port: int, name: str) -> Outcome:
    def act(monitor: Monitor, iteration: int) -> None:
        if rank == 1 and iteration == 12:
            suspend_for(2.5)

    return monitored_run(rank, transport_to(port, rank, name), before_step=act, pause=0.1, **SHORT)


def rank_0_stopped(rank: int, port: int, name: str) -> Outcome:
    def act(monitor: Monitor, iteration: int) -> None:
        if rank == 0 and iteration == 12:
            suspend_for(5)

    return monitored_run(rank, transport_to(port, rank, name), before_step=act, pause=0.15, **SHORT)


def foreign_task(rank: int, port: int, name: str) -> Outcome:
    def act(hook_point: str, iteration: int, rows: RowBuffer) -> None:
        if rank == 1 and hook_point == 'forward_end':
            rows.write(RowKey('tensor_statistics', 'x_token', 0), constant_row(1e9))

    return monitored_run(rank, transport_to(port, rank, name), [Probe(act)])


def doubled_head(rank: int, port: int, name: str) -> Outcome:
    """Rank 1 alone believes that a task of rank 0 has moved to it, and reports its heads as well."""

    def act(monitor: Monitor, iteration: int) -> None:
        if rank == 1 and iteration == 1:
            monitor.reassign([[1], [0, 2], [3]])

    return monitored_run(rank, transport_to(port, rank, name), before_step=act)


def foreign_messages(rank: int, port: int, name: str) -> Outcome:
    transport = transport_to(port, rank, name)
    keys = (RowKey('tensor_statistics', 'x_token', 2),)
    schema = encode_schema(keys)
    message = encode(1, b'anotherR', Batch(4, keys, np.ones((1, 6))), schema_digest(schema), schema, {})

    def act(monitor: Monitor, iteration: int) -> None:
        if rank == 1 and iteration == 4:
            real = encode(
                1, monitor._reducer._session, Batch(10**15, keys, np.ones((1, 6))), schema_digest(schema), schema, {}
            )
            broken = bytearray(real)
            broken[-3] ^= 1
            for data in (b'', b'garbage', message, real[:-1], real[:50], bytes(broken), b'NMON' + real, real * 2):
                transport.send(data)

    return monitored_run(rank, transport, before_step=act)


def failing_destinations(rank: int, port: int, name: str) -> Outcome:
    return monitored_run(rank, transport_to(port, rank, name), destinations=[Raising(), Stuck()], close_timeout=2.0)


def failing_metrics(rank: int, port: int, name: str) -> Outcome:
    def act(hook_point: str, iteration: int, rows: RowBuffer) -> None:
        if rank == 2 and iteration >= 10:
            raise ZeroDivisionError('in a metric')

    return monitored_run(rank, transport_to(port, rank, name), [Probe(act)])


def collectives(rank: int, port: int, name: str) -> Outcome:
    outcome = monitored_run(rank, transport_to(port, rank, name), collective=True, pause=0.0, monitor_norm_freq=1)
    outcome.extra['expected'] = unmonitored(rank, collective=True)
    return outcome


def disk_full(rank: int, port: int, name: str, folder: str) -> Outcome:
    from tensorboardX import SummaryWriter

    destinations = [TensorBoard(SummaryWriter(folder))] if rank == 0 else []
    return monitored_run(rank, transport_to(port, rank, name), destinations=destinations, close_timeout=2.0)


def folder_removed(rank: int, port: int, name: str, folder: str) -> Outcome:
    from tensorboardX import SummaryWriter

    def act(monitor: Monitor, iteration: int) -> None:
        if rank == 0 and iteration == 20:
            shutil.rmtree(folder)

    destinations = [TensorBoard(SummaryWriter(folder))] if rank == 0 else []
    return monitored_run(rank, transport_to(port, rank, name), destinations=destinations, before_step=act)


FAULTS: dict[str, Callable[..., Outcome]] = {
    function.__name__: function
    for function in (
        nothing,
        a_little_slow,
        too_slow,
        stopped_and_continued,
        rank_0_stopped,
        foreign_task,
        doubled_head,
        foreign_messages,
        failing_destinations,
        failing_metrics,
        collectives,
    )
}


def every_fault(rank: int, port: int, full: str | None, removed: str) -> dict[str, Any]:
    outcomes: dict[str, Any] = {name: fault(rank, port, name) for name, fault in FAULTS.items()}
    outcomes['starts'] = every_start(rank, port)
    if full is not None:
        outcomes['disk_full'] = disk_full(rank, port, 'disk_full', full)
    outcomes['folder_removed'] = folder_removed(rank, port, 'folder_removed', removed)
    return outcomes


@pytest.fixture(scope='module')
def tiny_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path | None]:
    folder = tmp_path_factory.mktemp('disk')
    mount = ['mount', '-t', 'tmpfs', '-o', 'size=16k', 'none', str(folder)]
    if sys.platform != 'linux' or os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        yield None
        return
    yield folder
    subprocess.run(['umount', '-l', str(folder)], check=True)


@pytest.fixture(scope='module')
def outcomes(server: Any, tiny_disk: Path | None, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Outcome]]:
    removed = str(tmp_path_factory.mktemp('run') / 'log')
    full = None if tiny_disk is None else str(tiny_disk)
    return run_ranks(every_fault, 3, server.port, full, removed, timeout=240)


def logged_once(outcome: Outcome, *words: str) -> None:
    found = [text for text in outcome.messages if all(word in text for word in words)]
    assert len(found) == 1, outcome.messages


@pytest.mark.parametrize('fault', [name for name in FAULTS if name != 'collectives'])
@pytest.mark.full
def test_the_weights_are_those_without_a_monitor(outcomes: list[dict[str, Outcome]], fault: str) -> None:
    for rank in range(3):
        assert_same_weights(outcomes[rank][fault], rank)


def test_a_monitored_iteration_may_fall_together_with_a_collective(outcomes: list[dict[str, Outcome]]) -> None:
    for rank in range(3):
        outcome = outcomes[rank]['collectives']
        for name, weight in outcome.extra['expected'].items():
            assert torch.equal(outcome.weights[name], weight), name
        assert not outcome.lost
    assert [record.iteration for record in outcomes[0]['collectives'].records] == list(ITERATIONS)


@pytest.mark.parametrize('fault', ['nothing', 'a_little_slow'])
def test_rows_in_time_give_complete_records(outcomes: list[dict[str, Outcome]], fault: str) -> None:
    outcome = outcomes[0][fault]
    assert [record.iteration for record in outcome.records] == MEASURED
    assert {record.scalars['monitor/missing_ranks'] for record in outcome.records} == {0}
    assert not any(outcomes[rank][fault].lost for rank in range(3))
    assert outcome.closing < 20


def test_messages_that_are_too_late_are_missing_points(outcomes: list[dict[str, Outcome]]) -> None:
    outcome = outcomes[0]['too_slow']
    assert [record.iteration for record in outcome.records] == MEASURED
    assert outcome.records[0].scalars['monitor/missing_ranks'] == 1
    assert 'norm/x_token/mean' not in outcome.records[0].scalars
    assert 'norm/x_token_task3/mean' in outcome.records[0].scalars
    assert outcome.lost['missing_rank'] >= 10
    logged_once(outcome, 'ranks [1] did not report', 'deadline')
    assert all(outcomes[rank]['too_slow'].seconds < 10 for rank in range(3))


def test_a_suspended_rank_is_missing_and_comes_back(outcomes: list[dict[str, Outcome]]) -> None:
    records = outcomes[0]['stopped_and_continued'].records
    assert [record.iteration for record in records] == MEASURED
    missing = {record.iteration: record.scalars['monitor/missing_ranks'] for record in records}
    assert missing[14] >= 1
    assert missing[0] == 0
    assert outcomes[0]['stopped_and_continued'].lost['missing_rank'] >= 2


def test_ranks_train_on_while_rank_0_is_suspended(outcomes: list[dict[str, Outcome]]) -> None:
    for rank in (1, 2):
        outcome = outcomes[rank]['rank_0_stopped']
        assert outcome.seconds < 20
        assert outcome.lost['rank0_silent'] > 0
        logged_once(outcome, 'rank 0 has been silent')
    records = outcomes[0]['rank_0_stopped'].records
    assert [record.iteration for record in records] == MEASURED
    assert records[0].scalars['monitor/missing_ranks'] == 0


def test_rows_of_a_task_of_another_rank_are_refused(outcomes: list[dict[str, Outcome]]) -> None:
    outcome = outcomes[0]['foreign_task']
    assert outcome.lost == {'foreign_task': len(MEASURED)}
    logged_once(outcome, 'rank 1 sent rows of tasks it does not train')
    clean = outcomes[0]['nothing']
    for record in outcome.records:
        assert record.scalars['norm/x_token/max'] == clean.record(record.iteration).scalars['norm/x_token/max']
    assert sum(record.scalars.get('monitor/lost/foreign_task', 0) for record in outcome.records) == len(MEASURED)


def test_a_head_that_two_ranks_report_is_that_of_the_agreed_owner(outcomes: list[dict[str, Outcome]]) -> None:
    outcome, clean = outcomes[0]['doubled_head'], outcomes[0]['nothing']
    logged_once(outcome, 'rank 1 sent rows', 'parameter groups that another rank reports')
    # Two heads, weights and gradients, without a gradient on rank 1: three kinds of rows each, from iteration 2 on.
    assert outcome.lost.keys() == {'foreign_task'}
    assert outcome.lost['foreign_task'] % (len(MEASURED) - 1) == 0
    for record in outcome.records:
        expected = clean.record(record.iteration).scalars
        for name, value in record.scalars.items():
            # It is divided by the number of tasks that the ranks say they train, and one of them is wrong here.
            if not name.startswith(('monitor/', 'loss/backward')):
                assert value == expected[name], name
        assert not any(name.startswith('monitor/no_gradient') for name in record.scalars)


def test_foreign_and_truncated_messages_are_refused(outcomes: list[dict[str, Outcome]]) -> None:
    outcome = outcomes[0]['foreign_messages']
    assert outcome.lost == {'foreign_message': 8}
    logged_once(outcome, 'refused a message')
    assert [record.iteration for record in outcome.records] == MEASURED
    assert {record.scalars['monitor/missing_ranks'] for record in outcome.records} == {0}


def test_a_failing_destination_loses_only_its_own_records(outcomes: list[dict[str, Outcome]]) -> None:
    outcome = outcomes[0]['failing_destinations']
    assert [record.iteration for record in outcome.records] == MEASURED
    assert outcome.lost['destination_Raising'] == len(MEASURED) + 1
    assert outcome.lost['destination_Stuck'] == len(MEASURED)
    logged_once(outcome, 'Raising could not take a record', 'No space left')
    logged_once(outcome, 'Stuck did not take', 'disk full')
    assert outcome.closing < 8


def test_a_failing_metric_loses_only_its_own_figures(outcomes: list[dict[str, Outcome]]) -> None:
    outcome = outcomes[0]['failing_metrics']
    assert [record.iteration for record in outcome.records] == MEASURED
    logged_once(outcomes[2]['failing_metrics'], 'probe failed at forward_end with ZeroDivisionError')
    # The loss happened on rank 2; the record on rank 0 counts it.
    assert sum(record.scalars.get('monitor/lost/metric_probe', 0) for record in outcome.records) > 0
    clean = outcomes[0]['nothing']
    for record in outcome.records:
        exempt = ('monitor/',)
        mine = {name: value for name, value in record.scalars.items() if not name.startswith(exempt)}
        theirs = clean.record(record.iteration).scalars.items()
        assert mine == {name: value for name, value in theirs if not name.startswith(exempt)}


def test_a_full_disk_is_logged_once(outcomes: list[dict[str, Outcome]]) -> None:
    if 'disk_full' not in outcomes[0]:
        pytest.skip('needs the right to mount a small tmpfs')
    outcome = outcomes[0]['disk_full']
    assert_same_weights(outcome, 0)
    assert [record.iteration for record in outcome.records] == MEASURED
    assert outcome.lost['destination_TensorBoard'] > 0
    logged_once(outcome, 'TensorBoard could not take a record', 'full')
    assert outcome.closing < 8


def test_a_removed_folder_is_logged_once(outcomes: list[dict[str, Outcome]]) -> None:
    outcome = outcomes[0]['folder_removed']
    assert_same_weights(outcome, 0)
    assert [record.iteration for record in outcome.records] == MEASURED
    assert outcome.lost['destination_TensorBoard'] > 5
    logged_once(outcome, 'TensorBoard could not take a record', 'no longer')


# -- ranks that die -------------------------------------------------------------------------------------------------


def killed_between_forward_and_report(rank: int, port: int, victim: int, name: str) -> Outcome:
    def act(hook_point: str, iteration: int, rows: RowBuffer) -> None:
        if rank == victim and iteration == 10 and hook_point == 'backward_end':
            # What was measured before is sent in this step's backward pass, however busy the machine is.
            time.sleep(1.0)
            os.kill(os.getpid(), signal.SIGKILL)

    stopped: list[int] = []

    def stop(monitor: Monitor, iteration: int) -> None:
        # By then the victim is dead, which nobody has been told.
        if iteration == 24 and victim != 0:
            monitor.control.on('stop', lambda decision: stopped.append(decision.iteration))
            if rank == 0:
                monitor.control.post('stop')

    outcome = monitored_run(
        rank,
        transport_to(port, rank, name),
        [Probe(act)],
        before_step=stop,
        iterations=LONG,
        pause=0.15,
        deadline=2.5,
        close_timeout=4.0,
    )
    outcome.extra['stopped'] = stopped
    return outcome


@pytest.fixture(scope='module')
def survivors(server: Any) -> list[Outcome]:
    """Rank 2 is killed; rank 0, which does not know it yet, wants all to stop."""
    arguments = (server.port, 2, 'killed')
    outcomes = run_ranks(killed_between_forward_and_report, 3, *arguments, may_die=[2], timeout=90)
    assert outcomes.pop() is None
    return outcomes


def test_nothing_stops_without_the_acknowledgement_of_every_rank(survivors: list[Outcome]) -> None:
    assert [outcome.extra['stopped'] for outcome in survivors] == [[], []]
    notes = [record.notes['control/stop'] for record in survivors[0].records if 'control/stop' in record.notes]
    assert len(notes) == 1
    assert 'did not happen: ranks [2] did not acknowledge' in notes[0]


def test_a_killed_rank_is_missing_and_waited_for_once(survivors: list[Outcome]) -> None:
    outcomes = survivors
    for rank in (0, 1):
        assert_same_weights(outcomes[rank], rank, LONG)
    records = outcomes[0].records
    assert [record.iteration for record in records] == list(LONG[::2])
    for record in records:
        late = record.iteration >= 10
        assert record.scalars['monitor/missing_ranks'] == late
        assert ('norm/x_token/mean' in record.scalars) == (not late)
        assert ('norm/x_token_task3/mean' in record.scalars) == (not late)
        assert 'norm/x_token_task2/mean' in record.scalars
    assert outcomes[0].lost == {'missing_rank': len(LONG[::2]) - 5}
    logged_once(outcomes[0], 'ranks [2] did not report iteration 10')
    assert outcomes[0].closing < 8


@pytest.mark.full
def test_without_rank_0_the_others_train_on_in_bounded_memory(server: Any) -> None:
    arguments = (server.port, 0, 'killed 0')
    outcomes = run_ranks(killed_between_forward_and_report, 3, *arguments, may_die=[0], timeout=90)
    for rank in (1, 2):
        outcome = outcomes[rank]
        assert_same_weights(outcome, rank, LONG)
        assert outcome.lost['rank0_silent'] > 0
        logged_once(outcome, 'rank 0 has been silent')
        assert outcome.seconds < 60
        assert outcome.closing < 8
    assert server.queue_len('killed 0/rows') <= 16 * 3


# -- refused at the start ------------------------------------------------------------------------------------------


def start(rank: int, port: int, name: str, configs: Sequence[dict[str, Any]]) -> str:
    transport = transport_to(port, rank, name)
    try:
        config = {'setup_timeout': 60.0, **configs[rank]}
        Monitor(make_model(NUM_TASKS), config, num_tasks=NUM_TASKS, task_ids=LAYOUT[rank], transport=transport).close()
    except ConfigurationError as error:
        return str(error)
    return 'started'


def every_start(rank: int, port: int) -> list[str]:
    five, ten = {'monitor_norm_freq': 5}, {'monitor_norm_freq': 10}
    return [
        start(rank, port, 'another', [five, ten, five]),
        start(rank, port, 'off', [five, five, {'monitor_norm_freq': 0}]),
        start(rank, port, 'wrong', [five, {'monitor_norm_freqq': 5}, five]),
        start(rank, port, 'right', [five, five, five]),
    ]


def test_different_configurations_are_refused_on_all_ranks(outcomes: list[dict[str, Any]]) -> None:
    another, off, wrong, right = zip(*(outcome['starts'] for outcome in outcomes), strict=True)
    assert set(another) == {'monitor: ranks disagree on monitor.monitor_norm_freq: 5 on rank 0, 10 on rank 1'}
    assert set(off[:2]) == {'monitor: ranks disagree on monitor.monitor_norm_freq: 5 on rank 0, 0 on rank 2'}
    assert off[2] == 'started'
    assert all('monitor.monitor_norm_freqq: no such key' in text for text in wrong)
    assert 'rank 1 could not be set up' in wrong[0]
    assert set(right) == {'started'}
