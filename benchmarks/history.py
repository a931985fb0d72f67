"""The history file against other formats: time to append a record, bytes per point, time to read 1,000,000 points.

python -m benchmarks.history
"""

from __future__ import annotations

import json
import os
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tabulate import tabulate

from ding_normmon.core.record import Record
from ding_normmon.runs import read_run
from ding_normmon.runs.history_file import HistoryFile

METRICS, RECORDS = 500, 2000


def arrow(path: Path, records: list[Record]) -> Callable[[], object]:
    """Append with ours, one call per record."""
    file = HistoryFile(path)
    for record in records:
        file.publish(record)
    file.close()
    return lambda: read_run(path)


def sqlite(path: Path, records: list[Record]) -> Callable[[], object]:
    """Append to a SQLite database with a write-ahead log, one transaction per record."""
    connection = sqlite3.connect(path)
    connection.execute('pragma journal_mode=wal')
    connection.execute('pragma synchronous=normal')
    connection.execute('create table points (iteration integer, name text, value real)')
    for record in records:
        rows = [(record.iteration, name, value) for name, value in record.scalars.items()]
        connection.executemany('insert into points values (?, ?, ?)', rows)
        connection.commit()
    connection.close()

    def read() -> object:
        with sqlite3.connect(path) as opened:
            rows = opened.execute('select name, iteration, value from points order by name, iteration').fetchall()
        return np.array([value for _, _, value in rows])

    return read


def json_lines(path: Path, records: list[Record]) -> Callable[[], object]:
    """Append one line of JSON per record."""
    with path.open('ab', buffering=0) as file:
        for record in records:
            file.write(json.dumps({'iteration': record.iteration, **record.scalars}).encode() + b'\n')

    def read() -> object:
        with path.open() as file:
            return [json.loads(line) for line in file]

    return read


def main() -> None:
    """Print the table."""
    chance = np.random.default_rng(0)
    names = [f'family{number % 9}/metric{number}_task{number % 26}/mean' for number in range(METRICS)]
    records = [
        Record(10 * i, dict(zip(names, chance.normal(size=METRICS).tolist(), strict=True))) for i in range(RECORDS)
    ]
    rows = []
    for name, write in (('Arrow stream (ours)', arrow), ('SQLite, WAL', sqlite), ('JSON lines', json_lines)):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / ('history.arrows' if write is arrow else 'history')
            begin = time.perf_counter()
            read = write(path, records)
            append = (time.perf_counter() - begin) / RECORDS * 1e3
            size = sum(entry.stat().st_size for entry in os.scandir(folder)) / METRICS / RECORDS
            times = []
            for _ in range(5):
                begin = time.perf_counter()
                read()
                times.append(time.perf_counter() - begin)
            low, middle, high = statistics.quantiles(times, n=4)
            rows.append([name, f'{append:.2f} ms', f'{size:.0f}', f'{middle:.2f} s ({low:.2f} to {high:.2f})'])
    print(f'{torch.get_num_threads()} threads; {RECORDS} records of {METRICS} points; median and quartiles of 5')
    print(tabulate(rows, ['format', 'append a record', 'bytes a point', 'read all'], tablefmt='github'))


if __name__ == '__main__':
    main()
