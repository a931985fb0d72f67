"""Whatever a file says, reading it ends in a run or in a sentence, soon, and in little memory."""

from __future__ import annotations

import random
import resource
import time
from pathlib import Path

import pytest

from ding_normmon.runs.chunks import unsealed
from ding_normmon.runs.report.page import render_page
from tests.runs.fuzzing import READERS, mutated, read_or_refuse, seeds_of, with_right_checksums


def fuzz(reader: str, folder: Path, inputs: int, seed: int) -> int:
    """Read so many mutated files; return how many were read."""
    chance = random.Random(seed)
    path = folder / READERS[reader][0]
    seeds = seeds_of(reader, folder)
    read = 0
    for number in range(inputs):
        data = mutated(chance.choice(seeds), chance)
        if reader == 'events' and number % 2:
            data = with_right_checksums(data)
        path.unlink(missing_ok=True)  # replacing what is in a file makes some disks wait
        path.write_bytes(data)
        begin = time.perf_counter()
        run = read_or_refuse(path)
        assert time.perf_counter() - begin < 20
        read += run is not None
        if run is not None and number % 250 == 0:
            assert render_page([run])
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    assert memory < 3000, f'{memory:.0f} MB'
    return read


@pytest.mark.parametrize('reader', READERS)
def test_a_thousand_files_of_each_kind(reader: str, tmp_path: Path) -> None:
    assert fuzz(reader, tmp_path, 1000, seed=0) > 20


@pytest.mark.full
@pytest.mark.timeout(3000)
@pytest.mark.parametrize('seed', [1])
@pytest.mark.parametrize('reader', READERS)
def test_ten_thousand_files_of_each_kind(reader: str, seed: int, tmp_path: Path) -> None:
    assert fuzz(reader, tmp_path, 10_000, seed) > 200


def test_seals_that_are_right_over_content_that_is_not(tmp_path: Path) -> None:
    from ding_normmon.runs.chunks import seal

    chance = random.Random(0)
    path = tmp_path / 'history.arrows'
    (whole,) = seeds_of('history', tmp_path)
    for number in range(300):
        text = unsealed('0123456789abcdef', chance.choice((0, 1, 7)), chance.choice((0, 1, 10**9)), bool(number % 2))
        data = mutated(whole, chance)
        path.write_bytes(seal(data[:200] + text.encode() + data[200:], text))
        read_or_refuse(path)
