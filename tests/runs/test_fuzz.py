"""Whatever a file says, reading it ends in a run or in a sentence, soon, and in little memory."""

from __future__ import annotations

import random
import resource
import time
from pathlib import Path

import pytest

from ding_normmon.runs.chunks import seal, unsealed
from ding_normmon.runs.report.page import render_page
from tests.runs.fuzzing import READERS, fuzzed, mutated, read_or_refuse, seeds_of
from tests.runs.histories import assert_repaired

pytestmark = pytest.mark.slow

PAGE_EVERY = 2000
REPAIR_EVERY = 50


def fuzz(reader: str, folder: Path, inputs: int, seed: int) -> int:
    """Read so many changed files; return how many were read."""
    chance = random.Random(seed)
    path = folder / READERS[reader][0]
    seeds = seeds_of(reader, folder)
    read, page_at = 0, 1
    for _ in range(inputs):
        data = fuzzed(reader, chance.choice(seeds), chance)
        path.unlink(missing_ok=True)  # replacing what is in a file makes some disks wait
        path.write_bytes(data)
        begin = time.perf_counter()
        run = read_or_refuse(path)
        assert time.perf_counter() - begin < 20
        if run is None:
            continue
        read += 1
        # Rows that are whole and of no known kind are copied.
        is_known = not any('rows' in said or 'findings' in said for said in run.warnings)
        if path.suffix == '.arrows' and read % REPAIR_EVERY == 0 and is_known:
            assert_repaired(path)
        if read == page_at:
            page_at += PAGE_EVERY
            assert render_page([run])
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    assert memory < 3000, f'{memory:.0f} MB'
    return read


@pytest.mark.parametrize('reader', READERS)
def test_a_thousand_files_for_each_reader(reader: str, tmp_path: Path) -> None:
    assert fuzz(reader, tmp_path, 1000, seed=0) > 10


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize('seed', [1, 2, 3, 4])
@pytest.mark.parametrize('reader', READERS)
def test_a_hundred_thousand_files_for_each_reader(reader: str, seed: int, tmp_path: Path) -> None:
    """In four parts, for several processes."""
    assert fuzz(reader, tmp_path, 25_000, seed) > 250


def test_seals_that_are_right_over_content_that_is_not(tmp_path: Path) -> None:
    chance = random.Random(0)
    path = tmp_path / 'history.arrows'
    (whole,) = seeds_of('history', tmp_path)
    for number in range(300):
        text = unsealed('0123456789abcdef', chance.choice((0, 1, 7)), chance.choice((0, 1, 10**9)), bool(number % 2))
        data = mutated(whole, chance)
        path.write_bytes(seal(data[:200] + text.encode() + data[200:], text))
        read_or_refuse(path)
